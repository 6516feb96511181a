//! Acquisitions whose requests are answered late or not at all, on a backend that loses and delays replies.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_core::memory::Memory;
use dlock_core::{
    Attempt, Capabilities, Clock, Effect, Error, ErrorKind, HolderId, LockBackend, LockInfo, LockKey, Locks, Request,
    Result,
};
use futures_core::stream::BoxStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

const TTL: Duration = Duration::from_millis(100);

/// Memory whose first reply is lost, and whose second comes when the lease that it grants has run out.
#[derive(Debug)]
struct Doubtful {
    memory: Memory,
    attempts: AtomicUsize,
    asked: std::sync::Mutex<Vec<HolderId>>,
    withdrawn: watch::Sender<Vec<HolderId>>,
    /// Withdrawing waits for this.
    held: watch::Receiver<bool>,
}

#[async_trait]
impl LockBackend for Doubtful {
    fn name(&self) -> &'static str {
        "doubtful"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn clock(&self) -> Clock {
        self.memory.clock()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Attempt> {
        self.asked.lock().unwrap().push(request.holder());
        let attempt = self.memory.try_acquire(request).await?;
        match self.attempts.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::new(ErrorKind::Unavailable, "the reply was lost").with_effect(Effect::Unknown)),
            1 => {
                self.clock().sleep(TTL).await;
                Ok(attempt)
            }
            _ => Ok(attempt),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Attempt> {
        self.memory.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.held.clone().wait_for(|held| *held).await.unwrap();
        self.withdrawn.send_modify(|withdrawn| withdrawn.push(request.holder()));
        self.memory.withdraw(request).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockInfo> {
        self.memory.inspect(key).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        self.memory.list(prefix)
    }

    async fn break_lock(&self, key: &LockKey, holder: &HolderId) -> Result<bool> {
        self.memory.break_lock(key, holder).await
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}

#[tokio::test]
async fn undoing_a_doubtful_lease_that_ran_out_leaves_its_successor_alone() {
    let (hold, held) = watch::channel(false);
    let backend = Arc::new(Doubtful {
        memory: Memory::new(),
        attempts: AtomicUsize::new(0),
        asked: std::sync::Mutex::default(),
        withdrawn: watch::Sender::new(Vec::new()),
        held,
    });
    let mut withdrawn = backend.withdrawn.subscribe();
    let locks = Locks::builder(backend.clone()).build().unwrap();
    let guard = locks.lock("a").ttl(TTL).try_acquire().await.unwrap().expect("it is free");
    hold.send_replace(true);
    withdrawn.wait_for(|withdrawn| !withdrawn.is_empty()).await.unwrap();
    locks.close().await.unwrap();
    let (asked, withdrawn) = (backend.asked.lock().unwrap().clone(), backend.withdrawn.borrow().clone());
    assert_eq!((asked.len(), &asked[0], &asked[2]), (3, &asked[1], &guard.holder()));
    assert!(withdrawn.iter().all(|id| *id == asked[0]), "of {asked:?} these were withdrawn: {withdrawn:?}");
}
