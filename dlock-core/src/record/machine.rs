//! The transitions of a [`Record`]: pure functions, without I/O and without a clock, so that the code that runs is the
//! code that is tested.
//!
//! Each begins by settling: what has expired goes, and the lock is granted to the head of the queue while modes allow.

use super::{Entry, Holder, Record, StoreTime, Waiter};
use crate::{HolderId, Mode};
use std::time::Duration;

/// The most waiters in a queue; later ones look again from time to time, outside of its order.
pub const MAX_QUEUE: usize = 128;
/// The most holders and waiters of one record together.
pub const MAX_ENTRIES: usize = 512;

/// What a transition knows of the store's time and of the entries' processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The store's clock shows at least this.
    pub earliest: StoreTime,
    /// The store's clock shows at most this.
    pub latest: StoreTime,
    /// The least token: microseconds since 1970 by the store.
    pub floor: u64,
    /// How much later than its expiry an entry counts as expired.
    pub margin: Duration,
    /// Entries that are dead whatever their expiry says.
    pub departed: Vec<HolderId>,
    /// Entries that are alive whatever their expiry says.
    pub doubted: Vec<HolderId>,
}

impl Sight {
    /// Whether an entry of `id` that ends at `end` is over.
    fn is_over(&self, id: &HolderId, end: StoreTime, margin: Duration) -> bool {
        self.departed.contains(id) || (self.earliest > end + margin && !self.doubted.contains(id))
    }
}

/// How an acquisition asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asks {
    /// Once, not to be queued.
    Once,
    /// To hold, or else to be queued.
    ToQueue,
    /// Again, while it waits: touches only what exists (rule R2).
    Again,
}

/// What an acquisition got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It holds.
    Granted(Holder),
    /// It waits in the queue.
    Waiting,
    /// Others hold the lock or wait in front, and it was not to be queued.
    Held,
    /// It was to be queued, and the queue is full.
    Full,
    /// It asked again, and has no place any more: it is to start anew under a new id.
    Gone,
    /// The key is in use with a mode that does not go with this one.
    Disagrees(Mode),
}

impl Record {
    /// Drops holders and waiters whose time is over or whose process is dead.
    pub fn prune(&mut self, sight: &Sight) {
        self.holders.retain(|holder| !sight.is_over(&holder.entry.id, holder.expires, sight.margin));
        self.queue.retain(|waiter| !sight.is_over(&waiter.entry.id, waiter.alive_until, Duration::ZERO));
    }

    /// Prunes, then grants to the head of the queue while modes allow.
    pub fn settle(&mut self, sight: &Sight) {
        self.prune(sight);
        while let Some(waiter) = self.queue.first() {
            if !self.admits(waiter.entry.mode) {
                break;
            }
            let Waiter { entry, alive_until } = self.queue.remove(0);
            // The waiter believes in no more than it was told (rule E6).
            self.grant(entry, alive_until, sight);
        }
    }

    /// Asks for the lock, or repeats that: as a holder it extends its lease, as a waiter its place.
    pub fn acquire(&mut self, entry: Entry, patience: Duration, asks: Asks, sight: &Sight) -> Answer {
        self.settle(sight);
        if let Some(holder) = self.holder_mut(&entry.id) {
            // Not the later of the two: where the store's clock went back, a lease that is in use must be seen to change
            // by those who watch it (rule C2). What was believed before lies no further ahead than this.
            holder.expires = sight.latest + entry.ttl();
            return Answer::Granted(holder.clone());
        }
        if let Some(waiter) = self.queue.iter_mut().find(|waiter| waiter.entry.id == entry.id) {
            waiter.alive_until = sight.latest + patience;
            return Answer::Waiting;
        }
        if asks == Asks::Again {
            return Answer::Gone;
        }
        let in_use = self.holders.iter().map(|holder| holder.entry.mode);
        let mut in_use = in_use.chain(self.queue.iter().map(|waiter| waiter.entry.mode));
        if let Some(other) = in_use.find(|other| !entry.mode.agrees_with(*other)) {
            return Answer::Disagrees(other);
        }
        let is_full = self.holders.len() + self.queue.len() >= MAX_ENTRIES;
        if self.queue.is_empty() && self.admits(entry.mode) && !is_full {
            let expires = sight.latest + entry.ttl();
            return Answer::Granted(self.grant(entry, expires, sight));
        }
        if asks == Asks::Once {
            return Answer::Held;
        }
        if is_full || self.queue.len() >= MAX_QUEUE {
            return Answer::Full;
        }
        self.queue.push(Waiter { entry, alive_until: sight.latest + patience });
        Answer::Waiting
    }

