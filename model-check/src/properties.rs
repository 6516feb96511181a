//! What must hold in every state, and what must be seen in some.

use crate::client::Client;
use crate::{Setup, Stage, World};
use dlock_core::record::machine::Asks;
use dlock_core::{HolderId, Mode, Moment};

impl World {
    fn believers(&self) -> Vec<&Client> {
        let now = self.now();
        self.clients.iter().filter(|client| client.believes(now).is_some()).collect()
    }

    /// No two conflicting leases whose local deadlines both lie ahead.
    pub(crate) fn excludes(&self, setup: &Setup) -> bool {
        let believers = self.believers();
        let modes: Vec<_> = believers.iter().map(|client| setup.modes[client.place]).collect();
        let fits = |at: usize, mode: &Mode| modes[at + 1..].iter().all(|other| mode.is_compatible_with(*other));
        let room = match modes.first() {
            Some(Mode::Permit { limit }) => modes.len() <= limit.get() as usize,
            _ => true,
        };
        room && modes.iter().enumerate().all(|(at, mode)| fits(at, mode))
    }

    /// Who believes in a lease has it, with that token.
    pub(crate) fn believes_what_is(&self) -> bool {
        let has = |client: &&Client| {
            let holder = self.record.holders.iter().find(|holder| holder.entry.id == client.id());
            holder.map(|holder| holder.token) == client.believes(self.now())
        };
        self.believers().iter().all(has)
    }

    /// Whether the record has an acquisition that nobody will give up: it is over for its client, or was never told of.
    pub(crate) fn has_orphans(&self) -> bool {
        let is_over = |id: &HolderId| {
            let current = |client: &Client| client.stage != Stage::Idle && client.id() == *id;
            !self.abandoned.contains(id) && !self.clients.iter().any(current)
        };
        let holders = self.record.holders.iter().map(|holder| &holder.entry.id);
        holders.chain(self.record.queue.iter().map(|waiter| &waiter.entry.id)).any(is_over)
    }

    /// A waiter was granted the lock while its last repeat is not answered (rule E6).
    pub(crate) fn granted_unheard(&self) -> bool {
        self.clients.iter().any(|client| {
            let unheard = matches!(client.stage, Stage::Wants { asks: Asks::Again, answered, sent, in_doubt: true }
                if answered > Moment::MIN && answered < sent);
            unheard && client.calls.is_none() && self.record.holders.iter().any(|holder| holder.entry.id == client.id())
        })
    }

    /// A client crashed while it waited in the queue.
    pub(crate) fn crashed_in_queue(&self) -> bool {
        self.record.queue.iter().any(|waiter| self.abandoned.contains(&waiter.entry.id))
    }

    /// A holder was stopped past its deadline, and another has the lock.
    pub(crate) fn stopped_past_its_deadline(&self) -> bool {
        let over = |client: &Client| matches!(client.stage, Stage::Holds { until, .. } if self.now() >= until);
        self.clients.iter().any(over) && !self.believers().is_empty()
    }
}
