//! What a request costs, as the server's own log of statements tells it, and that the table does not grow.
#![allow(clippy::unwrap_used, clippy::future_not_send, reason = "each test is a runtime of its own")]

mod common;

use common::connect;
use dlock_core::{Attempt, LockBackend, LockKey, Locks, Registry, Request};
use dlock_fixtures::{MariaDbServer, PostgresServer, wait_until};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that logs its statements: how to put a mark into the log, how to read it, and which lines are one that was
/// carried out.
struct Log<'a> {
    sql: &'a dyn Fn(&str) -> String,
    read: &'a dyn Fn() -> String,
    is_one: fn(&str) -> bool,
    marks: Cell<usize>,
}

impl Log<'_> {
    fn mark(&self) -> String {
        self.marks.set(self.marks.get() + 1);
        let mark = format!("mark no. {}.", self.marks.get());
        (self.sql)(&format!("SELECT '{mark}'"));
        wait_until("the log has the mark", Duration::from_secs(10), || (self.read)().contains(&mark));
        mark
    }

    /// The statements since a mark.
    fn since(&self, mark: &str) -> Vec<String> {
        let end = self.mark();
        let text = (self.read)();
        let begin = text.find(mark).unwrap();
        let between = &text[begin..text.find(&end).unwrap()];
        let of_the_mark =
            |line: &str| line.contains("mark no.") || line.contains("@@version") || line.contains("SELECT '");
        // The line of the first mark is the rest of one.
        between.lines().skip(1).filter(|line| (self.is_one)(line) && !of_the_mark(line)).map(str::to_owned).collect()
    }
}

