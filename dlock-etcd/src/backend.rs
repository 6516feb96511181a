//! [`EtcdBackend`].

use crate::config::{PARAMETERS, Settings};
use crate::connection::Connection;
use crate::error::{from_etcd, no_answer};
use crate::line::Lines;
use crate::names::{Names, Span};
use crate::queue::Queue;
use crate::sessions::Sessions;
use crate::store::{Store, delete};
use crate::watches::Watches;
use async_trait::async_trait;
use dlock_core::{
    Attempt, Cancel, Capabilities, Clock, Driver, Error, HolderId, Lifetime, LockBackend, LockInfo, LockKey, Moment,
    Request, Result, Shows, StoreUrl, TokenSurvives, Ttl, TtlRange, Wake,
};
use etcd_client::{GetOptions, PutOptions, Txn, TxnOp};
use futures_core::stream::BoxStream;
use futures_util::FutureExt;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Locks in etcd. Clones share its connections and sessions.
#[derive(Clone)]
pub struct EtcdBackend(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) names: Names,
    pub(crate) op_timeout: Duration,
    pub(crate) runtime: Handle,
    pub(crate) sessions: Sessions,
    pub(crate) watches: Watches,
    pub(crate) lines: Lines,
    stop: Cancel,
}

/// Of how many sessions of one lock's holders it is asked at the most how long they still last.
const MOST_ASKED: usize = 32;

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.fire();
    }
}

impl EtcdBackend {
    /// What this backend can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        shared: true,
        permits: true,
        fifo: true,
        wake: Wake::Event,
        ttl: TtlRange { min: Duration::from_secs(1), step: Duration::from_secs(1), max: Ttl::MAX_DURATION },
        lifetime: Lifetime::Session,
        // The server looks twice a second for leases that have ended.
        lateness: Duration::from_secs(1),
        death_seen_within: None,
        token_survives: TokenSurvives { restart: true, data_loss: false },
        leases_survive_restart: true,
        fence_floor: true,
        shows: Shows { label: true, remaining: true, since: true, waiters: true },
    };

    /// Connects to the servers of an `etcd://` or `etcds://` URL; the crate's documentation tells its parts. The client
    /// belongs to the current tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Unavailable`](dlock_core::ErrorKind::Unavailable) when nothing answers within the URL's `op_timeout`,
    /// [`Unauthorized`](dlock_core::ErrorKind::Unauthorized) when the user is refused,
    /// [`InvalidConfig`](dlock_core::ErrorKind::InvalidConfig) for a URL that can't be.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(url: &StoreUrl) -> Result<Self> {
        let settings = Settings::read(url)?;
        let clock = Clock::system();
        let give_up = clock.now() + settings.op_timeout;
        let op_timeout = settings.op_timeout;
        let opened = Connection::open(settings.endpoints.clone(), settings.options, op_timeout, clock.clone());
        let connection = clock.timeout_at(give_up, opened).await.ok_or_else(no_answer)?.map_err(from_etcd)?;
        let (store, names, stop) = (Store { connection, clock, op_timeout }, settings.names, Cancel::new());
        // Connections are made when they are first used, each time to one host of several.
        let mut tries = if settings.endpoints.len() == 1 { 1 } else { 4 * settings.endpoints.len() };
        loop {
            tries -= 1;
            let options = GetOptions::new().with_keys_only().with_limit(1);
            match store.read(&names.all(), options, give_up).await {
                Err(error) if error.is_retryable() && tries > 0 => {}
                answer => break answer.map(drop)?,
            }
        }
        Ok(Self(Arc::new(Shared {
            sessions: Sessions::new(store.clone(), names.clone(), op_timeout, stop.clone()),
            watches: Watches::new(store.clone(), names.clone(), op_timeout, stop.clone()),
            lines: Lines::new(store.clone(), stop.clone()),
            runtime: Handle::current(),
            store,
            names,
            op_timeout,
            stop,
        })))
    }
}

#[cfg(test)]
impl EtcdBackend {
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }
}

impl Shared {
    async fn look(&self, key: &LockKey, give_up: Moment) -> Result<Queue> {
        let folder = self.names.folder(key);
        let (revision, kvs) = self.store.read(&Span::prefixed(&folder), GetOptions::new(), give_up).await?;
        Ok(Queue::read(&folder, revision, &kvs))
    }

    /// The lock, and how long its holders' sessions still last if nobody keeps them alive.
    pub(crate) async fn shown(&self, key: &LockKey, queue: &Queue, give_up: Moment) -> LockInfo {
        self.shown_with(key, queue, &mut HashMap::new(), give_up).await
    }

