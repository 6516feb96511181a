//! A session takes nothing with it that it should not, and leaves nothing.
#![allow(clippy::unwrap_used)]

use dlock_core::{Clock, Locks};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::EtcdServer;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

async fn client(url: &str) -> Locks {
    Locks::new(EtcdBackend::connect(&url.parse().unwrap()).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_is_swept_within_a_ttl_and_what_is_held_stays() {
    let server = EtcdServer::start();
    let (locks, other, clock) = (client(&server.url()).await, client(&server.url()).await, Clock::system());
    let guard = locks.lock("held").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    let behind = other.lock("waited").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    let waiting = tokio::spawn(locks.lock("waited").ttl(Duration::from_secs(1)).acquire());
    let leases = server.ctl(&["lease", "list"]);
    let of_held = |lease: &&str| server.ctl(&["lease", "timetolive", "--keys", lease]).contains("dlock/held/");
    let lease = leases.lines().skip(1).find(of_held).unwrap().to_owned();
    // As a request that arrives late, for a caller that has long gone.
    server.ctl(&["put", "--lease", &lease, "dlock/orphaned/x-0123456789abcdef0123456789abcdef", ""]);
    let begun = clock.now();
    let taken = tokio::time::timeout(Duration::from_secs(10), other.lock("orphaned").acquire()).await.unwrap().unwrap();
    let took = clock.now().since(begun);
    assert!(took < Duration::from_millis(1_600), "swept only after {took:?}");
    clock.sleep(Duration::from_secs(2)).await;
    assert!(guard.is_valid() && !waiting.is_finished(), "what is wanted was swept");
    assert_eq!(server.keys("dlock/held/").len() + server.keys("dlock/waited/").len(), 3);
    behind.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
    for guard in [guard, taken] {
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_hand_that_takes_a_key_is_noticed_at_once() {
    let server = EtcdServer::start();
    let locks = client(&server.url()).await;
    let clock = Clock::system();
    for mode in [locks.lock("k"), locks.lock("k").shared(), locks.lock("k").permits(2)] {
        let guard = mode.acquire().await.unwrap();
        // As soon as it is watched, and before: neither is missed.
        server.ctl(&["del", "--prefix", "dlock/k/"]);
        let begun = clock.now();
        assert_eq!(guard.lost().await, dlock_core::LostCause::Revoked);
        assert!(clock.now().since(begun) < Duration::from_millis(500));
        drop(guard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_held_for_as_long_as_it_may_is_free_within_a_ttl() {
    let server = EtcdServer::start();
    let (locks, other, clock) = (client(&server.url()).await, client(&server.url()).await, Clock::system());
    let second = Duration::from_secs(1);
    let guard = locks.lock("k").ttl(second).max_hold(second / 2).acquire().await.unwrap();
    // Another lock keeps the session alive.
    let stays = locks.lock("stays").ttl(second).acquire().await.unwrap();
    assert_eq!(guard.lost().await, dlock_core::LostCause::MaxHold);
    let lost = clock.now();
    let next = tokio::time::timeout(Duration::from_secs(10), other.lock("k").acquire()).await.unwrap().unwrap();
    assert!(clock.now().since(lost) < second + Duration::from_millis(250), "{:?}", clock.now().since(lost));
    assert!(stays.is_valid() && !guard.is_valid() && next.is_valid());
    assert_eq!(guard.release().await.unwrap_err().lost_cause(), Some(dlock_core::LostCause::MaxHold));
    assert!(next.is_valid());
}

/// The environment with which this program is the holder below.
const HOLDER: &str = "DLOCK_ETCD_TEST_HOLDER";

/// Run by the test below: holds, and tells what it believes right after it was stopped.
#[test]
#[ignore = "the other process of the next test"]
fn holder() {
    let Ok(url) = std::env::var(HOLDER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let guard = runtime.block_on(async {
        let lock = client(&url).await.lock("k").ttl(Duration::from_secs(2));
        lock.acquire().await.unwrap()
    });
    println!("\nholds");
    std::io::stdout().flush().unwrap();
    let clock = Clock::system();
    let mut last = clock.now();
    loop {
        let now = clock.now();
        if now.since(last) > Duration::from_secs(2) {
            println!("\nbelieves {}", guard.is_valid());
            let released = runtime.block_on(guard.release());
            println!("\nreleased {}", released.is_ok());
            return;
        }
        last = now;
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_for_longer_than_its_ttl_believes_nothing_and_harms_nobody() {
    let server = EtcdServer::start();
    let locks = client(&server.url()).await;
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder.args(["--exact", "holder", "--ignored", "--nocapture"]).env(HOLDER, server.url());
    let mut child = holder.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = |what: &str| loop {
        let line = lines.next().expect("it goes on").unwrap();
        if let Some(rest) = line.strip_prefix(what) {
            return rest.trim().to_owned();
        }
    };
    next("holds");
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let first = locks.inspect("k").await.unwrap().holders.remove(0);
    signal("-STOP");
    let begun = Clock::system().now();
    let guard = tokio::time::timeout(Duration::from_secs(10), locks.lock("k").acquire()).await.unwrap().unwrap();
    let took = Clock::system().now().since(begun);
    assert!(took > Duration::from_secs(1) && took < Duration::from_millis(3_500), "{took:?}");
    assert!(guard.token() > first.token.unwrap());
    signal("-CONT");
    assert_eq!(next("believes"), "false");
    assert_eq!(next("released"), "false");
    child.wait().unwrap();
    let info = locks.inspect("k").await.unwrap();
    assert_eq!((guard.is_valid(), &info.holders[0].id), (true, &guard.holder()));
    guard.release().await.unwrap();
}
