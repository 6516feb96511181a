//! A server that is restarted, a connection that is cut, a pooler in between.
#![allow(clippy::unwrap_used)]

mod common;

use common::connect;
use dlock_core::{Clock, LockBackend, Locks, Wake};
use dlock_fixtures::{MariaDbServer, PgBouncer, PostgresServer, wait_until};
use dlock_sql::{PostgresBackend, PostgresStore};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Ten hold and ten wait, each for a key of its own, while the server is restarted.
async fn outlives_a_restart<S: Send + 'static>(url: &str, server: S, restart: impl Fn(&mut S) + Send + 'static) {
    let url = format!("{url}?create=true");
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let (mut held, mut waiting) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let key = format!("k/{number}");
        held.push(one.lock(&*key).acquire().await.unwrap());
        waiting.push(tokio::spawn(two.lock(&*key).acquire()));
        while one.inspect(&key).await.unwrap().waiters.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
    let mut server = server;
    let restarted = tokio::task::spawn_blocking(move || {
        restart(&mut server);
        server
    });
    let server = restarted.await.unwrap();
    for guard in held {
        assert!(guard.is_valid());
        let token = guard.token();
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "a waiter holds beside its holder");
        guard.release().await.unwrap();
        let next = tokio::time::timeout(SOON, waiting.remove(0)).await.unwrap().unwrap().unwrap();
        assert!(next.token() > token);
        next.release().await.unwrap();
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_holders_and_ten_waiters_outlive_a_restart() {
    let server = PostgresServer::start();
    outlives_a_restart(&server.url(), server, PostgresServer::restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_holders_and_ten_waiters_outlive_a_restart_of_mariadb() {
    let server = MariaDbServer::start();
    outlives_a_restart(&server.url(), server, MariaDbServer::restart).await;
}

/// How long a waiter waits from the release on.
async fn hand_over(one: &Locks, two: &Locks, before_release: impl FnOnce()) -> Duration {
    let guard = one.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(two.lock("k").acquire());
    while one.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    before_release();
    let begun = Clock::system().now();
    guard.release().await.unwrap();
    let next = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    let took = Clock::system().now().since(begun);
    next.release().await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_connection_that_was_cut_is_made_anew_and_waiters_are_woken() {
    let server = PostgresServer::start();
    let url = format!("{}?create=true", server.url());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let listening = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    let cut = || server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    for _ in 0..3 {
        let before = server.sql(listening);
        assert_eq!(before.split(' ').count(), 2, "each client listens on one connection: {before}");
        cut();
        wait_until("both listen again", SOON, || {
            let now = server.sql(listening);
            now != before && now.split(' ').count() == 2
        });
        // Without being told a waiter would look after five seconds.
        let took = hand_over(&one, &two, || {}).await;
        assert!(took < Duration::from_secs(1), "woken after {took:?}");
    }
    // A grant that is told while nobody listens is found when somebody does again.
    for _ in 0..5 {
        let took = hand_over(&one, &two, || drop(cut())).await;
        assert!(took < Duration::from_secs(2), "woken after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_connection_that_fell_silent_is_replaced() {
    let server = PostgresServer::start();
    let url = format!("{}?create=true&op_timeout=1s", server.url());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let listening = || server.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    let stopped: Vec<i32> = listening().lines().map(|pid| pid.trim().parse().unwrap()).collect();
    assert_eq!(stopped.len(), 2);
    let signal = |signal| stopped.iter().for_each(|pid| kill_process(Pid::from_raw(*pid).unwrap(), signal).unwrap());
    // What is sent to them is taken, and never answered.
    signal(Signal::STOP);
    wait_until("both listen on another connection", SOON, || listening().lines().count() == 4);
    let took = hand_over(&one, &two, || {}).await;
    assert!(took < Duration::from_secs(1), "woken after {took:?}");
    signal(Signal::CONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_found_out_and_may_be_restarted() {
    let server = PostgresServer::start();
    let mut pooler = PgBouncer::start(server.port(), 2);
    let backend =
        async |url: String| PostgresBackend::new(PostgresStore::connect(&url.parse().unwrap()).await.unwrap());
    assert_eq!(backend(format!("{}?create=true", server.url())).await.capabilities().wake, Wake::Event);
    let begun = Clock::system().now();
    let found = backend(pooler.url()).await;
    assert!(matches!(found.capabilities().wake, Wake::Poll(_)));
    let took = Clock::system().now().since(begun);
    assert!(took < Duration::from_secs(3), "found out after {took:?}");
    let locks = Locks::new(found).unwrap();
    let other = connect(&format!("{}?pooler=true", pooler.url())).await.unwrap();
    // Keys and labels that mean something in SQL.
    for key in [r"it's", r"\'; DROP TABLE dlock_locks; --", "$1 $2", "E'\\x41'", "%s{}"] {
        let guard = locks.lock(key).label(key).acquire().await.unwrap();
        assert_eq!(other.inspect(key).await.unwrap().holders[0].label.as_deref(), Some(key));
        assert!(other.lock(key).try_acquire().await.unwrap().is_none());
        guard.release().await.unwrap();
    }
    let guard = locks.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(other.lock("k").acquire());
    let port: u16 = pooler.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
    let ready = move || std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_ok();
    tokio::task::block_in_place(|| pooler.server().restart(ready));
    assert!(guard.is_valid());
    guard.release().await.unwrap();
    tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap().release().await.unwrap();
}
