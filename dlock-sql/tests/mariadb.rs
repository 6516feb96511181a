//! The suite on a real server of its own.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_conformance::proxy::Framing;
use dlock_conformance::{Fault, Harness, Proxy, run};
use dlock_core::record::RecordBackend;
use dlock_core::{LockBackend, LockKey, Result};
use dlock_fixtures::{Certificate, MariaDbServer};
use dlock_sql::MySqlStore;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The variable that tells a worker process which server.
const URL: &str = "DLOCK_SQL_TEST_SERVER";

#[derive(Debug)]
struct Database {
    url: String,
    server: Mutex<Option<MariaDbServer>>,
}

impl Database {
    fn new() -> Self {
        if let Ok(url) = std::env::var(URL) {
            return Self { url, server: Mutex::new(None) };
        }
        let server = MariaDbServer::start();
        let url = format!("{}?create=true&clock_margin=0s&pool=3", server.url());
        Self { url, server: Mutex::new(Some(server)) }
    }

    fn port(&self) -> u16 {
        self.server.lock().unwrap().as_ref().unwrap().port()
    }

    fn sql(&self, sql: &str) -> String {
        self.server.lock().unwrap().as_ref().unwrap().sql(sql)
    }
}

async fn connect(url: &str) -> Result<Arc<dyn LockBackend>> {
    Ok(Arc::new(RecordBackend::new(MySqlStore::connect(&url.parse()?).await?)))
}

#[async_trait]
impl Harness for Database {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        connect(&self.url).await
    }

    fn faults(&self) -> &'static [Fault] {
        &[
            Fault::Restart,
            Fault::LoseData,
            Fault::Purge,
            Fault::Garbage,
            Fault::Leftovers,
            Fault::Processes,
            Fault::Proxy,
            Fault::Password,
            Fault::Tls,
        ]
    }

    async fn restart(&self) -> Result<()> {
        self.server.lock().unwrap().as_mut().unwrap().restart();
        Ok(())
    }

    async fn lose_data(&self) -> Result<()> {
        self.sql("DELETE FROM dlock_locks");
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        self.sql(&format!("DELETE FROM dlock_locks WHERE `key` = '{key}'"));
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        self.sql(&format!("INSERT INTO dlock_locks (`key`, version, record, holders, changed) VALUES ('{key}', 7, '{{ no record', '', now())"));
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        Ok(self.sql(&format!("SELECT CONCAT(version, record) FROM dlock_locks WHERE `key` = '{key}'")).into_bytes())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        // A row that nobody uses keeps its token and version.
        let in_use = "(record LIKE '%\"holders\"%' OR record LIKE '%\"queue\"%')";
        let count = self.sql(&format!(
            "SELECT count(*) FROM dlock_locks WHERE LEFT(`key`, LENGTH('{prefix}')) = '{prefix}' AND {in_use}"
        ));
        Ok(count.parse().unwrap())
    }

    async fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::tcp(Framing::MySql, format!("127.0.0.1:{}", self.port())).await.unwrap())
    }

    async fn proxied_client(&self, proxy: &Proxy, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        let place = format!("mysql://root@{}/test", proxy.address());
        connect(&format!("{place}?clock_margin=0s&pool=3&tls=disable&op_timeout={}ms", op_timeout.as_millis())).await
    }

    async fn client_with_password(&self, password: &str) -> Result<Arc<dyn LockBackend>> {
        self.sql("CREATE OR REPLACE USER guarded IDENTIFIED BY 'right'");
        connect(&format!("mysql://guarded:{password}@127.0.0.1:{}/test", self.port())).await
    }

    async fn client_by_tls(&self, password: &str) -> Result<Arc<dyn LockBackend>> {
        let folder = tempfile::TempDir::new().unwrap();
        let server = MariaDbServer::start_with_tls(&Certificate::make(folder.path()));
        connect(&format!("mysql://root:{password}@127.0.0.1:{}/test?tls=verify-full", server.port())).await
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(URL.into(), self.url.clone())]
    }
}

fn main() -> ExitCode {
    run("mariadb", || Ok(Database::new()))
}
