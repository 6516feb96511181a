//! [`LocalBackend`].

use crate::store::LocalStore;
use async_trait::async_trait;
use dlock_core::record::RecordBackend;
use dlock_core::{
    Attempt, Capabilities, Clock, Driver, Error, ErrorKind, HolderId, LockBackend, LockInfo, LockKey, Request, Result,
    StoreUrl,
};
use futures_core::stream::BoxStream;
use futures_util::FutureExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Locks for the processes of one machine, in a SQLite file. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalBackend(RecordBackend<LocalStore>);

impl LocalBackend {
    /// What this backend can do.
    pub const CAPABILITIES: Capabilities = crate::store::CAPABILITIES;

    /// Opens a lock file, and makes it if it is missing. Its folder must exist.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a missing folder, a folder in place of the file or a network file
    /// system; [`Unauthorized`](ErrorKind::Unauthorized) when this user may not write; [`Corrupt`](ErrorKind::Corrupt) for
    /// a file of another program; [`Unsupported`](ErrorKind::Unsupported) for a newer format.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref().to_owned(), false).await
    }

    async fn open_with(path: PathBuf, full_sync: bool) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || LocalStore::open(&path, full_sync)).await;
        let store = opened.map_err(|error| Error::new(ErrorKind::Closed, "the runtime ended").with_source(error))??;
        Ok(Self(RecordBackend::new(store)))
    }
}

/// The driver of `local:` URLs.
pub fn driver() -> Driver {
    Driver::new("local", &["local"], &["sync"], |url| connect(url).boxed())
}

async fn connect(url: StoreUrl) -> Result<Arc<dyn LockBackend>> {
    let wrong = |message| Err(Error::new(ErrorKind::InvalidConfig, message));
    if !url.hosts().is_empty() {
        return wrong("a local URL has no host; write local:/path/to/locks.db");
    }
    if url.path().is_empty() {
        return wrong("a local URL has no path; write local:/path/to/locks.db");
    }
    let full_sync = match url.param("sync") {
        None | Some("normal") => false,
        Some("full") => true,
        Some(_) => return wrong("the parameter sync of a local URL is normal or full"),
    };
    Ok(Arc::new(LocalBackend::open_with(PathBuf::from(url.path()), full_sync).await?))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for LocalBackend {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn clock(&self) -> Clock {
        self.0.clock()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        self.0.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        self.0.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.withdraw(request).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        self.0.inspect(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        self.0.list(prefix)
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        self.0.break_lock(key, holder).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }

    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.0.sign_of_life()
    }
}
