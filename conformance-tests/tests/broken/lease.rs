//! Flaws of a lease.

use super::Flaw;
use async_trait::async_trait;
use dlock_core::{
    Attempt, Deadline, Error, FencingToken, HolderId, Lease, LockBackend, LostCause, Moment, Release, Request, Result,
    valid_until,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A lease with a flaw.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) inner: Arc<dyn Lease>,
    pub(super) flaw: Option<Flaw>,
    pub(super) store: Arc<dyn LockBackend>,
    /// As it went to the store.
    pub(super) request: Request,
    pub(super) token: AtomicU64,
    pub(super) ttl: Duration,
    pub(super) deadline: Deadline,
    pub(super) released: AtomicBool,
}

impl Broken {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Takes the lock from whoever has it.
    async fn oust(&self) -> Result<()> {
        for holder in self.store.inspect(self.request.key()).await?.holders {
            self.store.break_lock(self.request.key(), &holder.id).await?;
        }
        Ok(())
    }

    async fn take_again(&self) -> Result<bool> {
        Ok(matches!(self.store.try_acquire(&self.request).await?, Attempt::Acquired(_)))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lease for Broken {
    fn holder(&self) -> HolderId {
        self.inner.holder()
    }

    fn token(&self) -> FencingToken {
        FencingToken(self.token.load(Ordering::SeqCst))
    }

    fn fence_floor(&self) -> Option<FencingToken> {
        if self.has(Flaw::FloorIsOwnToken) { Some(self.token()) } else { self.inner.fence_floor() }
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    async fn renew(&self, give_up: Moment) -> Result<()> {
        let renewed = self.inner.renew(give_up).await;
        if self.has(Flaw::TokenRenewed) {
            self.token.fetch_add(1, Ordering::SeqCst);
        }
        let Err(lost) = renewed else { return Ok(()) };
        if self.has(Flaw::RenewalUnansweredIsLoss) {
            self.deadline.end(LostCause::Expired);
            return Err(Error::lost(LostCause::Expired));
        }
        let late = self.store.clock().now() >= self.deadline.at();
        let again = match self.flaw {
            Some(Flaw::RenewRevives) => self.released.load(Ordering::SeqCst) && self.take_again().await?,
            Some(Flaw::RenewTakesOver) => {
                self.oust().await?;
                self.take_again().await?
            }
            Some(Flaw::LateRenewRevives) => late && self.take_again().await?,
            _ => false,
        };
        if again { Ok(()) } else { Err(lost) }
    }

    async fn release(&self, give_up: Moment) -> Result<Release> {
        if self.has(Flaw::ReleaseForgotten) {
            return Ok(Release::Released);
        }
        let again = self.released.swap(true, Ordering::SeqCst);
        let released = match self.inner.release(give_up).await {
            Err(_) if self.has(Flaw::LostReleaseForgotten) => Release::Released,
            // What it finds gone it takes for lost, though an earlier try of its own released it.
            Err(_) if self.has(Flaw::LostReleaseIsLoss) => Release::AlreadyLost,
            released => released?,
        };
        let ousts = (self.has(Flaw::SecondReleaseOfAnother) && again)
            || (self.has(Flaw::ReleaseOfAnother) && released == Release::AlreadyLost);
        if ousts {
            self.oust().await?;
            return Ok(Release::Released);
        }
        Ok(released)
    }
}

/// The deadline that a lease claims.
pub(super) fn deadline(flaw: Option<Flaw>, inner: &Arc<dyn Lease>, replied: Moment, ttl: Duration) -> Deadline {
    match flaw {
        Some(Flaw::ValidFromReply | Flaw::LateGrantBelieved | Flaw::LongTtl | Flaw::ShortTtl) => {
            Deadline::new(valid_until(replied, ttl))
        }
        Some(Flaw::LostByReplyOnly) => Deadline::new(replied + Duration::from_secs(600)),
        Some(Flaw::HandOverBelievedLonger) => Deadline::new(valid_until(replied, 2 * ttl)),
        _ => inner.deadline().clone(),
    }
}
