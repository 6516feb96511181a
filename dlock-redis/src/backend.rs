//! [`RedisBackend`].

use crate::batch::{Ask, IfHeld, Terms};
use crate::connection::{Connection, Grant};
use crate::keys::Keys;
use crate::lease::{HELD, RedisLease};
use crate::reply::{Answer, Seen, mode_text};
use crate::scripts::{Call, Scripts};
use async_trait::async_trait;
use dlock_core::{
    Attempt, Capabilities, Clock, Config, Deadline, Driver, Effect, Error, ErrorKind, HolderId, Lease, Lifetime,
    LockBackend, LockInfo, LockKey, LocksBuilder, Mode, Moment, Request, Result, Shows, StoreUrl, TokenSurvives, Ttl,
    TtlRange, Wake, valid_until,
};
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use redis::{Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, Value};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

/// Locks in one Redis server. Clones share its connection.
#[derive(Clone, Debug)]
pub struct RedisBackend(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connection: Connection,
    scripts: Scripts,
}

/// A waiter repeats its request three times within this, or within its TTL if that is shorter (rule E5).
const LONGEST_PATIENCE: Duration = Duration::from_secs(15);
/// How far apart a waiter looks while a foreign client holds: its release wakes nobody.
const FOREIGN: Duration = Duration::from_secs(1);

impl RedisBackend {
    /// What this backend can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        shared: true,
        permits: true,
        fifo: true,
        wake: Wake::Event,
        ttl: TtlRange { min: Duration::from_millis(50), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
        lifetime: Lifetime::Lease,
        lateness: Duration::from_millis(100),
        death_seen_within: None,
        token_survives: TokenSurvives { restart: true, data_loss: true },
        leases_survive_restart: false,
        fence_floor: true,
        shows: Shows { label: true, remaining: true, since: true, waiters: true },
    };

    /// Connects to the server of a `redis://` URL, or with the cargo feature `tls` of a `rediss://` URL.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) when nothing answers within the URL's `op_timeout`,
    /// [`Unauthorized`](ErrorKind::Unauthorized) when the credentials are refused, or the right to listen or to publish is missing.
    pub async fn connect(url: &StoreUrl) -> Result<Self> {
        let wrong = |message: &'static str| Error::new(ErrorKind::InvalidConfig, message);
        let [host] = url.hosts() else {
            return Err(wrong("a redis URL has one host; write redis://host:port"));
        };
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => {
                number.parse::<u16>().map_err(|_| wrong("the path of a redis URL is the number of a database"))?
            }
        };
        let mut settings = RedisConnectionInfo::default().set_db(database.into()).set_protocol(ProtocolVersion::RESP3);
        if let Some(user) = url.username() {
            settings = settings.set_username(user);
        }
        if let Some(password) = url.password() {
            settings = settings.set_password(password);
        }
        let (host, port) = (host.name.clone(), host.port.unwrap_or(6379));
        let address = match url.scheme() {
            "rediss" => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            _ => ConnectionAddr::Tcp(host, port),
        };
        let server = address.into_connection_info().map_err(crate::error::from_redis)?.set_redis_settings(settings);
        let client = match url.scheme() {
            "rediss" => crate::tls::client(url, server)?,
            _ => Client::open(server).map_err(crate::error::from_redis)?,
        };
        let connection = Connection::open(client, Clock::system(), Config::op_timeout_of(url)?).await?;
        Ok(Self(Arc::new(Shared { connection, scripts: Scripts::new() })))
    }

    async fn ask(&self, request: &Request, keys: &Keys, sent: Moment, if_held: IfHeld) -> Result<Answer> {
        let (shared, id) = (&self.0, request.holder());
        let give_up = self.clock().now() + request.op_timeout();
        if request.mode() == Mode::Exclusive && if_held != IfHeld::KeepPlace {
            let terms = Terms {
                ttl: millis(request.ttl().get()),
                patience: millis(patience(request)),
                if_held,
                label: request.label().to_owned(),
            };
            let ask = Ask { lock: keys.lock().to_owned(), id: id.clone(), acquire: Some((terms, sent)) };
            if let Some(reply) = shared.connection.usual(ask, give_up).await? {
                return Answer::read(request.key(), &reply);
            }
        }
        let mut call = Call::new(&shared.scripts.acquire, keys, Some(id.as_str()));
        call.command
            .arg(id.as_str())
            .arg(&*mode_text(request.mode()))
            .arg(request.ttl().as_millis())
            .arg(millis(patience(request)))
            .arg(sent.as_nanos())
            .arg(shared.connection.channel())
            .arg(request.label())
            .arg(if_held.as_str());
        let reply: Value = shared.connection.run(&call, give_up).await?;
        Answer::read(request.key(), &reply)
    }

    /// A lease that lasts for `ttl` since the request was sent on which it rests.
    fn lease(&self, request: &Request, keys: Keys, grant: Grant, ttl: Duration) -> Arc<dyn Lease> {
        Arc::new(RedisLease {
            shared: self.0.clone(),
            keys,
            id: request.holder(),
            token: grant.token,
            floor: grant.floor,
            mode: request.mode(),
            ttl: request.ttl().get(),
            deadline: Deadline::new(valid_until(grant.sent, ttl)),
            state: AtomicU8::new(HELD),
        })
    }

    async fn look(&self, key: &LockKey) -> Result<Seen> {
        let call = Call::new(&self.0.scripts.inspect, &Keys::of(key), None);
        let reply: Value = self.0.connection.run(&call, Moment::MAX).await?;
        Seen::read(key, &reply)
    }
}

