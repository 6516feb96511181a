//! The ZooKeeper backend passes the suite, on a server of its own.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_conformance::{Fault, Harness, run};
use dlock_core::{LockBackend, LockKey, Result};
use dlock_fixtures::ZooKeeperServer;
use dlock_zk::ZkBackend;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, Weak};
use tokio::runtime::Runtime;
use zookeeper_client::{Acls, Client, CreateMode, Error};

/// The variable that tells a worker process which server.
const URL: &str = "DLOCK_ZK_TEST_SERVER";

#[derive(Debug)]
struct Zk {
    url: String,
    server: Option<Mutex<ZooKeeperServer>>,
    clients: Mutex<Vec<Made>>,
    /// The session of what stands where a lock should be.
    garbage: tokio::sync::Mutex<Vec<Client>>,
}

/// A client, and the runtime on which alone its sessions live: without it they are those of a dead process.
#[derive(Debug)]
struct Made {
    backend: Weak<ZkBackend>,
    runtime: Option<Runtime>,
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Zk {
    fn new() -> Self {
        let (url, server) = match std::env::var(URL) {
            Ok(url) => (url, None),
            Err(_) => {
                let server = ZooKeeperServer::start();
                (server.url(), Some(Mutex::new(server)))
            }
        };
        Self { url, server, clients: Mutex::default(), garbage: tokio::sync::Mutex::default() }
    }

    /// Another client of the server, without a word of this crate's.
    async fn raw(&self) -> Client {
        let address = self.url.strip_prefix("zk://").unwrap().split('/').next().unwrap();
        Client::connector().connect(address).await.unwrap()
    }

    fn take(&self, client: &Arc<dyn LockBackend>) -> Option<Made> {
        let mut clients = self.clients.lock().unwrap();
        let at = clients.iter().position(|made| made.is(client))?;
        Some(clients.swap_remove(at))
    }
}

impl Made {
    fn is(&self, client: &Arc<dyn LockBackend>) -> bool {
        std::ptr::addr_eq(self.backend.as_ptr(), Arc::as_ptr(client))
    }
}

fn path(key: &LockKey) -> String {
    format!("/dlock/{}", key.to_segment())
}

#[async_trait]
impl Harness for Zk {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        let url = self.url.parse()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let backend = Arc::new(runtime.spawn(async move { ZkBackend::connect(&url).await }).await.unwrap()?);
        let mut clients = self.clients.lock().unwrap();
        clients.retain(|made| made.backend.strong_count() > 0);
        clients.push(Made { backend: Arc::downgrade(&backend), runtime: Some(runtime) });
        Ok(backend)
    }

    fn faults(&self) -> &'static [Fault] {
        &[
            Fault::Restart,
            Fault::Purge,
            Fault::Garbage,
            Fault::Leftovers,
            Fault::Requests,
            Fault::Processes,
            Fault::EndSession,
            Fault::Death,
        ]
    }

    async fn crash(&self, client: Arc<dyn LockBackend>) {
        // Its sockets close, and nobody tells the server anything.
        drop(self.take(&client).unwrap());
    }

    async fn restart(&self) -> Result<()> {
        tokio::task::block_in_place(|| self.server.as_ref().unwrap().lock().unwrap().restart());
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        match self.raw().await.delete(&path(key), None).await {
            // The server may have been faster: it removes empty containers by itself.
            Ok(()) | Err(Error::NoNode) => Ok(()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        let client = self.raw().await;
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        client.create(&path(key), b"not a lock", &options).await.unwrap();
        self.garbage.lock().await.push(client);
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        let (mut data, stat) = Zk::raw(self).await.get_data(&path(key)).await.unwrap();
        data.extend(stat.mzxid.to_be_bytes());
        Ok(data)
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        let (client, mut count) = (Zk::raw(self).await, 0);
        for folder in client.list_children("/dlock").await.unwrap() {
            if folder.starts_with(prefix) {
                // An empty container goes by itself.
                match client.list_children(&format!("/dlock/{folder}")).await {
                    Ok(nodes) => count += nodes.len(),
                    Err(Error::NoNode) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Ok(count)
    }

    async fn requests(&self) -> Result<u64> {
        let server = self.server.as_ref().unwrap().lock().unwrap();
        Ok(server.metric("zk_packets_received"))
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(URL.into(), self.url.clone())]
    }

    async fn end_session(&self, client: &Arc<dyn LockBackend>) -> Result<()> {
        let backend = self.clients.lock().unwrap().iter().find(|made| made.is(client)).unwrap().backend.upgrade();
        let server = self.server.as_ref().unwrap().lock().unwrap();
        for id in backend.unwrap().session_ids() {
            server.end_session(id);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    run("zookeeper", || Ok(Zk::new()))
}
