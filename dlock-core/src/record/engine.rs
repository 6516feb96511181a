//! [`Engine`]: one transition of a record in its store.

use super::company::Company;
use super::decide::{Step, step};
use super::machine::Sight;
use super::{Change, Holder, Judge, Record, RecordStore, Snapshot, StoreReading, Swap, Wakes};
use crate::backoff::backoff;
use crate::clock::locked;
use crate::turns::{Turn, Turns};
use crate::{Clock, Effect, Error, ErrorKind, HolderId, LockKey, Moment, Result};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Reads, moves and swaps records, with what is known of the store's clock and of the records' last versions.
#[derive(Debug)]
pub(super) struct Engine<S: RecordStore> {
    pub(super) store: S,
    pub(super) clock: Clock,
    judge: Mutex<Judge>,
    known: Mutex<LruCache<LockKey, Known<S::Version>>>,
    /// How many leases there are: their keys have room in what is known, so that each renewal is one swap.
    pub(super) leases: AtomicUsize,
    /// A crowd of one client would else spoil its own swaps: of a hundred that read the same version one can write.
    turns: Turns,
    /// Whose swap is under way: who takes turns comes here when its turn has come, and who gives a lock up at once.
    desk: Turns,
    pub(super) company: Company,
    pub(super) wakes: Wakes,
}

/// How many keys' last versions are remembered, beside those of held locks.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// For how long conflicts are answered at once. A client whose tasks hand a lock to each other writes all the time: who paused
/// between any two tries would hardly ever come in between.
const AT_ONCE: Duration = Duration::from_millis(20);

/// The longest pause after a conflict: one swap of each client in a crowd fits in.
const LONGEST_YIELD: Duration = Duration::from_millis(100);

/// How long one waits in a line that does not move. A turn saves conflicts and no more; who has it may be a future that
/// nobody polls, and then it comes to no end.
const LONGEST_TURN: Duration = Duration::from_secs(1);

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
    /// Of the lease that is written; [`Duration::MAX`] for what writes none.
    pub(super) ttl: Duration,
    /// Begin with what the store has, not with what is remembered.
    pub(super) read_first: bool,
    /// Write even if nothing changes, so that a swap still under way loses its version (rule R3).
    pub(super) always_write: bool,
    /// How it goes together with other transitions of the key.
    pub(super) order: Order,
}

/// Waiters of this client whom a swap may have granted: one that failed, or whose future was dropped, may have been written.
/// They look.
struct InDoubt<'a> {
    wakes: &'a Wakes,
    key: &'a LockKey,
    waiters: Vec<HolderId>,
}

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        self.waiters.iter().for_each(|id| self.wakes.wake(self.key, id));
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It waits for nobody.
    Now,
    /// After the one of this client that is under way, but for [`LONGEST_YIELD`] at most: it is sent without that conflict.
    Next,
    /// In turn with others of this client, and after a conflict it lets others go first (rule E7).
    InTurn,
}

/// A transition that was made.
#[derive(Debug)]
pub(super) struct Moved<T, V> {
    pub(super) answer: T,
    /// The record as it is now.
    pub(super) record: Record,
    pub(super) version: Option<V>,
    pub(super) sight: Sight,
    /// When it was decided: before the request was sent that settled it, and no later than the lease's end was counted.
    pub(super) sent: Moment,
    /// The store's clock in its reply.
    pub(super) reading: Option<StoreReading>,
}

