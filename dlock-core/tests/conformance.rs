//! The memory backend passes the suite.

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness, run};
use dlock_core::memory::Memory;
use dlock_core::record::{RecordBackend, RecordStore};
use dlock_core::{LockBackend, LockKey, Moment, Result};
use futures_util::TryStreamExt;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug)]
struct InMemory(Memory);

#[async_trait]
impl Harness for InMemory {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        Ok(Arc::new(RecordBackend::new(self.0.store())))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::LoseData, Fault::Purge, Fault::Garbage, Fault::Leftovers]
    }

    async fn lose_data(&self) -> Result<()> {
        self.0.store().clear();
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        let store = self.0.store();
        if let Some(version) = store.read(key, Moment::MAX).await?.version {
            store.purge(key, &version).await?;
        }
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        self.0.store().put_bytes(key, b"{ no record");
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        Ok(self.0.store().bytes(key).unwrap_or_default())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        Ok(self.0.store().scan(prefix).try_collect::<Vec<_>>().await?.len())
    }
}

fn main() -> ExitCode {
    run("memory", || Ok(InMemory(Memory::new())))
}
