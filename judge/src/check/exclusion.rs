//! By true time, no two are inside together.
//!
//! A holder is inside while its own `is_valid()` would say so: that is what it acts on. What is known of that for certain:
//!
//! - it begins before `Got` was written, so counting from there is counting too little;
//! - it lasts at least until the last look that said `true`;
//! - once `true` it stays so until the deadline last seen (a later one may have been unseen), unless before that the holder
//!   gave the lock up, was killed, or was told that the store had ended the lease. In the last case the lease may have
//!   ended at any moment after the last look, so only the look counts.
//!
//! So each interval here lies within the true one, and two that overlap and conflict are two holders that would both have
//! been told `true` at one moment: the promise of V1 and L7, for which the store may grant the lock to another only after
//! the deadline. A stopped process counts as inside until its deadline: the others must not get the lock before that either.
//! What it does after its deadline, between a look and a write, is the fence's part.
//!
//! The same intervals say whom the fence must not refuse: no later holder can have been at the resource while one was still inside.

use super::holds::{Hold, killed};
use super::{History, Violation, apart, conflict, shown};
use crate::history::{Done, HoldId, LosesLeases, Mode, Nanos};
use crate::plan::Fault;
use std::collections::{BTreeMap, HashMap};

struct Inside<'a> {
    hold: &'a Hold,
    from: Nanos,
    to: Nanos,
}

pub(super) fn judge(history: &History, holds: &[Hold]) -> Vec<Violation> {
    let killed = killed(history);
    let lapses = Lapses::of(history);
    let mut keys: BTreeMap<&str, Vec<Inside<'_>>> = BTreeMap::new();
    for hold in holds {
        let kill = killed.get(&(hold.id.slot, hold.id.life)).copied();
        if let Some((from, to)) = inside(hold, kill) {
            keys.entry(&hold.key).or_default().push(Inside { hold, from, to });
        }
    }
    let mut violations = refused(history, &keys, &lapses);
    for stays in keys.values_mut() {
        stays.sort_by_key(|stay| stay.from);
        let mut present: Vec<&Inside<'_>> = Vec::new();
        for stay in stays.iter() {
            present.retain(|other| other.to > stay.from);
            let others: Vec<_> = present.iter().filter(|other| !lapses.part(other, stay)).copied().collect();
            if let Some(other) = others.iter().find(|other| conflict(stay.hold.mode, other.hold.mode)) {
                let overlap = apart(stay.from, stay.to.min(other.to));
                let what = format!("{} for {overlap:?} beside {}", shown(stay.hold), shown(other.hold));
                violations.push(Violation { rule: "two inside", what });
            }
            if let Mode::Permit(limit) = stay.hold.mode
                && others.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
            {
                let what = format!("{} beside {} others, and {limit} may hold", shown(stay.hold), others.len());
                violations.push(Violation { rule: "too many inside", what });
            }
            present.push(stay);
        }
    }
    violations
}

/// Requests that the fence refused while their holder was inside.
fn refused(history: &History, keys: &BTreeMap<&str, Vec<Inside<'_>>>, lapses: &Lapses) -> Vec<Violation> {
    let stays: HashMap<HoldId, &Inside<'_>> = keys.values().flatten().map(|stay| (stay.hold.id, stay)).collect();
    let refused = history.served.iter().filter(|line| !line.event.accepted && !lapses.excuse(line.at));
    let inside = refused.filter_map(|line| stays.get(&line.event.id).filter(|stay| stay.to > line.at));
    inside.map(|stay| Violation { rule: "the fence refused a holder", what: shown(stay.hold) }).collect()
}

/// When a hold was inside for certain.
fn inside(hold: &Hold, killed: Option<Nanos>) -> Option<(Nanos, Nanos)> {
    let got = hold.got.as_ref()?;
    let looked = got.looks.iter().filter(|(_, valid, _)| *valid).map(|(at, ..)| *at).max().unwrap_or(got.at);
    let ended_by_store = got.lost.as_ref().is_some_and(|lost| lost.cause != "expired");
    if ended_by_store {
        return Some((got.at, looked));
    }
    let ends = [got.leaves, got.lost.as_ref().map(|lost| lost.at), killed];
    let end = ends.into_iter().flatten().min().unwrap_or(Nanos::MAX);
    Some((got.at, looked.max(end.min(got.until))))
}

/// When servers lost leases that they had given: across that they promise nothing, and only tokens and fence stand.
struct Lapses {
    when: LosesLeases,
    spans: Vec<(Nanos, Nanos)>,
}

/// From shortly before a server is known to go on until it surely knows who leads.
const RESUMED: (Nanos, Nanos) = (100_000_000, 2_000_000_000);

impl Lapses {
    fn of(history: &History) -> Self {
        let when = history.setting.loses_leases;
        let mut spans: Vec<(Nanos, Nanos)> = Vec::new();
        for line in &history.faults {
            match (when, &line.event) {
                (LosesLeases::WhenKilled, Done::Begins { fault: Fault::KillServer { .. }, .. }) => {
                    spans.push((line.at, Nanos::MAX));
                }
                (LosesLeases::WhenKilled, Done::Heals { fault: Fault::KillServer { .. } }) => {
                    if let Some(last) = spans.last_mut() {
                        last.1 = line.at;
                    }
                }
                (LosesLeases::WhenResumed, Done::Heals { fault: Fault::StopServer { .. } }) => {
                    spans.push((line.at.saturating_sub(RESUMED.0), line.at + RESUMED.1));
                }
                _ => {}
            }
        }
        Self { when, spans }
    }

    /// Whether a later holder may have come to be inside with an earlier one because a server lost the earlier one's lease.
    fn part(&self, earlier: &Inside<'_>, later: &Inside<'_>) -> bool {
        self.spans.iter().any(|(from, to)| {
            *from <= later.from
                && *to >= earlier.hold.asked
                && (self.when == LosesLeases::WhenKilled || later.from <= *to)
        })
    }

    /// Whether the fence may refuse a holder at that moment.
    fn excuse(&self, at: Nanos) -> bool {
        // Who holds a lease that a killed server has forgotten may hold it for long.
        self.when == LosesLeases::WhenKilled || self.spans.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }
}
