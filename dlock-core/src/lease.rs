//! [`Lease`]: what a store granted to a holder, and [`Deadline`]: until when it may be believed.

use crate::{Error, FencingToken, HolderId, Moment, Result};
use async_trait::async_trait;
use serde::Serialize;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, SetOnce};

/// The store's grant of a lock to one holder, for its TTL.
///
/// The obligations bind every backend; the suite has a case for each number that is not called a rule.
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync + 'static {
    /// The acquisition that holds. Not always the request's first id: see [`Request::start_anew`](crate::Request::start_anew).
    fn holder(&self) -> HolderId;

    /// The fencing token.
    ///
    /// - F1 to F7. It is larger than that of every earlier lease of the key: over release, expiry, clients, modes and
    ///   purge of the lock's data, and over the server's restart or loss of data where
    ///   [`TokenSurvives`](crate::TokenSurvives) says so.
    /// - F8. A renewal does not change it. F9. It is the one that `inspect` shows.
    fn token(&self) -> FencingToken;

    /// For a shared or permit lease: the last exclusive token at its grant, to be compared in place of
    /// [`Lease::token`]; for an exclusive one its own token. `None` where the store cannot know it.
    ///
    /// - F10. It is the last exclusive token, or, where that was purged, any number from there up to below the lease's
    ///   own token: the comparison comes out the same.
    fn fence_floor(&self) -> Option<FencingToken>;

    /// The TTL as granted: the requested one or longer (L8).
    fn ttl(&self) -> Duration;

    /// Until when the lease may be believed: the one truth, from which `is_valid`, `lost` and renewal follow. The
    /// leases of one session share the session's.
    ///
    /// - L7. It is never past the moment at which another could get the lock. Count from before the request was *sent*
    ///   ([`valid_until`]), never from the reply.
    /// - L10. It is final: [`Deadline::extend`] refuses once it has passed.
    /// - Where the store itself says that the lease ended, the backend calls [`Deadline::end`] at once.
    fn deadline(&self) -> &Deadline;

    /// Extends the lease by its TTL from now, and moves [`Lease::deadline`].
    ///
    /// - L3. Once another was granted the lock, or the store no longer knows this holder: [`ErrorKind::LeaseLost`], and
    ///   nothing in the store changes. It touches only what exists: it never creates (L6).
    /// - Rule K1: it answers by `give_up`, whatever the socket does: [`ErrorKind::Unavailable`].
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// As above. After any error but `LeaseLost` the lease is what it was, or extended without our knowledge.
    ///
    /// [`ErrorKind::LeaseLost`]: crate::ErrorKind::LeaseLost
    /// [`ErrorKind::Unavailable`]: crate::ErrorKind::Unavailable
    async fn renew(&self, give_up: Moment) -> Result<()>;

    /// Gives the lock up.
    ///
    /// - L4. A lease that another has since taken is [`Release::AlreadyLost`], and the new holder keeps the lock: the
    ///   release is conditional on the holder id. L5. It is idempotent.
    /// - Rule R4: a repeated release that finds its id gone answers `Released` if its reply came before the deadline, else
    ///   `AlreadyLost`.
    /// - Rule K1: it answers by `give_up`. A waiter is granted by the same request where the store can.
    ///
    /// # Cancel safety
    /// Not cancel-safe: core never drops it.
    ///
    /// # Errors
    /// When the store could not be asked: repeat it, or wait for the TTL.
    async fn release(&self, give_up: Moment) -> Result<Release>;
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The lock was held until now, and is given up.
    Released,
    /// The lease had ended before.
    AlreadyLost,
}

/// Why a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LostCause {
    /// It was not renewed in time: the store could not be reached, or this process was stopped.
    Expired,
    /// Another client broke it, or took the lock.
    Revoked,
    /// The session that kept it ended.
    SessionEnded,
    /// It reached its `max_hold`.
    MaxHold,
    /// Its holder gave it up: the guard was released or dropped, or the client closed.
    Released,
}

impl LostCause {
    /// As one word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LostCause::Expired => "expired",
            LostCause::Revoked => "revoked",
            LostCause::SessionEnded => "session_ended",
            LostCause::MaxHold => "max_hold",
            LostCause::Released => "released",
        }
    }
}

impl fmt::Display for LostCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LostCause::Expired => "it could not be renewed before its deadline",
            LostCause::Revoked => "it was broken or taken by another",
            LostCause::SessionEnded => "the store ended its session",
            LostCause::MaxHold => "it was held as long as max_hold allows",
            LostCause::Released => "its holder gave it up",
        })
    }
}

/// The moment until which a lease granted for `ttl` on a request sent at `sent` may be believed (rule V1): less 1% of
/// the TTL, at least 2 ms, for the drift between two clocks.
pub fn valid_until(sent: Moment, ttl: Duration) -> Moment {
    sent + ttl.saturating_sub(drift(ttl))
}

/// What V1 takes off a TTL: 1%, at least 2 ms.
pub fn drift(ttl: Duration) -> Duration {
    (ttl / 100).max(Duration::from_millis(2))
}

/// Until when a lease may be believed. Clones share it.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    at: AtomicU64,
    moved: Notify,
    cause: SetOnce<LostCause>,
    session: Option<Deadline>,
}

impl Deadline {
    /// A deadline of its own.
    pub fn new(at: Moment) -> Self {
        Self::with(at, None)
    }

