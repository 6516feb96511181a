//! [`check`]: decides from the histories of a run whether the promises held.
//!
//! Each rule says why it is right: what it reports can't have another cause than a broken promise.
//!
//! - `exclusion`: by true time, no two are inside together.
//! - `fencing`: by token, at the resource.
//! - `tokens`: each is given once, and they grow.
//! - `telling`: a loss is told by its deadline, a wait ends by its limit, and errors are those that faults cause.
//! - `after`: once all is whole, every key is free for a fresh client.

mod after;
mod exclusion;
mod fencing;
mod holds;
mod telling;
#[cfg(test)]
mod tests;
mod tokens;

use crate::history::{Done, Line, Mode, Nanos, Probe, Served, Setting, Told, read};
use holds::Hold;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was written down in a run.
#[derive(Clone, Debug)]
pub struct History {
    /// What was run.
    pub setting: Setting,
    /// What the nemesis did.
    pub faults: Vec<Line<Done>>,
    /// What each worker process told.
    pub lives: Vec<Vec<Line<Told>>>,
    /// What the resource served, in its order.
    pub served: Vec<Line<Served>>,
    /// What came after.
    pub probes: Vec<Line<Probe>>,
}

impl History {
    /// Reads a folder.
    ///
    /// # Errors
    /// When a file is missing or can't be read.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let at = |name: &str| folder.join(name);
        let setting =
            std::fs::read(at("run.json")).map_err(|error| format!("{}: {error}", at("run.json").display()))?;
        let files = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
        let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
        paths.retain(|path| crate::worker::is_history(path));
        paths.sort();
        Ok(Self {
            setting: serde_json::from_slice(&setting).map_err(|error| error.to_string())?,
            faults: read(&at("faults.jsonl"))?,
            lives: paths.iter().map(|path| read(path)).collect::<Result<_, _>>()?,
            served: read(&at("resource.jsonl"))?,
            probes: read(&at("probe.jsonl"))?,
        })
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, in a few words.
    pub rule: &'static str,
    /// Where to look.
    pub what: String,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The store.
    pub store: String,
    /// Of the plan.
    pub seed: u64,
    /// How long.
    pub seconds: u64,
    /// Whether validity and fence were looked at.
    pub checks: bool,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Locks asked for.
    pub asked: usize,
    /// Locks held.
    pub acquisitions: usize,
    /// Losses by cause.
    pub lost: BTreeMap<String, usize>,
    /// Why locks were not had.
    pub not_had: BTreeMap<String, usize>,
    /// Writes that the fence let through.
    pub accepted: usize,
    /// Requests of stale holders, writes and reads, that it refused.
    pub refused: usize,
    /// How late after its deadline a loss was told, in a process that ran.
    pub latest: Duration,
    /// The longest that a fresh client waited for a key once all was whole.
    pub recovered: Duration,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// Where the histories are.
    pub folder: PathBuf,
}

/// Judges a folder of histories.
///
/// # Errors
/// When it can't be read.
pub fn check(folder: &Path) -> Result<Verdict, String> {
    let mut verdict = judge(&History::open(folder)?);
    verdict.folder = folder.to_owned();
    Ok(verdict)
}

/// Judges a history.
pub fn judge(history: &History) -> Verdict {
    let holds = holds::gather(history);
    let held = || holds.iter().filter_map(|hold| hold.got.as_ref());
    let mut violations = exclusion::judge(history, &holds);
    violations.extend(fencing::judge(history));
    violations.extend(tokens::judge(&holds));
    let told = telling::judge(history, &holds);
    violations.extend(told.violations);
    violations.extend(after::judge(history));
    let writes = |accepted| history.served.iter().filter(move |line| line.event.accepted == accepted);
    Verdict {
        store: history.setting.store.clone(),
        seed: history.setting.seed,
        seconds: history.setting.seconds,
        checks: history.setting.checks,
        faults: count(history.faults.iter().filter_map(|line| match &line.event {
            Done::Begins { fault, .. } => Some(fault.kind()),
            _ => None,
        })),
        asked: holds.len(),
        acquisitions: held().count(),
        lost: count(held().filter_map(|got| Some(got.lost.as_ref()?.cause.clone()))),
        not_had: count(holds.iter().filter_map(|hold| Some(hold.got_not.as_ref()?.why.clone()))),
        accepted: writes(true).filter(|line| line.event.base.is_some()).count(),
        refused: writes(false).count(),
        latest: told.latest,
        recovered: after::recovered(history),
        violations,
        folder: PathBuf::new(),
    }
}

fn count<T: Ord>(all: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counted = BTreeMap::new();
    for one in all {
        *counted.entry(one).or_default() += 1;
    }
    counted
}

impl Verdict {
    /// Whether there was anything to judge: a run without faults, locks and writes says nothing.
    pub fn has_happened(&self) -> bool {
        !self.faults.is_empty() && self.acquisitions > 0 && self.accepted > 0
    }
}

/// How many violations of one rule are shown.
const SHOWN: usize = 5;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: usize = self.faults.values().sum();
        let control = if self.checks { "" } else { " (control: nothing is checked)" };
        writeln!(f, "{}{control}: {} s, seed {}, {faults} faults", self.store, self.seconds, self.seed)?;
        writeln!(f, "  faults: {}", Counts(&self.faults))?;
        writeln!(
            f,
            "  locks: {} held of {} asked for; not had: {}",
            self.acquisitions,
            self.asked,
            Counts(&self.not_had)
        )?;
        writeln!(f, "  lost: {}; told at most {:.1?} after the deadline", Counts(&self.lost), self.latest)?;
        writeln!(f, "  writes: {} accepted; the fence refused {} requests", self.accepted, self.refused)?;
        writeln!(f, "  afterwards every key was had within {:.1?}", self.recovered)?;
        let by_rule = count(self.violations.iter().map(|violation| violation.rule));
        write!(f, "  violations: {} {}", self.violations.len(), Counts(&by_rule))?;
        for rule in by_rule.keys() {
            for violation in self.violations.iter().filter(|violation| violation.rule == *rule).take(SHOWN) {
                write!(f, "\n    {rule}: {}", violation.what)?;
            }
        }
        write!(f, "\n  histories: {}", self.folder.display())
    }
}

struct Counts<'a, T>(&'a BTreeMap<T, usize>);

impl<T: fmt::Display> fmt::Display for Counts<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, (name, count)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {name}")?;
        }
        Ok(())
    }
}

/// The time between two moments, for people.
fn apart(from: Nanos, to: Nanos) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

fn conflict(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}

fn shown(hold: &Hold) -> String {
    let id = hold.id;
    format!("worker {}-{} task {} hold {} of {:?} at {}", id.slot, id.life, id.task, id.hold, hold.key, hold.asked)
}
