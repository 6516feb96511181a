//! What holders are told, and when.
//!
//! - A loss is told by its deadline, and 50 ms for the machine. The time in which the process did not run does not count: a
//!   stopped process is told when it wakes.
//! - No look says `true` past the deadline, or after the loss was told.
//! - A store that keeps its leases takes none away before its end: nobody breaks a lock here.
//! - A wait ends by its limit.
//! - Errors are those that faults cause: not reached, lost, waited as long as allowed.

use super::holds::{Got, Hold, Sleeps, killed};
use super::{History, Violation, apart, shown};
use crate::history::{Event, LosesLeases, Nanos};
use crate::worker::is_expected;
use std::collections::HashMap;
use std::time::Duration;

/// How late a loss may be told.
const LATE: Nanos = 50_000_000;
/// How much later than its limit a wait may end: 100 ms to withdraw, and what a user would notice.
const OVERDUE: Nanos = 350_000_000;

#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) violations: Vec<Violation>,
    pub(super) latest: Duration,
}

pub(super) fn judge(history: &History, holds: &[Hold]) -> Told {
    let (sleeps, last) = (Sleeps::of(history), last_signs(history));
    let mut told = Told::default();
    for hold in holds {
        let mut found = |rule, what: String| {
            told.violations.push(Violation { rule, what: format!("{what}: {}", shown(hold)) });
        };
        let ended = hold.got.as_ref().map(|got| got.at).or(hold.got_not.as_ref().map(|not| not.at));
        if let (Some(limit), Some(ended)) = (hold.limit_ms, ended) {
            let took = ended - hold.asked - sleeps.within(hold.id, hold.asked, ended);
            if took > limit * 1_000_000 + OVERDUE {
                found("a wait outlasted its limit", format!("{limit} ms were {:?}", Duration::from_nanos(took)));
            }
        }
        if let Some(not) = hold.got_not.as_ref().filter(|not| !["held", "cancelled"].contains(&not.why.as_str()))
            && !is_expected(&not.why)
        {
            found("an error that no fault causes", format!("{:?}", not.error));
        }
        let Some(got) = &hold.got else { continue };
        looks(got, &mut found);
        if let Some((at, how, error)) = &got.left {
            if how != "released" && !is_expected(how) {
                found("an error that no fault causes", format!("{error:?}"));
            }
            let taken = how == "LeaseLost" && got.lost.is_none() && *at < got.until;
            if taken && keeps(history) {
                found("a lease ended before its time", format!("{error:?}"));
            }
        }
        match &got.lost {
            Some(lost) => {
                let late = lost.at.saturating_sub(lost.until);
                let late = late.saturating_sub(sleeps.within(hold.id, lost.until, lost.at));
                told.latest = told.latest.max(Duration::from_nanos(late));
                if late > LATE {
                    found("a loss was told late", format!("{:?}", Duration::from_nanos(late)));
                }
                if lost.cause != "expired" && keeps(history) && lost.at < lost.until {
                    let early = apart(lost.at, lost.until);
                    found("a lease ended before its time", format!("{}, {early:?} early", lost.cause));
                }
            }
            None if got.leaves.is_none() && history.setting.checks => {
                let seen = last.get(&(hold.id.slot, hold.id.life)).copied().unwrap_or_default();
                let silent = seen.saturating_sub(got.until);
                let silent = silent.saturating_sub(sleeps.within(hold.id, got.until, seen));
                if silent > LATE {
                    found("a loss was not told", format!("within {:?}", Duration::from_nanos(silent)));
                }
            }
            None => {}
        }
    }
    for line in history.lives.iter().flatten() {
        if let Event::Broken { error } = &line.event.event {
            let what = format!("{error}: worker {}-{}", line.event.id.slot, line.event.id.life);
            told.violations.push(Violation { rule: "an error that no fault causes", what });
        }
    }
    told
}

/// Whether a lease that ended early is the store's fault. A control's holders believe in theirs for ever: what they find out
/// proves nothing of the judge's sight.
fn keeps(history: &History) -> bool {
    history.setting.loses_leases == LosesLeases::Never && history.setting.own_ttl && history.setting.checks
}

fn looks(got: &Got, found: &mut impl FnMut(&'static str, String)) {
    for (at, _, until) in got.looks.iter().filter(|(_, valid, _)| *valid) {
        // Read after the look: it may be a later one, or none any more, but no earlier one.
        if *until > 0 && until < at {
            found("a lock was believed past its deadline", format!("by {:?} at {at}", apart(*until, *at)));
        }
        if let Some(lost) = got.lost.as_ref().filter(|lost| lost.at < *at) {
            found("a lost lock came back", format!("{:?} after it was lost", apart(lost.at, *at)));
        }
    }
}

/// Until when each process is known to have run.
fn last_signs(history: &History) -> HashMap<(u32, u32), Nanos> {
    let killed = killed(history);
    let mut last = HashMap::new();
    for line in history.lives.iter().flatten() {
        let process = (line.event.id.slot, line.event.id.life);
        let sign = last.entry(process).or_insert(0);
        *sign = line.at.min(killed.get(&process).copied().unwrap_or(Nanos::MAX)).max(*sign);
    }
    last
}
