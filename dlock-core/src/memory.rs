//! [`Memory`]: locks within one process.

use crate::clock::locked;
use crate::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, StoreTime, Swap, Wakes};
use crate::{
    Attempt, Capabilities, Clock, HolderId, Lifetime, LockBackend, LockInfo, LockKey, Moment, Request, Result, Shows,
    TokenSurvives, Ttl, TtlRange, Wake,
};
use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

/// Locks within one process: for tests and examples, and for tasks of one program. Clones share the store.
#[derive(Clone, Debug)]
pub struct Memory(RecordBackend<Store>);

static NAMED: LazyLock<Mutex<HashMap<String, Memory>>> = LazyLock::new(Mutex::default);

impl Memory {
    /// A store of its own.
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// A store of its own, on a clock that a test moves by hand.
    pub fn with_clock(clock: Clock) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let base = u64::try_from(now.as_micros()).unwrap_or_default();
        Self(RecordBackend::new(Store {
            base: base.saturating_sub(micros(clock.now())),
            clock,
            shelf: Arc::default(),
            wakes: Wakes::default(),
        }))
    }

    /// The store of this name: one a process.
    pub fn named(name: &str) -> Self {
        locked(&NAMED).entry(name.to_owned()).or_default().clone()
    }

    /// How many keys have a record: those that are held or waited for.
    pub fn len(&self) -> usize {
        locked(&self.0.store().shelf).records.len()
    }

    /// Whether no key has a record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A view of the same store with nothing remembered: another client.
    #[must_use]
    pub fn another_client(&self) -> Self {
        Self(RecordBackend::new(self.0.store().clone()))
    }

    /// The store of records behind this backend.
    pub fn store(&self) -> Store {
        self.0.store().clone()
    }

    /// What this backend can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        shared: true,
        permits: true,
        fifo: true,
        wake: Wake::Event,
        ttl: TtlRange { min: Duration::from_millis(10), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
        lifetime: Lifetime::Lease,
        lateness: Duration::from_millis(50),
        death_seen_within: None,
        token_survives: TokenSurvives { restart: false, data_loss: true },
        leases_survive_restart: false,
        fence_floor: true,
        shows: Shows { label: true, remaining: true, since: true, waiters: true },
    };
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Memory {
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

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.0.sign_of_life()
    }
}

/// The record store behind [`Memory`]. Clones share the records.
#[derive(Clone, Debug)]
pub struct Store {
    clock: Clock,
    /// Microseconds since 1970 when the clock was at zero.
    base: u64,
    shelf: Arc<Mutex<Shelf>>,
    wakes: Wakes,
}

#[derive(Debug, Default)]
struct Shelf {
    last_version: u64,
    /// The largest last token of all removed records.
    mark: u64,
    records: BTreeMap<LockKey, (u64, Vec<u8>)>,
}

fn micros(moment: Moment) -> u64 {
    moment.as_nanos() / 1000
}

impl Store {
    /// Puts bytes in the place of a key's record: for tests of what can't be read.
    pub fn put_bytes(&self, key: &LockKey, bytes: &[u8]) {
        let mut shelf = locked(&self.shelf);
        shelf.last_version += 1;
        let version = shelf.last_version;
        shelf.records.insert(key.clone(), (version, bytes.to_vec()));
    }

    /// A key's record as bytes.
    pub fn bytes(&self, key: &LockKey) -> Option<Vec<u8>> {
        locked(&self.shelf).records.get(key).map(|(_, bytes)| bytes.clone())
    }

    /// Forgets all records, as a store does that has lost its data.
    pub fn clear(&self) {
        locked(&self.shelf).records.clear();
    }

    fn take(&self) -> StoreReading {
        let now = self.clock.now();
        let at = micros(now);
        StoreReading {
            at: StoreTime(at),
            granularity: Duration::from_micros(1),
            unix_micros: self.base + at,
            sent: now,
            received: now,
        }
    }

    fn snapshot(&self, shelf: &Shelf, key: &LockKey) -> Result<Snapshot<u64>> {
        let (version, record) = match shelf.records.get(key) {
            Some((version, bytes)) => (Some(*version), Record::decode(bytes)?),
            None => (None, Record::removed(shelf.mark)),
        };
        Ok(Snapshot::new(Some(record), version, Some(self.take())))
    }
}

#[async_trait]
impl RecordStore for Store {
    type Version = u64;

    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Memory::CAPABILITIES
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn reading(&self) -> Option<StoreReading> {
        Some(self.take())
    }

    async fn read(&self, key: &LockKey, _give_up: Moment) -> Result<Snapshot<u64>> {
        self.snapshot(&locked(&self.shelf), key)
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, u64>) -> Result<Swap<u64>> {
        let mut shelf = locked(&self.shelf);
        let present = self.snapshot(&shelf, key)?;
        let is_new = present.version.is_none() && change.next.last_token <= shelf.mark && !change.next.is_idle();
        if present.version.as_ref() != change.expected || is_new {
            return Ok(Swap::Conflict(Some(present)));
        }
        let reading = self.take();
        let version = if change.next.is_idle() {
            shelf.records.remove(key);
            shelf.mark = shelf.mark.max(change.next.last_token);
            None
        } else {
            shelf.last_version += 1;
            let version = shelf.last_version;
            shelf.records.insert(key.clone(), (version, change.next.encode().into_bytes()));
            Some(version)
        };
        drop(shelf);
        self.wakes.changed(key, present.record.as_ref(), change.next);
        Ok(Swap::Done { version, reading: Some(reading) })
    }

    fn wakes(&self) -> Wakes {
        self.wakes.clone()
    }

    async fn changed(&self, _key: &LockKey, _waiter: &HolderId, _since: Option<&u64>, at_most: Duration) -> Result<()> {
        self.clock.sleep(at_most).await;
        Ok(())
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<u64>)>> {
        let keys: Vec<_> = {
            let shelf = locked(&self.shelf);
            shelf.records.keys().filter(|key| key.as_str().starts_with(prefix)).cloned().collect()
        };
        let store = self.clone();
        let found = keys.into_iter().map(move |key| {
            let snapshot = store.snapshot(&locked(&store.shelf), &key)?;
            Ok((key, snapshot))
        });
        futures_util::stream::iter(found).boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &u64) -> Result<bool> {
        let mut shelf = locked(&self.shelf);
        let is_it = shelf.records.get(key).is_some_and(|(version, _)| version == expected);
        if is_it {
            shelf.records.remove(key);
        }
        Ok(is_it)
    }
}
