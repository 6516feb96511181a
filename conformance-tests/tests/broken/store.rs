//! Flaws of a record store.

use super::Flaw;
use async_trait::async_trait;
use dlock_core::memory::Store as Memory;
use dlock_core::record::{Change, Record, RecordStore, Snapshot, StoreReading, Swap, Wakes};
use dlock_core::{Capabilities, Clock, ErrorKind, HolderId, LockKey, Moment, Result};
use futures_core::stream::BoxStream;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The memory's records, perhaps with versions that are counted for each key, and start again after a purge.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    inner: Memory,
    flaw: Option<Flaw>,
    counted: Arc<Mutex<HashMap<LockKey, (u64, Record)>>>,
}

impl Store {
    pub(crate) fn new(inner: Memory, flaw: Option<Flaw>) -> Self {
        Self { inner, flaw, counted: Arc::default() }
    }

    fn counts(&self) -> bool {
        self.flaw == Some(Flaw::VersionsStartAgain)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RecordStore for Store {
    type Version = u64;

    fn name(&self) -> &'static str {
        "broken"
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    fn reading(&self) -> Option<StoreReading> {
        self.inner.reading()
    }

    fn clock_margin(&self) -> Duration {
        self.inner.clock_margin()
    }

    fn origin(&self) -> Option<String> {
        self.inner.origin()
    }

    async fn read(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<u64>> {
        if self.counts() {
            let found = self.counted.lock().unwrap().get(key).cloned();
            let (version, record) = found.unzip();
            return Ok(Snapshot::new(record, version, self.reading()));
        }
        match self.inner.read(key, give_up).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && self.flaw == Some(Flaw::OverwritesGarbage) => {
                self.inner.put_bytes(key, Record::default().encode().as_bytes());
                self.inner.read(key, give_up).await
            }
            answer => answer,
        }
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, u64>) -> Result<Swap<u64>> {
        if self.counts() {
            let mut counted = self.counted.lock().unwrap();
            let present = counted.get(key).map(|(version, _)| *version);
            if present.as_ref() != change.expected {
                return Ok(Swap::Conflict(None));
            }
            let version = present.unwrap_or(0) + 1;
            counted.insert(key.clone(), (version, change.next.clone()));
            return Ok(Swap::Done { version: Some(version), reading: self.reading() });
        }
        let mut next = change.next.clone();
        if self.flaw == Some(Flaw::Lifo) {
            let before = self.inner.read(key, change.give_up).await?.record.map_or(0, |record| record.queue.len());
            if next.queue.len() > before {
                next.queue.rotate_right(1);
            }
        }
        if self.flaw == Some(Flaw::OverwritesGarbage) {
            self.read(key, change.give_up).await?;
        }
        let give_up = change.give_up;
        self.inner.swap(key, Change { expected: change.expected, next: &next, granted: change.granted, give_up }).await
    }

    fn wakes(&self) -> Wakes {
        self.inner.wakes()
    }

    async fn changed(&self, key: &LockKey, waiter: &HolderId, since: Option<&u64>, at_most: Duration) -> Result<()> {
        if self.counts() {
            self.clock().sleep(at_most.min(Duration::from_millis(5))).await;
            return Ok(());
        }
        self.inner.changed(key, waiter, since, at_most).await
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<u64>)>> {
        self.inner.scan(prefix)
    }

    async fn purge(&self, key: &LockKey, expected: &u64) -> Result<bool> {
        if self.counts() {
            return Ok(self.counted.lock().unwrap().remove(key).is_some());
        }
        self.inner.purge(key, expected).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    #[cfg(unix)]
    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.inner.sign_of_life()
    }
}
