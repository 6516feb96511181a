//! [`LockGuard`] and [`Held`]: a lock that is held.

use crate::client::{Client, Terms};
use crate::in_place::{InPlace, named_future};
use crate::{
    Error, ErrorKind, FencingToken, HolderId, Lease, Lifetime, LockKey, LostCause, Moment, Release, Request, Result,
};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::SetOnce;

/// A held lock. It is renewed by itself until it is released or dropped.
///
/// Dropping it gives the lock up in the background: the store may get to know only after the drop, and not at all if
/// the process ends before; then the lock is free after its TTL. Await [`LockGuard::release`] to be sure.
///
/// The lock is not reentrant: asking for the same key again while a guard is alive waits for oneself.
#[must_use = "dropping the guard gives the lock up"]
pub struct LockGuard {
    held: Held,
    released: bool,
}

impl LockGuard {
    pub(crate) fn new(held: Held) -> Self {
        Self { held, released: false }
    }

    /// The shareable view of this lock, which does not keep it held.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// Gives the lock up and tells the store.
    ///
    /// # Cancel safety
    /// Cancel-safe: the release ends in the background.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) if it was no longer held: then somebody else may have
    /// worked under the lock. [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the store did not answer in
    /// time: the release is repeated in the background, and the TTL ends the lease in any case.
    pub fn release(mut self) -> ReleaseGuard {
        self.released = true;
        let held = self.held.clone();
        let client = held.0.client.clone();
        let before = held.give_up();
        ReleaseGuard(InPlace::new(client.runtime().clone(), None, client.tracked(held.release(before))))
    }
}

named_future! {
    /// The future of [`LockGuard::release`]. Dropped before it was awaited, it releases in the background.
    ReleaseGuard -> Result<()>
}

impl Drop for ReleaseGuard {
    fn drop(&mut self) {
        self.0.begin();
    }
}

impl Deref for LockGuard {
    type Target = Held;

    fn deref(&self) -> &Held {
        &self.held
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if !self.released {
            let before = self.held.give_up();
            self.held.0.client.in_background(self.held.clone().release(before));
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(&self.held.0).finish()
    }
}

/// The view of a held lock that tasks may share: it tells whether the lock is still held, and does not keep it.
#[derive(Clone)]
pub struct Held(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) client: Arc<Client>,
    pub(crate) lease: Arc<dyn Lease>,
    pub(crate) id: u64,
    key: LockKey,
    /// Of an acquisition of which a request may still be under way: it is withdrawn after the release (rule R3).
    in_doubt: Option<Box<Request>>,
    margin: Duration,
    since: Moment,
    hold_until: Moment,
    lost: SetOnce<LostCause>,
}

impl Held {
    pub(crate) fn new(client: Arc<Client>, lease: Arc<dyn Lease>, id: u64, request: &Request, terms: &Terms) -> Self {
        let since = client.clock().now();
        let hold_until = terms.max_hold.map_or(Moment::MAX, |most| since + most);
        let (margin, lost) = (terms.margin, SetOnce::new());
        // Who asked may have to begin anew, if this lease has run out already.
        let in_doubt = request.is_in_doubt().then(|| Box::new(request.as_it_is()));
        let key = request.key().clone();
        Self(Arc::new(Inner { client, lease, id, key, in_doubt, margin, since, hold_until, lost }))
    }

    /// The lock's key, prefix and all.
    pub fn key(&self) -> &LockKey {
        &self.0.key
    }

    /// The acquisition's id, as `inspect` shows it.
    pub fn holder(&self) -> HolderId {
        self.0.lease.holder()
    }

    /// The fencing token, larger than that of every earlier holder of this key. Hand it to the resource with each
    /// write.
    pub fn token(&self) -> FencingToken {
        self.0.lease.token()
    }

    /// For a shared or permit lock, the last exclusive token before it or a larger number that is less than its own token: see
    /// [`Gate::admit_shared`](crate::fence::Gate::admit_shared).
    pub fn fence_floor(&self) -> Option<FencingToken> {
        self.0.lease.fence_floor()
    }

    /// The TTL as the store granted it.
    pub fn ttl(&self) -> Duration {
        self.0.lease.ttl()
    }

    /// Whether the lock is held at this very moment, by the local clock alone: exact also right after the process was
    /// stopped or the machine suspended. Once `false`, always `false`.
    pub fn is_valid(&self) -> bool {
        self.lost_cause().is_none()
    }

    /// As [`Held::is_valid`], for `?`: what stands before each step that must not be done twice.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), with the cause.
    pub fn check(&self) -> Result<()> {
        self.lost_cause().map_or(Ok(()), |cause| Err(Error::lost(cause).during("keep", Some(self.key()))))
    }

    /// How long the lock is held if no renewal succeeds from now on; zero once it is lost.
    pub fn remaining(&self) -> Duration {
        match self.lost_cause() {
            None => self.valid_until().since(self.0.client.clock().now()),
            Some(_) => Duration::ZERO,
        }
    }

    /// The moment until which the lock is held if no renewal succeeds from now on: the lease's deadline less the
    /// margin, or the end that `max_hold` sets. Each renewal moves it.
    pub fn valid_until(&self) -> Moment {
        (self.0.lease.deadline().at() - self.0.margin).min(self.0.hold_until)
    }

