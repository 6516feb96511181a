//! Backends that are wrong on purpose: a thin wrapper round the memory backend, with one flaw.

mod backend;
mod lease;
mod lined;
mod store;

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness as Suite, Proxy};
use dlock_core::memory::Memory;
use dlock_core::record::{RecordBackend, RecordStore};
use dlock_core::{Error, ErrorKind, LockBackend, LockKey, Moment, Result};
use std::sync::Arc;
use std::time::Duration;

macro_rules! flaws {
    ($($flaw:ident),* $(,)?) => {
        /// What is wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Flaw {
            $($flaw),*
        }

        impl Flaw {
            /// How many there are.
            pub(crate) const COUNT: usize = [$(Flaw::$flaw),*].len();
        }
    };
}

flaws! {
    RaceLost, LowerCase, CutKey, SwallowedSlash, NestedKeys, ReleaseForgotten, LongTtl, ShortTtl, RenewTakesOver,
    ReleaseOfAnother, SecondReleaseOfAnother, RenewRevives, ValidFromReply, TtlRoundedDown, LateRenewRevives,
    HandOverBelievedLonger, TokenConstant, TokenResetByExpiry, TokenOfEachClient, VersionsStartAgain, TokenRenewed,
    WrongTokenShown, FloorIsOwnToken, NeverWoken, WaiterLeftBehind, Lifo, PermitWakeLost, LockLeftWhenCancelled,
    SharedIsExclusive, TokenShared, ExclusiveIsShared, OnePermitTooMany, DisagreementIgnored, WrongHolderShown,
    ListStopsEarly, BreaksWhoeverHolds, OverwritesGarbage, RetryLocksItselfOut, AcquireInDoubtLeft, LateGrantBelieved,
    LostReleaseForgotten, LostReleaseIsLoss, RenewalUnansweredIsLoss, WithdrawnTwiceFails, TokenOfEachCall, UndoOvertaken,
    RefusedIsHeld, LostByReplyOnly, WaitsForever, DeadForGood, LostUndoForgotten, PasswordTold, AnyCertificateWillDo,
}

/// One store with a flaw, or with none.
#[derive(Debug)]
pub(crate) struct Harness {
    memory: Memory,
    store: store::Store,
    flaw: Option<Flaw>,
    tokens: backend::Tokens,
    gone: lined::Gone,
}

impl Harness {
    pub(crate) fn new(flaw: Option<Flaw>) -> Self {
        let memory = Memory::new();
        let store = store::Store::new(memory.store(), flaw);
        Self { memory, store, flaw, tokens: backend::Tokens::default(), gone: lined::Gone::default() }
    }
}

#[async_trait]
impl Suite for Harness {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        let inner = Arc::new(RecordBackend::new(self.store.clone()));
        Ok(Arc::new(backend::Backend::new(inner, self.flaw, self.tokens.clone())))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Purge, Fault::Garbage, Fault::Proxy, Fault::Twice, Fault::Password, Fault::Tls]
    }

    async fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::in_process())
    }

    async fn proxied_client(&self, proxy: &Proxy, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        let memory = Arc::new(RecordBackend::new(self.store.clone()));
        let remembers = (self.gone.clone(), self.flaw != Some(Flaw::UndoOvertaken));
        let lined = lined::Lined::connect(memory, proxy, op_timeout, remembers).await?;
        Ok(Arc::new(backend::Backend::new(Arc::new(lined), self.flaw, self.tokens.clone())))
    }

    async fn client_with_password(&self, password: &str) -> Result<Arc<dyn LockBackend>> {
        let told = if self.flaw == Some(Flaw::PasswordTold) { password } else { "" };
        Err(Error::new(ErrorKind::Unauthorized, format!("the credentials :{told}@ are refused")))
    }

    async fn client_by_tls(&self, _password: &str) -> Result<Arc<dyn LockBackend>> {
        if self.flaw == Some(Flaw::AnyCertificateWillDo) {
            return self.client().await;
        }
        Err(Error::new(ErrorKind::Unavailable, "the server's certificate is of an unknown issuer"))
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        if let Some(version) = self.store.read(key, Moment::MAX).await?.version {
            self.store.purge(key, &version).await?;
        }
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        self.memory.store().put_bytes(key, b"{ no record");
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        Ok(self.memory.store().bytes(key).unwrap_or_default())
    }
}
