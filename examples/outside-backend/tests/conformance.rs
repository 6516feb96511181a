//! The folder passes the suite.

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness, run};
use dlock_core::record::RecordStore;
use dlock_core::{LockBackend, LockKey, Moment, Result};
use outside_backend::Folder;
use std::process::ExitCode;
use std::sync::Arc;
use tempfile::TempDir;

#[derive(Debug)]
struct InFolder(TempDir);

#[async_trait]
impl Harness for InFolder {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        Ok(Arc::new(Folder::open(self.0.path())?))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Purge]
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        let backend = Folder::open(self.0.path())?;
        if let Some(version) = backend.store().read(key, Moment::MAX).await?.version {
            backend.store().purge(key, &version).await?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    run("folder", || TempDir::new().map(InFolder).map_err(|error| error.to_string()))
}
