//! [`Hold`]: one acquisition, gathered from the lines of its process.

use super::History;
use crate::history::{Done, Event, HoldId, Mode, Nanos};
use crate::plan::Fault;
use std::collections::{BTreeMap, HashMap};

/// One acquisition.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) id: HoldId,
    pub(super) key: String,
    pub(super) mode: Mode,
    pub(super) asked: Nanos,
    pub(super) limit_ms: Option<u64>,
    pub(super) got: Option<Got>,
    pub(super) got_not: Option<GotNot>,
}

/// How it went on once it was held.
#[derive(Clone, Debug, Default)]
pub(super) struct Got {
    pub(super) at: Nanos,
    pub(super) token: u64,
    /// The last deadline that is known.
    pub(super) until: Nanos,
    /// Looks at its validity: when, what they said, and the deadline then.
    pub(super) looks: Vec<(Nanos, bool, Nanos)>,
    pub(super) lost: Option<Lost>,
    pub(super) leaves: Option<Nanos>,
    pub(super) left: Option<(Nanos, String, Option<String>)>,
}

/// How it was lost.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub(super) at: Nanos,
    pub(super) cause: String,
    pub(super) until: Nanos,
}

/// Why it was not held.
#[derive(Clone, Debug)]
pub(super) struct GotNot {
    pub(super) at: Nanos,
    pub(super) why: String,
    pub(super) error: Option<String>,
}

/// All acquisitions, in no order.
pub(super) fn gather(history: &History) -> Vec<Hold> {
    let mut holds: BTreeMap<HoldId, Hold> = BTreeMap::new();
    for line in history.lives.iter().flatten() {
        let (at, id) = (line.at, line.event.id);
        if let Event::Asks { key, mode, limit_ms, .. } = &line.event.event {
            let (key, mode, limit_ms) = (key.clone(), *mode, *limit_ms);
            holds.insert(id, Hold { id, key, mode, asked: at, limit_ms, got: None, got_not: None });
            continue;
        }
        let Some(hold) = holds.get_mut(&id) else { continue };
        match (&line.event.event, &mut hold.got) {
            (Event::Got { token, until, .. }, None) => {
                hold.got = Some(Got { at, token: *token, until: *until, ..Got::default() });
            }
            (Event::GotNot { why, error }, _) => {
                hold.got_not = Some(GotNot { at, why: why.clone(), error: error.clone() });
            }
            (Event::Looked { valid, until }, Some(got)) => {
                got.looks.push((at, *valid, *until));
                if *valid {
                    got.until = got.until.max(*until);
                }
            }
            (Event::Renewed { until }, Some(got)) => got.until = got.until.max(*until),
            (Event::Lost { cause, until }, Some(got)) => {
                got.until = got.until.max(*until);
                got.lost = Some(Lost { at, cause: cause.clone(), until: *until });
            }
            (Event::Leaves, Some(got)) => got.leaves = Some(at),
            (Event::Left { how, error }, Some(got)) => got.left = Some((at, how.clone(), error.clone())),
            _ => {}
        }
    }
    holds.into_values().collect()
}

/// When each killed process was killed: before that moment it may have run, after it not.
pub(super) fn killed(history: &History) -> HashMap<(u32, u32), Nanos> {
    let kills = history.faults.iter().filter_map(|line| match line.event {
        Done::Begins { fault: Fault::KillWorker { slot }, life: Some(life) } => Some(((slot, life), line.at)),
        _ => None,
    });
    kills.collect()
}

/// When each process did not run.
#[derive(Debug, Default)]
pub(super) struct Sleeps(HashMap<(u32, u32), Vec<(Nanos, Nanos)>>);

impl Sleeps {
    pub(super) fn of(history: &History) -> Self {
        let mut sleeps = Self::default();
        for line in history.lives.iter().flatten() {
            let from = match line.event.event {
                Event::Slept { from } => from,
                // Of what it was blocked, what it wanted to run counts as sleep: the rest is its own doing.
                Event::Blocked { since, starved, .. } => since.max(line.at.saturating_sub(starved)),
                _ => continue,
            };
            let HoldId { slot, life, .. } = line.event.id;
            sleeps.0.entry((slot, life)).or_default().push((from, line.at));
        }
        sleeps.0.values_mut().for_each(|all| all.sort_unstable());
        sleeps
    }

    /// How long it did not run between two moments.
    pub(super) fn within(&self, id: HoldId, from: Nanos, to: Nanos) -> Nanos {
        let sleeps = self.0.get(&(id.slot, id.life)).map_or(&[][..], |all| all);
        // They overlap: a process that is stopped is blocked as well.
        let (mut counted, mut total) = (from, 0);
        for (begin, end) in sleeps {
            total += (*end).min(to).saturating_sub((*begin).max(counted));
            counted = counted.max(*end);
        }
        total
    }
}
