//! The memory as if it were behind a line: each call is one request on it.

use async_trait::async_trait;
use dlock_conformance::Proxy;
use dlock_core::{
    Attempt, Capabilities, Clock, Deadline, Error, ErrorKind, FencingToken, HolderId, Lease, LockBackend, LockInfo,
    LockKey, Moment, Release, Request, Result,
};
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A backend behind a line.
#[derive(Debug)]
pub(crate) struct Lined {
    inner: Arc<dyn LockBackend>,
    line: Proxy,
    op_timeout: Duration,
    gone: Gone,
    /// Whether what was withdrawn stays so.
    remembers: bool,
}

/// The acquisitions that the store remembers as withdrawn (rule R3), for all clients.
pub(crate) type Gone = Arc<Mutex<HashSet<HolderId>>>;

impl Lined {
    /// A client that is connected, if the line lets it.
    pub(crate) async fn connect(
        inner: Arc<dyn LockBackend>,
        line: &Proxy,
        op_timeout: Duration,
        (gone, remembers): (Gone, bool),
    ) -> Result<Self> {
        line.carry(b"hello", op_timeout, || async { Ok(()) }.boxed()).await?;
        Ok(Self { inner, line: line.clone(), op_timeout, gone, remembers })
    }

    fn lease(&self, attempt: Attempt, key: &LockKey) -> Attempt {
        match attempt {
            Attempt::Acquired(inner) => {
                let (line, clock, deadline) = (self.line.clone(), self.clock(), Deadline::new(inner.deadline().at()));
                Attempt::Acquired(Arc::new(LinedLease { inner, line, clock, key: key.clone(), deadline }))
            }
            held @ Attempt::Held(_) => held,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Lined {
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
        let call = || {
            let (inner, request, gone) = (self.inner.clone(), request.clone(), self.gone.clone());
            async move {
                if gone.lock().unwrap().contains(&request.holder()) {
                    return Err(Error::new(ErrorKind::Unexpected, "withdrawn before"));
                }
                inner.try_acquire(&request).await
            }
            .boxed()
        };
        let attempt = self.line.carry(request.key().as_str().as_bytes(), request.op_timeout(), call).await?;
        Ok(self.lease(attempt, request.key()))
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        let call = || {
            let (inner, request, gone) = (self.inner.clone(), request.clone(), self.gone.clone());
            async move {
                if gone.lock().unwrap().contains(&request.holder()) {
                    return Err(Error::new(ErrorKind::Unexpected, "withdrawn before"));
                }
                inner.acquire(&request).await
            }
            .boxed()
        };
        let attempt = self.line.carry(request.key().as_str().as_bytes(), request.op_timeout(), call).await?;
        Ok(self.lease(attempt, request.key()))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let call = || {
            let (inner, request, gone) = (self.inner.clone(), request.clone(), self.gone.clone());
            if self.remembers {
                gone.lock().unwrap().insert(request.holder());
            }
            async move { inner.withdraw(&request).await }.boxed()
        };
        self.line.carry(request.key().as_str().as_bytes(), request.op_timeout(), call).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        let call = || {
            let (inner, key) = (self.inner.clone(), key.clone());
            async move { inner.inspect(&key).await }.boxed()
        };
        self.line.carry(key.as_str().as_bytes(), self.op_timeout, call).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        let (inner, line, op_timeout, prefix) =
            (self.inner.clone(), self.line.clone(), self.op_timeout, prefix.to_owned());
        let all = async move {
            let call = || inner.list(&prefix).try_collect::<Vec<_>>().boxed();
            let all = line.carry(prefix.as_bytes(), op_timeout, call).await?;
            Ok::<_, dlock_core::Error>(futures_util::stream::iter(all.into_iter().map(Ok)))
        };
        futures_util::stream::once(all).try_flatten().boxed()
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        let call = || {
            let (inner, key, holder) = (self.inner.clone(), key.clone(), holder.clone());
            async move { inner.break_lock(&key, &holder).await }.boxed()
        };
        self.line.carry(key.as_str().as_bytes(), self.op_timeout, call).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.inner.sign_of_life()
    }
}

/// A lease behind the line.
#[derive(Debug)]
struct LinedLease {
    inner: Arc<dyn Lease>,
    line: Proxy,
    clock: Clock,
    key: LockKey,
    /// Moved by what comes down the line.
    deadline: Deadline,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Lease for LinedLease {
    fn holder(&self) -> HolderId {
        self.inner.holder()
    }

    fn token(&self) -> FencingToken {
        self.inner.token()
    }

    fn fence_floor(&self) -> Option<FencingToken> {
        self.inner.fence_floor()
    }

    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    async fn renew(&self, give_up: Moment) -> Result<()> {
        let call = || {
            let inner = self.inner.clone();
            async move { inner.renew(give_up).await }.boxed()
        };
        let within = give_up.since(self.clock.now());
        match self.line.carry(self.key.as_str().as_bytes(), within, call).await {
            Ok(()) if self.deadline.extend(self.clock.now(), self.inner.deadline().at()) => Ok(()),
            Ok(()) => Err(self.deadline.error()),
            Err(error) => {
                if let Some(cause) = error.lost_cause() {
                    self.deadline.end(cause);
                }
                Err(error)
            }
        }
    }

    async fn release(&self, give_up: Moment) -> Result<Release> {
        let call = || {
            let inner = self.inner.clone();
            async move { inner.release(give_up).await }.boxed()
        };
        let within = give_up.since(self.clock.now());
        let released = self.line.carry(self.key.as_str().as_bytes(), within, call).await?;
        if let Some(cause) = self.inner.deadline().cause() {
            self.deadline.end(cause);
        }
        Ok(released)
    }
}
