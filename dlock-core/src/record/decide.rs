//! What a client does with a record that it found: the decisions of the engine, without its I/O.

use super::Record;
use super::machine::Sight;
use crate::HolderId;
use std::time::Duration;

/// What a transition of a record comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// The answer stands without a write.
    Answered(T),
    /// The record was only remembered, and an answer without a write is only given on what the store has: read it.
    Read,
    /// To be written; the answer stands once that has succeeded.
    Write {
        /// The record to write.
        next: Record,
        /// Waiters that become holders by it.
        granted: Vec<HolderId>,
        /// The answer.
        answer: T,
    },
}

/// Moves a record by `transition`. `fresh`: it is as the store has it, not as it was remembered. `always_write`: write
/// even if nothing changes, so that a swap still under way loses its version (rule R3).
pub fn step<T>(
    found: Option<&Record>,
    fresh: bool,
    always_write: bool,
    sight: &Sight,
    transition: impl FnOnce(&mut Record, &Sight) -> T,
) -> Step<T> {
    let before = found.cloned().unwrap_or_default();
    let mut next = before.clone();
    let answer = transition(&mut next, sight);
    if next == before && !always_write {
        return if fresh { Step::Answered(answer) } else { Step::Read };
    }
    let holds = |id: &HolderId| next.holders.iter().any(|holder| holder.entry.id == *id);
    let granted = before.queue.iter().map(|waiter| &waiter.entry.id).filter(|id| holds(id)).cloned().collect();
    Step::Write { next, granted, answer }
}

/// What a waiter does after a look at the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It asks again at once: it has another place than it had, or something is to be settled.
    Ask,
    /// It looks again when it is told of a change, and after so long at the latest.
    Wait(Duration),
}

/// What a waiter does that saw this record.
pub fn look(record: &Record, waiter: &HolderId, sight: &Sight) -> Look {
    let mut settled = record.clone();
    settled.settle(sight);
    if settled != *record || !record.queue.iter().any(|other| other.entry.id == *waiter) {
        return Look::Ask;
    }
    Look::Wait(next_end(record, waiter, sight))
}

/// How long until a holder's lease ends if it is not renewed, or the waiter right before this one counts as gone: it
/// may have been granted the lock without knowing. An end that the clock can't judge (rule C2) is not waited for: it may
/// be past long since, and the waiter would look without a pause; its next repeat judges it.
pub fn next_end(record: &Record, waiter: &HolderId, sight: &Sight) -> Duration {
    let place = record.queue.iter().position(|other| other.entry.id == *waiter).unwrap_or_default();
    let before = record.queue[..place].last().map(|other| (&other.entry.id, other.alive_until));
    let holders = record.holders.iter().map(|holder| (&holder.entry.id, holder.expires + sight.margin));
    let known = holders.chain(before).filter(|(id, _)| !sight.doubted.contains(id));
    let left = known.map(|(_, end)| end.since(sight.earliest) + Duration::from_millis(1));
    left.min().unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;
    use crate::record::machine::Asks;
    use crate::record::{Entry, StoreTime};

    #[test]
    fn a_waiter_looks_when_the_lease_ends_but_not_without_pause_at_one_that_is_doubted() {
        let [a, b] = ["a", "b"].map(|id| Entry {
            id: HolderId::from_store(id),
            mode: Mode::Exclusive,
            ttl_ms: 10_000,
            label: String::new(),
            since: 0,
            origin: None,
        });
        let at = |seconds: u64| Sight {
            earliest: StoreTime(seconds * 1_000_000),
            latest: StoreTime(seconds * 1_000_000),
            ..Sight::default()
        };
        let (ttl, mut record) = (Duration::from_secs(10), Record::default());
        record.acquire(a.clone(), ttl, Asks::ToQueue, &at(100));
        record.acquire(b.clone(), ttl, Asks::ToQueue, &at(100));
        assert_eq!(look(&record, &b.id, &at(103)), Look::Wait(Duration::from_millis(7_001)));
        assert_eq!(look(&record, &b.id, &at(111)), Look::Ask);
        let jumped = Sight { doubted: vec![a.id.clone(), b.id.clone()], ..at(500) };
        assert_eq!(look(&record, &b.id, &jumped), Look::Wait(Duration::MAX));
        record.release(&a.id, &at(103));
        assert_eq!(look(&record, &b.id, &at(103)), Look::Ask);
    }
}
