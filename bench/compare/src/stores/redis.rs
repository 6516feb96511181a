//! Redis: the raw client, and the locks of rslock and distributed-lock.

use crate::setup::Setup;
use async_trait::async_trait;
use dlock_bench::{BoxError, Client, Contender, Counting, Held, Meter, Result, Role};
use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Script};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// As dlock's default.
const TTL: Duration = Duration::from_secs(30);
/// distributed-lock gives up at once without one.
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn fill(setup: &mut Setup) -> Result<(), BoxError> {
    let client = redis::Client::open(setup.plain_url())?;
    let url = setup.plain_url().to_owned();
    setup.add(
        "raw SET NX PX + script",
        Role::Pairs,
        "one connection, one command and one script that deletes if the value is ours",
        Raw(client.clone()),
    );
    setup.add("raw BLPOP baton", Role::HandOvers, "a connection for each task, no TTL: RPUSH wakes the next", Baton(client.clone()));
    setup.add("rslock", Role::Peer, "looks again after up to 200 ms (its default); no fencing token, no renewal", Rslock(url.clone()));
    setup.add("distributed-lock", Role::Peer, "no fencing token", DistributedLock(url));
    setup.meter = Some(Arc::new(Monitor(client)));
    Ok(())
}

/// Removes all that this benchmark has written: the server is its own.
pub(crate) async fn clear(url: &str) {
    let flushed = async {
        let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHDB").exec_async(&mut connection).await
    };
    if let Err(error) = flushed.await {
        eprintln!("could not empty the database: {error}");
    }
}

/// What a lock without queue, fencing token and renewal costs at least.
struct Raw(redis::Client);

struct RawClient {
    connection: MultiplexedConnection,
    delete: Script,
}

struct RawHeld {
    client: RawClient,
    key: String,
    id: String,
}

const DELETE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

#[async_trait]
impl Contender for Raw {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        let connection = self.0.get_multiplexed_async_connection().await?;
        Ok(Arc::new(RawClient { connection, delete: Script::new(DELETE) }))
    }
}

#[async_trait]
impl Client for RawClient {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut connection = self.connection.clone();
        let mut set = redis::cmd("SET");
        set.arg(key).arg(&id).arg("NX").arg("PX").arg(TTL.as_millis() as u64);
        let done: Option<String> = set.query_async(&mut connection).await?;
        done.ok_or("held by another")?;
        let client = RawClient { connection, delete: self.delete.clone() };
        Ok(Box::new(RawHeld { client, key: key.to_owned(), id }))
    }
}

#[async_trait]
impl Held for RawHeld {
    async fn release(self: Box<Self>) -> Result<()> {
        let Self { client: RawClient { mut connection, delete }, key, id } = *self;
        let deleted: u64 = delete.key(key).arg(id).invoke_async(&mut connection).await?;
        if deleted == 1 { Ok(()) } else { Err("it was lost".into()) }
    }
}

/// The fastest way in which Redis passes something on: it wakes the client that has waited longest.
struct Baton(redis::Client);

struct BatonClient {
    client: redis::Client,
    /// Connections that no task blocks.
    idle: Arc<Mutex<Vec<MultiplexedConnection>>>,
}

struct BatonHeld {
    connection: MultiplexedConnection,
    idle: Arc<Mutex<Vec<MultiplexedConnection>>>,
    key: String,
}

#[async_trait]
impl Contender for Baton {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Ok(Arc::new(BatonClient { client: self.0.clone(), idle: Arc::default() }))
    }
}

#[async_trait]
impl Client for BatonClient {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        let idle = self.idle.lock().await.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
                let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
                // The one that makes the mark makes the baton.
                let made: bool = connection.set_nx(format!("{key}:made"), 1).await?;
                if made {
                    let _: u64 = connection.rpush(key, 1).await?;
                }
                connection
            }
        };
        let _: (String, String) = redis::cmd("BLPOP").arg(key).arg(0).query_async(&mut connection).await?;
        Ok(Box::new(BatonHeld { connection, idle: self.idle.clone(), key: key.to_owned() }))
    }
}

#[async_trait]
impl Held for BatonHeld {
    async fn release(self: Box<Self>) -> Result<()> {
        let Self { mut connection, idle, key } = *self;
        let _: u64 = connection.rpush(&key, 1).await?;
        idle.lock().await.push(connection);
        Ok(())
    }
}

struct Rslock(String);
struct RslockClient(rslock::LockManager);
struct RslockHeld(rslock::LockGuard);

#[async_trait]
impl Contender for Rslock {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Ok(Arc::new(RslockClient(rslock::LockManager::new(vec![self.0.as_str()]))))
    }
}

#[async_trait]
impl Client for RslockClient {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        Ok(Box::new(RslockHeld(self.0.acquire(key, TTL).await?)))
    }
}

#[async_trait]
impl Held for RslockHeld {
    async fn release(self: Box<Self>) -> Result<()> {
        self.0.release().await;
        Ok(())
    }
}

struct DistributedLock(String);
struct DistributedLockClient(distributed_lock_redis::RedisLockProvider);
struct DistributedLockHeld<H>(H);

#[async_trait]
impl Contender for DistributedLock {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        let provider = distributed_lock_redis::RedisLockProvider::builder().url(&self.0).expiry(TTL).build().await?;
        Ok(Arc::new(DistributedLockClient(provider)))
    }
}

#[async_trait]
impl Client for DistributedLockClient {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        use distributed_lock_core::{DistributedLock, LockProvider};
        let handle = self.0.create_lock(key).acquire(Some(WAIT)).await?;
        Ok(Box::new(DistributedLockHeld(handle)))
    }
}

#[async_trait]
impl<H: distributed_lock_core::LockHandle + 'static> Held for DistributedLockHeld<H> {
    async fn release(self: Box<Self>) -> Result<()> {
        Ok(self.0.release().await?)
    }
}

/// Counts by MONITOR: what scripts call inside is no request.
struct Monitor(redis::Client);

struct Watching {
    seen: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

#[async_trait]
impl Meter for Monitor {
    async fn start(&self) -> Result<Box<dyn Counting>> {
        let mut lines = self.0.get_async_monitor().await?.into_on_message::<String>();
        let seen = Arc::new(AtomicU64::new(0));
        let watching = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Some(line) = lines.next().await {
                    seen.fetch_add(u64::from(!line.contains(" lua] ")), Ordering::Relaxed);
                }
            }
        });
        Ok(Box::new(Watching { seen, watching }))
    }
}

#[async_trait]
impl Counting for Watching {
    async fn stop(self: Box<Self>) -> Result<u64> {
        // The lines come a little behind.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.watching.abort();
        Ok(self.seen.load(Ordering::Relaxed))
    }
}
