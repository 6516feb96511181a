//! The etcd backend passes the suite, on a server of its own.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_conformance::proxy::Framing;
use dlock_conformance::{Fault, Harness, Proxy, run};
use dlock_core::{LockBackend, LockKey, Result};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::EtcdServer;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The variable that tells a worker process which server.
const URL: &str = "DLOCK_ETCD_TEST_SERVER";

#[derive(Debug)]
struct Etcd {
    url: String,
    server: Mutex<Option<EtcdServer>>,
}

impl Etcd {
    fn new() -> Self {
        if let Ok(url) = std::env::var(URL) {
            return Self { url, server: Mutex::new(None) };
        }
        let server = EtcdServer::start();
        Self { url: server.url(), server: Mutex::new(Some(server)) }
    }

    fn with<T>(&self, what: impl FnOnce(&mut EtcdServer) -> T) -> T {
        what(self.server.lock().unwrap().as_mut().unwrap())
    }
}

#[async_trait]
impl Harness for Etcd {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        Ok(Arc::new(EtcdBackend::connect(&self.url.parse()?).await?))
    }

    fn faults(&self) -> &'static [Fault] {
        // No garbage: whatever stands in a lock's folder is somebody's entry in its queue.
        &[
            Fault::Restart,
            Fault::Purge,
            Fault::Leftovers,
            Fault::Requests,
            Fault::Processes,
            Fault::EndSession,
            // A client that is dropped without being closed keeps its session alive no more, and revokes nothing.
            Fault::Death,
            Fault::Proxy,
        ]
    }

    async fn restart(&self) -> Result<()> {
        self.with(EtcdServer::restart);
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        // Nothing is left of a lock that nobody uses but its history.
        let folder = format!("dlock/{}/", key.to_segment());
        self.with(|server| {
            server.ctl(&["del", "--prefix", &folder]);
            let put: String = server.ctl(&["put", "elsewhere", "", "-w", "json"]);
            let revision = put.split("\"revision\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
            server.ctl(&["compact", &revision]);
        });
        Ok(())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        Ok(self.with(|server| server.keys(&format!("dlock/{prefix}")).len()))
    }

    async fn requests(&self) -> Result<u64> {
        Ok(self.with(|server| server.messages(None)))
    }

    async fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::tcp(Framing::Http2, self.url.trim_start_matches("etcd://")).await.unwrap())
    }

    async fn proxied_client(&self, proxy: &Proxy, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        let url = format!("etcd://{}?op_timeout={}ms", proxy.address(), op_timeout.as_millis());
        Ok(Arc::new(EtcdBackend::connect(&url.parse()?).await?))
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(URL.into(), self.url.clone())]
    }

    async fn end_session(&self, client: &Arc<dyn LockBackend>) -> Result<()> {
        let shown = format!("{client:?}");
        let leases = shown.split_once("leases: [").unwrap().1.split_once(']').unwrap().0;
        assert!(!leases.is_empty(), "{shown}");
        for lease in leases.split(", ") {
            self.with(|server| server.ctl(&["lease", "revoke", lease]));
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    run("etcd", || Ok(Etcd::new()))
}
