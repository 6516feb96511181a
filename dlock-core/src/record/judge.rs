//! [`Judge`]: what one client knows of its store's time, and so of which entries are over.

use super::machine::Sight;
use super::{Holder, Record, StoreClock, StoreReading, StoreTime};
use crate::{HolderId, LockKey, Moment, drift, valid_until};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one client knows of its store's time, and so of which entries are over. Pure: the moments come from the caller,
/// so that the code that runs is the code that the model check explores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Judge {
    clock: StoreClock,
    /// When the store's clock was last read.
    read: Moment,
    /// Whether the replies of swaps tell the store's time.
    told: bool,
    margin: Duration,
    /// Entries whose end can't be judged by the store's clock: the end as it was first seen, and when.
    watched: BTreeMap<(LockKey, HolderId), (StoreTime, Moment)>,
}

/// How many entries are watched at once; of more, those first seen the longest ago are forgotten, and watched anew.
const MOST_WATCHED: usize = 4096;

impl Judge {
    /// One that knows nothing yet. `margin`: how far apart the clocks of the store's servers may be (rule C4).
    pub fn new(margin: Duration) -> Self {
        Self { clock: StoreClock::default(), read: Moment::MIN, told: false, margin, watched: BTreeMap::new() }
    }

    /// Takes a reading of the store's clock in.
    pub fn observe(&mut self, reading: &StoreReading) {
        self.read = self.read.max(reading.received);
        self.clock.observe(reading);
    }

    /// A swap was written; takes the reading of its reply in, if it had one.
    pub fn wrote(&mut self, replied: Option<&StoreReading>) {
        self.told = replied.is_some();
        replied.into_iter().for_each(|reading| self.observe(reading));
    }

    /// Whether a lease of this TTL can be written on what is known, without a reading first.
    ///
    /// Where the replies of swaps tell the time, a lease that was written by a clock that has since jumped is not
    /// believed in (rule C3). Elsewhere the last reading must be younger than the TTL: those who saw the clock jump trust
    /// no end for two TTLs, and by then nobody believes in one that was written by the clock as it was before.
    pub fn knows_time(&self, ttl: Duration, now: Moment) -> bool {
        self.clock.now(now).is_some() && (self.told || now.since(self.read) < ttl)
    }

    /// What is known of the store's time and of a record's entries, now. `None` before the first reading.
    pub fn sight(
        &mut self,
        key: &LockKey,
        record: Option<&Record>,
        departed: &[HolderId],
        doubted: &[HolderId],
        local: Moment,
    ) -> Option<Sight> {
        let now = self.clock.now(local)?;
        let mut sight = Sight {
            earliest: now.earliest,
            latest: now.latest,
            floor: now.unix_micros,
            margin: self.margin,
            departed: departed.to_vec(),
            doubted: Vec::new(),
        };
        let holders = record.map_or(&[][..], |record| &record.holders);
        let waiters = record.map_or(&[][..], |record| &record.queue);
        let entries = holders.iter().map(|holder| (&holder.entry, holder.expires));
        for (entry, end) in entries.chain(waiters.iter().map(|waiter| (&waiter.entry, waiter.alive_until))) {
            let uncertainty = now.latest.since(now.earliest) + sight.margin + Duration::from_millis(1);
            let can_not_be = end > now.latest + entry.ttl() + uncertainty;
            if can_not_be || doubted.contains(&entry.id) || self.clock.jumped_within(entry.ttl() * 2, local) {
                if self.watched_out(key, &entry.id, end, entry.ttl(), local) {
                    sight.departed.push(entry.id.clone());
                } else {
                    sight.doubted.push(entry.id.clone());
                }
            }
        }
        Some(sight)
    }

    /// Whether this entry was watched unchanged for its TTL by the local clock (rule C2).
    fn watched_out(&mut self, key: &LockKey, id: &HolderId, end: StoreTime, ttl: Duration, now: Moment) -> bool {
        let name = (key.clone(), id.clone());
        match self.watched.get(&name) {
            Some((seen, since)) if *seen == end => now.since(*since) > ttl + drift(ttl) + self.margin,
            _ => {
                self.watched.insert(name, (end, now));
                if self.watched.len() > MOST_WATCHED {
                    let oldest = self.watched.iter().min_by_key(|(_, (_, since))| *since);
                    let oldest = oldest.map(|(name, _)| name.clone());
                    oldest.and_then(|name| self.watched.remove(&name));
                }
                false
            }
        }
    }

    /// Until when a holder may believe in its lease after the reply, received at `now`, to a request that was sent at
    /// `sent`: V1, cut by what the store's own clock said in that reply (rule C3).
    pub fn believed_until(&self, holder: &Holder, sent: Moment, replied: Option<&StoreReading>, now: Moment) -> Moment {
        let until = valid_until(sent, holder.entry.ttl());
        match (replied, self.clock.now(now)) {
            (None, _) => until,
            (Some(_), Some(store)) => until.min(now + holder.expires.since(store.latest)),
            (Some(_), None) => now,
        }
    }

    /// Until when a waiter may believe in a lease that was handed over to it, as it sees at `now`: the grant counts for no
    /// longer than the place, which a request sent at `kept` was told to keep for `patience` (rule E6).
    pub fn granted_until(&self, holder: &Holder, kept: Moment, patience: Duration, now: Moment) -> Moment {
        let until = valid_until(kept, patience);
        self.clock.now(now).map_or(now, |store| until.min(now + holder.expires.since(store.latest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(seconds: u64) -> StoreReading {
        let (at, local) = (StoreTime(seconds * 1_000_000), Moment::from_nanos(seconds * 1_000_000_000));
        StoreReading { at, granularity: Duration::ZERO, unix_micros: at.0, sent: local, received: local }
    }

    #[test]
    fn a_clock_that_no_reply_tells_is_read_once_a_ttl() {
        let ttl = Duration::from_secs(10);
        let mut judge = Judge::new(Duration::ZERO);
        assert!(!judge.knows_time(ttl, reading(100).received));
        judge.observe(&reading(100));
        judge.wrote(None);
        assert!(judge.knows_time(ttl, reading(109).received));
        assert!(!judge.knows_time(ttl, reading(110).received));
        judge.wrote(Some(&reading(111)));
        assert!(judge.knows_time(ttl, reading(1_000).received));
    }
}
