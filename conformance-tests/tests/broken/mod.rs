//! Backends that are wrong on purpose: a thin wrapper round the memory backend, with one flaw.

mod backend;
mod lease;
mod store;

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness as Suite};
use dlock_core::memory::Memory;
use dlock_core::record::{RecordBackend, RecordStore};
use dlock_core::{LockBackend, LockKey, Result};
use std::sync::Arc;

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
    ListStopsEarly, BreaksWhoeverHolds, OverwritesGarbage,
}

/// One store with a flaw, or with none.
#[derive(Debug)]
pub(crate) struct Harness {
    memory: Memory,
    store: store::Store,
    flaw: Option<Flaw>,
    tokens: backend::Tokens,
}

impl Harness {
    pub(crate) fn new(flaw: Option<Flaw>) -> Self {
        let memory = Memory::new();
        let store = store::Store::new(memory.store(), flaw);
        Self { memory, store, flaw, tokens: backend::Tokens::default() }
    }
}

#[async_trait]
impl Suite for Harness {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        let inner = Arc::new(RecordBackend::new(self.store.clone()));
        Ok(Arc::new(backend::Backend::new(inner, self.flaw, self.tokens.clone())))
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Purge, Fault::Garbage]
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        if let Some(version) = self.store.read(key).await?.version {
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
