//! [`RecordStore`]: what a store must do to keep lock records.

use super::{Record, Wakes};
use crate::{Capabilities, Clock, HolderId, LockKey, Moment, Result};
use async_trait::async_trait;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A store that keeps one [`Record`] a key and can compare and swap it.
/// [`RecordBackend`](super::RecordBackend) makes a [`LockBackend`](crate::LockBackend) of it.
#[async_trait]
pub trait RecordStore: fmt::Debug + Send + Sync + 'static {
    /// Names one state of one key's record. **Never reused for a key** (rule E2): not after a removal, not after a
    /// failover to an older copy. 64 random bits, or a revision that the store never repeats; a counter column is not
    /// enough.
    type Version: Clone + fmt::Debug + PartialEq + Send + Sync + 'static;

    /// A short name for errors, metrics and the suite.
    fn name(&self) -> &'static str;

    /// What the backend made of this store can do.
    fn capabilities(&self) -> Capabilities;

    /// The local clock.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// A reading of the store's clock without a request, where this machine can read it (memory, a local file).
    fn reading(&self) -> Option<StoreReading> {
        None
    }

    /// How far apart this store's servers' clocks may be, over a failover too (rule C4): a holder counts as expired
    /// only this much later. At least 2 s for a clock read from HTTP.
    fn clock_margin(&self) -> Duration {
        Duration::ZERO
    }

    /// Where waiters of this process listen from before they are queued. A store that is told of changes by others wakes
    /// them here; whom a swap of the same client grants is woken anyway.
    fn wakes(&self) -> Wakes {
        Wakes::default()
    }

    /// Written with each entry of this client, so that [`Snapshot::departed`] can tell whose process is dead.
    fn origin(&self) -> Option<String> {
        None
    }

    /// The record, strongly consistent. `give_up`: core waits no longer; a store that repeats its requests ends before, and
    /// says why.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for what can't be read ([`Record::decode`] gives it).
    async fn read(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<Self::Version>>;

    /// Writes `change.next` if the key's version is still `change.expected` (`None`: the key has no record).
    ///
    /// A store whose requests can't arrive late (memory, a local file) may remove an idle record instead of writing it, and
    /// answers with `version: None`. It then keeps the largest last token of all that it removed, refuses to create a
    /// record whose last token is not larger, and reads a missing one as [`Record::removed`]: else a client that was
    /// stopped between reading and writing would give a token a second time (rule E2 for "no record"). All other stores
    /// keep idle records: a create that is still under way would otherwise succeed later (rule R3).
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// [`Effect::Unknown`](crate::Effect::Unknown) if it may have been written.
    async fn swap(&self, key: &LockKey, change: Change<'_, Self::Version>) -> Result<Swap<Self::Version>>;

    /// Resolves when the record may have changed in a way that concerns `waiter`, or after `at_most`. A store that
    /// can't push sleeps for its poll interval, with jitter, and one that tells [`wakes`](Self::wakes) of all changes
    /// for `at_most`. It must not miss a change made after `since` was read that is not told there.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the store is known to be gone; the caller then reads.
    async fn changed(
        &self,
        key: &LockKey,
        waiter: &HolderId,
        since: Option<&Self::Version>,
        at_most: Duration,
    ) -> Result<()>;

    /// All records whose key begins with `prefix`.
    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<Self::Version>)>>;

    /// Removes an idle record of this version, which nobody has changed for longer than any request takes, and whose last
    /// token the store's clock has passed (rule F1). `false` if it has changed.
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn purge(&self, key: &LockKey, expected: &Self::Version) -> Result<bool>;

    /// Ends connections.
    ///
    /// # Errors
    /// When that failed.
    async fn close(&self) -> Result<()> {
        Ok(())
    }

    /// See [`LockBackend::sign_of_life`](crate::LockBackend::sign_of_life).
    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }
}

/// What a swap writes.
#[derive(Debug)]
pub struct Change<'a, V> {
    /// The version that the record must still have; `None`: there must be no record.
    pub expected: Option<&'a V>,
    /// The record to write.
    pub next: &'a Record,
    /// Waiters of other clients that became holders by this change: a store that can push wakes them, and nobody else.
    pub granted: &'a [HolderId],
    /// The store answers by then, whatever its connection does.
    pub give_up: Moment,
}

/// How a swap ended.
#[derive(Debug)]
pub enum Swap<V> {
    /// It was written.
    Done {
        /// The record's new version; `None` if the record was removed.
        version: Option<V>,
        /// The store's clock, read between sending and reply; `None` if the reply has none.
        reading: Option<StoreReading>,
    },
    /// The version was another. The present state, where the refusal brought it along.
    Conflict(Option<Snapshot<V>>),
}

/// A record as the store had it at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot<V> {
    /// The record; `None`, or [`Record::removed`], if there is none.
    pub record: Option<Record>,
    /// Its version; `None` if there is no record.
    pub version: Option<V>,
    /// The store's clock, read between sending and reply; `None` if the reply has none.
    pub reading: Option<StoreReading>,
    /// Holders and waiters whose process the store knows to be dead.
    pub departed: Vec<HolderId>,
    /// Holders and waiters whose expiry was written by a clock that this one does not compare with: they count as alive
    /// until they were watched unchanged for their TTL.
    pub doubted: Vec<HolderId>,
}

impl<V> Snapshot<V> {
    /// A snapshot of which no process is known.
    pub fn new(record: Option<Record>, version: Option<V>, reading: Option<StoreReading>) -> Self {
        Self { record, version, reading, departed: Vec::new(), doubted: Vec::new() }
    }
}

/// A time on the store's own clock, in microseconds since any origin that the store keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreTime(pub u64);

impl std::ops::Add<Duration> for StoreTime {
    type Output = StoreTime;
    fn add(self, duration: Duration) -> StoreTime {
        StoreTime(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl StoreTime {
    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: StoreTime) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// One reading of the store's clock.
#[derive(Clone, Copy, Debug)]
pub struct StoreReading {
    /// What the clock showed, rounded down to its granularity.
    pub at: StoreTime,
    /// The clock's granularity: it showed `at` until this much later.
    pub granularity: Duration,
    /// Microseconds since 1970 by the store, for the token's floor: mostly the same as `at`.
    pub unix_micros: u64,
    /// Local time before the request was sent.
    pub sent: Moment,
    /// Local time after the reply was received.
    pub received: Moment,
}
