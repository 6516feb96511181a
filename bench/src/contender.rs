//! [`Contender`]: what is measured.

use async_trait::async_trait;
use std::sync::Arc;

/// Whatever a contender's own client fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of a contender's call.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;

/// A way to lock something in a store.
#[async_trait]
pub trait Contender: Send + Sync {
    /// A client as one process has one: all tasks share it, as the contender's docs say.
    async fn client(&self) -> Result<Arc<dyn Client>>;
}

/// A client of a contender.
#[async_trait]
pub trait Client: Send + Sync {
    /// Waits until the lock is held.
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>>;

    /// Ends connections and sessions, and removes what it left in the store.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A held lock.
#[async_trait]
pub trait Held: Send {
    /// Gives it up, and returns when the store has said so.
    async fn release(self: Box<Self>) -> Result<()>;
}

/// Counts the requests that a store gets.
#[async_trait]
pub trait Meter: Send + Sync {
    /// Begins to count.
    async fn start(&self) -> Result<Box<dyn Counting>>;
}

/// A count that runs.
#[async_trait]
pub trait Counting: Send {
    /// The requests since the start, from all clients.
    async fn stop(self: Box<Self>) -> Result<u64>;
}
