//! [`Env`]: what a case works with.

use crate::{Harness, Proxy};
use dlock_core::{
    Attempt, Capabilities, Clock, Lease, LockBackend, LockInfo, LockKey, Locks, Moment, Release, Request, Ttl, Wake,
};
use std::sync::Arc;
use std::time::Duration;

/// What a user notices, beside what the backend declares.
pub(crate) const NOTICED: Duration = Duration::from_millis(250);
/// After this long a case that waits has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The operation timeout of clients on a faulty line.
pub(crate) const OP_TIMEOUT: Duration = Duration::from_secs(1);

/// What a case works with: a harness, and keys that no other case has.
#[derive(Clone, Debug)]
pub struct Env {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) capabilities: Capabilities,
    prefix: Arc<str>,
}

impl Env {
    pub(crate) fn new(harness: Arc<dyn Harness>, capabilities: Capabilities) -> Self {
        Self { harness, capabilities, prefix: format!("t{:012x}", rand::random::<u64>() >> 16).into() }
    }

    /// What all keys of this case begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn key(&self, key: &str) -> LockKey {
        LockKey::new(self.name(key)).expect("a good key")
    }

    pub(crate) async fn client(&self) -> Arc<dyn LockBackend> {
        self.harness.client().await.expect("a client")
    }

    pub(crate) async fn locks(&self) -> Locks {
        Locks::builder(self.client().await).ttl(self.ttl(2_000)).label("suite").build().expect("locks")
    }

    /// A line to the server, for faults.
    pub(crate) async fn line(&self) -> Proxy {
        self.harness.proxy().await.expect("a line")
    }

    /// A client on that line.
    pub(crate) async fn over(&self, line: &Proxy) -> Arc<dyn LockBackend> {
        self.harness.proxied_client(line, OP_TIMEOUT).await.expect("a client on the line")
    }

    /// A client on that line, whose locks do not end by their TTL within a case.
    pub(crate) async fn locks_over(&self, line: &Proxy) -> Locks {
        let builder = Locks::builder(self.over(line).await).ttl(self.ttl(60_000)).op_timeout(OP_TIMEOUT);
        builder.label("on a faulty line").build().expect("locks")
    }

    /// A TTL that the store keeps: at least so many milliseconds.
    pub(crate) fn ttl(&self, millis: u64) -> Duration {
        let range = self.capabilities.ttl;
        let ttl = Ttl::new(Duration::from_millis(millis).max(range.min)).expect("a good TTL");
        ttl.rounded_up_to(range.step).get()
    }

    /// The TTL of cases that wait for its end.
    pub(crate) fn short(&self) -> Duration {
        self.ttl(400)
    }

    /// A request with the TTL of cases that wait for its end.
    pub(crate) fn request(&self, key: &str) -> Request {
        Request::new(self.key(key)).with_label("suite").with_ttl(Ttl::new(self.short()).expect("a good TTL"))
    }

    /// A request with a TTL that does not end within a case.
    pub(crate) fn long(&self, key: &str) -> Request {
        self.request(key).with_ttl(Ttl::new(self.ttl(60_000)).expect("a good TTL"))
    }

    /// How soon a waiter knows of a release.
    pub(crate) fn wake(&self) -> Duration {
        match self.capabilities.wake {
            Wake::Event => NOTICED,
            Wake::Poll(apart) => apart + NOTICED,
        }
    }

    /// How long after its grant an unrenewed lease may end at the most.
    pub(crate) fn expiry(&self, ttl: Duration) -> Duration {
        ttl + self.capabilities.lateness + self.wake()
    }

    pub(crate) fn can(&self, fault: crate::Fault) -> bool {
        self.harness.faults().contains(&fault)
    }
}

/// Acquires at once, or fails the case.
pub(crate) async fn grab(client: &Arc<dyn LockBackend>, request: &Request) -> Arc<dyn Lease> {
    match client.try_acquire(request).await.expect("try_acquire") {
        Attempt::Acquired(lease) => lease,
        Attempt::Held(info) => panic!("{} is free, and was said to be held: {info:?}", request.key()),
    }
}

/// Finds the lock held, or fails the case.
pub(crate) async fn find_held(client: &Arc<dyn LockBackend>, request: &Request) -> LockInfo {
    match client.try_acquire(request).await.expect("try_acquire") {
        Attempt::Held(info) => info,
        Attempt::Acquired(_) => panic!("{} is held, and was granted a second time", request.key()),
    }
}

/// Waits for the lock in the background.
pub(crate) fn wait_for(
    client: &Arc<dyn LockBackend>,
    request: &Request,
) -> tokio::task::JoinHandle<(Arc<dyn Lease>, Moment)> {
    let (client, request) = (client.clone(), request.clone());
    tokio::spawn(async move {
        match client.acquire(&request).await.expect("acquire") {
            Attempt::Acquired(lease) => (lease, client.clock().now()),
            Attempt::Held(info) => panic!("gave up waiting without being told to: {info:?}"),
        }
    })
}

/// `future`'s output, or the case fails after `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// Looks until `done`, or the case fails after `limit`.
pub(crate) async fn eventually(limit: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let end = clock.now() + limit;
    while !done().await {
        assert!(clock.now() < end, "not within {limit:?}: {what}");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the store shows so many waiters.
pub(crate) async fn queued(client: &Arc<dyn LockBackend>, key: &LockKey, count: usize) {
    eventually(PATIENCE, "the waiters are in the queue", async || {
        client.inspect(key).await.expect("inspect").waiters.is_some_and(|waiters| waiters.len() == count)
    })
    .await;
}

pub(crate) async fn release(client: &Arc<dyn LockBackend>, lease: &Arc<dyn Lease>) -> Release {
    lease.release(client.clock().now() + Duration::from_secs(5)).await.expect("release")
}

pub(crate) async fn renew(client: &Arc<dyn LockBackend>, lease: &Arc<dyn Lease>) -> dlock_core::Result<()> {
    lease.renew(client.clock().now() + Duration::from_secs(5)).await
}
