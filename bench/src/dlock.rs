//! [`Dlock`]: dlock itself.

use crate::contender::{Client, Contender, Held, Result};
use async_trait::async_trait;
use dlock_core::{LockGuard, Locks};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// How a client of dlock is made.
type Connect = dyn Fn() -> BoxFuture<'static, dlock_core::Result<Locks>> + Send + Sync;

/// dlock on any store.
#[derive(Clone)]
pub struct Dlock(Arc<Connect>);

impl Dlock {
    /// With the function that makes a client.
    pub fn new(connect: impl Fn() -> BoxFuture<'static, dlock_core::Result<Locks>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }
}

impl std::fmt::Debug for Dlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dlock").finish_non_exhaustive()
    }
}

#[async_trait]
impl Contender for Dlock {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Ok(Arc::new(DlockClient((self.0)().await?)))
    }
}

struct DlockClient(Locks);

#[async_trait]
impl Client for DlockClient {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        Ok(Box::new(DlockHeld(self.0.lock(key).acquire().await?)))
    }

    async fn close(&self) -> Result<()> {
        Ok(self.0.close().await?)
    }
}

struct DlockHeld(LockGuard);

#[async_trait]
impl Held for DlockHeld {
    async fn release(self: Box<Self>) -> Result<()> {
        Ok(self.0.release().await?)
    }
}
