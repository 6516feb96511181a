//! By token, at the resource: whatever happened to the holders, these hold.
//!
//! - No request of an older exclusive holder is let through after one of a newer, or after that of a newer reader; no reader or
//!   permit holder after an exclusive one that came later than it.
//! - No write is let through on the ground of a value that was changed meanwhile: reads raise the fence as well, so between
//!   a holder's read and its write only itself may write. Then no accepted write is ever lost.
//! - What is refused is stale: the fence stops nobody who is alone.
//! - Each answer that a worker got is what the resource did.

use super::{History, Violation};
use crate::history::{Event, HoldId, Mode};
use std::collections::HashMap;

#[derive(Default)]
struct Kept {
    highest: u64,
    /// The highest token of a reader, where readers are fenced.
    reader: u64,
    value: u64,
}

pub(super) fn judge(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut kept: HashMap<&str, Kept> = HashMap::new();
    for line in &history.served {
        let served = &line.event;
        let now = kept.entry(&served.key).or_default();
        let mut found = |rule, what: String| {
            let id = served.id;
            let who = format!("worker {}-{} task {} hold {}", id.slot, id.life, id.task, id.hold);
            violations.push(Violation { rule, what: format!("{what}, by {who} of {:?} at {}", served.key, line.at) });
        };
        let compared = if served.mode == Mode::Exclusive { Some(served.token) } else { served.floor };
        let newest = if served.mode == Mode::Exclusive { now.highest.max(now.reader) } else { now.highest };
        let stale = compared.is_some_and(|token| token < newest);
        match (served.accepted, stale) {
            (true, true) => found("a stale holder was let through", format!("{compared:?} after {newest}")),
            (false, false) => found("the fence refused who is not stale", format!("{compared:?} after {newest}")),
            _ => {}
        }
        if served.value != now.value {
            found("a value changed by itself", format!("{} is now {}", now.value, served.value));
        }
        if served.accepted && served.mode == Mode::Exclusive {
            now.highest = now.highest.max(served.token);
        }
        if served.accepted && served.mode == Mode::Shared && served.floor.is_some() {
            now.reader = now.reader.max(served.token);
        }
        if let (true, Some(base)) = (served.accepted, served.base) {
            if base != served.value {
                found("a write was lost", format!("{} was overwritten by who had read {base}", served.value));
            }
            now.value = base + 1;
        }
    }
    violations.extend(answers(history));
    violations
}

/// Compares what each holder was answered with what was done, in the order of its requests.
fn answers(history: &History) -> Vec<Violation> {
    let mut served: HashMap<HoldId, Vec<bool>> = HashMap::new();
    for line in &history.served {
        served.entry(line.event.id).or_default().push(line.event.accepted);
    }
    let mut answered: HashMap<HoldId, Vec<bool>> = HashMap::new();
    for line in history.lives.iter().flatten() {
        if let Event::Answered { accepted } = line.event.event {
            answered.entry(line.event.id).or_default().push(accepted);
        }
    }
    // A killed worker does not know of its last request.
    let differs = |(id, answers): (HoldId, Vec<bool>)| {
        let is_true = served.get(&id).is_some_and(|served| served.starts_with(&answers));
        (!is_true).then(|| Violation { rule: "an answer was not true", what: format!("{id:?} was told {answers:?}") })
    };
    answered.into_iter().filter_map(differs).collect()
}
