//! Tokens grow though the server's clock is set back: the lock or its fence remembers the last one.
#![allow(clippy::unwrap_used)]

use dlock_core::{LockGuard, Locks};
use dlock_fixtures::RedisServer;
use dlock_redis::RedisBackend;
use redis::{Commands, Connection};
use std::time::{Duration, Instant};

async fn client(server: &RedisServer) -> (Locks, Connection) {
    let locks = Locks::new(RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap()).unwrap();
    (locks, redis::Client::open(server.url()).unwrap().get_connection().unwrap())
}

async fn take(locks: &Locks) -> LockGuard {
    locks.lock("k").acquire().await.unwrap()
}

/// A token of an hour ahead, as one from before the clock was set back.
fn ahead(guard: &LockGuard) -> u64 {
    guard.token().0 + 3_600_000_000
}

#[tokio::test]
async fn a_token_is_larger_than_that_of_a_release_before() {
    let server = RedisServer::start();
    let (locks, mut raw) = client(&server).await;
    let guard = take(&locks).await;
    let last = ahead(&guard);
    guard.release().await.unwrap();
    let () = raw.set("{k}:f", last).unwrap();
    for count in 1..=3 {
        let guard = take(&locks).await;
        assert_eq!(guard.token().0, last + count);
        guard.release().await.unwrap();
        assert_eq!(raw.get::<_, u64>("{k}:f").unwrap(), last + count);
    }
    let shared = locks.lock("k").shared().acquire().await.unwrap();
    assert!(shared.token().0 > last + 3);
}

#[tokio::test]
async fn who_is_granted_the_lock_has_a_larger_token_than_who_held_it() {
    let server = RedisServer::start();
    let (locks, mut raw) = client(&server).await;
    let guard = take(&locks).await;
    let waiting = tokio::spawn(locks.lock("k").acquire());
    while locks.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let (value, last) = (raw.get::<_, String>("k").unwrap(), ahead(&guard));
    let held_ahead = value.replacen(&guard.token().to_string(), &last.to_string(), 1);
    let () = redis::cmd("SET").arg("k").arg(held_ahead).arg("KEEPTTL").query(&mut raw).unwrap();
    assert_eq!(locks.inspect("k").await.unwrap().last_token.unwrap().0, last);
    guard.release().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().token().0, last + 1);
}

#[tokio::test]
async fn the_token_is_known_for_five_seconds_whatever_becomes_of_the_lock() {
    let server = RedisServer::start();
    let (locks, mut raw) = client(&server).await;
    let long = locks.lock("long").ttl(Duration::from_secs(20)).acquire().await.unwrap();
    assert!(!raw.exists::<_, bool>("{long}:f").unwrap(), "the lock itself knows it for so long");
    let token = long.token();
    long.release().await.unwrap();
    assert_eq!(raw.get::<_, u64>("{long}:f").unwrap(), token.0);

    // As if its holder had crashed: the lock ends before five seconds are over.
    let short = locks.lock("short").ttl(Duration::from_millis(500)).acquire().await.unwrap();
    let left: i64 = raw.pttl("{short}:f").unwrap();
    assert!((5_000..=5_500).contains(&left), "the fence ends in {left} ms");
    assert_eq!(raw.get::<_, u64>("{short}:f").unwrap(), short.token().0);
}

#[tokio::test]
async fn a_token_that_was_counted_outlives_a_lock_that_was_renewed() {
    let server = RedisServer::start();
    let (locks, mut raw) = client(&server).await;
    let guard = take(&locks).await;
    let last = ahead(&guard);
    guard.release().await.unwrap();
    let () = redis::cmd("SET").arg("{k}:f").arg(last).arg("PX").arg(5_000).query(&mut raw).unwrap();
    let guard = locks.lock("k").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    let () = raw.del("{k}:f").unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while raw.pttl::<_, i64>("{k}:f").unwrap() < 5_000 {
        assert!(Instant::now() < end, "no renewal remembers it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(guard.token().0, last + 1);
}
