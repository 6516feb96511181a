//! [`Case`]: one obligation, as a test.

use crate::{Env, Fault};
use dlock_core::{Capabilities, Lifetime, Wake};
use futures_util::future::LocalBoxFuture;

/// One obligation, as a test: it panics if it finds it broken.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, which begins with the obligation's number: `e1_a_second_try_is_told_who_holds`.
    pub name: &'static str,
    pub(crate) needs: &'static [Need],
    /// Whether it disturbs the whole store, so that no other case may run beside it.
    pub(crate) alone: bool,
    pub(crate) run: fn(Env) -> LocalBoxFuture<'static, ()>,
}

/// What a case needs of the backend or the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Shared locks.
    Shared,
    /// Permit locks.
    Permits,
    /// No shared locks.
    NoShared,
    /// No permit locks.
    NoPermits,
    /// Waiters in order.
    Fifo,
    /// Waiters that are told.
    Event,
    /// Waiters that `inspect` shows.
    Waiters,
    /// Leases that end by a TTL of their own.
    OwnTtl,
    /// Leases that live by a session.
    Session,
    /// Fence floors.
    Floor,
    /// Tokens that survive a restart.
    TokenOverRestart,
    /// Tokens that survive the loss of all data.
    TokenOverLoss,
    /// A client whose death is seen: every store of own TTLs, and a harness whose crash is a death.
    Crash,
    /// Something the harness can do.
    Can(Fault),
}

impl Need {
    /// Why the case can't run, if it can't.
    pub(crate) fn lacks(self, capabilities: &Capabilities, faults: &[Fault]) -> Option<String> {
        let session = capabilities.lifetime == Lifetime::Session;
        let (met, what) = match self {
            Need::Shared => (capabilities.shared, "no shared locks"),
            Need::Permits => (capabilities.permits, "no permit locks"),
            Need::NoShared => (!capabilities.shared, "it has shared locks"),
            Need::NoPermits => (!capabilities.permits, "it has permit locks"),
            Need::Fifo => (capabilities.fifo, "not FIFO"),
            Need::Event => (matches!(capabilities.wake, Wake::Event), "waiters poll"),
            Need::Waiters => (capabilities.shows.waiters, "waiters are not shown"),
            Need::OwnTtl => (!session, "leases live by their session"),
            Need::Session => (session, "no sessions"),
            Need::Floor => (capabilities.fence_floor, "no fence floors"),
            Need::TokenOverRestart => (capabilities.token_survives.restart, "tokens do not survive a restart"),
            Need::TokenOverLoss => {
                (capabilities.token_survives.data_loss, "tokens do not survive the loss of all data")
            }
            Need::Crash => (!session || faults.contains(&Fault::Death), "the harness can't crash a session"),
            Need::Can(fault) => {
                return (!faults.contains(&fault)).then(|| format!("the harness has no {fault:?}"));
            }
        };
        (!met).then(|| what.to_owned())
    }
}

/// All cases, those about one subject together.
pub fn cases() -> Vec<Case> {
    [
        crate::cases::exclusion::CASES,
        crate::cases::lease::CASES,
        crate::cases::fencing::CASES,
        crate::cases::waiting::CASES,
        crate::cases::cancellation::CASES,
        crate::cases::shared::CASES,
        crate::cases::looking::CASES,
        crate::cases::replies::CASES,
        crate::cases::faults::CASES,
        #[cfg(unix)]
        crate::cases::stopped::CASES,
        crate::cases::refused::CASES,
    ]
    .concat()
}

/// Declares the cases of a file: `name, [needs];` each an `async fn name(env: Env)`.
macro_rules! declare {
    ($($name:ident $(alone $alone:tt)? [$($need:expr),*];)*) => {
        pub(crate) const CASES: &[crate::Case] = &[$(crate::Case {
            name: stringify!($name),
            needs: &[$($need),*],
            alone: false $(|| stringify!($alone).len() > 0)?,
            run: |env| Box::pin($name(env)),
        }),*];
    };
}
pub(crate) use declare;
