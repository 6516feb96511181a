//! [`Client`]: what all locks of one client share.

use crate::backoff::backoff;
use crate::guard::{Held, LockGuard};
use crate::keeper::Keeper;
use crate::observe::Observer;
use crate::turns::Turns;
use crate::{
    Attempt, BoxFuture, Cancel, Capabilities, Clock, Effect, Error, ErrorKind, Lease, LockBackend, LockInfo, LockKey,
    Moment, Release, Request, Result,
};
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use futures_util::future::join_all;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What all locks of one client share: its backend, the runtime on which its background work ends, and its keeper.
pub(crate) struct Client {
    backend: Arc<dyn LockBackend>,
    capabilities: Capabilities,
    clock: Clock,
    runtime: Handle,
    keeper: Keeper,
    observer: Observer,
    settings: Settings,
    closed: Cancel,
    turns: Option<Turns>,
    /// The work that `close` waits for.
    tracker: TaskTracker,
}

/// What a client uses unless a lock says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) op_timeout: Duration,
    pub(crate) label: Arc<str>,
    pub(crate) prefix: Arc<str>,
    pub(crate) outage: Option<Duration>,
    pub(crate) local_queue: bool,
}

pin_project! {
    /// The work of one call. An async block would hold it three times.
    struct Work<F> {
        #[pin]
        work: F,
        client: Arc<Client>,
        // For this `close` waits.
        token: Option<TaskTrackerToken>,
        // From the second poll on it looks whether the client's runtime is there: the work itself does so first, and knows that
        // nothing was sent yet.
        begun: bool,
    }
}

impl<T, F: Future<Output = Result<T>>> Future for Work<F> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.token.get_or_insert_with(|| this.client.tracker.token());
        if std::mem::replace(this.begun, true) && this.client.keeper.is_stopped() {
            return Poll::Ready(Err(runtime_is_gone().with_effect(Effect::Unknown)));
        }
        this.work.poll(context)
    }
}

impl Client {
    pub(crate) fn new(backend: Arc<dyn LockBackend>, runtime: Handle, settings: Settings) -> Self {
        let (mut capabilities, clock) = (backend.capabilities(), backend.clock());
        // Clients take turns then, not their tasks.
        capabilities.fifo &= !settings.local_queue;
        Self {
            keeper: Keeper::start(&runtime, clock.clone(), capabilities.lifetime, settings.op_timeout),
            observer: Observer::new(backend.name()),
            backend,
            capabilities,
            clock,
            runtime,
            turns: settings.local_queue.then(Turns::default),
            settings,
            closed: Cancel::new(),
            tracker: TaskTracker::new(),
        }
    }

