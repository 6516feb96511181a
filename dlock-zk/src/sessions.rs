//! [`Sessions`]: a client's sessions, one for each step of TTLs.

use crate::config::Settings;
use crate::error::{closed, from_zk};
use crate::place::locked;
use crate::session::Session;
use dlock_core::{Clock, Effect, Error, ErrorKind, LostCause, Moment, Result, Ttl};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use zookeeper_client::Error as Zk;

/// A client's sessions, one for each step of TTLs, begun when they are first needed.
#[derive(Debug)]
pub(crate) struct Sessions {
    settings: Arc<Settings>,
    clock: Clock,
    /// Where sessions live: the runtime that made the client.
    runtime: Handle,
    /// The longest session that the server keeps.
    pub(crate) longest: Duration,
    slots: Mutex<BTreeMap<Duration, Arc<Slot>>>,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    current: Mutex<Option<Arc<Session>>>,
    opening: tokio::sync::Mutex<()>,
}

/// The TTLs of sessions, in seconds: so many sessions a client has at the most.
const STEPS: [u64; 19] =
    [1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400];

/// The smallest step that keeps a TTL, or the server's longest session if that does.
fn step(ttl: Duration, longest: Duration) -> Duration {
    let step = STEPS.map(Duration::from_secs).into_iter().find(|step| *step >= ttl).unwrap_or(Ttl::MAX_DURATION);
    step.min(longest.max(ttl))
}

impl Sessions {
    /// Asks the server for its longest session, on the current runtime.
    pub(crate) async fn connect(settings: Settings, clock: Clock) -> Result<Self> {
        let give_up = clock.now() + settings.op_timeout;
        let (settings, runtime) = (Arc::new(settings), Handle::current());
        let probe = async {
            let client = settings.connect(Ttl::MAX_DURATION).await?;
            // Also tells whether the server knows this request, which came with 3.6.
            client.list_ephemerals(&settings.root).await?;
            Ok(client.session_timeout())
        };
        let probed = clock.timeout_at(give_up, probe).await.unwrap_or(Err(Zk::Timeout));
        // A session of the probe's that is still there has nothing in it.
        let longest = probed.map_err(|error| from_zk(error).with_effect(Effect::NotApplied))?;
        Ok(Self { settings, clock, runtime, longest, slots: Mutex::default(), closed: AtomicBool::new(false) })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The runtime that made the client.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A session that keeps `ttl`: the present one, or a new one if that has ended.
    pub(crate) async fn get(&self, ttl: Duration, give_up: Moment) -> Result<Arc<Session>> {
        let step = step(ttl, self.longest);
        let slot = locked(&self.slots).entry(step).or_default().clone();
        if let Some(session) = slot.alive() {
            return Ok(session);
        }
        let opened = self.clock.timeout_at(give_up, async {
            let _opening = slot.opening.lock().await;
            match slot.alive() {
                Some(session) => Ok(session),
                None => self.open(&slot, step, give_up).await,
            }
        });
        opened.await.unwrap_or_else(|| Err(from_zk(Zk::Timeout).with_effect(Effect::NotApplied)))
    }

    async fn open(&self, slot: &Slot, step: Duration, give_up: Moment) -> Result<Arc<Session>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let (settings, clock) = (self.settings.clone(), self.clock.clone());
        let opening = self.runtime.spawn(async move {
            let opening = Session::open(settings, clock.clone(), step);
            clock.timeout_at(give_up, opening).await.unwrap_or_else(|| Err(from_zk(Zk::Timeout)))
        });
        let session = opening.await.map_err(|_| closed())?;
        // A session without a node is no effect.
        let session = session.map_err(|error| error.with_effect(Effect::NotApplied))?;
        let before = locked(&slot.current).replace(session.clone());
        if let Some(before) = before {
            before.end(LostCause::Expired);
        }
        if self.closed.load(Ordering::Acquire) {
            session.end(LostCause::SessionEnded);
            return Err(closed());
        }
        Ok(session)
    }

    /// Any session, for requests that leave nothing.
    pub(crate) async fn any(&self, give_up: Moment) -> Result<Arc<Session>> {
        match self.all().into_iter().find(|session| session.is_alive()) {
            Some(session) => Ok(session),
            None => self.get(Ttl::DEFAULT.get().min(self.longest), give_up).await,
        }
    }

    /// The present sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        locked(&self.slots).values().filter_map(|slot| locked(&slot.current).clone()).collect()
    }

    /// Ends all sessions and waits until the server has done so.
    pub(crate) async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let sessions: Vec<_> = locked(&self.slots).values().filter_map(|slot| locked(&slot.current).take()).collect();
        let give_up = self.clock.now() + self.settings.op_timeout;
        let closed = join_all(sessions.iter().map(|session| session.close(give_up))).await;
        closed.into_iter().collect::<Result<()>>().map_err(|error| match error.kind() {
            ErrorKind::Unavailable => error,
            _ => Error::new(ErrorKind::Unexpected, "a session could not be ended").with_source(error),
        })
    }
}

impl Slot {
    fn alive(&self) -> Option<Arc<Session>> {
        locked(&self.current).clone().filter(|session| session.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_are_rounded_up_to_a_few_steps() {
        let seconds = Duration::from_secs;
        for (ttl, longest, expected) in [(1, 40, 1), (4, 40, 5), (30, 40, 30), (35, 40, 40), (61, 100_000, 120)] {
            assert_eq!(step(seconds(ttl), seconds(longest)), seconds(expected), "{ttl} of {longest}");
        }
        assert_eq!(step(Duration::from_millis(1_001), seconds(60)), seconds(2));
    }
}
