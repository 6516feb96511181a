//! [`RedisLease`].

use crate::backend::Shared;
use crate::keys::Keys;
use async_trait::async_trait;
use dlock_core::{Deadline, FencingToken, HolderId, Lease, Mode, Moment, Release, Result, valid_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A lease in Redis.
#[derive(Debug)]
pub(crate) struct RedisLease {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keys: Keys,
    pub(crate) id: HolderId,
    pub(crate) token: FencingToken,
    pub(crate) floor: FencingToken,
    pub(crate) mode: Mode,
    pub(crate) ttl: Duration,
    pub(crate) deadline: Deadline,
    pub(crate) state: AtomicU8,
}

/// States of a release.
pub(crate) const HELD: u8 = 0;
/// Sent, and its reply is not known.
const RELEASING: u8 = 1;
const RELEASED: u8 = 2;
const LOST: u8 = 3;

#[async_trait]
impl Lease for RedisLease {
    fn holder(&self) -> HolderId {
        self.id.clone()
    }

    fn token(&self) -> FencingToken {
        self.token
    }

    fn fence_floor(&self) -> Option<FencingToken> {
        Some(self.floor)
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    async fn renew(&self, give_up: Moment) -> Result<()> {
        let clock = self.shared.connection.clock();
        let sent = clock.now();
        let held: bool = self.shared.renew(&self.keys, &self.id, self.ttl, give_up).await?;
        let now = clock.now();
        if !held {
            // A release that was under way meanwhile may be why (rule R4).
            if self.state.load(Ordering::Acquire) == HELD {
                self.deadline.is_gone(now);
            }
            return Err(self.deadline.error());
        }
        if self.deadline.extend(now, valid_until(sent, self.ttl)) { Ok(()) } else { Err(self.deadline.error()) }
    }

    async fn release(&self, give_up: Moment) -> Result<Release> {
        let before = self.state.load(Ordering::Acquire);
        match before {
            RELEASED => return Ok(Release::Released),
            LOST => return Ok(Release::AlreadyLost),
            _ => self.state.store(RELEASING, Ordering::Release),
        }
        let removed = self.shared.release(&self.keys, &self.id, self.mode, give_up).await?;
        let now = self.shared.connection.clock().now();
        // Rule R4: an earlier try may have released it.
        if removed || (before == RELEASING && now < self.deadline.at()) {
            self.state.store(RELEASED, Ordering::Release);
            return Ok(Release::Released);
        }
        self.deadline.is_gone(now);
        self.state.store(LOST, Ordering::Release);
        Ok(Release::AlreadyLost)
    }
}
