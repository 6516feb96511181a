//! Each token is given once, and they grow in the order of the grants.
//!
//! A grant lies between its asking and its getting. So where one was got before another was asked for, the second is later
//! for certain, and its token must be larger.

use super::holds::Hold;
use super::{Violation, shown};
use std::collections::{BTreeMap, HashMap};

pub(super) fn judge(holds: &[Hold]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut keys: BTreeMap<&str, Vec<(&Hold, u64, u64)>> = BTreeMap::new();
    for hold in holds {
        if let Some(got) = &hold.got {
            keys.entry(&hold.key).or_default().push((hold, got.at, got.token));
        }
    }
    for grants in keys.values_mut() {
        let mut known = HashMap::new();
        for (hold, _, token) in grants.iter() {
            if let Some(other) = known.insert(*token, *hold) {
                let what = format!("{token} to {} and to {}", shown(hold), shown(other));
                violations.push(Violation { rule: "a token was given twice", what });
            }
        }
        let mut by_got = grants.clone();
        by_got.sort_by_key(|(_, at, _)| *at);
        grants.sort_by_key(|(hold, ..)| hold.asked);
        let (mut before, mut highest) = (by_got.into_iter().peekable(), None);
        for (hold, _, token) in grants.iter() {
            while let Some(earlier) = before.next_if(|(_, at, _)| *at < hold.asked) {
                if highest.is_none_or(|(_, known)| earlier.2 > known) {
                    highest = Some((earlier.0, earlier.2));
                }
            }
            if let Some((earlier, other)) = highest.filter(|(_, other)| other > token) {
                let what = format!("{token} to {} after {other} to {}", shown(hold), shown(earlier));
                violations.push(Violation { rule: "a token went back", what });
            }
        }
    }
    violations
}
