//! A lock that is handed over within one session: what it costs, and that nobody gets it whose node has gone.
#![allow(clippy::unwrap_used)]

mod support;

use dlock_core::Clock;
use dlock_fixtures::ZooKeeperServer;
use std::time::Duration;
use support::{client, raw};
use tokio::task::JoinSet;
use zookeeper_client::Client;

const LIMIT: Duration = Duration::from_secs(30);

/// The nodes of a lock in order of arrival, as soon as there are so many.
async fn queue(raw: &Client, key: &str, count: usize) -> Vec<String> {
    let (folder, clock) = (format!("/dlock/{key}"), Clock::system());
    let end = clock.now() + LIMIT;
    loop {
        let mut names = raw.list_children(&folder).await.unwrap();
        if names.len() == count {
            names.sort_by_key(|name| name.rsplit('-').next().unwrap().to_owned());
            return names.into_iter().map(|name| format!("{folder}/{name}")).collect();
        }
        assert!(clock.now() < end, "{count} nodes: {names:?}");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_within_one_session_is_two_requests() {
    const TURNS: u64 = 200;
    let server = ZooKeeperServer::start();
    let locks = client(&server).await;
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let before = server.metric("zk_packets_received");
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let locks = locks.clone();
        tasks.spawn(async move {
            for _ in 0..TURNS / 4 {
                locks.lock("k").acquire().await.unwrap().release().await.unwrap();
            }
        });
    }
    tokio::time::timeout(LIMIT, tasks.join_all()).await.expect("all are served");
    let packets = server.metric("zk_packets_received") - before;
    println!("{packets} packets for {TURNS} turns of four tasks");
    // A node and a transaction; and now and then a list, a watch, a look, or a keep-alive.
    assert!(packets <= 3 * TURNS, "{packets} packets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_node_was_removed_is_handed_nothing() {
    let server = ZooKeeperServer::start();
    let (one, two, raw) = (client(&server).await, client(&server).await, raw(&server).await);
    for round in 0..20 {
        let key = format!("k{round}");
        let guard = one.lock(&key).acquire().await.unwrap();
        let removed = tokio::spawn(one.lock(&key).acquire());
        let node = queue(&raw, &key, 2).await.remove(1);
        let next = tokio::spawn(two.lock(&key).acquire());
        queue(&raw, &key, 3).await;
        raw.delete(&node, None).await.unwrap();
        let first = guard.token();
        guard.release().await.unwrap();
        let next = tokio::time::timeout(LIMIT, next).await.expect("it stands first").unwrap().unwrap();
        // The one whose node has gone stands at the end, and waits.
        queue(&raw, &key, 2).await;
        assert!(!removed.is_finished(), "two hold in round {round}");
        let second = next.token();
        next.release().await.unwrap();
        let last = tokio::time::timeout(LIMIT, removed).await.expect("it stands first").unwrap().unwrap();
        assert!(first < second && second < last.token());
        last.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_behind_one_whose_node_was_removed_is_next() {
    let server = ZooKeeperServer::start();
    let (locks, raw) = (client(&server).await, raw(&server).await);
    for round in 0..20 {
        let key = format!("k{round}");
        let guard = locks.lock(&key).acquire().await.unwrap();
        let mut waiting = Vec::new();
        for count in 2..=4 {
            waiting.push(tokio::spawn(locks.lock(&key).acquire()));
            queue(&raw, &key, count).await;
        }
        let removed = queue(&raw, &key, 4).await.remove(2);
        raw.delete(&removed, None).await.unwrap();
        let mut tokens = vec![guard.token()];
        guard.release().await.unwrap();
        // It has found out by the time that all have had it.
        for next in [0, 1, 0] {
            let next = tokio::time::timeout(LIMIT, waiting.remove(next)).await.expect("it is next").unwrap().unwrap();
            tokens.push(next.token());
            next.release().await.unwrap();
        }
        assert!(tokens.is_sorted_by(|one, two| one < two), "{tokens:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_gives_up_beside_a_hand_over_leaves_the_lock_to_others() {
    let server = ZooKeeperServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let clock = Clock::system();
    let (mut cut, mut served) = (0, 0);
    for round in 0..300_u64 {
        let guard = one.lock("k").acquire().await.unwrap();
        let waiting = one.lock("k").acquire();
        let limit = clock.now() + Duration::from_micros(1_000 + rand::random_range(0..2_000));
        let released = async {
            clock.sleep(Duration::from_micros(1_000 + round)).await;
            guard.release().await.unwrap();
        };
        match tokio::join!(clock.timeout_at(limit, waiting), released).0 {
            None => cut += 1,
            Some(next) => {
                served += 1;
                next.unwrap().release().await.unwrap();
            }
        }
        let other = tokio::time::timeout(Duration::from_secs(5), two.lock("k").acquire()).await;
        other.expect("nobody holds it any more").unwrap().release().await.unwrap();
    }
    println!("{cut} gave up, {served} were served");
    assert!(cut > 0 && served > 0, "{cut} gave up, {served} were served");
}