    /// Keeps the place of a waiter: a request of another waiter of its client does it for both. `false` if it has none.
    pub fn stay(&mut self, id: &HolderId, patience: Duration, sight: &Sight) -> bool {
        let waiter = self.queue.iter_mut().find(|waiter| waiter.entry.id == *id);
        waiter.map(|waiter| waiter.alive_until = sight.latest + patience).is_some()
    }

    /// Extends a lease that stands. `None`, and nothing but settling changes, if it does not.
    pub fn renew(&mut self, id: &HolderId, sight: &Sight) -> Option<Holder> {
        self.settle(sight);
        let holder = self.holder_mut(id)?;
        holder.expires = sight.latest + holder.entry.ttl();
        Some(holder.clone())
    }

    /// Gives a lease up. `false` if it does not stand.
    pub fn release(&mut self, id: &HolderId, sight: &Sight) -> bool {
        self.prune(sight);
        let before = self.holders.len();
        self.holders.retain(|holder| holder.entry.id != *id);
        let released = self.holders.len() < before;
        self.settle(sight);
        released
    }

    /// Removes an acquisition, be it holder or waiter. `false` if it is neither.
    pub fn withdraw(&mut self, id: &HolderId, sight: &Sight) -> bool {
        self.prune(sight);
        let before = self.queue.len();
        self.queue.retain(|waiter| waiter.entry.id != *id);
        let waited = self.queue.len() < before;
        self.release(id, sight) || waited
    }

    fn holder_mut(&mut self, id: &HolderId) -> Option<&mut Holder> {
        self.holders.iter_mut().find(|holder| holder.entry.id == *id)
    }

    fn admits(&self, mode: Mode) -> bool {
        let room = match mode {
            Mode::Permit { limit } => self.holders.len() < usize::try_from(limit.get()).unwrap_or(usize::MAX),
            Mode::Exclusive | Mode::Shared => true,
        };
        room && self.holders.iter().all(|holder| mode.is_compatible_with(holder.entry.mode))
    }

    fn grant(&mut self, entry: Entry, expires: StoreTime, sight: &Sight) -> Holder {
        // Rule F1: the store's clock makes up for a record that was lost, the count for a clock that went back.
        let token = sight.floor.max(self.last_token.saturating_add(1));
        self.last_token = token;
        if entry.mode == Mode::Exclusive {
            self.last_exclusive = token;
        }
        // Where the last exclusive token is not known any more, it was smaller than this one.
        let floor = if self.last_exclusive == 0 { token - 1 } else { self.last_exclusive };
        let entry = Entry { since: sight.floor, ..entry };
        let holder = Holder { entry, token, floor, expires };
        self.holders.push(holder.clone());
        holder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn entry(id: &str) -> Entry {
        let id = HolderId::from_store(id);
        Entry { id, mode: Mode::Exclusive, ttl_ms: 10_000, label: String::new(), since: 0, origin: None }
    }

    fn sight(seconds: u64) -> Sight {
        let now = StoreTime(seconds * 1_000_000);
        Sight { earliest: now, latest: now, floor: now.0, ..Sight::default() }
    }

    #[test]
    fn a_repeat_touches_only_what_exists() {
        let mut record = Record::default();
        assert_eq!(record.acquire(entry("a"), TTL, Asks::Again, &sight(1_000)), Answer::Gone);
        assert_eq!(record, Record::default());
        // Also where its place was there before: it was dropped for being silent.
        record.acquire(entry("a"), TTL, Asks::ToQueue, &sight(1_000));
        record.acquire(entry("b"), TTL, Asks::ToQueue, &sight(1_000));
        assert_eq!(record.acquire(entry("b"), TTL, Asks::Again, &sight(1_011)), Answer::Gone);
        assert!(record.is_idle());
    }

    #[test]
    fn what_is_in_use_is_seen_to_change_though_the_clock_went_back() {
        let mut record = Record::default();
        record.acquire(entry("a"), TTL, Asks::ToQueue, &sight(1_000));
        record.acquire(entry("b"), TTL, Asks::ToQueue, &sight(1_000));
        let doubting = Sight { doubted: vec![entry("a").id, entry("b").id], ..sight(500) };
        assert_eq!(record.renew(&entry("a").id, &doubting).unwrap().expires, StoreTime(510_000_000));
        assert_eq!(record.acquire(entry("b"), TTL, Asks::Again, &doubting), Answer::Waiting);
        assert_eq!(record.queue[0].alive_until, StoreTime(510_000_000));
        let later = Sight { earliest: StoreTime(503_000_000), latest: StoreTime(503_000_000), ..doubting };
        let Answer::Granted(holder) = record.acquire(entry("a"), TTL, Asks::Again, &later) else { panic!() };
        assert_eq!(holder.expires, StoreTime(513_000_000));
    }
}
