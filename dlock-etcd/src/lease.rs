//! [`EtcdLease`].

use crate::backend::Shared;
use crate::error::no_answer;
use crate::line::Heard;
use crate::locked;
use crate::names::Span;
use crate::queue::token;
use crate::session::Claim;
use crate::watches::{Watch, Watcher};
use async_trait::async_trait;
use dlock_core::{Deadline, Error, FencingToken, HolderId, Lease, LostCause, Mode, Moment, Release, Result};
use etcd_client::{Event, EventType, GetOptions, KeyValue};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// A lease that lives by its session, as long as its key is there.
pub(crate) struct EtcdLease {
    grip: Arc<Grip>,
    id: HolderId,
    mode: Mode,
    _watch: Watch,
}

/// What is held on to, and hears when it goes.
struct Grip {
    claim: Claim,
    /// The revision that created the key.
    created: i64,
    deadline: Deadline,
    state: Mutex<State>,
    /// Keeps the client's sessions alive.
    shared: Arc<Shared>,
}

/// What was done to give the lease up, or was heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    /// Its key was deleted by another.
    Deleted,
    /// A release was sent whose reply is not known.
    Releasing,
    Ended(Release),
}

/// A lock that is held shorter is not watched: what happens to it until then is heard then. The server itself looks only
/// every 100 ms for what happened before a watch began.
const WATCH_AFTER: Duration = Duration::from_millis(100);
/// A deleted key counts as held for so long at most, while the server is asked what became of the session.
const ASK_WHY: Duration = Duration::from_millis(250);

impl EtcdLease {
    /// A lease of the key that `created` made and that was there at the revision `seen`.
    pub(crate) fn new(shared: &Arc<Shared>, claim: Claim, id: HolderId, mode: Mode, created: i64, seen: i64) -> Self {
        let deadline = Deadline::in_session(&claim.session.deadline);
        let grip = Arc::new(Grip { claim, created, deadline, state: Mutex::new(State::Held), shared: shared.clone() });
        let watcher: Weak<Grip> = Arc::downgrade(&grip);
        let watch = shared.watches.watch(Span::key(&grip.claim.key), seen + 1, WATCH_AFTER, watcher);
        Self { grip, id, mode, _watch: watch }
    }

    fn now(&self) -> Moment {
        self.grip.shared.store.clock.now()
    }
}

impl Grip {
    /// The key is gone, and not by our doing: finds out why, and ends the lease.
    fn is_deleted(&self) {
        {
            let mut state = locked(&self.state);
            if *state != State::Held {
                return;
            }
            *state = State::Deleted;
        }
        let (session, deadline) = (self.claim.session.clone(), self.deadline.clone());
        let (store, within) = (self.shared.store.clone(), self.shared.op_timeout.min(ASK_WHY));
        self.shared.runtime.spawn(async move {
            let left = store.time_to_live(session.lease, false, store.clock.now() + within).await;
            if matches!(left, Ok(None)) {
                session.is_gone();
            }
            deadline.is_gone(store.clock.now());
        });
    }
}

impl Watcher for Grip {
    fn is(&self, _heard: Heard, _revision: i64, kvs: &[KeyValue]) {
        if !kvs.iter().any(|kv| kv.create_revision() == self.created) {
            self.is_deleted();
        }
    }

    fn changed(&self, events: &[Event]) {
        if events.iter().any(|event| event.event_type() == EventType::Delete) {
            self.is_deleted();
        }
    }
}

#[async_trait]
impl Lease for EtcdLease {
    fn holder(&self) -> HolderId {
        self.id.clone()
    }

    fn token(&self) -> FencingToken {
        token(self.grip.created)
    }

    /// Exclusive entries are granted in order of arrival too: all before this one are smaller, all after it larger.
    fn fence_floor(&self) -> Option<FencingToken> {
        let own = self.grip.created;
        Some(token(if self.mode == Mode::Exclusive { own } else { own - 1 }))
    }

    fn ttl(&self) -> Duration {
        self.grip.claim.session.ttl
    }

    fn deadline(&self) -> &Deadline {
        &self.grip.deadline
    }

    async fn renew(&self, give_up: Moment) -> Result<()> {
        let Grip { claim, created, deadline, state, shared } = &*self.grip;
        let (session, store) = (&claim.session, &shared.store);
        if self.now() >= deadline.at() {
            return Err(deadline.error());
        }
        let (_, kvs) = store.read(&Span::key(&claim.key), GetOptions::new().with_keys_only(), give_up).await?;
        let is_there = kvs.iter().any(|kv| kv.create_revision() == *created);
        if matches!(*locked(state), State::Releasing | State::Ended(Release::Released)) {
            // That it is gone is our own doing.
            return Err(Error::lost(LostCause::Released));
        }
        if !is_there {
            deadline.is_gone(self.now());
        }
        let kept = is_there && session.kept_alive(&store.clock, give_up).await?;
        if kept && self.now() < deadline.at() { Ok(()) } else { Err(deadline.error()) }
    }

    async fn release(&self, give_up: Moment) -> Result<Release> {
        let Grip { claim, created, deadline, state, shared } = &*self.grip;
        let before = {
            let mut state = locked(state);
            if let State::Ended(release) = *state {
                return Ok(release);
            }
            std::mem::replace(&mut *state, State::Releasing)
        };
        if self.now() >= give_up {
            return Err(no_answer());
        }
        let removed = shared.store.remove(&claim.key, *created, give_up).await?;
        claim.settle();
        let now = self.now();
        // Rule R4: an earlier try may have removed it.
        let release = if removed || (before == State::Releasing && now < deadline.at()) {
            Release::Released
        } else {
            deadline.is_gone(now);
            Release::AlreadyLost
        };
        *locked(state) = State::Ended(release);
        Ok(release)
    }
}

impl fmt::Debug for EtcdLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLease")
            .field("key", &String::from_utf8_lossy(&self.grip.claim.key))
            .field("created", &self.grip.created)
            .field("deadline", &self.grip.deadline)
            .finish_non_exhaustive()
    }
}
