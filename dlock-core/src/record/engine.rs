//! [`Engine`]: one transition of a record in its store.

use super::machine::Sight;
use super::{Change, Record, RecordStore, Snapshot, StoreClock, StoreReading, StoreTime, Swap};
use crate::backoff::backoff;
use crate::clock::locked;
use crate::{Clock, Effect, Error, ErrorKind, HolderId, LockKey, Moment, Result, drift};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

/// Reads, moves and swaps records, with what is known of the store's clock and of the records' last versions.
#[derive(Debug)]
pub(super) struct Engine<S: RecordStore> {
    pub(super) store: S,
    pub(super) clock: Clock,
    store_clock: Mutex<StoreClock>,
    known: Mutex<LruCache<LockKey, Known<S::Version>>>,
    /// Entries whose expiry can't be judged by the store's clock: the expiry as it was first seen, and when.
    watched: Mutex<LruCache<(LockKey, HolderId), (StoreTime, Moment)>>,
}

/// How many keys' last versions are remembered, and how many watched entries.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The longest pause after a conflict: one swap of each client in a crowd fits in.
const LONGEST_YIELD: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
struct Known<V> {
    record: Option<Record>,
    version: Option<V>,
    departed: Vec<HolderId>,
    doubted: Vec<HolderId>,
    /// As the store has it, not as we remember it.
    fresh: bool,
}

impl<V> Known<V> {
    fn of(snapshot: Snapshot<V>) -> Self {
        let Snapshot { record, version, reading: _, departed, doubted } = snapshot;
        Self { record, version, departed, doubted, fresh: true }
    }
}

/// How a transition goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The call answers by then.
    pub(super) give_up: Moment,
    /// Begin with what the store has, not with what is remembered.
    pub(super) read_first: bool,
    /// Write even if nothing changes, so that a swap still under way loses its version (rule R3).
    pub(super) always_write: bool,
    /// After a conflict let others go first (rule E7).
    pub(super) yields: bool,
}

/// A transition that was made.
#[derive(Debug)]
pub(super) struct Moved<T, V> {
    pub(super) answer: T,
    /// The record as it is now.
    pub(super) record: Record,
    pub(super) version: Option<V>,
    pub(super) sight: Sight,
    /// When the request that settled it was sent.
    pub(super) sent: Moment,
    /// The store's clock in its reply.
    pub(super) reading: Option<StoreReading>,
}

impl<S: RecordStore> Engine<S> {
    pub(super) fn new(store: S) -> Self {
        Self {
            clock: store.clock(),
            store,
            store_clock: Mutex::default(),
            known: Mutex::new(LruCache::new(REMEMBERED)),
            watched: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// Moves a key's record by `transition`. Usually that is one swap on the remembered version (rule E4). An answer
    /// that needs no write is only given on what the store has.
    pub(super) async fn transact<T>(
        &self,
        key: &LockKey,
        plan: Plan,
        mut transition: impl FnMut(&mut Record, &Sight) -> T + Send,
    ) -> Result<Moved<T, S::Version>> {
        let mut known = if plan.read_first { None } else { self.remembered(key) };
        let mut pauses = backoff();
        loop {
            let asked = self.clock.now();
            let now = match known.take() {
                Some(known) => known,
                None => self.read(key, plan.give_up).await?,
            };
            // Rule E3: the time is taken after the snapshot.
            let sight = self.sight(key, now.record.as_ref(), &now.departed, &now.doubted)?;
            let before = now.record.clone().unwrap_or_default();
            let mut next = before.clone();
            let answer = transition(&mut next, &sight);
            if next == before && !plan.always_write {
                if !now.fresh {
                    continue;
                }
                let version = now.version;
                return Ok(Moved { answer, record: next, version, sight, sent: asked, reading: None });
            }
            let granted: Vec<_> = before
                .queue
                .iter()
                .map(|waiter| &waiter.entry.id)
                .filter(|id| next.holders.iter().any(|holder| holder.entry.id == **id))
                .cloned()
                .collect();
            let sent = self.clock.now();
            let change =
                Change { expected: now.version.as_ref(), next: &next, granted: &granted, give_up: plan.give_up };
            let refused = match self.store.swap(key, change).await {
                Ok(Swap::Done { version, reading }) => {
                    self.observe(reading.as_ref());
                    if version.is_some() {
                        let record = Some(next.clone());
                        let (departed, doubted) = (now.departed, now.doubted);
                        let remembered = Known { record, version: version.clone(), departed, doubted, fresh: false };
                        locked(&self.known).put(key.clone(), remembered);
                    } else {
                        // "No record" is no version: others may have come and gone before the next swap on it, and then
                        // the last exclusive token is another than this one.
                        locked(&self.known).pop(key);
                    }
                    return Ok(Moved { answer, record: next, version, sight, sent, reading });
                }
                Ok(Swap::Conflict(present)) => present,
                Err(error) => {
                    locked(&self.known).pop(key);
                    return Err(error);
                }
            };
            locked(&self.known).pop(key);
            if let Some(present) = refused {
                self.observe(present.reading.as_ref());
                known = Some(Known::of(present));
            }
            if plan.yields && now.fresh {
                self.clock.sleep(pauses.next().unwrap_or_default().min(LONGEST_YIELD)).await;
                // What the conflict brought along is old now.
                known = None;
            }
            if self.clock.now() >= plan.give_up {
                return Err(Error::new(ErrorKind::Unavailable, "too many clients change this lock at once"));
            }
        }
    }

    fn remembered(&self, key: &LockKey) -> Option<Known<S::Version>> {
        if let Some(reading) = self.store.reading() {
            self.observe(Some(&reading));
        }
        // Without the store's time nothing can be decided: read first.
        locked(&self.store_clock).now(self.clock.now())?;
        let nothing = Known { record: None, version: None, departed: Vec::new(), doubted: Vec::new(), fresh: false };
        Some(locked(&self.known).get(key).cloned().unwrap_or(nothing))
    }

    async fn read(&self, key: &LockKey, give_up: Moment) -> Result<Known<S::Version>> {
        Ok(Known::of(self.snapshot(key, give_up).await?))
    }

    /// What the store has.
    pub(super) async fn snapshot(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<S::Version>> {
        let snapshot = self
            .clock
            .timeout_at(give_up, self.store.read(key))
            .await
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "the store gave no answer in time")))?;
        self.observe(snapshot.reading.as_ref());
        Ok(snapshot)
    }

