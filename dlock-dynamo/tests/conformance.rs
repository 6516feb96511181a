//! The suite on a real server of its own.
#![allow(clippy::unwrap_used)]

mod support;

use async_trait::async_trait;
use dlock_conformance::proxy::Framing;
use dlock_conformance::{Fault, Harness, Proxy, run};
use dlock_core::{LockBackend, LockKey, Result};
use dlock_dynamo::{DynamoBackend, DynamoStore};
use dlock_fixtures::DynamoServer;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{is_in_use, items, outlive, raw, remove, text};

/// The variable that tells a worker process which server.
const ENDPOINT: &str = "DLOCK_DYNAMO_TEST_SERVER";

#[derive(Debug)]
struct Dynamo {
    endpoint: String,
    server: Mutex<Option<DynamoServer>>,
}

impl Dynamo {
    fn new() -> std::result::Result<Self, String> {
        if let Ok(endpoint) = std::env::var(ENDPOINT) {
            return Ok(Self { endpoint, server: Mutex::new(None) });
        }
        DynamoServer::program()?;
        let server = DynamoServer::start();
        Ok(Self { endpoint: server.endpoint(), server: Mutex::new(Some(server)) })
    }
}

async fn connect(endpoint: &str, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
    let place = format!("dynamodb://test:secret@locks?create=true&poll=50ms&endpoint={endpoint}");
    let url = format!("{place}&op_timeout={}ms", op_timeout.as_millis());
    Ok(Arc::new(DynamoBackend::new(DynamoStore::connect(&url.parse()?).await?)))
}

#[async_trait]
impl Harness for Dynamo {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        connect(&self.endpoint, Duration::from_secs(5)).await
    }

    fn faults(&self) -> &'static [Fault] {
        const FAULTS: &[Fault] = &[
            Fault::LoseData,
            Fault::Purge,
            Fault::Garbage,
            Fault::Leftovers,
            Fault::Processes,
            Fault::Proxy,
            Fault::Twice,
            Fault::Restart,
        ];
        // A server that another process started is not ours to restart.
        if self.server.lock().unwrap().is_some() { FAULTS } else { &FAULTS[..7] }
    }

    async fn restart(&self) -> Result<()> {
        self.server.lock().unwrap().as_mut().unwrap().restart();
        Ok(())
    }

    async fn lose_data(&self) -> Result<()> {
        let client = raw(&self.endpoint);
        let all = items(&client, "").await;
        // Declared only for a clock that is past the last token.
        outlive(&all).await;
        remove(&client, &all).await;
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        let client = raw(&self.endpoint);
        let one = items(&client, key.as_str()).await;
        outlive(&one).await;
        remove(&client, &one).await;
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        let put = raw(&self.endpoint).put_item().table_name("locks").item("lock_key", text(key.as_str()));
        put.item("version", text("00000000000000ab")).item("record", text("{ no record")).send().await.unwrap();
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        let mut found: Vec<_> = items(&raw(&self.endpoint), key.as_str()).await.remove(0).into_iter().collect();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(format!("{found:?}").into_bytes())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        // An item that nobody uses keeps its token and version.
        Ok(items(&raw(&self.endpoint), prefix).await.iter().filter(|item| is_in_use(item)).count())
    }

    async fn proxy(&self) -> Result<Proxy> {
        let address = self.endpoint.strip_prefix("http://").unwrap();
        Ok(Proxy::tcp(Framing::Http1, address.to_owned()).await.unwrap())
    }

    async fn proxied_client(&self, proxy: &Proxy, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        connect(&format!("http://{}", proxy.address()), op_timeout).await
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(ENDPOINT.into(), self.endpoint.clone())]
    }
}

fn main() -> ExitCode {
    run("dynamodb", Dynamo::new)
}