    pub(crate) fn backend(&self) -> &Arc<dyn LockBackend> {
        &self.backend
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    pub(crate) fn observer(&self) -> Observer {
        self.observer
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn closed(&self) -> &Cancel {
        &self.closed
    }

    /// The store's key of a caller's key.
    pub(crate) fn key(&self, key: &str) -> Result<LockKey> {
        // An empty key must not become the prefix alone.
        let key = LockKey::new(key)?;
        if self.settings.prefix.is_empty() { Ok(key) } else { LockKey::new(format!("{}/{key}", self.settings.prefix)) }
    }

    /// The caller's view of what the store shows.
    pub(crate) fn strip(&self, mut info: LockInfo) -> LockInfo {
        let own = info.key.as_str().strip_prefix(&*self.settings.prefix).and_then(|key| key.strip_prefix('/'));
        if let Some(Ok(key)) = own.filter(|_| !self.settings.prefix.is_empty()).map(LockKey::new) {
            info.key = key;
        }
        info
    }

    pub(crate) fn in_context(&self, error: Error, operation: &'static str, key: &LockKey) -> Error {
        error.with_backend(self.backend.name()).during(operation, Some(key))
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.is_fired() {
            Err(Error::new(ErrorKind::Closed, "the client was closed"))
        } else if self.keeper.is_stopped() {
            Err(runtime_is_gone())
        } else {
            Ok(())
        }
    }

    /// `work` in a box, for which `close` waits once it was begun. It ends with the client's runtime, whose timers and
    /// sockets it has: polled on another, they would panic then.
    pub(crate) fn begun<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<Result<T>> {
        Box::pin(Work { work, client: self.clone(), token: None, begun: false })
    }

    /// The same, for which `close` waits at once.
    pub(crate) fn tracked<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<Result<T>> {
        Box::pin(Work { work, client: self.clone(), token: Some(self.tracker.token()), begun: false })
    }

    /// Lets a call end that nobody awaits. On a runtime that is gone it does nothing.
    pub(crate) fn in_background<T>(&self, work: impl Future<Output = Result<T>> + Send + 'static) {
        self.runtime.spawn(self.tracker.track_future(async move {
            if let Err(error) = work.await {
                tracing::debug!(error = %error.chain(), "in the background");
            }
        }));
    }

    /// An answer of the store within `op_timeout`, for calls that only read.
    pub(crate) async fn bounded<T>(
        &self,
        operation: &'static str,
        key: Option<&LockKey>,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let until = self.clock.now() + self.settings.op_timeout;
        let answer = self.clock.timeout_at(until, call).await.unwrap_or_else(|| Err(self.no_answer()));
        answer.map_err(|error| error.with_backend(self.backend.name()).during(operation, key))
    }

    fn no_answer(&self) -> Error {
        let within = humantime::format_duration(self.settings.op_timeout);
        Error::new(ErrorKind::Unavailable, format!("the store gave no answer within {within}"))
    }

    /// Calls until it is answered or `until` has come.
    async fn persist<T, F: Future<Output = Result<T>>>(&self, until: Moment, mut call: impl FnMut() -> F) -> Result<T> {
        let (mut pauses, mut effect) = (backoff(), Effect::NotApplied);
        loop {
            let error = match call().await {
                Err(error) => error,
                answer => return answer,
            };
            // What an earlier call may have done the last one's error does not undo.
            if error.effect() == Effect::Unknown {
                effect = Effect::Unknown;
            }
            let again = self.clock.now() + pauses.next().unwrap_or_default();
            if !error.is_retryable() || again >= until {
                return Err(error.with_effect(effect));
            }
            self.clock.sleep_until(again).await;
        }
    }

    /// Gives a lease up, and goes on with that in the background when the store does not answer within `op_timeout`.
    pub(crate) async fn release(self: &Arc<Self>, lease: &Arc<dyn Lease>) -> Result<Release> {
        let op_timeout = self.settings.op_timeout;
        let first = self.clock.now() + op_timeout;
        let answer = self.persist(first, || lease.release(first)).await;
        if answer.as_ref().is_err_and(Error::is_retryable) {
            let (client, lease) = (self.clone(), lease.clone());
            self.in_background(async move {
                let last = client.clock.now() + lease.ttl() + op_timeout;
                client.persist(last, || lease.release(client.clock.now() + op_timeout)).await
            });
        }
        answer
    }

    /// Takes back an acquisition that nobody wants any more, until its TTL has done so.
    pub(crate) fn withdraw(self: &Arc<Self>, request: &Request) {
        // The id of now: the request may begin anew before the store is asked.
        let (client, request) = (self.clone(), request.as_it_is());
        self.in_background(async move {
            let last = client.clock.now() + request.ttl().get() + request.op_timeout();
            client.persist(last, || client.backend.withdraw(&request)).await
        });
    }

    fn withdraw_abandoned(self: &Arc<Self>, request: &Request) {
        for old in request.take_abandoned() {
            self.withdraw(&old);
        }
    }

    /// One attempt to acquire, repeated under the same id until it is answered.
    pub(crate) async fn attempt(self: &Arc<Self>, request: &Request) -> Result<Attempt> {
        let until = self.clock.now() + request.op_timeout();
        // With little time left a repeat would only be cut short, and say less than the error that is there.
        let last_repeat = until - request.op_timeout() / 2;
        let answer = self
            .persist(last_repeat, || async {
                // A repeat has what the ones before have left: together they take no longer than one may.
                let asked = request.clone().with_op_timeout(until.since(self.clock.now()));
                let answer = self.backend.try_acquire(&asked).await;
                answer.inspect_err(|error| request.doubt(error))
            })
            .await;
        self.withdraw_abandoned(request);
        if request.is_in_doubt() && !matches!(answer, Ok(Attempt::Acquired(_))) {
            self.withdraw(request);
        }
        answer
    }

    /// Waits for the lock. Failures are repeated until `op_timeout` if the store was never reached, and once it has
    /// answered for as long as `outage` (without end if that is `None`: the caller has a limit of its own).
    pub(crate) async fn contend(self: &Arc<Self>, request: &Request, outage: Option<Duration>) -> Result<Attempt> {
        let (start, mut pauses) = (self.clock.now(), backoff());
        request.fails_no_more();
        loop {
            let answer = self.backend.acquire(request).await;
            self.withdraw_abandoned(request);
            let error = match answer {
                Ok(Attempt::Held(_)) if !request.cancel().is_fired() => {
                    return Err(Error::new(ErrorKind::Unexpected, "the backend stopped waiting without being told to"));
                }
                Ok(attempt) => {
                    if request.is_in_doubt() && matches!(attempt, Attempt::Held(_)) {
                        self.withdraw(request);
                    }
                    return Ok(attempt);
                }
                Err(error) => error,
            };
            request.doubt(&error);
            let now = self.clock.now();
            if request.failing_since().is_none() {
                pauses = backoff();
            }
            let since = request.fails(now);
            let until = match outage {
                _ if !request.was_queued() => start + request.op_timeout(),
                Some(outage) => since + outage,
                None => Moment::MAX,
            };
            let again = now + pauses.next().unwrap_or_default();
            if !error.is_retryable() || again >= until || request.cancel().is_fired() {
                if request.is_in_doubt() || request.was_queued() {
                    self.withdraw(request);
                }
                return Err(error);
            }
            tracing::debug!(key = %request.key(), error = %error.chain(), "could not wait in the store; trying again");
            tokio::select! {
                () = self.clock.sleep_until(again) => {}
                () = request.cancel().fired() => {}
            }
        }
    }

    /// Where this client's acquisitions queue among themselves, if they do.
    pub(crate) fn turns(&self) -> Option<&Turns> {
        self.turns.as_ref()
    }

    /// Makes a guard of a lease. `None`, and the lease is released, if it had run out before its grant was seen.
    pub(crate) fn hold(self: &Arc<Self>, lease: Arc<dyn Lease>, request: &Request, terms: &Terms) -> Option<LockGuard> {
        let now = self.clock.now();
        let held = Held::new(self.clone(), lease, self.keeper.next_id(), request, terms);
        self.observer.acquired(now.since(terms.asked));
        self.keeper.keep(held.clone(), now);
        let guard = LockGuard::new(held);
        guard.is_valid().then_some(guard)
    }

    pub(crate) fn list(self: &Arc<Self>, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        if let Err(closed) = self.check_open() {
            return futures_util::stream::iter([Err(closed)]).boxed();
        }
        let prefix = match &*self.settings.prefix {
            "" => prefix.to_owned(),
            own => format!("{own}/{prefix}"),
        };
        let all = (self.clone(), Some(self.backend.list(&prefix)));
        let mut all = futures_util::stream::unfold(all, |(client, locks)| async move {
            let mut locks = locks?;
            let next = client.bounded("list", None, async { locks.next().await.transpose() }).await.transpose()?;
            // One lock's record that can't be read, or only by a newer version, hides no other.
            let is_one = |error: &Error| matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
            let goes_on = next.as_ref().err().is_none_or(is_one);
            Some((next.map(|info| client.strip(info)), (client, goes_on.then_some(locks))))
        })
        .boxed();
        // As `InPlace` and `begun` do.
        let (client, mut is_over) = (self.clone(), false);
        futures_util::stream::poll_fn(move |context| {
            if client.keeper.is_stopped() {
                let gone = (!std::mem::replace(&mut is_over, true)).then(|| Err(runtime_is_gone()));
                return Poll::Ready(gone);
            }
            let _runtime = client.runtime.enter();
            all.poll_next_unpin(context)
        })
        .boxed()
    }

    pub(crate) async fn close(self: Arc<Self>) -> Result<()> {
        self.closed.fire();
        let releases = join_all(self.keeper.all().into_iter().map(|held| {
            let before = held.give_up();
            held.release(before)
        }));
        let failed =
            releases.await.into_iter().filter_map(Result::err).find(|error| error.kind() != ErrorKind::LeaseLost);
        if self.keeper.is_stopped() {
            return failed.map_or(Ok(()), Err);
        }
        // What waits hears `closed` and withdraws; what does not end in time is ended by its TTL.
        self.tracker.close();
        let until = self.clock.now() + self.settings.op_timeout;
        self.clock.timeout_at(until, self.tracker.wait()).await;
        let closed =
            self.backend.close().await.map_err(|error| error.with_backend(self.backend.name()).during("close", None));
        failed.map_or(closed, Err)
    }
}

/// Nobody renews what is acquired then (rule V4).
fn runtime_is_gone() -> Error {
    Error::new(ErrorKind::Closed, "the runtime that made the client is gone; make another client")
}

/// What a lock asks for beyond the store's part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) asked: Moment,
    pub(crate) margin: Duration,
    pub(crate) max_hold: Option<Duration>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("backend", &self.backend)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
