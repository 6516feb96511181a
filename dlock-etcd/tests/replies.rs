//! A reply that is lost is not a lock that is lost, nor one that nobody holds.
#![allow(clippy::unwrap_used)]

mod proxy;

use dlock_core::{Clock, ErrorKind};
use dlock_fixtures::EtcdServer;
use proxy::Proxy;
use std::time::Duration;

async fn no_keys(server: &EtcdServer, limit: Duration) {
    let clock = Clock::system();
    let end = clock.now() + limit;
    loop {
        // A withdrawal leaves a mark as long as the session lives.
        let keys: Vec<_> = server.keys("").into_iter().filter(|key| !key.starts_with("dlock/.withdrawn/")).collect();
        if keys.is_empty() {
            return;
        }
        assert!(clock.now() < end, "left after {limit:?}: {keys:?}");
        clock.sleep(Duration::from_millis(20)).await;
    }
}

fn pause(most: u64) -> Duration {
    Duration::from_millis(rand::random_range(0..most))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_whose_reply_is_lost_holds_or_leaves_nothing() {
    let server = EtcdServer::start();
    let proxy = Proxy::before(server.port());
    let (locks, clock) = (proxy.client(Duration::from_millis(300)).await, Clock::system());
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let (mut held, mut failed) = (0, 0);
    for round in 0..24 {
        proxy.lose();
        let lock = match round % 4 {
            0 => locks.lock("s").shared(),
            1 => locks.lock("p").permits(2),
            _ => locks.lock("k"),
        };
        let acquiring = if round % 2 == 0 {
            tokio::spawn(lock.acquire())
        } else {
            tokio::spawn(async move { lock.try_acquire().await.map(|guard| guard.expect("nobody else is there")) })
        };
        // Every third is deaf for longer than the operation may take.
        clock.sleep(if round % 3 == 0 { Duration::from_millis(700) } else { pause(250) }).await;
        proxy.reset();
        match acquiring.await.unwrap() {
            Ok(guard) => {
                held += 1;
                guard.release().await.unwrap();
            }
            Err(error) => {
                failed += 1;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
        no_keys(&server, Duration::from_secs(5)).await;
    }
    println!("{held} held after all, {failed} failed");
    assert!(held > 0 && failed > 0, "{held} held, {failed} failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_or_withdrawal_whose_reply_is_lost_is_done_all_the_same() {
    let server = EtcdServer::start();
    let proxy = Proxy::before(server.port());
    let (locks, clock) = (proxy.client(Duration::from_millis(300)).await, Clock::system());
    for round in 0..10 {
        let guard = locks.lock("k").acquire().await.unwrap();
        // One that was never told that it waits gives up after its `op_timeout`.
        let mut waiting = locks.lock("k").acquire();
        while waiting.last_seen().is_none() {
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err(), "it holds");
        }
        let waiter = tokio::spawn(waiting);
        proxy.lose();
        if round % 2 == 0 {
            waiter.abort();
            let _ = waiter.await;
            clock.sleep(pause(500)).await;
            proxy.reset();
            guard.release().await.unwrap();
        } else {
            let releasing = tokio::spawn(guard.release());
            clock.sleep(pause(500)).await;
            proxy.reset();
            if let Err(error) = releasing.await.unwrap() {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            let next = tokio::time::timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap().unwrap();
            next.release().await.unwrap();
        }
        no_keys(&server, Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alives_without_a_reply_lose_nothing_before_the_deadline() {
    let server = EtcdServer::start();
    let proxy = Proxy::before(server.port());
    let (locks, clock) = (proxy.client(Duration::from_millis(500)).await, Clock::system());
    let guard = locks.lock("k").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    for _ in 0..3 {
        proxy.lose();
        // What was heard before is counted by then.
        clock.sleep(Duration::from_millis(50)).await;
        let before = guard.valid_until();
        clock.sleep(Duration::from_millis(1_250)).await;
        // At least one was sent meanwhile, and none was answered: what was only sent counts for nothing.
        assert!(guard.is_valid() && guard.valid_until() == before, "believed without an answer");
        proxy.reset();
        let moved = async {
            while guard.valid_until() <= before {
                clock.sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(1_500), moved).await.expect("it is kept alive again");
    }
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}
