//! [`Sessions`]: the sessions of a client, one a TTL.

use crate::error::not_sent;
use crate::keep_alive::KeepAlive;
use crate::locked;
use crate::names::Names;
use crate::session::Session;
use crate::store::Store;
use dlock_core::{Cancel, Effect, Error, ErrorKind, Moment, Result, Ttl};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;

/// The TTLs of sessions, in seconds: those of locks are raised to the next, so that a client has a few sessions only.
const STEPS: [u64; 15] = [1, 2, 3, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 21_600, 86_400];

/// The sessions of a client, one a TTL.
pub(crate) struct Sessions {
    store: Store,
    names: Names,
    op_timeout: Duration,
    runtime: Handle,
    stop: Cancel,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    open: HashMap<Duration, Arc<Session>>,
    /// Held while a session is opened, so that those who need one share it.
    opening: HashMap<Duration, Arc<tokio::sync::Mutex<()>>>,
    closed: bool,
}

impl Sessions {
    pub(crate) fn new(store: Store, names: Names, op_timeout: Duration, stop: Cancel) -> Self {
        Self { store, names, op_timeout, runtime: Handle::current(), stop, slots: Mutex::default() }
    }

    /// The open session for locks of that TTL.
    pub(crate) fn current(&self, ttl: Ttl) -> Option<Arc<Session>> {
        let now = self.store.clock.now();
        locked(&self.slots).open.get(&step(ttl)).filter(|session| !session.has_ended(now)).cloned()
    }

    /// A session for locks of that TTL with a third of it left; opens one if there is none.
    pub(crate) async fn get(&self, ttl: Ttl, give_up: Moment) -> Result<Arc<Session>> {
        let clock = &self.store.clock;
        loop {
            if clock.now() >= give_up {
                return Err(not_sent());
            }
            if locked(&self.slots).closed {
                return Err(closed());
            }
            let session = match self.current(ttl) {
                Some(session) => session,
                None => clock.timeout_at(give_up, self.open(ttl, give_up)).await.ok_or_else(not_sent)??,
            };
            if session.has_time_left(clock, give_up).await? {
                return Ok(session);
            }
        }
    }

    async fn open(&self, ttl: Ttl, give_up: Moment) -> Result<Arc<Session>> {
        let wanted = step(ttl);
        let opening = locked(&self.slots).opening.entry(wanted).or_default().clone();
        let _opening = opening.lock().await;
        if let Some(session) = self.current(ttl) {
            return Ok(session);
        }
        let sent = self.store.clock.now();
        // Dropped here or unanswered, a lease may stay: without keys, for its TTL.
        let granted = self.store.grant(wanted, give_up).await;
        // Whatever became of it, it acquired nothing.
        let (lease, granted) = granted.map_err(|error| error.with_effect(Effect::NotApplied))?;
        let session = Arc::new(Session::new(lease, granted, sent));
        if !self.keep(wanted, &session) {
            // Without keys: what it leaves, if it is not answered, is nothing.
            let _ = self.store.revoke(lease, give_up).await;
            return Err(closed());
        }
        Ok(session)
    }

    /// Keeps a new session alive; `false` if the client was closed meanwhile.
    fn keep(&self, wanted: Duration, session: &Arc<Session>) -> bool {
        let mut slots = locked(&self.slots);
        if slots.closed {
            return false;
        }
        let keep_alive = KeepAlive {
            session: session.clone(),
            store: self.store.clone(),
            names: self.names.clone(),
            op_timeout: self.op_timeout,
            stop: self.stop.clone(),
        };
        self.runtime.spawn(keep_alive.run());
        slots.open.insert(wanted, session.clone());
        true
    }

    /// Ends all sessions, and what stands under them. Opens none any more.
    pub(crate) async fn close(&self) -> Result<()> {
        let sessions: Vec<_> = {
            let mut slots = locked(&self.slots);
            slots.closed = true;
            slots.open.drain().map(|(_, session)| session).collect()
        };
        let give_up = self.store.clock.now() + self.op_timeout;
        let revoked = futures_util::future::join_all(sessions.iter().map(|session| {
            session.is_gone();
            self.store.revoke(session.lease, give_up)
        }));
        revoked.await.into_iter().collect()
    }
}

impl fmt::Debug for Sessions {
    /// Shows the ids of the leases, as `etcdctl lease list` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = locked(&self.slots);
        f.debug_list().entries(slots.open.values().map(|session| Hex(session.lease))).finish()
    }
}

struct Hex(i64);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client was closed")
}

/// The TTL of the session for a lock's.
fn step(ttl: Ttl) -> Duration {
    let step = STEPS.iter().map(|&seconds| Duration::from_secs(seconds)).find(|step| *step >= ttl.get());
    step.unwrap_or(Ttl::MAX_DURATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_raised_to_a_step() {
        for (millis, seconds) in [(10, 1), (1_000, 1), (1_001, 2), (4_000, 5), (30_000, 30), (86_400_000, 86_400)] {
            let ttl = Ttl::new(Duration::from_millis(millis)).unwrap();
            assert_eq!(step(ttl), Duration::from_secs(seconds));
        }
    }
}
