//! [`ZkBackend`].

use crate::config::Settings;
use crate::contend::{Waited, disagrees, session_lost};
use crate::error::from_zk;
use crate::node::folder;
use crate::place::locked;
use crate::queue::Queue;
use crate::sessions::Sessions;
use async_trait::async_trait;
use dlock_core::{
    Attempt, Capabilities, Clock, Driver, Error, HolderId, Lifetime, LockBackend, LockInfo, LockKey, Moment, Request,
    Result, Shows, Standing, StoreUrl, TokenSurvives, Ttl, TtlRange, Wake,
};
use futures_core::stream::BoxStream;
use futures_util::future::join;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Locks in ZooKeeper. Clones share its sessions.
#[derive(Clone, Debug)]
pub struct ZkBackend(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) sessions: Sessions,
    capabilities: Capabilities,
    /// Keys that were held by others when they were last tried.
    contended: Mutex<HashSet<LockKey>>,
}

/// How many contended keys are remembered.
const REMEMBERED: usize = 1_024;
/// How often an attempt looks again because a holder went while it left.
const LOOKS: usize = 8;
/// How many locks of a list are looked at together.
const LISTED: usize = 16;

impl ZkBackend {
    /// What this backend can do. The longest TTL is the server's `maxSessionTimeout`, 20 of its ticks unless it says
    /// otherwise.
    pub const CAPABILITIES: Capabilities = Capabilities {
        shared: true,
        permits: true,
        fifo: true,
        wake: Wake::Event,
        ttl: TtlRange { min: Duration::from_secs(1), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
        lifetime: Lifetime::Session,
        // The server rounds a session's end up to its next tick, of 2 s unless it says otherwise.
        lateness: Duration::from_millis(2_500),
        death_seen_within: None,
        token_survives: TokenSurvives { restart: true, data_loss: false },
        leases_survive_restart: true,
        fence_floor: false,
        shows: Shows { label: true, remaining: false, since: true, waiters: true },
    };

    /// Connects to the servers of a `zk://` URL.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Unavailable`](dlock_core::ErrorKind::Unavailable) when no server gives a session within the URL's `op_timeout`,
    /// [`Unsupported`](dlock_core::ErrorKind::Unsupported) when it is older than 3.6,
    /// [`InvalidConfig`](dlock_core::ErrorKind::InvalidConfig) when the URL is wrong.
    pub async fn connect(url: &StoreUrl) -> Result<Self> {
        let sessions = Sessions::connect(Settings::new(url)?, Clock::system()).await?;
        let mut capabilities = Self::CAPABILITIES;
        capabilities.ttl.max = sessions.longest;
        Ok(Self(Arc::new(Shared { sessions, capabilities, contended: Mutex::default() })))
    }

    /// The ids of the sessions that it has now, as the server's command `dump` shows them.
    pub fn session_ids(&self) -> Vec<i64> {
        self.0.sessions.all().iter().map(|session| session.id).collect()
    }

    pub(crate) fn folder(&self, key: &LockKey) -> String {
        folder(&self.0.sessions.settings().root, key)
    }

    pub(crate) fn give_up(&self, after: Duration) -> Moment {
        self.0.sessions.clock().now() + after
    }

    fn is_contended(&self, key: &LockKey) -> bool {
        locked(&self.0.contended).contains(key)
    }

    fn remember(&self, key: &LockKey, contended: bool) {
        let mut known = locked(&self.0.contended);
        if !contended {
            known.remove(key);
        } else if known.len() < REMEMBERED || known.contains(key) {
            known.insert(key.clone());
        } else {
            known.clear();
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for ZkBackend {
    fn name(&self) -> &'static str {
        "zookeeper"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn clock(&self) -> Clock {
        self.0.sessions.clock().clone()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        let (key, give_up) = (request.key(), self.give_up(request.op_timeout()));
        let session = self.0.sessions.get(request.ttl().get(), give_up).await?;
        // What was held a moment ago mostly still is, and looking costs the server less than a node that comes and goes.
        if self.is_contended(key) && session.places.find(&request.holder()).is_none() {
            let queue = session.list_anew(&self.folder(key), give_up).await?;
            if let Some(queue) = queue.filter(|queue| !queue.is_empty()) {
                match queue.standing_of_newcomer(request.mode()) {
                    Standing::Holds => {}
                    Standing::Waits { .. } => {
                        let info = self.held(&session, key, &queue, None, give_up).await.map_err(from_zk)?;
                        return Ok(Attempt::Held(info));
                    }
                    Standing::Disagrees(other) => return Err(disagrees(request.mode(), other)),
                }
            }
        }
        let mut at = session.join_queue(request, false, give_up).await?;
        for look in 0.. {
            let Some(index) = at.queue.position(&at.name) else {
                // Somebody removed it.
                session.places.forget(&at.place.id);
                request.start_anew();
                at = session.join_queue(request, false, give_up).await?;
                continue;
            };
            match at.queue.standing(index) {
                Standing::Holds => {
                    self.remember(key, false);
                    let granted = self.grant(&session, &at, request).await;
                    return granted.ok_or_else(|| session.not_done(&at.place, session_lost()));
                }
                Standing::Disagrees(other) => {
                    session.discard(&at.place, give_up).await?;
                    return Err(disagrees(request.mode(), other));
                }
                Standing::Waits { .. } => self.remember(key, true),
            }
            let (info, left) = join(self.held(&session, key, &at.queue, Some(&at.name), give_up), async {
                if look < LOOKS {
                    session.leave_if_held(&at, give_up).await
                } else {
                    session.discard(&at.place, give_up).await.map(|()| true)
                }
            })
            .await;
            if left.map_err(|error| session.not_done(&at.place, error))? {
                at.place.leave();
                session.places.forget(&at.place.id);
                return info.map(Attempt::Held).map_err(from_zk);
            }
            // A holder went while it was about to leave.
            let listed = session.list(&at.place.folder, give_up).await;
            let listed = listed.map_err(|error| session.not_done(&at.place, error))?;
            at.queue = listed.unwrap_or_else(|| Queue::new(&[]));
        }
        unreachable!("it looks until it has an answer")
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        let mut info = None;
        while !request.cancel().is_fired() {
            let give_up = self.give_up(request.op_timeout());
            let session = self.0.sessions.get(request.ttl().get(), give_up).await?;
            if request.was_queued() && session.places.find(&request.holder()).is_none() {
                // Its place was in a session that has ended (rule R6).
                request.start_anew();
            }
            match self.wait_in(&session, request, &mut info).await? {
                Waited::Granted(attempt) => return Ok(attempt),
                Waited::Cancelled => break,
                Waited::LostItsPlace => {
                    session.places.forget(&request.holder());
                    request.start_anew();
                }
            }
        }
        Ok(Attempt::Held(info.unwrap_or_else(|| LockInfo::free(request.key().clone()))))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let (id, give_up) = (request.holder(), self.give_up(request.op_timeout()));
        // Where no session knows of it, nothing was sent, or it ended with its session.
        for session in self.0.sessions.all() {
            if let Some(place) = session.places.find(&id) {
                session.discard(&place, give_up).await?;
            }
        }
        Ok(())
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        let give_up = self.give_up(self.0.sessions.settings().op_timeout);
        let session = self.0.sessions.any(give_up).await?;
        Ok(self.look(&session, key, give_up).await?.unwrap_or_else(|| LockInfo::free(key.clone())))
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let looks = async move {
            let root = this.0.sessions.settings().root.clone();
            let give_up = this.give_up(this.0.sessions.settings().op_timeout);
            let session = this.0.sessions.any(give_up).await?;
            let keys = session.folders(&root, give_up).await?;
            let keys = keys.into_iter().filter(move |key| key.as_str().starts_with(&prefix));
            let looks = keys.map(move |key| {
                let (this, session) = (this.clone(), session.clone());
                async move {
                    let give_up = this.give_up(this.0.sessions.settings().op_timeout);
                    let looked = this.look(&session, &key, give_up).await;
                    looked.map_err(|error| error.during("list", Some(&key))).transpose()
                }
            });
            Ok::<_, Error>(futures_util::stream::iter(looks).buffered(LISTED).filter_map(std::future::ready))
        };
        futures_util::stream::once(looks).try_flatten().boxed()
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        let give_up = self.give_up(self.0.sessions.settings().op_timeout);
        let (session, folder) = (self.0.sessions.any(give_up).await?, self.folder(key));
        let Some(queue) = session.list_anew(&folder, give_up).await? else { return Ok(false) };
        let mut broken = false;
        for node in queue.nodes().iter().filter(|node| node.id == *holder) {
            broken |= session.remove(&format!("{folder}/{}", node.name), give_up).await?;
        }
        Ok(broken)
    }

    async fn close(&self) -> Result<()> {
        self.0.sessions.close().await
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }
}

/// The driver of `zk:` URLs, and of `zks:` ones with the feature `tls`.
pub fn driver() -> Driver {
    Driver::new("zookeeper", Settings::SCHEMES, Settings::PARAMETERS, |url| {
        async move { Ok(Arc::new(ZkBackend::connect(&url).await?) as Arc<dyn LockBackend>) }.boxed()
    })
}
