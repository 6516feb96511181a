//! Redis: the raw client, and the locks of rslock and distributed-lock.

use crate::setup::Setup;
use crate::simple::contender;
use async_trait::async_trait;
use dlock_bench::{Counting, Meter, Result, Role};
use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client, Script};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// As dlock's default.
const TTL: Duration = Duration::from_secs(30);

pub(crate) fn fill(setup: &mut Setup) -> Result<()> {
    let client = Client::open(setup.plain_url())?;
    pairs(setup, client.clone());
    baton(setup, client.clone());
    rslock(setup);
    distributed_lock(setup);
    setup.meter = Some(Arc::new(Monitor(client)));
    Ok(())
}

/// Removes all that this benchmark has written: the server is its own.
pub(crate) async fn clear(url: &str) -> Result<()> {
    let mut connection = Client::open(url)?.get_multiplexed_async_connection().await?;
    Ok(redis::cmd("FLUSHDB").exec_async(&mut connection).await?)
}

const DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// What a lock without queue, fencing token and renewal costs at least.
fn pairs(setup: &mut Setup, client: Client) {
    let raw = contender(move || {
        let client = client.clone();
        async move {
            let connection = connect(&client).await?;
            let delete = Arc::new(Script::new(DELETE));
            Ok(move |key: String| {
                let (mut connection, delete) = (connection.clone(), delete.clone());
                async move {
                    let id = uuid::Uuid::new_v4().simple().to_string();
                    let mut set = redis::cmd("SET");
                    set.arg(&key).arg(&id).arg("NX").arg("PX").arg(TTL.as_millis() as u64);
                    let done: Option<String> = set.query_async(&mut connection).await?;
                    done.ok_or("held by another")?;
                    Ok(async move {
                        let deleted: u64 = delete.key(key).arg(id).invoke_async(&mut connection).await?;
                        if deleted == 1 { Ok(()) } else { Err("it was lost".into()) }
                    })
                }
            })
        }
    });
    let note = "one connection; one command, and one script that deletes if the value is ours";
    setup.add("raw SET NX PX + script", Role::Pairs, note, raw);
}

/// The fastest way in which Redis passes something on: it wakes the client that has waited longest.
fn baton(setup: &mut Setup, client: Client) {
    let raw = contender(move || {
        let client = client.clone();
        async move {
            // Connections that no task blocks.
            let idle: Arc<Mutex<Vec<MultiplexedConnection>>> = Arc::default();
            Ok(move |key: String| {
                let (client, idle) = (client.clone(), idle.clone());
                async move {
                    let kept = idle.lock().await.pop();
                    let mut connection = match kept {
                        Some(connection) => connection,
                        None => connect_and_lay(&client, &key).await?,
                    };
                    let _: (String, String) = redis::cmd("BLPOP").arg(&key).arg(0).query_async(&mut connection).await?;
                    Ok(async move {
                        let _: u64 = connection.rpush(&key, 1).await?;
                        idle.lock().await.push(connection);
                        Ok(())
                    })
                }
            })
        }
    });
    let note = "a connection for each task; no holder, no TTL: RPUSH wakes who waits longest";
    setup.add("raw BLPOP baton", Role::HandOvers, note, raw);
}

/// A connection that waits for its replies: by default it gives up after 500 ms.
async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn connect_and_lay(client: &Client, key: &str) -> Result<MultiplexedConnection> {
    let mut connection = connect(client).await?;
    // The one that makes the mark makes the baton.
    let made: bool = connection.set_nx(format!("{key}:made"), 1).await?;
    if made {
        let _: u64 = connection.rpush(key, 1).await?;
    }
    Ok(connection)
}

fn rslock(setup: &mut Setup) {
    let url = setup.plain_url().to_owned();
    let peer = contender(move || {
        let url = url.clone();
        async move {
            let manager = rslock::LockManager::new(vec![url.as_str()]);
            Ok(move |key: String| {
                let manager = manager.clone();
                async move {
                    let guard = manager.acquire(key.as_str(), TTL).await?;
                    Ok(async move {
                        guard.release().await;
                        Ok(())
                    })
                }
            })
        }
    });
    let note = "waits by looking again after up to 200 ms (its default); no queue, fencing token or renewal";
    setup.add("rslock", Role::Peer, note, peer);
}

fn distributed_lock(setup: &mut Setup) {
    use distributed_lock_core::{DistributedLock, LockHandle, LockProvider};
    /// It gives up at once without a limit.
    const WAIT: Duration = Duration::from_secs(60);
    let url = setup.plain_url().to_owned();
    let peer = contender(move || {
        let url = url.clone();
        async move {
            let provider = distributed_lock_redis::RedisLockProvider::builder().url(url).expiry(TTL).build().await?;
            let provider = Arc::new(provider);
            Ok(move |key: String| {
                let provider = provider.clone();
                async move {
                    let handle = provider.create_lock(&key).acquire(Some(WAIT)).await?;
                    Ok(async move { Ok(handle.release().await?) })
                }
            })
        }
    });
    setup.add("distributed-lock", Role::Peer, "waits by looking again; renews; no queue or fencing token", peer);
}

/// Counts by MONITOR: what scripts call inside is no request.
struct Monitor(Client);

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
