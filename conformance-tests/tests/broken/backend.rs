//! Flaws of a backend.

use super::{Flaw, lease};
use async_trait::async_trait;
use dlock_core::{
    Attempt, Capabilities, Clock, Error, ErrorKind, FencingToken, HolderId, Lease, LockBackend, LockInfo, LockKey,
    Mode, Request, Result, Ttl,
};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Tokens that the flaws give in place of the store's: of each key, the last one and whether it was released.
pub(crate) type Tokens = Arc<Mutex<HashMap<LockKey, (u64, Arc<dyn Lease>)>>>;

/// A backend with a flaw.
#[derive(Debug)]
pub(crate) struct Backend {
    inner: Arc<dyn LockBackend>,
    flaw: Option<Flaw>,
    tokens: Tokens,
    own_tokens: AtomicU64,
    dead: AtomicBool,
}

impl Backend {
    pub(crate) fn new(inner: Arc<dyn LockBackend>, flaw: Option<Flaw>, tokens: Tokens) -> Self {
        Self { inner, flaw, tokens, own_tokens: AtomicU64::new(0), dead: AtomicBool::new(false) }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn key(&self, key: &LockKey) -> LockKey {
        let text = key.as_str();
        let other = match self.flaw {
            Some(Flaw::LowerCase) => text.to_lowercase(),
            Some(Flaw::CutKey) => text.chars().take(64).collect(),
            Some(Flaw::SwallowedSlash) => text.replace('/', ""),
            _ => return key.clone(),
        };
        LockKey::new(other).unwrap()
    }

    /// The request as the flaw passes it on: the same acquisition, so that the suite finds its id.
    fn request(&self, request: &Request) -> Request {
        let ttl = match self.flaw {
            Some(Flaw::LongTtl) => Ttl::MAX,
            Some(Flaw::ShortTtl) => Ttl::new((request.ttl().get() / 10).max(Ttl::MIN.get())).unwrap(),
            _ => request.ttl(),
        };
        let mode = match (self.flaw, request.mode()) {
            (Some(Flaw::SharedIsExclusive), Mode::Shared) => Mode::Exclusive,
            (Some(Flaw::ExclusiveIsShared), Mode::Exclusive) => Mode::Shared,
            (Some(Flaw::OnePermitTooMany), Mode::Permit { limit }) => Mode::Permit { limit: limit.saturating_add(1) },
            (Some(Flaw::DisagreementIgnored), Mode::Permit { .. }) => {
                Mode::Permit { limit: NonZeroU32::new(9).unwrap() }
            }
            (_, mode) => mode,
        };
        let request = if self.has(Flaw::RetryLocksItselfOut) {
            Request::new(request.key().clone()).with_label(request.label()).with_op_timeout(request.op_timeout())
        } else if self.has(Flaw::WaitsForever) {
            request.clone().with_op_timeout(Duration::from_secs(3600))
        } else {
            request.clone()
        };
        let key = self.key(request.key());
        request.with_key(key).with_ttl(ttl).with_mode(mode)
    }

    async fn attempt(&self, attempt: Attempt, request: &Request) -> Attempt {
        let Attempt::Acquired(inner) = attempt else {
            if self.has(Flaw::RaceLost) {
                return self.pretend(request).await;
            }
            return attempt;
        };
        let ttl = request.ttl().get();
        if self.has(Flaw::ValidFromReply) && !request.was_queued() {
            self.clock().sleep(ttl / 2).await;
        }
        Attempt::Acquired(self.lease(inner, request, ttl))
    }

    fn lease(&self, inner: Arc<dyn Lease>, request: &Request, ttl: Duration) -> Arc<dyn Lease> {
        let clock = self.clock();
        let token = self.token(&inner, request.key());
        let shown = if self.has(Flaw::TtlRoundedDown) { ttl - Duration::from_millis(1) } else { ttl };
        Arc::new(lease::Broken {
            flaw: self.flaw,
            store: self.inner.clone(),
            request: self.request(request),
            token: AtomicU64::new(token),
            ttl: shown,
            deadline: lease::deadline(self.flaw, &inner, clock.now(), ttl),
            released: AtomicBool::new(false),
            inner,
        })
    }

    fn token(&self, inner: &Arc<dyn Lease>, key: &LockKey) -> u64 {
        let mut tokens = self.tokens.lock().unwrap();
        let last = tokens.get(key).cloned();
        let token = match (self.flaw, last) {
            (Some(Flaw::TokenConstant), _) => 1,
            (Some(Flaw::TokenOfEachClient | Flaw::TokenOfEachCall), _) => {
                self.own_tokens.fetch_add(1, Ordering::SeqCst) + 1
            }
            (Some(Flaw::TokenResetByExpiry), Some((_, lease))) if lease.deadline().at() <= self.clock().now() => 1,
            (Some(Flaw::TokenResetByExpiry), last) => last.map_or(1, |(token, _)| token + 1),
            // Given to two shared holders.
            (Some(Flaw::TokenShared), Some((token, lease))) if lease.fence_floor() != Some(lease.token()) => token,
            _ => inner.token().0,
        };
        tokens.insert(key.clone(), (token, inner.clone()));
        token
    }

    /// A lease that no store granted.
    async fn pretend(&self, request: &Request) -> Attempt {
        let own = dlock_core::memory::Memory::new();
        let Ok(Attempt::Acquired(inner)) = own.try_acquire(request).await else {
            unreachable!("its own store is empty")
        };
        Attempt::Acquired(self.lease(inner, request, request.ttl().get()))
    }

    /// Looks every three seconds, without a place in the queue.
    async fn poll(&self, request: &Request) -> Result<Attempt> {
        let clock = self.clock();
        loop {
            let attempt = self.inner.try_acquire(&self.request(request)).await?;
            if matches!(attempt, Attempt::Acquired(_)) || request.cancel().is_fired() {
                return Ok(attempt);
            }
            tokio::select! {
                () = request.cancel().fired() => {}
                () = clock.sleep(Duration::from_secs(3)) => {}
            }
        }
    }

    async fn is_nested(&self, key: &LockKey) -> Result<bool> {
        let all: Vec<LockInfo> = self.inner.list("").try_collect().await?;
        Ok(all
            .iter()
            .any(|info| key.as_str().strip_prefix(info.key.as_str()).is_some_and(|rest| rest.starts_with('/'))))
    }

    fn shown(&self, mut info: LockInfo) -> LockInfo {
        for holder in &mut info.holders {
            match self.flaw {
                Some(Flaw::WrongHolderShown) => holder.id = HolderId::random(),
                Some(Flaw::WrongTokenShown) => holder.token = Some(FencingToken(1)),
                _ => {}
            }
        }
        info
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Backend {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        if self.has(Flaw::NestedKeys) && self.is_nested(request.key()).await? {
            return Ok(Attempt::Held(LockInfo::free(request.key().clone())));
        }
        let asked = match self.inner.try_acquire(&self.request(request)).await {
            Err(_) if self.has(Flaw::RefusedIsHeld) => Ok(Attempt::Held(LockInfo::free(request.key().clone()))),
            Err(error) if self.has(Flaw::DeadForGood) => {
                self.dead.store(true, Ordering::SeqCst);
                Err(error)
            }
            Ok(_) if self.dead.load(Ordering::SeqCst) => {
                Err(Error::new(ErrorKind::Unavailable, "no connection is left"))
            }
            asked => asked,
        };
        Ok(self.attempt(asked?, request).await)
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        let polls = self.has(Flaw::NeverWoken)
            || (self.has(Flaw::PermitWakeLost) && matches!(request.mode(), Mode::Permit { .. }));
        let attempt = if polls {
            self.poll(request).await?
        } else if self.has(Flaw::WaiterLeftBehind) || self.has(Flaw::LockLeftWhenCancelled) {
            let (inner, deaf) = (self.inner.clone(), self.request(request).without_cancel());
            let mut waiting = tokio::spawn(async move { inner.acquire(&deaf).await });
            tokio::select! {
                attempt = &mut waiting => attempt.expect("the waiter")?,
                () = request.cancel().fired() => {
                    if self.has(Flaw::WaiterLeftBehind) {
                        waiting.abort();
                    }
                    return Ok(Attempt::Held(LockInfo::free(request.key().clone())));
                }
            }
        } else {
            self.inner.acquire(&self.request(request)).await?
        };
        Ok(self.attempt(attempt, request).await)
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        if self.has(Flaw::AcquireInDoubtLeft) {
            return Ok(());
        }
        if self.has(Flaw::WithdrawnTwiceFails) {
            let info = self.inner.inspect(&self.key(request.key())).await?;
            if !info.holders.iter().any(|holder| holder.id == request.holder()) {
                return Err(Error::new(ErrorKind::Unexpected, "there is no such acquisition"));
            }
        }
        match self.inner.withdraw(&self.request(request)).await {
            Err(_) if self.has(Flaw::LostUndoForgotten) => Ok(()),
            withdrawn => withdrawn,
        }
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        let mut info = self.shown(self.inner.inspect(&self.key(key)).await?);
        info.key = key.clone();
        Ok(info)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        let most = if self.has(Flaw::ListStopsEarly) { 10 } else { usize::MAX };
        self.inner.list(prefix).take(most).boxed()
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        let key = self.key(key);
        let present = self.inner.inspect(&key).await?.holders.first().map(|holder| holder.id.clone());
        match present {
            Some(other) if self.has(Flaw::BreaksWhoeverHolds) => self.inner.break_lock(&key, &other).await,
            _ => self.inner.break_lock(&key, holder).await,
        }
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.inner.sign_of_life()
    }
}
