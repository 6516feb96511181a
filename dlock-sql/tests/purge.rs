//! Rows of locks that nobody uses go after a while, and nothing else does.
#![allow(clippy::unwrap_used, clippy::future_not_send, reason = "each test is a runtime of its own")]

mod common;

use common::connect;
use dlock_core::{Clock, ErrorKind, Locks};
use dlock_fixtures::{MariaDbServer, PostgresServer, wait_until};
use dlock_sql::{MySqlBackend, MySqlStore, PostgresBackend, PostgresStore};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// What differs between the two.
struct Dialect<'a> {
    sql: &'a dyn Fn(&str) -> String,
    /// A row was last written two hours ago.
    age: &'a dyn Fn(&str) -> String,
    key: &'static str,
}

impl Dialect<'_> {
    fn keys(&self) -> Vec<String> {
        let keys = (self.sql)(&format!("SELECT {0} FROM dlock_locks ORDER BY {0}", self.key));
        keys.lines().map(str::to_owned).collect()
    }

    fn put(&self, key: &str, record: &str) {
        (self.sql)(&format!(
            "INSERT INTO dlock_locks ({}, version, record, holders, changed) VALUES ('{key}', 1, '{record}', '', now())",
            self.key
        ));
        (self.age)(key);
    }
}

async fn is_purged<F: Future<Output = u64>>(locks: Locks, dialect: Dialect<'_>, purge: impl Fn() -> F) {
    let used = locks.lock("a-used").acquire().await.unwrap();
    let before = used.token();
    used.release().await.unwrap();
    (dialect.age)("a-used");
    let held = locks.lock("b-held").acquire().await.unwrap();
    let waiting = tokio::spawn(locks.lock("b-held").acquire());
    while locks.inspect("b-held").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    (dialect.age)("b-held");
    locks.lock("c-recent").acquire().await.unwrap().release().await.unwrap();
    // Its token is ahead of the server's clock: without the row the next one would be smaller.
    dialect.put("d-ahead", r#"{"v":1,"last_token":9000000000000000,"last_exclusive":0}"#);
    dialect.put("e-broken", "{ no record");
    // A client died two hours and more ago.
    let dead = r#"{"id":"0123456789abcdef0123456789abcdef","mode":"exclusive","ttl_ms":500,"label":"x","since":1}"#;
    let holder = dead.replace('}', r#","token":7,"floor":0,"expires":1000}"#);
    let holder = format!(r#"{{"v":1,"last_token":7,"last_exclusive":7,"holders":[{holder}]}}"#);
    dialect.put("f-dead", &holder);
    assert!(locks.inspect("f-dead").await.is_ok_and(|info| !info.is_held()), "the row is as we write it");
    assert_eq!(purge().await, 1);
    let rest = ["b-held", "c-recent", "d-ahead", "e-broken", "f-dead"];
    assert_eq!(dialect.keys(), rest);
    // What was left by a crash goes once it was watched for its TTL.
    let clock = Clock::system();
    clock.sleep(Duration::from_millis(800)).await;
    assert_eq!(purge().await, 1);
    assert_eq!(dialect.keys(), rest[..4]);
    assert_eq!(purge().await, 0);
    // Tokens go on.
    assert!(locks.lock("a-used").acquire().await.unwrap().token() > before);
    assert_eq!(locks.lock("d-ahead").acquire().await.unwrap().token().0, 9_000_000_000_000_001);
    assert!(held.is_valid());
    held.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_used_for_long_goes_and_nothing_else() {
    let server = PostgresServer::start();
    let store = PostgresStore::connect(&format!("{}?create=true", server.url()).parse().unwrap()).await.unwrap();
    let locks = Locks::new(PostgresBackend::new(store.clone())).unwrap();
    let sql = |sql: &str| server.sql(sql);
    let age =
        |key: &str| sql(&format!("UPDATE dlock_locks SET changed = now() - interval '2 hours' WHERE key = '{key}'"));
    let dialect = Dialect { sql: &sql, age: &age, key: "key" };
    is_purged(locks, dialect, || async { store.purge_unused(HOUR).await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_used_for_long_goes_from_mariadb_too() {
    let server = MariaDbServer::start();
    let store = MySqlStore::connect(&format!("{}?create=true", server.url()).parse().unwrap()).await.unwrap();
    let locks = Locks::new(MySqlBackend::new(store.clone())).unwrap();
    let sql = |sql: &str| server.sql(sql);
    let age = |key: &str| {
        sql(&format!("UPDATE dlock_locks SET changed = UTC_TIMESTAMP(6) - INTERVAL 2 HOUR WHERE `key` = '{key}'"))
    };
    let dialect = Dialect { sql: &sql, age: &age, key: "`key`" };
    is_purged(locks, dialect, || async { store.purge_unused(HOUR).await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_purges_by_itself_if_it_is_told_to_and_may() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    for (url, sql) in [
        (postgres.url(), &(|sql: &str| postgres.sql(sql)) as &(dyn Fn(&str) -> String + Sync)),
        (maria.url(), &|sql: &str| maria.sql(sql)),
    ] {
        let locks = connect(&format!("{url}?create=true")).await.unwrap();
        let token = locks.lock("k").acquire().await.unwrap().token();
        locks.close().await.unwrap();
        sql("UPDATE dlock_locks SET changed = '2020-01-01'");
        let purging = connect(&format!("{url}?purge_after=1h")).await.unwrap();
        tokio::task::block_in_place(|| {
            wait_until("the row goes", Duration::from_secs(20), || sql("SELECT count(*) FROM dlock_locks") == "0");
        });
        assert!(purging.lock("k").acquire().await.unwrap().token() > token);
        purging.close().await.unwrap();
    }
    // One that may not says so once, and its locks work on.
    postgres.sql("CREATE ROLE worker LOGIN; GRANT SELECT, INSERT, UPDATE ON dlock_locks TO worker");
    postgres.sql("UPDATE dlock_locks SET changed = '2020-01-01'");
    let url = format!("{}?purge_after=1h", postgres.url().replace("postgres@", "worker@"));
    let store = PostgresStore::connect(&url.parse().unwrap()).await.unwrap();
    let refused = store.purge_unused(HOUR).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{}", refused.chain());
    let locks = Locks::new(PostgresBackend::new(store)).unwrap();
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    assert_eq!(postgres.sql("SELECT count(*) FROM dlock_locks"), "1");
}