    /// Why the lock is no longer held; `None` while it is.
    pub fn lost_cause(&self) -> Option<LostCause> {
        if let Some(cause) = self.0.lost.get() {
            return Some(*cause);
        }
        let cause = if let Some(cause) = self.0.lease.deadline().cause() {
            cause
        } else {
            let now = self.0.client.clock().now();
            if now >= self.0.hold_until {
                LostCause::MaxHold
            } else if now >= self.valid_until() {
                // It may have ended for another cause just now.
                self.0.lease.deadline().cause().unwrap_or(LostCause::Expired)
            } else {
                return None;
            }
        };
        Some(self.is_lost(cause))
    }

    /// Resolves when the lock is no longer held, with the cause: at its deadline (less the margin) at the latest, whatever
    /// the store or its connection does. It waits in the caller's own task; should the client's runtime be gone, it may be a
    /// second late after a suspend.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub fn lost(&self) -> impl Future<Output = LostCause> + Send + 'static + use<> {
        let held = self.clone();
        let runtime = self.0.client.runtime().clone();
        let mut lost = Box::pin(async move {
            loop {
                if let Some(cause) = held.lost_cause() {
                    return cause;
                }
                tokio::select! {
                    _ = held.0.lost.wait() => {}
                    _ = held.0.lease.deadline().ended() => {}
                    () = held.0.client.clock().sleep_until(held.valid_until()) => {}
                }
            }
        });
        // The timer is that of the caller's runtime; where there is none, the client's.
        std::future::poll_fn(move |context| {
            let _runtime = Handle::try_current().is_err().then(|| runtime.enter());
            lost.as_mut().poll(context)
        })
    }

    /// [`Held::valid_until`] once it is another than `since`: for those who watch over the holder from outside.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn renewed(&self, since: Moment) -> Moment {
        let mut deadline = self.0.lease.deadline().at();
        loop {
            let until = self.valid_until();
            if until != since {
                return until;
            }
            deadline = self.0.lease.deadline().moved(deadline).await;
        }
    }

    /// Whether no other renewal is needed until `max_hold` ends it.
    pub(crate) fn lasts_to_max_hold(&self) -> bool {
        self.0.hold_until <= self.0.lease.deadline().at() - self.0.margin
    }

    /// Settles that the lock is lost; the first cause stays. Answers the cause that stands.
    pub(crate) fn is_lost(&self, cause: LostCause) -> LostCause {
        let inner = &self.0;
        let first = self.settle(cause);
        if first {
            inner.client.observer().lost(cause);
            tracing::warn!(key = %inner.key, token = %inner.lease.token(), cause = cause.as_str(), "the lock was lost");
            // Rule V3: a renewal that comes through after the deadline must not keep others waiting. Before it, a lease that is
            // renewed no more ends by itself; one whose session lives on does not.
            let until = inner.lease.deadline().at();
            let ends = inner.client.capabilities().lifetime == Lifetime::Lease && inner.client.clock().now() < until;
            if matches!(cause, LostCause::Expired | LostCause::MaxHold) && !ends {
                let (client, lease) = (inner.client.clone(), inner.lease.clone());
                inner.client.in_background(async move {
                    tokio::select! {
                        () = client.clock().sleep_until(until) => {}
                        () = client.closed().fired() => {}
                    }
                    client.release(&lease).await
                });
            }
        }
        inner.lost.get().copied().unwrap_or(cause)
    }

    fn settle(&self, cause: LostCause) -> bool {
        let first = self.0.lost.set(cause).is_ok();
        if first {
            self.0.client.observer().ended(self.0.client.clock().now().since(self.0.since));
        }
        first
    }

    /// Ends renewal; from now on this lock counts as no longer held. Answers why it was lost before, if it was.
    pub(crate) fn give_up(&self) -> Option<LostCause> {
        let before = self.lost_cause();
        self.settle(LostCause::Released);
        self.0.client.keeper().forget(self.0.id);
        before
    }

    /// Tells the store; `before` is what [`Held::give_up`] answered.
    pub(crate) async fn release(self, before: Option<LostCause>) -> Result<()> {
        let inner = &self.0;
        if inner.client.keeper().is_stopped() {
            // A timer of a runtime that is gone would panic.
            let gone =
                || Error::new(ErrorKind::Closed, "the runtime that made the client is gone; the TTL ends the lock");
            let error = before.map_or_else(gone, Error::lost);
            return Err(inner.client.in_context(error, "release", &inner.key));
        }
        let released = match before {
            // The store itself said so: nothing of it is left there.
            Some(cause @ (LostCause::Revoked | LostCause::SessionEnded | LostCause::Released)) => {
                Err(Error::lost(cause))
            }
            Some(cause) => inner.client.release(&inner.lease).await.and(Err(Error::lost(cause))),
            None => match inner.client.release(&inner.lease).await {
                Ok(Release::Released) => Ok(()),
                Ok(Release::AlreadyLost) => Err(inner.lease.deadline().error()),
                Err(error) => Err(error),
            },
        };
        if let Some(request) = &inner.in_doubt {
            // What is still under way must not take the lock again, for nobody.
            inner.client.withdraw(request);
        }
        released.map_err(|error| inner.client.in_context(error, "release", &inner.key))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0).finish()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("key", &self.key)
            .field("holder", &self.lease.holder())
            .field("token", &self.lease.token())
            .field("lost", &self.lost.get())
            .finish_non_exhaustive()
    }
}
