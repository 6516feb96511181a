//! [`ZkLease`].

use crate::error::from_zk;
use crate::place::{Place, locked};
use crate::session::Session;
use async_trait::async_trait;
use dlock_core::{
    Deadline, Effect, FencingToken, HolderId, Lease, LostCause, Mode, Moment, Release, Result, valid_until,
};
use futures_util::future::join;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zookeeper_client::Error as Zk;

/// A node that holds, in a session.
#[derive(Debug)]
pub(crate) struct ZkLease {
    pub(crate) session: Arc<Session>,
    pub(crate) place: Arc<Place>,
    /// Its node's number.
    pub(crate) sequence: i64,
    pub(crate) token: FencingToken,
    pub(crate) deadline: Deadline,
    pub(crate) state: Mutex<Releasing>,
}

/// How far a release has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Releasing {
    /// Nobody asked for it.
    Held,
    /// Sent, and its reply was lost.
    Unknown,
    Done(Release),
}

impl ZkLease {
    fn ends(&self, release: Release) -> Release {
        *locked(&self.state) = Releasing::Done(release);
        self.session.places.forget(&self.place.id);
        release
    }

    fn is_in_time(&self) -> bool {
        self.session.clock.now() < self.deadline.at()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lease for ZkLease {
    fn holder(&self) -> HolderId {
        self.place.id.clone()
    }

    fn token(&self) -> FencingToken {
        self.token
    }

    fn fence_floor(&self) -> Option<FencingToken> {
        (self.place.mode == Mode::Exclusive).then_some(self.token)
    }

    fn ttl(&self) -> Duration {
        self.session.ttl
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    async fn renew(&self, give_up: Moment) -> Result<()> {
        if self.place.is_left() {
            self.deadline.end(LostCause::Released);
        }
        if !self.is_in_time() {
            return Err(self.deadline.error());
        }
        let Ok(client) = self.session.client() else { return Err(self.deadline.error()) };
        // The node's presence and the session's life, in one trip.
        let sent = self.session.clock.now();
        let path = self.place.path(&self.place.name(self.sequence));
        let (sync, look) = (client.sync(&path), client.check_stat(&path));
        let answers = self.session.ask(give_up, async {
            let (synced, there) = join(sync, look).await;
            synced?;
            there
        });
        match answers.await {
            Ok(Some(_)) if self.session.deadline.extend(self.session.clock.now(), valid_until(sent, self.ttl())) => {
                // It may have been broken or given up meanwhile.
                if self.is_in_time() { Ok(()) } else { Err(self.deadline.error()) }
            }
            Ok(Some(_)) => Err(self.deadline.error()),
            Ok(None) => {
                self.deadline.is_gone(self.session.clock.now());
                self.place.is_gone();
                Err(self.deadline.error())
            }
            Err(_) if self.session.client().is_err() => Err(self.deadline.error()),
            Err(error) => Err(from_zk(error)),
        }
    }

    async fn release(&self, give_up: Moment) -> Result<Release> {
        let before = *locked(&self.state);
        if let Releasing::Done(release) = before {
            return Ok(release);
        }
        self.place.leave();
        *locked(&self.state) = Releasing::Unknown;
        match self.session.delete_held(&self.place, &self.place.name(self.sequence), give_up).await {
            Ok(()) => Ok(self.ends(Release::Released)),
            // Rule R4: an earlier try may have removed it.
            Err(Zk::NoNode) if before == Releasing::Unknown && self.is_in_time() => Ok(self.ends(Release::Released)),
            Err(Zk::NoNode) => {
                self.deadline.is_gone(self.session.clock.now());
                Ok(self.ends(Release::AlreadyLost))
            }
            // It goes with its session.
            Err(_) if self.session.client().is_err() => Ok(self.ends(Release::AlreadyLost)),
            Err(error) => {
                // Should nobody repeat it, the session's heart removes the node (rule R5).
                self.session.untidy.store(true, Ordering::Release);
                Err(from_zk(error).with_effect(Effect::Unknown))
            }
        }
    }
}
