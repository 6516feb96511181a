//! The table: made on request, explained when it is missing, used with few rights.
#![allow(clippy::unwrap_used, clippy::future_not_send, reason = "each test is a runtime of its own")]

mod common;

use common::connect;
use dlock_core::{Clock, ErrorKind, Registry};
use dlock_fixtures::{MariaDbServer, PostgresServer};
use std::time::Duration;

#[tokio::test]
async fn a_missing_table_is_an_error_that_shows_the_sql() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    for url in [postgres.url(), maria.url()] {
        let error = connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        for words in ["CREATE TABLE", "create=true", "dlock init"] {
            assert!(error.to_string().contains(words), "{error}");
        }
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
        ("postgres://h/d?purge_after=5m", "an hour or more"),
        ("postgres://h/d?tls_ca=/ca.pem", "verify-full"),
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
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    for url in [postgres.url(), maria.url()] {
        drop(connect(&format!("{url}?create=true")).await.unwrap());
    }
    postgres.sql(
        "CREATE ROLE worker LOGIN; GRANT SELECT, INSERT, UPDATE ON dlock_locks TO worker; \
         CREATE ROLE looker LOGIN; GRANT SELECT ON dlock_locks TO looker; CREATE ROLE stranger LOGIN",
    );
    maria.sql(
        "CREATE USER worker@'127.0.0.1'; GRANT SELECT, INSERT, UPDATE ON test.dlock_locks TO worker@'127.0.0.1'; \
         CREATE USER looker@'127.0.0.1'; GRANT SELECT ON test.dlock_locks TO looker@'127.0.0.1'; \
         CREATE USER stranger@'127.0.0.1'; CREATE DATABASE other; GRANT ALL ON other.* TO stranger@'127.0.0.1'",
    );
    for (url, owner) in [(postgres.url(), "postgres@"), (maria.url(), "root@")] {
        let url_of = |user: &str| format!("{}?create=true", url.replace(owner, user));
        let locks = connect(&url_of("worker@")).await.unwrap();
        let guard = locks.lock("k").label("a worker").acquire().await.unwrap();
        // One that may only look sees it, and is told what it lacks when it wants more.
        let looker = connect(&url_of("looker@")).await.unwrap();
        assert_eq!(looker.inspect("k").await.unwrap().holders[0].label.as_deref(), Some("a worker"));
        let error = looker.lock("other").acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
        assert!(error.to_string().contains("GRANT SELECT, INSERT, UPDATE ON dlock_locks"), "{error}");
        guard.release().await.unwrap();
    }
    let error = connect(&postgres.url().replace("postgres@", "stranger@")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
    assert!(error.to_string().contains("GRANT SELECT"), "{error}");
    let error = connect(&maria.url().replace("root@", "stranger@")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
}

#[tokio::test]
async fn a_person_reads_the_table() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    let one = connect(&format!("{}?create=true", postgres.url())).await.unwrap();
    let two = connect(&format!("{}?create=true", maria.url())).await.unwrap();
    let in_postgres = "SELECT key, holders, last_token, expires - now() BETWEEN '25 s' AND '30 s' FROM dlock_locks";
    let in_maria = "SELECT CONCAT_WS('|', `key`, holders, last_token, \
                    TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6), expires) BETWEEN 25 AND 30) FROM dlock_locks";
    for (locks, sql, yes) in
        [(one, &(|| postgres.sql(in_postgres)) as &dyn Fn() -> String, "t"), (two, &|| maria.sql(in_maria), "1")]
    {
        let guard = locks.lock("jobs/7").label("the nightly job").acquire().await.unwrap();
        assert_eq!(sql(), format!("jobs/7|the nightly job|{}|{yes}", guard.token()));
        let token = guard.token();
        guard.release().await.unwrap();
        let idle = sql();
        assert!(idle.starts_with(&format!("jobs/7||{token}")), "{idle}");
    }
}

/// The table of the first version, with a row.
const POSTGRES_1: &str = "CREATE TABLE dlock_locks (key text COLLATE \"C\" PRIMARY KEY, version bigint NOT NULL, record text NOT NULL, \
    holders text NOT NULL, changed timestamptz NOT NULL) WITH (fillfactor = 50); \
    INSERT INTO dlock_locks VALUES ('old', 5, '{\"v\":1,\"last_token\":9000000000000000,\"last_exclusive\":7}', '', now()), \
    ('broken', 6, '{ no record', '', now())";
const MARIA_1: &str = "CREATE TABLE dlock_locks (`key` varbinary(255) PRIMARY KEY, version bigint NOT NULL, record mediumtext \
    CHARACTER SET utf8mb4 NOT NULL, holders text CHARACTER SET utf8mb4 NOT NULL, changed datetime(6) NOT NULL) ENGINE = InnoDB; \
    INSERT INTO dlock_locks VALUES ('old', 5, '{\"v\":1,\"last_token\":9000000000000000,\"last_exclusive\":7}', '', now()), \
    ('broken', 6, '{ no record', '', now())";

#[tokio::test]
async fn an_older_table_is_brought_up_to_date_on_request_and_a_newer_one_left_alone() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    let registry = Registry::new().with(dlock_sql::driver());
    postgres.sql(POSTGRES_1);
    maria.sql(MARIA_1);
    let tokens = "SELECT last_token FROM dlock_locks ORDER BY version";
    let newer_postgres = "COMMENT ON TABLE dlock_locks IS 'dlock schema 9'";
    let newer_maria = "ALTER TABLE dlock_locks COMMENT = 'dlock schema 9'";
    for (url, sql, newer) in [
        (postgres.url(), &(|sql: &str| postgres.sql(sql)) as &dyn Fn(&str) -> String, newer_postgres),
        (maria.url(), &|sql: &str| maria.sql(sql), newer_maria),
    ] {
        let error = connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        assert!(error.to_string().contains("schema 1") && error.to_string().contains("dlock init"), "{error}");
        let parsed = url.parse().unwrap();
        assert!(registry.init(&parsed).await.unwrap().unwrap().contains("from schema 1 to 2"));
        assert!(registry.init(&parsed).await.unwrap().unwrap().contains("up to date"));
        assert_eq!(sql(tokens).split_whitespace().collect::<Vec<_>>(), ["9000000000000000", "0"]);
        let locks = connect(&url).await.unwrap();
        // Its token goes on.
        assert_eq!(locks.lock("old").acquire().await.unwrap().token().0, 9_000_000_000_000_001);
        sql(newer);
        for outcome in [connect(&format!("{url}?create=true")).await.map(drop), registry.init(&parsed).await.map(drop)]
        {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
            assert!(error.to_string().contains("schema 9"), "{error}");
        }
    }
    assert_eq!(registry.init(&"memory:".parse().unwrap()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_make_the_table_at_once_all_succeed() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    for url in [postgres.url(), maria.url()] {
        for table in ["fresh", "fresh2"] {
            let url = format!("{url}?create=true&pool=2&table={table}");
            let all = (0..12).map(|_| connect(&url));
            for locks in futures_util::future::join_all(all).await {
                locks.unwrap().lock("k").acquire().await.unwrap().release().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_pool_of_ones_own_is_used_and_left_open() {
    use dlock_core::{LockBackend, Locks};
    use dlock_sql::{MySqlBackend, MySqlStore, PostgresBackend, PostgresStore, SqlOptions};
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&postgres.url()).await.unwrap();
    let store = PostgresStore::from_pool(pool.clone(), SqlOptions::new().create(true)).await.unwrap();
    let backend = PostgresBackend::new(store);
    assert_eq!(backend.capabilities().wake, dlock_core::Wake::Event);
    let locks = Locks::new(backend).unwrap();
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    locks.close().await.unwrap();
    let count: (i64,) = sqlx::query_as("SELECT count(*) FROM dlock_locks").fetch_one(&pool).await.unwrap();
    assert_eq!(count.0, 1);
    let pool = sqlx::mysql::MySqlPoolOptions::new().max_connections(1).connect(&maria.url()).await.unwrap();
    let options = SqlOptions::new().create(true).table("test.own_locks").unwrap();
    let locks = Locks::new(MySqlBackend::new(MySqlStore::from_pool(pool.clone(), options).await.unwrap())).unwrap();
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    locks.close().await.unwrap();
    let count: (i64,) = sqlx::query_as("SELECT count(*) FROM own_locks").fetch_one(&pool).await.unwrap();
    assert_eq!(count.0, 1);
}

/// Cancels a thousand acquires at random moments; `sql` asks the server.
async fn cancel_a_thousand(url: &str, sql: &dyn Fn(&str) -> String) {
    let url = format!("{url}?create=true");
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
    dlock_fixtures::wait_until("no row is in use", Duration::from_secs(10), || sql(in_use) == "0");
    assert_eq!(sql("SELECT count(*) FROM dlock_locks"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_one_row_that_nobody_uses() {
    let server = PostgresServer::start();
    cancel_a_thousand(&server.url(), &|sql| server.sql(sql)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_one_row_on_mariadb_too() {
    let server = MariaDbServer::start();
    cancel_a_thousand(&server.url(), &|sql| server.sql(sql)).await;
}
