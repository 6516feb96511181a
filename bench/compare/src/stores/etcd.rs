//! etcd: the raw client, and its own lock.

use crate::setup::Setup;
use crate::simple::contender;
use async_trait::async_trait;
use dlock_bench::{Counting, Meter, Result, Role};
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchOptions,
};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, oneshot};

/// Of the one lease of a client, in seconds: longer than the benchmark, so that nothing needs to be kept alive.
const LEASE: i64 = 3_600;

pub(crate) fn fill(setup: &mut Setup) -> Result<()> {
    // `etcd://host:port/prefix`
    let address = setup.plain_url().split("://").nth(1).unwrap_or_default();
    let address = address.split('/').next().unwrap_or_default().to_owned();
    pairs(setup, address.clone());
    queue(setup, address.clone());
    own_lock(setup, address.clone());
    setup.meter = Some(Arc::new(Received(address)));
    Ok(())
}

async fn connect(address: &str) -> Result<(Client, i64)> {
    let mut client = Client::connect([address], None).await?;
    let lease = client.lease_grant(LEASE, None).await?.id();
    Ok((client, lease))
}

/// A key on the client's lease: a transaction to make it, one to delete it if it is ours.
fn pairs(setup: &mut Setup, address: String) {
    let raw = contender(move || {
        let address = address.clone();
        async move {
            let (client, lease) = connect(&address).await?;
            Ok(move |key: String| {
                let mut client = client.clone();
                async move {
                    let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
                    let put = TxnOp::put(key.as_str(), "", Some(PutOptions::new().with_lease(lease)));
                    let made = client.txn(Txn::new().when([absent]).and_then([put])).await?;
                    let revision = made.header().map_or(0, |header| header.revision());
                    if !made.succeeded() {
                        return Err("held by another".into());
                    }
                    Ok(async move { delete(&mut client, &key, revision).await })
                }
            })
        }
    });
    setup.add("raw txn + txn", Role::Pairs, "one connection, one lease for all keys", raw);
}

async fn delete(client: &mut Client, key: &str, revision: i64) -> Result<()> {
    let ours = Compare::create_revision(key, CompareOp::Equal, revision);
    let done = client.txn(Txn::new().when([ours]).and_then([TxnOp::delete(key, None)])).await?;
    if done.succeeded() { Ok(()) } else { Err("it was lost".into()) }
}

/// Who waits for which key to go, and what has gone before anybody waited.
#[derive(Default)]
struct Gone {
    waiting: HashMap<Vec<u8>, oneshot::Sender<()>>,
    gone: HashSet<Vec<u8>>,
}

type SharedGone = Arc<Mutex<Gone>>;

/// One watch on the whole queue, opened before anybody waits: one that starts at a past revision is served by a tick of
/// 100 ms.
async fn watch(client: &mut Client, key: &str) -> Result<SharedGone> {
    let shared = SharedGone::default();
    let mut news = client.watch(format!("{key}/"), Some(WatchOptions::new().with_prefix())).await?;
    let seen = shared.clone();
    tokio::spawn(async move {
        while let Ok(Some(news)) = news.message().await {
            let deleted = news.events().iter().filter(|event| event.event_type() == EventType::Delete);
            for key in deleted.filter_map(|event| Some(event.kv()?.key().to_vec())) {
                let mut seen = seen.lock().expect("no panic");
                match seen.waiting.remove(&key) {
                    // Who waits may have been dropped.
                    Some(waiting) => drop(waiting.send(())),
                    None => drop(seen.gone.insert(key)),
                }
            }
        }
    });
    Ok(shared)
}

/// A queue of keys: one transaction puts the own one and reads who is before; the watch tells when that one goes.
fn queue(setup: &mut Setup, address: String) {
    let raw = contender(move || {
        let address = address.clone();
        async move {
            let (client, lease) = connect(&address).await?;
            let watched = Arc::new(OnceCell::new());
            Ok(move |key: String| {
                let (mut client, watched) = (client.clone(), watched.clone());
                async move {
                    let shared: &SharedGone = watched.get_or_try_init(|| watch(&mut client, &key)).await?;
                    let own = format!("{key}/{}", uuid::Uuid::new_v4().simple());
                    let put = TxnOp::put(own.as_str(), "", Some(PutOptions::new().with_lease(lease)));
                    let last_two = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Descend);
                    let get = TxnOp::get(format!("{key}/"), Some(last_two.with_limit(2).with_keys_only()));
                    let made = client.txn(Txn::new().and_then([put, get])).await?;
                    let revision = made.header().map_or(0, |header| header.revision());
                    let before = made.op_responses().iter().find_map(|answer| match answer {
                        TxnOpResponse::Get(found) => found.kvs().get(1).map(|kv| kv.key().to_vec()),
                        _ => None,
                    });
                    if let Some(before) = before {
                        let (tell, told) = oneshot::channel();
                        let waits = {
                            let mut shared = shared.lock().expect("no panic");
                            !shared.gone.remove(&before) && shared.waiting.insert(before, tell).is_none()
                        };
                        if waits {
                            told.await?;
                        }
                    }
                    Ok(async move { delete(&mut client, &own, revision).await })
                }
            })
        }
    });
    let note = "one connection, one lease, one watch on the queue; no clean-up of any kind";
    setup.add("raw queue, one watch", Role::HandOvers, note, raw);
}

fn own_lock(setup: &mut Setup, address: String) {
    let peer = contender(move || {
        let address = address.clone();
        async move {
            let client = Client::connect([&address], None).await?;
            Ok(move |key: String| {
                let mut client = client.clone();
                async move {
                    // One lease for each: on a shared one the recipe grants the same lock twice.
                    let held = client.lock(key, None).await?;
                    Ok(async move {
                        client.unlock(held.key()).await?;
                        Ok(())
                    })
                }
            })
        }
    });
    let note = "the server's lock service, with a lease of 60 s for each acquisition; no keep-alive";
    setup.add("etcd-client lock()", Role::Peer, note, peer);
}

/// Counts the messages that the server received, of calls and of streams.
struct Received(String);
struct Since(String, u64);

async fn count(address: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let counts = text.lines().filter(|line| line.starts_with("grpc_server_msg_received_total{"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count as text")]
    Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
}

#[async_trait]
impl Meter for Received {
    async fn start(&self) -> Result<Box<dyn Counting>> {
        Ok(Box::new(Since(self.0.clone(), count(&self.0).await?)))
    }
}

#[async_trait]
impl Counting for Since {
    async fn stop(self: Box<Self>) -> Result<u64> {
        Ok(count(&self.0).await? - self.1)
    }
}
