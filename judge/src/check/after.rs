//! Once all is whole, every key is free for a fresh client: within the longest TTL, the store's lateness and 1.5 s of
//! the moment at which half of the workers were killed and the others had given up what they held.

use super::{History, Violation};
use crate::history::{Done, Probe};
use crate::worker::KEYS;
use std::time::Duration;

pub(super) fn judge(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut found = |rule, what| violations.push(Violation { rule, what });
    if !history.faults.iter().any(|line| matches!(line.event, Done::Over)) {
        found("the run did not come to its end", String::new());
    }
    for line in &history.probes {
        match &line.event {
            Probe::Got { key, took_ms, bound_ms } if took_ms > bound_ms => {
                found("a key was not free again", format!("{key:?} after {took_ms} ms, and {bound_ms} ms are allowed"));
            }
            Probe::GotNot { key, error } => found("a key was not free again", format!("{key:?}: {error}")),
            Probe::Stuck { slot, what } => found("a worker is stuck", format!("{slot} did not {what}")),
            Probe::Got { .. } => {}
        }
    }
    for (key, _) in KEYS {
        let probed = history.probes.iter().any(|line| match &line.event {
            Probe::Got { key: had, .. } | Probe::GotNot { key: had, .. } => had == key,
            Probe::Stuck { .. } => false,
        });
        if !probed {
            found("a key was not probed", format!("{key:?}"));
        }
    }
    violations
}

/// The longest that a fresh client waited.
pub(super) fn recovered(history: &History) -> Duration {
    let waits = history.probes.iter().filter_map(|line| match line.event {
        Probe::Got { took_ms, .. } => Some(Duration::from_millis(took_ms)),
        _ => None,
    });
    waits.max().unwrap_or_default()
}
