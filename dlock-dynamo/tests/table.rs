//! The table and its items: made on request, explained when missing, left clean.
#![allow(clippy::unwrap_used)]

mod support;

use dlock_core::{Clock, Effect, ErrorKind, Locks, LostCause, Registry};
use dlock_fixtures::DynamoServer;
use std::time::Duration;
use support::proxy::{Action, Proxy};
use support::{is_in_use, items, raw};

async fn connect(url: &str) -> dlock_core::Result<Locks> {
    Registry::new().with(dlock_dynamo::driver()).connect(url).await
}

#[tokio::test]
async fn a_missing_table_is_an_error_that_shows_the_command() {
    let server = DynamoServer::start();
    let error = connect(&server.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
    for word in ["aws dynamodb create-table --table-name locks", "create=true", "lock_key", "dynamodb:PutItem"] {
        assert!(error.to_string().contains(word), "no {word}: {error}");
    }
    let made = connect(&format!("{}&create=true&deletion_protection=true", server.url())).await.unwrap();
    made.lock("k").acquire().await.unwrap().release().await.unwrap();
    let locks = connect(&server.url()).await.unwrap();
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let table = raw(&server.endpoint()).describe_table().table_name("locks").send().await.unwrap().table.unwrap();
    assert_eq!(table.deletion_protection_enabled, Some(true));
    assert_eq!(table.billing_mode_summary.unwrap().billing_mode.unwrap().as_str(), "PAY_PER_REQUEST");
}

#[tokio::test]
async fn clients_that_make_the_table_at_once_all_get_it() {
    let server = DynamoServer::start();
    let url = format!("{}&create=true", server.url());
    let made = futures_util::future::join_all((0..8).map(|_| connect(&url))).await;
    for locks in made {
        locks.unwrap().lock("k").acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test]
async fn a_table_with_another_key_is_told() {
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let server = DynamoServer::start();
    let attribute = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash);
    let create = raw(&server.endpoint()).create_table().table_name("locks").billing_mode(BillingMode::PayPerRequest);
    create.attribute_definitions(attribute.build().unwrap()).key_schema(key.build().unwrap()).send().await.unwrap();
    let error = connect(&server.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("no table of locks"), "{}", error.chain());
}

#[tokio::test]
async fn what_is_refused_is_told_with_what_to_do_and_without_the_secret() {
    let server = DynamoServer::start();
    connect(&format!("{}&create=true", server.url())).await.unwrap();
    let proxy = Proxy::start(server.port()).await;
    let locks = connect(&proxy.url()).await.unwrap();
    for (code, word) in [
        ("AccessDeniedException", "dynamodb:GetItem, dynamodb:PutItem"),
        ("UnrecognizedClientException", "AWS_ACCESS_KEY_ID"),
        ("ExpiredTokenException", "AWS_SESSION_TOKEN"),
    ] {
        proxy.act(move |_| Action::Refuse(400, code));
        for error in [locks.lock("k").try_acquire().await.unwrap_err(), connect(&proxy.url()).await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
            assert!(error.to_string().contains(word), "{error}");
            assert!(!format!("{error:?} {}", error.chain()).contains("secret"), "{error:?}");
        }
    }
    let error = connect("dynamodb://key@locks?endpoint=http://127.0.0.1:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains("without its secret"), "{error}");
}

#[tokio::test]
async fn what_a_url_says_wrongly_is_told() {
    for (url, word) in [
        ("dynamodb://h1,h2?region=x", "one table"),
        ("dynamodb://locks?tabel=x", "no parameter"),
        ("dynamodb://locks?clock_margin=0s", "2s to 1h"),
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_unavailable_in_time() {
    let (clock, port) = (Clock::system(), dlock_fixtures::free_port());
    let begun = clock.now();
    let url = format!("dynamodb://k:s@locks?op_timeout=1s&endpoint=http://127.0.0.1:{port}");
    let error = connect(&url).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{}", error.chain());
    assert!(clock.now().since(begun) < Duration::from_millis(1_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_unavailable_in_time_and_the_loss_is_told() {
    let server = DynamoServer::start();
    let locks = connect(&format!("{}&create=true&poll=50ms&op_timeout=1s", server.url())).await.unwrap();
    let guard = locks.lock("k").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    server.pause();
    let clock = Clock::system();
    let begun = clock.now();
    let error = locks.lock("other").try_acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{}", error.chain());
    let took = clock.now().since(begun);
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    let until = guard.valid_until();
    assert_eq!(guard.lost().await, LostCause::Expired);
    assert!(clock.now().since(until) < Duration::from_millis(50), "told {:?} late", clock.now().since(until));
    server.resume();
    let again = tokio::time::timeout(Duration::from_secs(20), locks.lock("k").acquire()).await.unwrap();
    again.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_one_item_that_nobody_uses() {
    let server = DynamoServer::start();
    let url = format!("{}&create=true&poll=10ms", server.url());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let clock = Clock::system();
    let mut cut = 0;
    for round in 0..1_000_u64 {
        let holder = if round % 2 == 0 { two.lock("k").try_acquire().await.unwrap() } else { None };
        let moment = clock.now() + Duration::from_micros(rand::random_range(0..20_000));
        let acquired = clock.timeout_at(moment, one.lock("k").acquire()).await;
        cut += usize::from(acquired.is_none());
        drop(acquired);
        drop(holder);
        let guard = two.lock("k").wait_at_most(Duration::from_secs(10)).acquire().await.expect("the key is free");
        guard.release().await.unwrap();
    }
    assert!(cut > 300, "only {cut} were cut off");
    let client = raw(&server.endpoint());
    let end = clock.now() + Duration::from_secs(20);
    while items(&client, "").await.iter().any(is_in_use) {
        assert!(clock.now() < end, "left: {:?}", items(&client, "").await);
        clock.sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(items(&client, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_holders_and_ten_waiters_outlive_a_restart() {
    let mut server = DynamoServer::start();
    let url = format!("{}&create=true&poll=50ms", server.url());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let (mut held, mut waiting) = (Vec::new(), Vec::new());
    for turn in 0..10 {
        held.push(one.lock(format!("k{turn}")).acquire().await.unwrap());
        waiting.push(tokio::spawn(two.lock(format!("k{turn}")).acquire()));
    }
    for turn in 0..10 {
        while one.inspect(&format!("k{turn}")).await.unwrap().waiters.is_none_or(|waiters| waiters.is_empty()) {
            tokio::task::yield_now().await;
        }
    }
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let server = server.await.unwrap();
    let tokens: Vec<_> = held.iter().map(|guard| guard.token()).collect();
    for guard in held {
        assert!(guard.is_valid());
        guard.release().await.unwrap();
    }
    for (waiter, token) in waiting.into_iter().zip(tokens) {
        let next = tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
        assert!(next.token() > token);
        next.release().await.unwrap();
    }
    drop(server);
}

#[tokio::test]
async fn a_call_that_does_not_wait_gets_a_free_lock_as_the_first_of_its_client() {
    let server = DynamoServer::start();
    for _ in 0..10 {
        let locks = connect(&format!("{}&create=true", server.url())).await.unwrap();
        let guard = locks.lock("k").wait_at_most(Duration::ZERO).acquire().await.expect("it is free");
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn people_see_who_holds_in_the_table() {
    let server = DynamoServer::start();
    let locks = connect(&format!("{}&create=true", server.url())).await.unwrap();
    let guard = locks.lock("jobs/7").label("worker 3 on host a").acquire().await.unwrap();
    let client = raw(&server.endpoint());
    let item = items(&client, "").await.remove(0);
    assert_eq!(item["holders"].as_s().unwrap(), "worker 3 on host a");
    assert_eq!(item["token"].as_n().unwrap(), &guard.token().to_string());
    assert!(item["expires"].as_s().unwrap().starts_with("20"), "{item:?}");
    guard.release().await.unwrap();
    let item = items(&client, "").await.remove(0);
    assert!(!item.contains_key("holders") && !item.contains_key("expires") && item.contains_key("token"), "{item:?}");
}
