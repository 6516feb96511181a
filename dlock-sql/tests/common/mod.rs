//! PostgreSQL as the suite sees it: at first hand, or through a pooler.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness};
use dlock_core::record::RecordBackend;
use dlock_core::{LockBackend, LockKey, Locks, Registry, Result};
use dlock_fixtures::{PgBouncer, PostgresServer};
use dlock_sql::PostgresStore;
use std::sync::{Arc, Mutex};

/// The variable that tells a worker process which server.
const URL: &str = "DLOCK_SQL_TEST_SERVER";

/// A client by URL.
pub async fn connect(url: &str) -> Result<Locks> {
    Registry::new().with(dlock_sql::driver()).connect(url).await
}

#[derive(Debug)]
pub struct Database {
    url: String,
    servers: Mutex<Option<(PostgresServer, Option<PgBouncer>)>>,
}

impl Database {
    pub fn new() -> Self {
        Self::of(|| {
            let server = PostgresServer::start();
            let url = server.url();
            (server, None, format!("{url}?create=true&clock_margin=0s&pool=3"))
        })
    }

    /// With fewer sessions than clients.
    pub fn behind_a_pooler() -> Self {
        Self::of(|| {
            let server = PostgresServer::start();
            let pooler = PgBouncer::start(server.port(), 10);
            let url = format!("{}?create=true&clock_margin=0s&pool=3&pooler=true", pooler.url());
            (server, Some(pooler), url)
        })
    }

    fn of(start: impl FnOnce() -> (PostgresServer, Option<PgBouncer>, String)) -> Self {
        if let Ok(url) = std::env::var(URL) {
            return Self { url, servers: Mutex::new(None) };
        }
        let (server, pooler, url) = start();
        Self { url, servers: Mutex::new(Some((server, pooler))) }
    }

    fn sql(&self, sql: &str) -> String {
        self.servers.lock().unwrap().as_ref().unwrap().0.sql(sql)
    }
}

#[async_trait]
impl Harness for Database {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        Ok(Arc::new(RecordBackend::new(PostgresStore::connect(&self.url.parse()?).await?)))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::LoseData, Fault::Purge, Fault::Garbage, Fault::Leftovers, Fault::Processes]
    }

    async fn restart(&self) -> Result<()> {
        self.servers.lock().unwrap().as_mut().unwrap().0.restart();
        Ok(())
    }

    async fn lose_data(&self) -> Result<()> {
        self.sql("DELETE FROM dlock_locks");
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        self.sql(&format!("DELETE FROM dlock_locks WHERE key = '{key}'"));
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        self.sql(&format!(
            "INSERT INTO dlock_locks (key, version, record, holders, changed) VALUES ('{key}', 7, '{{ no record', '', now())"
        ));
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        Ok(self.sql(&format!("SELECT version || record FROM dlock_locks WHERE key = '{key}'")).into_bytes())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        // A row that nobody uses keeps its token and version.
        let in_use = "(record LIKE '%\"holders\"%' OR record LIKE '%\"queue\"%')";
        let count =
            self.sql(&format!("SELECT count(*) FROM dlock_locks WHERE starts_with(key, '{prefix}') AND {in_use}"));
        Ok(count.parse().unwrap())
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(URL.into(), self.url.clone())]
    }
}
