//! What a fair run without further faults comes to.

use crate::{Action, Message, Setup, Stage, World};

/// After so many ticks everybody was served, whatever happened before: a jump of the clock costs a watched TTL and what
/// was left of one, a crashed holder and a crashed waiter one each.
const WITHIN: usize = 14;

impl World {
    /// Whether a run without faults, in which all messages arrive and all clients go on, grants the lock to all that
    /// wait for it, and leaves nothing behind.
    pub(crate) fn serves_all(&self, setup: &Setup) -> bool {
        let mut world = self.clone();
        let mut waiting = world.wanting();
        for _ in 0..WITHIN {
            while let Some(action) = world.goes_on_with(setup) {
                world.act(setup, action);
                // Granted, be it that the lease had run out when the grant was seen: then core asks anew.
                let holds =
                    |place: usize| matches!(world.clients[place].stage, Stage::Holds { .. } | Stage::Releases { .. });
                waiting.retain(|place| !holds(*place));
            }
            if waiting.is_empty() && world.is_quiet() {
                return true;
            }
            world.act(setup, Action::Tick);
        }
        false
    }

    fn goes_on_with(&self, setup: &Setup) -> Option<Action> {
        // What is told unasked may be lost: it is.
        let asked = |message: &Message| !matches!(message, Message::Push { .. });
        if let Some(at) = self.network.iter().position(asked) {
            return Some(Action::Deliver(at));
        }
        let next = |place| self.goes_on(setup, place).map(|deed| Action::Begin(place, deed));
        (0..self.clients.len()).find_map(next)
    }

    /// Nobody has anything to do, and nothing is left behind but what crashed clients held.
    fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| client.stage == Stage::Idle && client.calls.is_none()) && !self.has_orphans()
    }
}
