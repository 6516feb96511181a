//! The Redis backend passes the suite, on a server of its own.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_conformance::proxy::Framing;
use dlock_conformance::{Fault, Harness, Proxy, run};
use dlock_core::{LockBackend, LockKey, Result};
use dlock_fixtures::{RedisOptions, RedisServer};
use dlock_redis::RedisBackend;
use redis::Commands;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The variable that tells a worker process which server.
const URL: &str = "DLOCK_REDIS_TEST_SERVER";

#[derive(Debug)]
struct Redis {
    url: String,
    server: Mutex<Option<RedisServer>>,
}

impl Redis {
    fn new() -> Self {
        if let Ok(url) = std::env::var(URL) {
            return Self { url, server: Mutex::new(None) };
        }
        let server = RedisServer::start();
        Self { url: server.url(), server: Mutex::new(Some(server)) }
    }

    fn raw(&self) -> redis::Connection {
        redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }
}

#[async_trait]
impl Harness for Redis {
    async fn client(&self) -> Result<Arc<dyn LockBackend>> {
        Ok(Arc::new(RedisBackend::connect(&self.url.parse()?).await?))
    }

    fn faults(&self) -> &'static [Fault] {
        &[
            Fault::Restart,
            Fault::LoseData,
            Fault::Purge,
            Fault::Garbage,
            Fault::Leftovers,
            Fault::Requests,
            Fault::Processes,
            Fault::Proxy,
            Fault::Twice,
            Fault::Password,
            #[cfg(feature = "tls")]
            Fault::Tls,
        ]
    }

    async fn restart(&self) -> Result<()> {
        self.server.lock().unwrap().as_mut().unwrap().restart();
        Ok(())
    }

    async fn lose_data(&self) -> Result<()> {
        let () = redis::cmd("FLUSHALL").query(&mut self.raw()).unwrap();
        Ok(())
    }

    async fn purge(&self, key: &LockKey) -> Result<()> {
        let () = self.raw().del(&[format!("{{{key}}}:f"), format!("{{{key}}}:h")]).unwrap();
        Ok(())
    }

    async fn put_garbage(&self, key: &LockKey) -> Result<()> {
        let () = self.raw().rpush(key.as_str(), "not a lock").unwrap();
        Ok(())
    }

    async fn raw(&self, key: &LockKey) -> Result<Vec<u8>> {
        Ok(redis::cmd("DUMP").arg(key.as_str()).query(&mut Redis::raw(self)).unwrap())
    }

    async fn leftovers(&self, prefix: &str) -> Result<usize> {
        let mut raw = Redis::raw(self);
        let plain: Vec<String> = raw.keys(format!("{prefix}*")).unwrap();
        let beside: Vec<String> = raw.keys(format!("{{{prefix}*")).unwrap();
        // A fence goes by itself within five seconds.
        Ok(plain.len() + beside.iter().filter(|name| !name.ends_with(":f")).count())
    }

    async fn requests(&self) -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut Redis::raw(self)).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(count.unwrap().parse().unwrap())
    }

    async fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::tcp(Framing::Resp, self.url.trim_start_matches("redis://")).await.unwrap())
    }

    async fn proxied_client(&self, proxy: &Proxy, op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        let url = format!("redis://{}?op_timeout={}ms", proxy.address(), op_timeout.as_millis());
        Ok(Arc::new(RedisBackend::connect(&url.parse()?).await?))
    }

    async fn client_with_password(&self, password: &str) -> Result<Arc<dyn LockBackend>> {
        let server = RedisServer::start_with(&RedisOptions { password: Some("right".into()), ..Default::default() });
        let url = format!("redis://:{password}@127.0.0.1:{}", server.port());
        Ok(Arc::new(RedisBackend::connect(&url.parse()?).await?))
    }

    #[cfg(feature = "tls")]
    async fn client_by_tls(&self, password: &str) -> Result<Arc<dyn LockBackend>> {
        let folder = tempfile::TempDir::new().unwrap();
        let certificate = Some(dlock_fixtures::Certificate::make(folder.path()));
        let options = RedisOptions { certificate, password: Some(password.to_owned()), ..Default::default() };
        let server = RedisServer::start_with(&options);
        let url = format!("rediss://:{password}@127.0.0.1:{}?op_timeout=5s", server.port());
        Ok(Arc::new(RedisBackend::connect(&url.parse()?).await?))
    }

    fn worker_environment(&self) -> Vec<(String, String)> {
        vec![(URL.into(), self.url.clone())]
    }
}

fn main() -> ExitCode {
    run("redis", || Ok(Redis::new()))
}