impl Shared {
    pub(crate) async fn renew(&self, keys: &Keys, id: &HolderId, ttl: Duration, give_up: Moment) -> Result<bool> {
        let mut call = Call::new(&self.scripts.renew, keys, None);
        call.command.arg(id.as_str()).arg(millis(ttl));
        self.connection.run(&call, give_up).await
    }

    /// Takes a holder out.
    pub(crate) async fn release(&self, keys: &Keys, id: &HolderId, mode: Mode, give_up: Moment) -> Result<bool> {
        if mode == Mode::Exclusive {
            let ask = Ask { lock: keys.lock().to_owned(), id: id.clone(), acquire: None };
            if self.connection.usual(ask, give_up).await?.is_some() {
                return Ok(true);
            }
        }
        self.remove(keys, id, None, give_up).await
    }

    /// Takes an acquisition out, and remembers it as withdrawn for `remember`.
    pub(crate) async fn remove(
        &self,
        keys: &Keys,
        id: &HolderId,
        remember: Option<Duration>,
        give_up: Moment,
    ) -> Result<bool> {
        let mut call = Call::new(&self.scripts.remove, keys, remember.map(|_| id.as_str()));
        call.command.arg(id.as_str()).arg(remember.map_or(0, millis));
        self.connection.run(&call, give_up).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn patience(request: &Request) -> Duration {
    request.ttl().get().min(LONGEST_PATIENCE)
}

fn disagrees(request: &Request, other: Mode) -> Error {
    let asked = request.mode();
    Error::new(
        ErrorKind::InvalidConfig,
        format!("this lock is in use as {other}, and it was asked for as {asked}; all callers of a key must agree"),
    )
}

fn withdrawn() -> Error {
    Error::new(ErrorKind::Unexpected, "this acquisition was withdrawn before").with_effect(Effect::NotApplied)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for RedisBackend {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn clock(&self) -> Clock {
        self.0.connection.clock().clone()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        let (keys, sent) = (Keys::of(request.key()), self.clock().now());
        match self.ask(request, &keys, sent, IfHeld::Answer).await? {
            Answer::Granted { token, floor } => {
                Ok(Attempt::Acquired(self.lease(request, keys, Grant { sent, token, floor }, request.ttl().get())))
            }
            Answer::Held(seen) | Answer::Waiting(seen, _) | Answer::Full(seen) => Ok(Attempt::Held(seen.info)),
            Answer::Disagrees(other) => Err(disagrees(request, other)),
            Answer::Withdrawn => Err(withdrawn()),
            Answer::Gone => Ok(Attempt::Held(LockInfo::free(request.key().clone()))),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        let (clock, keys) = (self.clock(), Keys::of(request.key()));
        let mut if_held = if request.was_queued() { IfHeld::KeepPlace } else { IfHeld::Queue };
        let mut watch = self.0.connection.watch(&request.holder());
        let mut seen = None;
        let mut polls = dlock_core::backoff();
        while !request.cancel().is_fired() {
            let sent = clock.now();
            let (wait, in_queue) = match self.ask(request, &keys, sent, if_held).await? {
                Answer::Granted { token, floor } => {
                    let grant = Grant { sent, token, floor };
                    return Ok(Attempt::Acquired(self.lease(request, keys, grant, request.ttl().get())));
                }
                Answer::Disagrees(other) => return Err(disagrees(request, other)),
                Answer::Withdrawn => return Err(withdrawn()),
                Answer::Gone => {
                    watch = self.0.connection.watch(&request.start_anew());
                    if_held = IfHeld::Queue;
                    continue;
                }
                Answer::Full(now) | Answer::Held(now) => {
                    if_held = IfHeld::Queue;
                    seen = Some(now.info);
                    (polls.next().unwrap_or_default(), false)
                }
                Answer::Waiting(now, before) => {
                    if_held = IfHeld::KeepPlace;
                    // The timer is what is true, the push what is fast (rule D4).
                    let expiry = now.expires_in.unwrap_or(FOREIGN).min(before.unwrap_or(Duration::MAX));
                    let expiry = expiry.saturating_add(Duration::from_millis(2));
                    let look = if now.foreign { FOREIGN } else { Duration::MAX };
                    seen = Some(now.info);
                    ((patience(request) / 3).min(expiry).min(look), true)
                }
            };
            request.is_waiting(seen.clone());
            tokio::select! {
                biased;
                () = request.cancel().fired() => {}
                grant = watch.news(), if in_queue => {
                    // Believed as long as the place that it was given to (rule E6), which may be one of before that is
                    // over. With little of it left, asking again extends it.
                    let place = patience(request);
                    let is_fresh = |grant: &Grant| valid_until(grant.sent, place).since(clock.now()) > place / 3;
                    if let Some(grant) = grant.filter(is_fresh) {
                        return Ok(Attempt::Acquired(self.lease(request, keys, grant, place)));
                    }
                }
                () = clock.sleep(wait) => {}
            }
        }
        if seen.is_some() || request.was_queued() {
            let give_up = clock.now() + request.op_timeout();
            self.0.remove(&keys, &request.holder(), None, give_up).await?;
        }
        Ok(Attempt::Held(seen.unwrap_or_else(|| LockInfo::free(request.key().clone()))))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let give_up = self.clock().now() + request.op_timeout();
        let remember = Some(request.ttl().get());
        self.0.remove(&Keys::of(request.key()), &request.holder(), remember, give_up).await.map(drop)
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        Ok(self.look(key).await?.info)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        let (this, start, prefix) = (self.clone(), Keys::start(prefix), prefix.to_owned());
        let pages = futures_util::stream::try_unfold(Some(0_u64), move |page| {
            let (this, start) = (this.clone(), start.clone());
            async move {
                let Some(page) = page else { return Ok::<_, Error>(None) };
                let call = Call::list(&this.0.scripts.list, page, &start);
                let (next, names): (u64, Vec<Vec<u8>>) = this.0.connection.run(&call, Moment::MAX).await?;
                Ok(Some((names, (next != 0).then_some(next))))
            }
        });
        let mut known = HashSet::new();
        let names = pages.map_ok(|names| futures_util::stream::iter(names.into_iter().map(Ok))).try_flatten();
        // A page may give a name again, and a lock has several.
        let keys = names.try_filter_map(move |name| {
            let key = std::str::from_utf8(&name).ok().and_then(Keys::key_of);
            let key = key.filter(|key| key.as_str().starts_with(&prefix));
            std::future::ready(Ok(key.filter(|key| known.insert(key.clone()))))
        });
        let this = self.clone();
        keys.try_filter_map(move |key| {
            let this = this.clone();
            async move {
                let info = this.inspect(&key).await.map_err(|error| error.during("list", Some(&key)))?;
                let in_use = info.is_held() || info.waiters.as_ref().is_some_and(|waiters| !waiters.is_empty());
                Ok(in_use.then_some(info))
            }
        })
        .boxed()
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        let give_up = self.clock().now() + LocksBuilder::OP_TIMEOUT;
        self.0.remove(&Keys::of(key), holder, None, give_up).await
    }

    async fn close(&self) -> Result<()> {
        self.0.connection.close();
        Ok(())
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }
}

/// The driver of `redis:` URLs, and with the cargo feature `tls` of `rediss:` URLs.
pub fn driver() -> Driver {
    Driver::new("redis", crate::tls::SCHEMES, crate::tls::PARAMETERS, |url| {
        async move { Ok(Arc::new(RedisBackend::connect(&url).await?) as Arc<dyn LockBackend>) }.boxed()
    })
}
