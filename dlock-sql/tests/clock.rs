//! A server whose wall clock is set while locks are held.
#![allow(clippy::unwrap_used)]

use dlock_core::{Attempt, Clock, Lease, LockBackend, LockKey, Registry, Release, Request, Ttl};
use dlock_fixtures::{FakeClock, MariaDbServer, PostgresServer};
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(2);

async fn connect(url: &str) -> Arc<dyn LockBackend> {
    Registry::new().with(dlock_sql::driver()).connect_backend(&url.parse().unwrap()).await.unwrap()
}

async fn attempt(backend: &Arc<dyn LockBackend>) -> Option<Arc<dyn Lease>> {
    let request = Request::new(LockKey::new("k").unwrap()).with_ttl(Ttl::new(TTL).unwrap());
    match backend.try_acquire(&request).await.unwrap() {
        Attempt::Acquired(lease) => Some(lease),
        Attempt::Held(_) => None,
    }
}

/// While `lease` is renewed for three TTLs, `other` never gets the lock.
async fn is_kept(lease: &Arc<dyn Lease>, other: &Arc<dyn LockBackend>, what: &str) {
    let clock = Clock::system();
    let (end, mut renewal) = (clock.now() + 3 * TTL, clock.now());
    while clock.now() < end {
        assert!(attempt(other).await.is_none(), "{what}: two hold");
        if clock.now() >= renewal {
            lease.renew(clock.now() + TTL / 4).await.unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
            renewal = clock.now() + TTL / 3;
        }
        assert!(lease.deadline().at() > clock.now(), "{what}: it was lost");
        clock.sleep(Duration::from_millis(50)).await;
    }
}

/// How long it takes after the lease's deadline until `other` gets the lock, which nobody renews any more.
async fn is_given_on(lease: &Arc<dyn Lease>, other: &Arc<dyn LockBackend>) -> (Arc<dyn Lease>, Duration) {
    let clock = Clock::system();
    loop {
        if let Some(next) = attempt(other).await {
            let now = clock.now();
            assert!(now >= lease.deadline().at(), "two hold");
            assert!(next.token() > lease.token(), "the token did not grow");
            return (next, now.since(lease.deadline().at()));
        }
        clock.sleep(Duration::from_millis(20)).await;
    }
}

async fn released(lease: &Arc<dyn Lease>) {
    assert_eq!(lease.release(Clock::system().now() + TTL).await.unwrap(), Release::Released);
}

/// The clock is set by 100 s, each way and back.
async fn jumps(url: &str, server: &FakeClock) {
    let url = format!("{url}?create=true&clock_margin=200ms");
    let (one, two) = (connect(&url).await, connect(&url).await);
    let mut lease = attempt(&one).await.unwrap();
    assert!(attempt(&two).await.is_none());
    let mut shown = 0.0;
    for to in [100.0, 0.0, -100.0, 0.0] {
        server.set(to);
        let what = format!("from {shown} s to {to} s");
        shown = to;
        // Both were connected before the jump: it is seen, and the holder watched.
        is_kept(&lease, &two, &what).await;
        let (next, late) = is_given_on(&lease, &two).await;
        println!("{what}: given on {late:?} after the deadline");
        assert!(late < 2 * TTL + Duration::from_secs(1), "{what}: given on {late:?} after the deadline");
        released(&next).await;
        // One that connects only now: tokens grow for it too.
        let fresh = connect(&url).await;
        let after = attempt(&fresh).await.unwrap();
        assert!(after.token() > next.token(), "{what}: the token did not grow");
        released(&after).await;
        lease = attempt(&one).await.unwrap();
        assert!(lease.token() > after.token());
        assert!(attempt(&two).await.is_none());
    }
    released(&lease).await;
}

/// Within the margin a client that connects after the jump, and can't know of it, does not get the lock either.
async fn within_the_margin(url: &str, server: &FakeClock) {
    let url = format!("{url}?create=true&clock_margin=5s");
    let one = connect(&url).await;
    for to in [3.0, 0.0, -3.0, 0.0] {
        let lease = attempt(&one).await.unwrap();
        server.set(to);
        let fresh = connect(&url).await;
        is_kept(&lease, &fresh, &format!("to {to} s")).await;
        released(&lease).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_lets_no_two_hold() {
    let clock = FakeClock::new();
    let server = PostgresServer::start_with(&[], Some(&clock));
    let shown = || server.sql("SELECT extract(epoch FROM clock_timestamp())::bigint").parse::<i64>().unwrap();
    let before = shown();
    clock.set(100.0);
    assert!((95..120).contains(&(shown() - before)), "the server does not see its clock set");
    clock.set(0.0);
    jumps(&server.url(), &clock).await;
    within_the_margin(&server.url(), &clock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_mariadb_that_is_set_lets_no_two_hold() {
    let clock = FakeClock::new();
    let server = MariaDbServer::start_with(&[], Some(&clock));
    let shown = || server.sql("SELECT UNIX_TIMESTAMP()").parse::<i64>().unwrap();
    let before = shown();
    clock.set(100.0);
    assert!((95..120).contains(&(shown() - before)), "the server does not see its clock set");
    clock.set(0.0);
    jumps(&server.url(), &clock).await;
    within_the_margin(&server.url(), &clock).await;
}
