//! ZooKeeper: the raw client, and zookeeper-client's own lock.

use crate::setup::Setup;
use crate::simple::contender;
use async_trait::async_trait;
use dlock_bench::{Counting, Meter, Result, Role};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, LockOptions, LockPrefix};

pub(crate) fn fill(setup: &mut Setup) -> Result<()> {
    // `zk://host:port/chroot`
    let address = setup.plain_url().split("://").nth(1).unwrap_or_default();
    let address = address.split('/').next().unwrap_or_default().to_owned();
    raw(setup, address.clone());
    own_lock(setup, address.clone());
    setup.meter = Some(Arc::new(Packets(address)));
    Ok(())
}

fn parents() -> CreateOptions<'static> {
    CreateMode::Container.with_acls(Acls::anyone_all())
}

/// What the recipe costs at least: a node, a list, a watch on the one before, a delete.
fn raw(setup: &mut Setup, address: String) {
    let raw = contender(move || {
        let address = address.clone();
        async move {
            let client = Client::connect(&address).await?;
            Ok(move |key: String| {
                let client = client.clone();
                async move {
                    let folder = format!("/raw-{key}");
                    let node = format!("{folder}/{}-lock-", uuid::Uuid::new_v4());
                    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
                    let made = match client.create(&node, b"", &options).await {
                        Err(zookeeper_client::Error::NoNode) => {
                            client.mkdir(&folder, &parents()).await?;
                            client.create(&node, b"", &options).await?
                        }
                        made => made?,
                    };
                    let own = format!("{node}{}", made.1);
                    let number = |name: &str| name.rsplit("-lock-").next().and_then(|n| n.parse::<i64>().ok());
                    let mine = number(&own);
                    let before = client.list_children(&folder).await?;
                    let before = before.into_iter().filter(|name| number(name) < mine).max_by_key(|name| number(name));
                    if let Some(before) = before {
                        let (there, watch) = client.check_and_watch_stat(&format!("{folder}/{before}")).await?;
                        if there.is_some() {
                            watch.changed().await;
                        }
                    }
                    Ok(async move { Ok(client.delete(&own, None).await?) })
                }
            })
        }
    });
    setup.add("raw create + list + delete", Role::Floor, "one session; no clean-up of any kind", raw);
}

fn own_lock(setup: &mut Setup, address: String) {
    let peer = contender(move || {
        let address = address.clone();
        async move {
            let client = Client::connect(&address).await?;
            Ok(move |key: String| {
                let client = client.clone();
                async move {
                    let folder = format!("/own-{key}");
                    let prefix = LockPrefix::new_curator(&folder, "lock-")?;
                    let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(parents())?;
                    let lock = client.lock(prefix, b"", options).await?.into_owned();
                    Ok(async move {
                        drop(lock);
                        Ok(())
                    })
                }
            })
        }
    });
    let note = "its release is a drop that nobody can wait for: a pair ends before the node is deleted";
    setup.add("zookeeper-client lock()", Role::Peer, note, peer);
}

/// Counts the packets that the server received, pings too.
struct Packets(String);
struct Since(String, u64);

async fn count(address: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"mntr").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let packets = text.lines().find_map(|line| line.strip_prefix("zk_packets_received"));
    Ok(packets.ok_or("the command mntr is not allowed there")?.trim().parse()?)
}

#[async_trait]
impl Meter for Packets {
    async fn start(&self) -> Result<Box<dyn Counting>> {
        Ok(Box::new(Since(self.0.clone(), count(&self.0).await?)))
    }
}

#[async_trait]
impl Counting for Since {
    async fn stop(self: Box<Self>) -> Result<u64> {
        Ok((count(&self.0).await? - self.1).saturating_sub(1))
    }
}
