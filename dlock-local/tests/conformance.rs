//! The local backend passes the suite.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness, run};
use dlock_core::{LockBackend, LockKey, Result};
use dlock_local::LocalBackend;
use rusqlite::{Connection, params};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The variable that tells a worker process which file.
const FILE: &str = "DLOCK_LOCAL_TEST_FILE";

#[derive(Debug)]
struct Local {
    file: PathBuf,
    _folder: Option<TempDir>,
}

impl Local {
    fn new() -> Self {
        if let Some(file) = std::env::var_os(FILE) {
            return Self { file: file.into(), _folder: None };
        }
        let folder = TempDir::new().unwrap();
        Self { file: folder.path().join("locks.db"), _folder: Some(folder) }
    }

    fn sql(&self) -> Connection {
        let connection = Connection::open(&self.file).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }
}

#[async_trait]
impl Harness for Local {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        Ok(Arc::new(LocalBackend::open(&self.file).await?))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::LoseData, Fault::Purge, Fault::Garbage, Fault::Leftovers, Fault::Processes]
    }

    async fn lose_data(&self) -> Result<()> {
        self.sql().execute("DELETE FROM locks", []).unwrap();
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        self.sql().execute("DELETE FROM locks WHERE key = ?1", [key.as_str()]).unwrap();
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        let put = "INSERT OR REPLACE INTO locks (key, version, record) VALUES (?1, 7, ?2)";
        self.sql().execute(put, params![key.as_str(), "{ no record"]).unwrap();
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        let get = "SELECT version || record FROM locks WHERE key = ?1";
        let text: String = self.sql().query_row(get, [key.as_str()], |row| row.get(0)).unwrap();
        Ok(text.into_bytes())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        let count = "SELECT count(*) FROM locks WHERE substr(key, 1, length(?1)) = ?1";
        let count: i64 = self.sql().query_row(count, [prefix], |row| row.get(0)).unwrap();
        Ok(usize::try_from(count).unwrap())
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(FILE.into(), self.file.display().to_string())]
    }
}

fn main() -> ExitCode {
    run("local", || Ok(Local::new()))
}
