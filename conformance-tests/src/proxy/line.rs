//! [`Line`]: what all connections of a proxy share.

use super::rule::Rule;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How the line is now, and the rules for single requests.
#[derive(Debug, Default)]
pub(super) struct Line {
    state: watch::Sender<State>,
    /// Whether the line is cut, as seen from outside.
    cut: watch::Sender<Option<bool>>,
    rules: Mutex<Vec<Rule>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    pub(super) cut: bool,
    up: Flow,
    down: Flow,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) frozen: bool,
    pub(super) delay: Duration,
}

impl State {
    pub(super) fn of(&mut self, way: Way) -> &mut Flow {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    pub(super) fn is_frozen(mut self, way: Way) -> bool {
        self.of(way).frozen
    }
}

impl Line {
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// The state as soon as it is `so`.
    pub(super) async fn until(&self, so: impl FnMut(&State) -> bool) -> State {
        // The sender lives in `self`.
        self.state.subscribe().wait_for(so).await.map(|state| *state).unwrap_or_default()
    }

    /// Resolves when what comes now may pass.
    pub(super) async fn passes(&self, way: Way) {
        let mut state = self.until(|state| !state.is_frozen(way)).await;
        let delay = state.of(way).delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    pub(super) fn apply(&self, cut: bool) {
        self.cut.send_replace(Some(cut));
    }

    pub(super) async fn applied(&self, cut: bool) {
        let _ = self.cut.subscribe().wait_for(|now| *now == Some(cut)).await;
    }

    pub(super) fn add(&self, rule: Rule) -> Rule {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule.clone());
        rule
    }

    /// Shows a request to all rules; the first that is for it.
    pub(super) fn judge(&self, request: &[u8]) -> Option<Rule> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let hit: Vec<_> = rules.iter().filter(|rule| rule.sees(request)).collect();
        hit.first().map(|rule| (*rule).clone())
    }
}