impl<S: RecordStore> Engine<S> {
    pub(super) fn new(store: S) -> Self {
        Self {
            clock: store.clock(),
            judge: Mutex::new(Judge::new(store.clock_margin())),
            wakes: store.wakes(),
            store,
            known: Mutex::new(LruCache::new(REMEMBERED)),
            leases: AtomicUsize::new(0),
            turns: Turns::default(),
            desk: Turns::default(),
            company: Company::default(),
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
        let crowded = || Error::new(ErrorKind::Unavailable, "too many clients change this lock at once");
        let _turn = match plan.order {
            Order::InTurn => {
                let turn = self.turns.turn_if_it_moves(key, &self.clock, LONGEST_TURN, plan.give_up).await;
                if turn.is_none() && self.clock.now() >= plan.give_up {
                    return Err(crowded());
                }
                turn
            }
            Order::Now | Order::Next => None,
        };
        let (mut known, mut reads) = (None, plan.read_first);
        let (mut pauses, at_once) = (backoff(), self.clock.now() + AT_ONCE);
        loop {
            let desk = self.desk(key, plan).await;
            let asked = self.clock.now();
            if known.is_none() && !reads {
                known = self.remembered(key, plan.ttl);
            }
            reads = true;
            let now = match known.take() {
                Some(known) => known,
                None => self.read(key, plan.give_up).await?,
            };
            // Rule E3: the time is taken after the snapshot. Before the sight, from which the lease's end is counted: a
            // process that is stopped between the two must not believe in the lease for longer than it was written for.
            let sent = self.clock.now();
            let sight = self.sight(key, now.record.as_ref(), &now.departed, &now.doubted)?;
            let found = now.record.as_ref();
            let (next, granted, answer) = match step(found, now.fresh, plan.always_write, &sight, &mut transition) {
                Step::Read => continue,
                Step::Answered(answer) => {
                    let (record, version) = (now.record.unwrap_or_default(), now.version);
                    return Ok(Moved { answer, record, version, sight, sent: asked, reading: None });
                }
                Step::Write { next, granted, answer } => (next, granted, answer),
            };
            // Those of this client hear of it without a trip.
            let (own, others): (Vec<_>, Vec<_>) = granted.into_iter().partition(|id| self.wakes.knows(key, id));
            let mut in_doubt = InDoubt { wakes: &self.wakes, key, waiters: own };
            let change =
                Change { expected: now.version.as_ref(), next: &next, granted: &others, give_up: plan.give_up };
            let refused = match self.store.swap(key, change).await {
                Ok(Swap::Done { version, reading }) => {
                    locked(&self.judge).wrote(reading.as_ref());
                    if version.is_some() {
                        let record = Some(next.clone());
                        let (departed, doubted) = (now.departed, now.doubted);
                        let remembered = Known { record, version: version.clone(), departed, doubted, fresh: false };
                        self.keep(key, remembered);
                    } else {
                        // "No record" is no version: others may have come and gone before the next swap on it, and then
                        // the last exclusive token is another than this one.
                        locked(&self.known).pop(key);
                    }
                    let own = std::mem::take(&mut in_doubt.waiters);
                    for holder in next.holders.iter().filter(|holder| own.contains(&holder.entry.id)) {
                        self.wakes.grant(key, holder);
                    }
                    return Ok(Moved { answer, record: next, version, sight, sent, reading });
                }
                Ok(Swap::Conflict(present)) => {
                    in_doubt.waiters.clear();
                    present
                }
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
            if plan.order == Order::InTurn && now.fresh {
                drop(desk);
                if self.clock.now() >= at_once {
                    self.clock.sleep(pauses.next().unwrap_or_default().min(LONGEST_YIELD)).await;
                    // What the conflict brought along is old now.
                    known = None;
                }
            }
            if self.clock.now() >= plan.give_up {
                return Err(crowded());
            }
        }
    }

    /// The right to send the next swap, as far as the order wants it.
    async fn desk(&self, key: &LockKey, plan: Plan) -> Option<Turn> {
        let until = match plan.order {
            Order::Now => return None,
            Order::Next | Order::InTurn => plan.give_up.min(self.clock.now() + LONGEST_YIELD),
        };
        self.clock.timeout_at(until, self.desk.turn(key)).await
    }

    fn remembered(&self, key: &LockKey, ttl: Duration) -> Option<Known<S::Version>> {
        if let Some(reading) = self.store.reading() {
            self.observe(Some(&reading));
        }
        // Without the store's time nothing can be decided: read first.
        if !locked(&self.judge).knows_time(ttl, self.clock.now()) {
            return None;
        }
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
            .timeout_at(give_up, self.store.read(key, give_up))
            .await
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "the store gave no answer in time")))?;
        self.observe(snapshot.reading.as_ref());
        Ok(snapshot)
    }

    pub(super) fn observe(&self, reading: Option<&StoreReading>) {
        if let Some(reading) = reading {
            locked(&self.judge).observe(reading);
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
        let now = self.clock.now();
        locked(&self.judge).sight(key, record, departed, doubted, now).ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "the store's reply has no time, and none is known")
                .with_effect(Effect::NotApplied)
        })
    }

    /// A record as a read showed it is remembered: the next transition is one swap on it.
    pub(super) fn remember(&self, key: &LockKey, record: &Record, snapshot: Snapshot<S::Version>) {
        if snapshot.version.is_some() {
            let known = Known { record: Some(record.clone()), fresh: false, ..Known::of(snapshot) };
            self.keep(key, known);
        }
    }

    fn keep(&self, key: &LockKey, version: Known<S::Version>) {
        let mut known = locked(&self.known);
        let room = REMEMBERED.saturating_add(self.leases.load(Ordering::Relaxed));
        let wanted = room.checked_next_power_of_two().unwrap_or(room);
        if known.cap() < room || known.cap().get() / 4 > wanted.get() {
            known.resize(wanted);
        }
        known.put(key.clone(), version);
    }

    /// Until when a waiter may believe in a lease that it was granted by hand-over, as it sees now: its place was kept for
    /// `patience` by a request sent at `kept` (rule E6).
    pub(super) fn granted_until(&self, holder: &Holder, kept: Moment, patience: Duration) -> Moment {
        let now = self.clock.now();
        locked(&self.judge).granted_until(holder, kept, patience, now)
    }

    /// Until when a holder may believe in its lease after a transition.
    pub(super) fn believed_until<T>(&self, holder: &Holder, moved: &Moved<T, S::Version>) -> Moment {
        let now = self.clock.now();
        locked(&self.judge).believed_until(holder, moved.sent, moved.reading.as_ref(), now)
    }
}
