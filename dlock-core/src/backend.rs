//! [`LockBackend`]: one store.

use crate::{Capabilities, Clock, HolderId, Lease, LockInfo, LockKey, Request, Result};
use async_trait::async_trait;
use futures_core::stream::BoxStream;
use std::fmt;
use std::sync::Arc;

/// A store that keeps locks.
///
/// A store without a lock recipe of its own implements [`RecordStore`](crate::record::RecordStore) instead, and
/// [`RecordBackend`](crate::record::RecordBackend) makes this of it. The numbered obligations are cases of the
/// conformance suite; what is called a rule stands in `docs/RULES.md`.
///
/// **Calls that may change the store** (`try_acquire`, `acquire`, `withdraw`, `break_lock`, and a lease's `renew` and
/// `release`) are never dropped by core before they end. Each answers within the request's `op_timeout` (or by its
/// `give_up`), whatever the socket does: with [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable), and
/// [`Effect::Unknown`](crate::Effect::Unknown) if the request may have been sent. Calls that only read are cancel-safe
/// and bounded by core.
#[async_trait]
pub trait LockBackend: fmt::Debug + Send + Sync + 'static {
    /// A short name for errors, metrics and the suite: `redis`.
    fn name(&self) -> &'static str;

    /// What this backend can do: a constant, narrowed by what the server said.
    fn capabilities(&self) -> Capabilities;

    /// The clock of every [`Moment`](crate::Moment) that this backend gives and takes.
    fn clock(&self) -> Clock;

    /// One attempt, without waiting.
    ///
    /// - E1. [`Attempt::Held`] names the holders, and leaves nothing behind in the store.
    /// - E2. Keys that differ in any byte are different locks.
    /// - A1. It is idempotent by holder id: the same request twice gives the same lease. After an error with
    ///   [`Effect::Unknown`](crate::Effect::Unknown), core repeats it, or calls [`withdraw`](LockBackend::withdraw).
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// Only if the store could not be asked, or the callers disagree on the kind of lock: contention is no error.
    async fn try_acquire(&self, request: &Request) -> Result<Attempt>;

    /// Waits in the store's queue until the lock is granted or the request's [`cancel`](Request::cancel) fires.
    ///
    /// - W1. A grant is noticed at once (or within the declared poll interval). W2. So is a holder's expiry.
    /// - W4. Where FIFO is declared, waiters are granted in order of arrival.
    /// - Rule E6: a granted waiter believes its lease no longer than the store keeps it (L11).
    /// - It calls [`Request::is_waiting`] whenever the store has said that this acquisition waits.
    /// - C1. When cancel fires it withdraws its entry and answers [`Attempt::Held`] within `op_timeout`; a lease that
    ///   was granted meanwhile may be answered as well, and core releases it.
    /// - After a retryable error core calls it again with the same request: it finds its entry again by the holder id.
    ///   When core gives up it calls [`withdraw`](LockBackend::withdraw) instead, and never `acquire` again (rule R1).
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// As [`try_acquire`](LockBackend::try_acquire).
    async fn acquire(&self, request: &Request) -> Result<Attempt>;

    /// Removes the acquisition, be it waiter or holder, and sees to it that a request of it that is still under way
    /// changes nothing when it arrives (rule R3). Idempotent.
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// When the store could not be asked: core repeats it until the TTL has removed the entry anyway.
    async fn withdraw(&self, request: &Request) -> Result<()>;

    /// The lock as it is: D1, what [`Shows`](crate::Shows) declares.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the store could not be asked, or what it has can't be read.
    async fn inspect(&self, key: &LockKey) -> Result<LockInfo>;

    /// All locks that are held or waited for and whose key begins with `prefix`, in no order.
    ///
    /// - D2. A lock that is held throughout appears exactly once.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>>;

    /// Takes the lock from a holder, a foreign client's too, or removes a waiter. `false` if that id is not there: then
    /// nothing changes (D4). D3. The old holder learns it at its next renewal at the latest.
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool>;

    /// Ends connections and sessions. Idempotent. Core has released the client's leases before.
    ///
    /// # Errors
    /// When a session could not be ended and lives on until its timeout.
    async fn close(&self) -> Result<()>;

    /// A descriptor that, held open by another process as well, keeps this process's locks from counting as those of a
    /// dead one; `None` where the store does not look at processes. `dlock run` hands it to the process that watches
    /// its command.
    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }
}

/// How an attempt ended.
#[must_use = "an acquired lease that is dropped here stays until its TTL"]
#[derive(Debug)]
pub enum Attempt {
    /// The lock is held by this request.
    Acquired(Arc<dyn Lease>),
    /// Others hold it, or wait for it in front.
    Held(LockInfo),
}