    async fn shown_with(
        &self,
        key: &LockKey,
        queue: &Queue,
        known: &mut HashMap<i64, Option<Duration>>,
        give_up: Moment,
    ) -> LockInfo {
        let mut info = queue.info(key);
        let held = &queue.entries[..info.holders.len()];
        // Held by no lease, it has no end.
        let mut unknown: Vec<_> = held.iter().map(|entry| entry.lease).filter(|lease| *lease != 0).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|lease| !known.contains_key(lease));
        unknown.truncate(MOST_ASKED);
        let asked = unknown.iter().map(|lease| self.store.time_to_live(*lease, false, give_up));
        let left = futures_util::future::join_all(asked).await;
        known.extend(unknown.into_iter().zip(left.into_iter().map(|left| left.ok().flatten().map(|(left, _)| left))));
        for (holder, entry) in info.holders.iter_mut().zip(held) {
            holder.remaining = known.get(&entry.lease).copied().flatten();
        }
        info
    }

    /// One page of locks after `start`, in the order of their names, and where the next page starts.
    async fn page(
        &self,
        span: &Span,
        known: &mut HashMap<i64, Option<Duration>>,
    ) -> Result<(Vec<LockInfo>, Option<Span>)> {
        const PAGE: usize = 500;
        let give_up = self.store.clock.now() + self.op_timeout;
        let mut size = PAGE;
        let (revision, kvs, whole) = loop {
            let options = GetOptions::new().with_limit(i64::try_from(size).unwrap_or(i64::MAX));
            let (revision, mut kvs) = self.store.read(span, options, give_up).await?;
            if kvs.len() < size {
                break (revision, kvs, true);
            }
            // The last folder may go on behind the page: it is for the next one.
            let last = kvs.last().map(|kv| folder_of(&self.names, kv.key()).to_vec()).unwrap_or_default();
            let before = kvs.iter().position(|kv| kv.key().starts_with(&last)).unwrap_or_default();
            if before > 0 {
                kvs.truncate(before);
                break (revision, kvs, false);
            }
            size *= 2;
        };
        let next = kvs.last().filter(|_| !whole).map(|kv| {
            let mut start = kv.key().to_vec();
            start.push(0);
            Span { start, end: span.end.clone() }
        });
        let mut infos = Vec::new();
        for folder in kvs.chunk_by(|a, b| folder_of(&self.names, a.key()) == folder_of(&self.names, b.key())) {
            // What is no lock's folder is not ours.
            if let Some(key) = self.names.lock_of(folder[0].key()) {
                let queue = Queue::read(&self.names.folder(&key), revision, folder);
                infos.push(self.shown_with(&key, &queue, known, give_up).await);
            }
        }
        Ok((infos, next))
    }
}

/// The folder in which a key is, its slash included; the whole key if it is in none.
fn folder_of<'a>(names: &Names, key: &'a [u8]) -> &'a [u8] {
    let prefix = names.all().start.len();
    let slash = key.iter().skip(prefix).position(|byte| *byte == b'/');
    &key[..slash.map_or(key.len(), |slash| prefix + slash + 1)]
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for EtcdBackend {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn clock(&self) -> Clock {
        self.0.store.clock.clone()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        self.0.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        self.0.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let shared = &self.0;
        let key = shared.names.entry(request.key(), &request.holder(), request.mode());
        let give_up = shared.store.clock.now() + request.op_timeout();
        if let Some(session) = shared.sessions.current(request.ttl()) {
            session.disclaim(&key);
            // A request of it that is still under way compares the mark's revision (rule R3).
            let options = PutOptions::new().with_lease(session.lease);
            let mark = TxnOp::put(shared.names.withdrawn(session.lease), "", Some(options));
            match shared.store.txn(Txn::new().and_then([delete(&key), mark]), give_up).await? {
                Some(reply) => session.withdrew(reply.revision),
                // The lease is gone, and all that stood under it; nothing under way can be put under it.
                None => session.is_gone(),
            }
            return Ok(());
        }
        // Its session has ended: what is under way ends with the lease, which is being revoked.
        shared.store.forget(&[key], give_up).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        let queue = self.0.look(key, Moment::MAX).await?;
        Ok(self.0.shown(key, &queue, Moment::MAX).await)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        let pages = (self.0.clone(), self.0.names.beginning(prefix), HashMap::new());
        let pages = futures_util::stream::try_unfold(pages, |(shared, span, mut known)| async move {
            let Some(span) = span else { return Ok::<_, Error>(None) };
            let (infos, next) = shared.page(&span, &mut known).await?;
            let infos = futures_util::stream::iter(infos.into_iter().map(Ok));
            Ok(Some((infos, (shared, next, known))))
        });
        futures_util::StreamExt::boxed(futures_util::TryStreamExt::try_flatten(pages))
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        let give_up = self.0.store.clock.now() + self.0.op_timeout;
        let queue = self.0.look(key, give_up).await?;
        match queue.entries.iter().find(|entry| entry.id == *holder) {
            Some(entry) => self.0.store.remove(&entry.key, entry.created, give_up).await,
            None => Ok(false),
        }
    }

    async fn close(&self) -> Result<()> {
        let closed = self.0.sessions.close().await;
        self.0.stop.fire();
        closed
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }
}

impl fmt::Debug for EtcdBackend {
    /// Shows the ids of its leases, as `etcdctl lease list` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBackend").field("leases", &self.0.sessions).finish_non_exhaustive()
    }
}

/// The driver of `etcd:` and `etcds:` URLs.
pub fn driver() -> Driver {
    Driver::new("etcd", &["etcd", "etcds"], PARAMETERS, |url| {
        async move { Ok(Arc::new(EtcdBackend::connect(&url).await?) as Arc<dyn LockBackend>) }.boxed()
    })
}
