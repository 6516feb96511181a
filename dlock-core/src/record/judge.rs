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
    margin: Duration,
    /// Entries whose end can't be judged by the store's clock: the end as it was first seen, and when.
    watched: BTreeMap<(LockKey, HolderId), (StoreTime, Moment)>,
}

/// How many entries are watched at once; of more, those first seen the longest ago are forgotten, and watched anew.
const MOST_WATCHED: usize = 4096;

impl Judge {
    /// One that knows nothing yet. `margin`: how far apart the clocks of the store's servers may be (rule C4).
    pub fn new(margin: Duration) -> Self {
        Self { clock: StoreClock::default(), margin, watched: BTreeMap::new() }
    }

    /// Takes a reading of the store's clock in.
    pub fn observe(&mut self, reading: &StoreReading) {
        self.clock.observe(reading);
    }

    /// Whether the store's time is known at all: else nothing can be decided without reading first.
    pub fn knows_time(&self, now: Moment) -> bool {
        self.clock.now(now).is_some()
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
}