    pub(super) fn observe(&self, reading: Option<&StoreReading>) {
        if let Some(reading) = reading {
            locked(&self.store_clock).observe(reading);
        }
    }

    /// What is known of the store's time and of the record's entries, now.
    pub(super) fn sight(
        &self,
        key: &LockKey,
        record: Option<&Record>,
        departed: &[HolderId],
        doubted: &[HolderId],
    ) -> Result<Sight> {
        if let Some(reading) = self.store.reading() {
            self.observe(Some(&reading));
        }
        let local = self.clock.now();
        let store_clock = locked(&self.store_clock).clone();
        let now = store_clock.now(local).ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "the store's reply has no time, and none is known")
                .with_effect(Effect::NotApplied)
        })?;
        let mut sight = Sight {
            earliest: now.earliest,
            latest: now.latest,
            floor: now.unix_micros,
            margin: self.store.clock_margin(),
            departed: departed.to_vec(),
            doubted: Vec::new(),
        };
        let holders = record.map_or(&[][..], |record| &record.holders);
        let waiters = record.map_or(&[][..], |record| &record.queue);
        let entries = holders.iter().map(|holder| (&holder.entry, holder.expires));
        for (entry, end) in entries.chain(waiters.iter().map(|waiter| (&waiter.entry, waiter.alive_until))) {
            let uncertainty = now.latest.since(now.earliest) + sight.margin + Duration::from_millis(1);
            let can_not_be = end > now.latest + entry.ttl() + uncertainty;
            if can_not_be || doubted.contains(&entry.id) || store_clock.jumped_within(entry.ttl() * 2, local) {
                if self.watched_out(key, &entry.id, end, entry.ttl(), local) {
                    sight.departed.push(entry.id.clone());
                } else {
                    sight.doubted.push(entry.id.clone());
                }
            }
        }
        Ok(sight)
    }

    /// Whether this entry was watched unchanged for its TTL by the local clock (rule C2).
    fn watched_out(&self, key: &LockKey, id: &HolderId, end: StoreTime, ttl: Duration, now: Moment) -> bool {
        let mut watched = locked(&self.watched);
        let name = (key.clone(), id.clone());
        match watched.get(&name) {
            Some((seen, since)) if *seen == end => now.since(*since) > ttl + drift(ttl) + self.store.clock_margin(),
            _ => {
                watched.put(name, (end, now));
                false
            }
        }
    }

    /// The local moment at which the store may let a lease of this expiry end (rule C3).
    pub(super) fn local_end(&self, expires: StoreTime) -> Moment {
        let now = self.clock.now();
        match locked(&self.store_clock).now(now) {
            Some(store) => now + expires.since(store.latest),
            None => now,
        }
    }
}
