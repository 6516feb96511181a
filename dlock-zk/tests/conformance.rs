//! The ZooKeeper backend passes the suite, on a server of its own.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_conformance::proxy::Framing;
use dlock_conformance::{Fault, Harness, Proxy, run};
use dlock_core::{LockBackend, LockKey, Result};
use dlock_fixtures::ZooKeeperServer;
use dlock_zk::ZkBackend;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
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

/// A client, and its line to the server: when that is cut, it is a dead process to the server.
#[derive(Debug)]
struct Made {
    backend: Weak<ZkBackend>,
    line: Proxy,
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

    fn address(&self) -> &str {
        self.url.strip_prefix("zk://").unwrap().split('/').next().unwrap()
    }

    /// Another client of the server, without a word of this crate's.
    async fn raw(&self) -> Client {
        Client::connector().connect(self.address()).await.unwrap()
    }

    fn made<T>(&self, client: &Arc<dyn LockBackend>, with: impl FnOnce(&Made) -> T) -> T {
        let clients = self.clients.lock().unwrap();
        let made = clients.iter().find(|made| std::ptr::addr_eq(made.backend.as_ptr(), Arc::as_ptr(client)));
        with(made.unwrap())
    }
}

fn path(key: &LockKey) -> String {
    format!("/dlock/{}", key.to_segment())
}

#[async_trait]
impl Harness for Zk {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        self.proxied_client(&self.proxy().await?, Duration::from_secs(5)).await
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
            Fault::Proxy,
        ]
    }

    async fn crash(&self, client: Arc<dyn LockBackend>) {
        // Its connections break, and nobody tells the server anything.
        let line = self.made(&client, |made| made.line.clone());
        line.cut().await;
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

    async fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::tcp(Framing::ZooKeeper, self.address()).await.unwrap())
    }

    async fn proxied_client(&self, line: &Proxy, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        let url = format!("zk://{}/dlock?op_timeout={}ms", line.address(), op_timeout.as_millis());
        let backend = Arc::new(ZkBackend::connect(&url.parse()?).await?);
        let made = Made { backend: Arc::downgrade(&backend), line: line.clone() };
        self.clients.lock().unwrap().push(made);
        Ok(backend)
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(URL.into(), self.url.clone())]
    }

    async fn end_session(&self, client: &Arc<dyn LockBackend>) -> Result<()> {
        let backend = self.made(client, |made| made.backend.upgrade());
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