    /// The deadline of one lease in a session: the session's, unless this lease ends before.
    pub fn in_session(session: &Deadline) -> Self {
        Self::with(Moment::MAX, Some(session.clone()))
    }

    fn with(at: Moment, session: Option<Deadline>) -> Self {
        let at = AtomicU64::new(at.as_nanos());
        Self(Arc::new(Inner { at, moved: Notify::new(), cause: SetOnce::new(), session }))
    }

    /// The moment; [`Moment::MIN`] once the store has ended the lease.
    pub fn at(&self) -> Moment {
        let own = Moment::from_nanos(self.0.at.load(Ordering::Acquire));
        match &self.0.session {
            Some(session) => own.min(session.at()),
            None => own,
        }
    }

    /// Moves the deadline to `to` if it is later. `false`, and nothing changes, if it has passed at `now` or was ended:
    /// a late renewal revives nothing.
    pub fn extend(&self, now: Moment, to: Moment) -> bool {
        let extended = self.0.at.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
            (now.as_nanos() < at).then(|| at.max(to.as_nanos()))
        });
        self.0.moved.notify_waiters();
        extended.is_ok()
    }

    /// The store ended the lease: the deadline is past for good. The first cause stays.
    pub fn end(&self, cause: LostCause) {
        // The cause first: who sees a deadline that is past must not take it for one that ran out.
        let _known = self.0.cause.set(cause);
        self.0.at.store(Moment::MIN.as_nanos(), Ordering::Release);
        self.0.moved.notify_waiters();
    }

    /// The store was seen without this lease at `now`, and not by its holder's doing: it ran out if its deadline had
    /// passed, else somebody ended it. A cause that is known stays.
    pub fn is_gone(&self, now: Moment) {
        if self.cause().is_none() {
            self.end(if now < self.at() { LostCause::Revoked } else { LostCause::Expired });
        }
    }

    /// Why the store ended the lease, if it did.
    pub fn cause(&self) -> Option<LostCause> {
        let own = self.0.cause.get().copied();
        own.or_else(|| self.0.session.as_ref().and_then(Deadline::cause))
    }

    /// Resolves when the store ends the lease; never if it does not.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn ended(&self) -> LostCause {
        match &self.0.session {
            None => *self.0.cause.wait().await,
            Some(session) => tokio::select! {
                cause = self.0.cause.wait() => *cause,
                cause = session.0.cause.wait() => *cause,
            },
        }
    }

    /// The deadline once it is another than `since`.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn moved(&self, since: Moment) -> Moment {
        let session = self.0.session.as_ref().unwrap_or(self);
        loop {
            let (mut own, mut sessions) = (pin!(self.0.moved.notified()), pin!(session.0.moved.notified()));
            own.as_mut().enable();
            sessions.as_mut().enable();
            let at = self.at();
            if at != since {
                return at;
            }
            tokio::select! {
                () = own => {}
                () = sessions => {}
            }
        }
    }

    /// The error of a renewal whose reply came too late.
    pub fn error(&self) -> Error {
        Error::lost(self.cause().unwrap_or(LostCause::Expired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_deadline_that_passed_or_was_ended_revives_by_nothing() {
        let deadline = Deadline::new(at(10));
        assert!(deadline.extend(at(9), at(20)));
        assert!(deadline.extend(at(9), at(15)) && deadline.at() == at(20), "never moved back");
        assert!(!deadline.extend(at(20), at(30)));
        assert!(deadline.extend(at(19), at(30)));
        deadline.end(LostCause::Revoked);
        deadline.end(LostCause::Expired);
        assert!(!deadline.extend(at(1), at(40)));
        assert_eq!((deadline.at(), deadline.cause()), (Moment::MIN, Some(LostCause::Revoked)));
    }

    #[test]
    fn a_lease_that_is_gone_was_ended_before_its_deadline_and_ran_out_after_it() {
        for (seen, cause) in [(9, LostCause::Revoked), (10, LostCause::Expired)] {
            let deadline = Deadline::new(at(10));
            deadline.is_gone(at(seen));
            deadline.is_gone(at(20));
            assert_eq!(deadline.cause(), Some(cause), "seen gone at {seen}");
        }
        let session = Deadline::new(at(10));
        let lease = Deadline::in_session(&session);
        session.end(LostCause::SessionEnded);
        lease.is_gone(at(9));
        assert_eq!(lease.cause(), Some(LostCause::SessionEnded));
    }

    #[tokio::test]
    async fn a_lease_ends_with_its_session_or_alone() {
        let session = Deadline::new(at(10));
        let (one, two) = (Deadline::in_session(&session), Deadline::in_session(&session));
        one.end(LostCause::Revoked);
        assert_eq!((one.ended().await, two.at()), (LostCause::Revoked, at(10)));
        session.end(LostCause::SessionEnded);
        assert_eq!((two.ended().await, two.at()), (LostCause::SessionEnded, Moment::MIN));
    }

    #[test]
    fn validity_is_counted_from_sending_less_drift() {
        assert_eq!(valid_until(at(100), Duration::from_secs(100)), at(199));
        assert_eq!(at(101).since(valid_until(at(100), Duration::from_secs(1))), Duration::from_millis(10));
        assert_eq!(drift(Duration::from_millis(50)), Duration::from_millis(2));
    }
}