async fn one_statement_each(url: &str, log: Log<'_>) {
    let backend = Registry::new().with(dlock_sql::driver()).connect_backend(&url.parse().unwrap()).await.unwrap();
    let (clock, patience) = (backend.clock(), Duration::from_secs(5));
    for round in 0..4 {
        let before = log.mark();
        let request = Request::new(LockKey::new("k").unwrap());
        let Attempt::Acquired(lease) = backend.try_acquire(&request).await.unwrap() else { panic!("held") };
        let acquired = log.since(&before);
        // The first reads, since it knows neither the server's clock nor the key.
        assert_eq!(acquired.len(), if round == 0 { 2 } else { 1 }, "round {round}: an acquire is {acquired:#?}");
        for _ in 0..2 {
            let before = log.mark();
            lease.renew(clock.now() + patience).await.unwrap();
            let renewed = log.since(&before);
            assert_eq!(renewed.len(), 1, "round {round}: a renewal is {renewed:#?}");
        }
        let before = log.mark();
        lease.release(clock.now() + patience).await.unwrap();
        let released = log.since(&before);
        assert_eq!(released.len(), 1, "round {round}: a release is {released:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_renew_and_release_are_one_statement_each() {
    let settings = ["log_statement=all", "logging_collector=on", "log_directory=log", "log_filename=all"];
    let postgres = PostgresServer::start_with(&settings, None);
    let path = postgres.folder().join("data/log/all");
    for parameters in ["create=true&pool=2", "pool=2&pooler=true"] {
        let log = Log {
            sql: &|sql| postgres.sql(sql),
            read: &|| std::fs::read_to_string(&path).unwrap(),
            // By name, or as text: BEGIN, SET and the like would be such lines too.
            is_one: |line| line.contains("LOG:  execute") || line.contains("LOG:  statement:"),
            marks: Cell::new(if parameters.starts_with("create") { 0 } else { 1_000 }),
        };
        one_statement_each(&format!("{}?{parameters}", postgres.url()), log).await;
    }
    let maria = MariaDbServer::start_with(&["--general-log=1", "--general-log-file=all.log"], None);
    let path = maria.folder().join("data/all.log");
    let log = Log {
        sql: &|sql| maria.sql(sql),
        read: &|| std::fs::read_to_string(&path).unwrap(),
        is_one: |line| line.contains(" Execute\t") || line.contains(" Query\t"),
        marks: Cell::new(0),
    };
    one_statement_each(&format!("{}?create=true&pool=2", maria.url()), log).await;
}

/// So many clients, each with its own connections, so many rounds: each round everyone tries once, and one wins.
async fn one_winner_a_round(url: &str) {
    const CLIENTS: usize = 64;
    const ROUNDS: usize = 20;
    drop(connect(&format!("{url}?create=true")).await.unwrap());
    let clients = futures_util::future::join_all((0..CLIENTS).map(|_| connect(url))).await;
    let clients: Vec<Locks> = clients.into_iter().map(Result::unwrap).collect();
    let mut tokens = Vec::new();
    for round in 0..ROUNDS {
        let tries = clients.iter().map(|locks| locks.lock("one").try_acquire());
        let tried = futures_util::future::join_all(tries.map(tokio::spawn)).await;
        let won: Vec<_> = tried.into_iter().filter_map(|tried| tried.unwrap().unwrap()).collect();
        assert_eq!(won.len(), 1, "round {round}");
        for guard in won {
            tokens.push(guard.token());
            guard.release().await.unwrap();
        }
    }
    // And all of them in the queue of one key, again and again.
    let inside = Arc::new(Mutex::new((false, Vec::new())));
    let crowd = clients.iter().map(|locks| {
        let (locks, inside) = (locks.clone(), inside.clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = locks.lock("one").acquire().await.unwrap();
                {
                    let mut inside = inside.lock().unwrap();
                    assert!(!std::mem::replace(&mut inside.0, true), "two are inside");
                    inside.1.push(guard.token());
                }
                tokio::task::yield_now().await;
                inside.lock().unwrap().0 = false;
                guard.release().await.unwrap();
            }
        })
    });
    for done in futures_util::future::join_all(crowd).await {
        done.unwrap();
    }
    tokens.extend(inside.lock().unwrap().1.iter().copied());
    assert_eq!(tokens.len(), ROUNDS + CLIENTS * ROUNDS);
    assert!(tokens.is_sorted_by(|a, b| a < b), "a token came twice, or went back");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_clients_one_wins_each_round() {
    let postgres = PostgresServer::start_with(&["max_connections=400"], None);
    one_winner_a_round(&postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_clients_one_wins_each_round_on_mariadb() {
    let maria = MariaDbServer::start_with(&["--max-connections=400"], None);
    one_winner_a_round(&maria.url()).await;
}

/// As many renewals as a day has with a TTL of 30 s, one after the other, through the table's own statement.
#[tokio::test(flavor = "multi_thread")]
async fn the_renewals_of_a_day_do_not_let_the_table_grow() {
    const RENEWALS: usize = 24 * 60 * 60 / 10;
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    let in_postgres = || postgres.sql("SELECT pg_table_size('dlock_locks')");
    let in_maria = || {
        maria.sql("ANALYZE TABLE dlock_locks");
        maria.sql("SELECT data_length + index_length FROM information_schema.tables WHERE table_name = 'dlock_locks'")
    };
    for (url, size) in [(postgres.url(), &in_postgres as &dyn Fn() -> String), (maria.url(), &in_maria)] {
        let url = format!("{url}?create=true").parse().unwrap();
        let backend: Arc<dyn LockBackend> =
            Registry::new().with(dlock_sql::driver()).connect_backend(&url).await.unwrap();
        let request = Request::new(LockKey::new("day").unwrap()).with_label("a job that runs all day");
        let Attempt::Acquired(lease) = backend.try_acquire(&request).await.unwrap() else { panic!("held") };
        let mut largest = 0;
        for renewal in 0..RENEWALS {
            lease.renew(backend.clock().now() + Duration::from_secs(5)).await.unwrap();
            if renewal % 1_000 == 0 {
                largest = largest.max(size().parse::<u64>().unwrap());
            }
        }
        largest = largest.max(size().parse::<u64>().unwrap());
        println!("{}: {RENEWALS} renewals, {largest} bytes at the most", backend.name());
        assert!(largest <= 128 * 1024, "{largest} bytes");
    }
}
