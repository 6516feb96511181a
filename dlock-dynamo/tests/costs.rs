//! The figures of docs/COSTS.md: how large an item is, and how many requests what costs.
#![allow(clippy::unwrap_used)]

mod support;

use aws_sdk_dynamodb::types::AttributeValue;
use dlock_core::{Clock, Locks, Registry};
use dlock_fixtures::DynamoServer;
use std::time::Duration;
use support::proxy::Proxy;
use support::{Item, items, raw};

/// What the service counts as an item's size: names and values, a number at about one byte for two digits.
fn size(item: &Item) -> usize {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number.len() / 2 + 2,
        other => panic!("{other:?}"),
    };
    item.iter().map(|(name, of)| name.len() + value(of)).sum()
}

async fn connect(url: &str) -> Locks {
    Registry::new().with(dlock_dynamo::driver()).connect(url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_as_large_as_the_docs_say() {
    let server = DynamoServer::start();
    let locks = connect(&format!("{}&create=true", server.url())).await;
    let client = raw(&server.endpoint());
    let label = "worker-7.example.internal pid 12345 report-builder";
    let guard = locks.lock("invoices/2026/000042").label(label).acquire().await.unwrap();
    let held = size(&items(&client, "").await[0]);
    let mut waiting = Vec::new();
    for count in 1..=10 {
        let lock = locks.lock("invoices/2026/000042").label(label);
        waiting.push(tokio::spawn(lock.acquire()));
        while locks.inspect("invoices/2026/000042").await.unwrap().waiters.map_or(0, |waiters| waiters.len()) < count {
            tokio::task::yield_now().await;
        }
    }
    let crowded = size(&items(&client, "").await[0]);
    for waiter in waiting {
        waiter.abort();
    }
    guard.release().await.unwrap();
    let clock = Clock::system();
    let end = clock.now() + Duration::from_secs(20);
    while locks.inspect("invoices/2026/000042").await.unwrap().waiters.is_some_and(|waiters| !waiters.is_empty()) {
        assert!(clock.now() < end);
        clock.sleep(Duration::from_millis(20)).await;
    }
    while items(&client, "").await.iter().any(support::is_in_use) {
        assert!(clock.now() < end);
        clock.sleep(Duration::from_millis(20)).await;
    }
    let idle = size(&items(&client, "").await[0]);
    println!("idle {idle} bytes, held {held}, with ten waiters {crowded}: {} a waiter", (crowded - held) / 10);
    assert!(idle <= 200 && held <= 600 && crowded <= held + 10 * 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_one_client_costs_two_reads_a_look() {
    let server = DynamoServer::start();
    let holder = connect(&format!("{}&create=true", server.url())).await;
    let guard = holder.lock("k").acquire().await.unwrap();
    let proxy = Proxy::start(server.port()).await;
    let crowd = connect(&format!("{}&poll=500ms&ttl=60s", proxy.url())).await;
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(crowd.lock("k").acquire())).collect();
    while holder.inspect("k").await.unwrap().waiters.map_or(0, |waiters| waiters.len()) < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.take_log();
    // Less than a third of their patience: nobody repeats its request.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let log = proxy.take_log();
    let reads = log.iter().filter(|request| request.operation == "GetItem").count();
    println!("{reads} reads and {} writes of 20 waiters in 3 s", log.len() - reads);
    assert!(reads <= 2 * 7, "{reads} reads");
    assert_eq!(log.len(), reads, "they wait without writing");
    for waiter in waiting {
        waiter.abort();
    }
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_one_client_repeats_its_requests_as_one_waiter_does() {
    let server = DynamoServer::start();
    let holder = connect(&format!("{}&create=true", server.url())).await;
    let guard = holder.lock("k").acquire().await.unwrap();
    let proxy = Proxy::start(server.port()).await;
    let crowd = connect(&format!("{}&poll=200ms&ttl=3s", proxy.url())).await;
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(crowd.lock("k").acquire())).collect();
    while holder.inspect("k").await.unwrap().waiters.map_or(0, |waiters| waiters.len()) < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.take_log();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let writes = proxy.take_log().iter().filter(|request| request.operation == "PutItem").count();
    println!("{writes} writes of 20 waiters in two TTLs");
    // One each third of a TTL is six; each for itself would be 120.
    assert!((2..=12).contains(&writes), "{writes} writes");
    assert_eq!(holder.inspect("k").await.unwrap().waiters.unwrap().len(), 20, "all kept their places");
    for waiter in waiting {
        waiter.abort();
    }
    guard.release().await.unwrap();
}
