//! The table: made on request, explained when it is missing, used with few rights.
#![allow(clippy::unwrap_used)]

use dlock_core::{Clock, ErrorKind, Locks, Registry};
use dlock_fixtures::{MariaDbServer, PostgresServer};
use std::time::Duration;

async fn connect(url: &str) -> dlock_core::Result<Locks> {
    Registry::new().with(dlock_sql::driver()).connect(url).await
}

#[tokio::test]
async fn a_missing_table_is_an_error_that_shows_the_sql() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    for url in [postgres.url(), maria.url()] {
        let error = connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        assert!(error.to_string().contains("CREATE TABLE") && error.to_string().contains("create=true"), "{error}");
        let locks = connect(&format!("{url}?create=true&table=other_locks")).await.unwrap();
        locks.lock("k").acquire().await.unwrap().release().await.unwrap();
        connect(&format!("{url}?table=other_locks")).await.unwrap();
    }
    assert_eq!(postgres.sql("SELECT key FROM other_locks"), "k");
    assert_eq!(maria.sql("SELECT `key` FROM other_locks"), "k");
}

#[tokio::test]
async fn what_a_url_says_wrongly_is_told() {
    for (url, word) in [
        ("postgres://h", "names a database"),
        ("postgres://h1,h2/d", "one host"),
        ("mysql://h/d?table=a;b", "no name of a table"),
        ("mysql://h/d?pool=1", "2 to 1000"),
        ("postgres://h/d?tls=maybe", "verify-full"),
        ("postgres://h/d?tabel=x", "no parameter"),
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = connect("postgres://127.0.0.1:1/d?op_timeout=1s").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
}

#[tokio::test]
async fn a_role_that_may_only_read_and_write_the_table_is_enough() {
    let server = PostgresServer::start();
    drop(connect(&format!("{}?create=true", server.url())).await.unwrap());
    server.sql("CREATE ROLE worker LOGIN; GRANT SELECT, INSERT, UPDATE ON dlock_locks TO worker");
    let locks = connect(&server.url().replace("postgres@", "worker@")).await.unwrap();
    let guard = locks.lock("k").label("a worker").acquire().await.unwrap();
    assert_eq!(server.sql("SELECT holders FROM dlock_locks WHERE key = 'k'"), "a worker");
    guard.release().await.unwrap();
    // And one that may not even that is told so.
    server.sql("CREATE ROLE stranger LOGIN");
    let error = connect(&server.url().replace("postgres@", "stranger@")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_one_row_that_nobody_uses() {
    let server = PostgresServer::start();
    let url = format!("{}?create=true", server.url());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let clock = Clock::system();
    let mut cut = 0;
    for round in 0..1_000_u64 {
        let holder = if round % 2 == 0 { two.lock("k").try_acquire().await.unwrap() } else { None };
        let moment = clock.now() + Duration::from_micros(rand::random_range(0..3_000));
        let acquired = clock.timeout_at(moment, one.lock("k").acquire()).await;
        cut += usize::from(acquired.is_none());
        drop(acquired);
        drop(holder);
        let guard = two.lock("k").wait_at_most(Duration::from_secs(5)).acquire().await.expect("the key is free");
        guard.release().await.unwrap();
    }
    assert!(cut > 300, "only {cut} were cut off");
    let in_use = "SELECT count(*) FROM dlock_locks WHERE record LIKE '%\"holders\"%' OR record LIKE '%\"queue\"%'";
    dlock_fixtures::wait_until("no row is in use", Duration::from_secs(10), || server.sql(in_use) == "0");
    assert_eq!(server.sql("SELECT count(*) FROM dlock_locks"), "1");
}

#[tokio::test]
async fn holders_and_waiters_outlive_a_restart() {
    let mut server = PostgresServer::start();
    let url = format!("{}?create=true", server.url());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let guard = one.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(two.lock("k").acquire());
    while one.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let server = server.await.unwrap();
    assert!(guard.is_valid());
    guard.release().await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap();
    next.release().await.unwrap();
    drop(server);
}
