//! distributed-lock on PostgreSQL, measured by dlock-bench: `distributed-lock-peer URL`.

use async_trait::async_trait;
use distributed_lock_core::{DistributedLock, LockHandle, LockProvider};
use distributed_lock_postgres::PostgresLockProvider;
use dlock_bench::{Client, Contender, Held, Result, protocol};
use std::sync::Arc;
use std::time::Duration;

/// It gives up at once without a limit.
const WAIT: Duration = Duration::from_secs(60);

struct Peer(String);
struct PeerClient(PostgresLockProvider);
struct PeerHeld<H>(H);

#[async_trait]
impl Contender for Peer {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        let provider = PostgresLockProvider::builder().connection_string(&self.0).build().await?;
        Ok(Arc::new(PeerClient(provider)))
    }
}

#[async_trait]
impl Client for PeerClient {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        Ok(Box::new(PeerHeld(self.0.create_lock(key).acquire(Some(WAIT)).await?)))
    }
}

#[async_trait]
impl<H: LockHandle + 'static> Held for PeerHeld<H> {
    async fn release(self: Box<Self>) -> Result<()> {
        Ok(self.0.release().await?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).ok_or("usage: distributed-lock-peer URL")?;
    protocol::serve(&Peer(url)).await
}
