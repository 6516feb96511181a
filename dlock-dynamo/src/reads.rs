//! [`Reads`]: those of one client that want to know the same item share a read.

use crate::item::Item;
use dlock_core::record::StoreReading;
use dlock_core::{Clock, LockKey, Moment, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a read found: the item as it is, so that each reader tells for itself what is wrong with it.
pub(crate) type Found = (Option<Item>, Option<StoreReading>);

/// How long one waits for another's read, which may be that of a future that nobody polls.
const PATIENCE: Duration = Duration::from_secs(1);

type Last = Arc<tokio::sync::Mutex<Option<(Moment, Found)>>>;

/// One read at a time for a key, whose answer is that of everybody who asked before it was **sent**: who asked later might
/// miss what happened before it asked. A crowd of waiters costs two reads a look.
#[derive(Debug, Default)]
pub(crate) struct Reads(Mutex<HashMap<LockKey, Last>>);

impl Reads {
    /// What `read` finds, or found for another who asked after us.
    ///
    /// # Cancel safety
    /// Cancel-safe: the next one reads for itself.
    pub(crate) async fn share(
        &self,
        clock: &Clock,
        key: &LockKey,
        read: impl Future<Output = Result<Found>>,
    ) -> Result<Found> {
        let asked = clock.now();
        let _place = Shared { reads: self, key };
        let line = self.entry(key);
        let Some(mut last) = clock.timeout_at(asked + PATIENCE, line.lock()).await else {
            return read.await;
        };
        if let Some((sent, found)) = &*last
            && *sent > asked
        {
            return Ok(found.clone());
        }
        let sent = clock.now();
        let found = read.await?;
        *last = Some((sent, found.clone()));
        Ok(found)
    }

    fn entry(&self, key: &LockKey) -> Last {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone()
    }
}

/// A place in the map while somebody reads.
struct Shared<'a> {
    reads: &'a Reads,
    key: &'a LockKey,
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let mut reads = self.reads.0.lock().unwrap_or_else(PoisonError::into_inner);
        // New places are only made under this lock: the map's is the last reference.
        if reads.get(self.key).is_some_and(|last| Arc::strong_count(last) == 1) {
            reads.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_crowd_shares_reads_that_were_sent_after_it_asked() {
        let (reads, clock, count) = (Reads::default(), Clock::system(), AtomicUsize::new(0));
        let key = LockKey::new("k").unwrap();
        let read = || async {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok((None, None))
        };
        let crowd = (0..50).map(|_| reads.share(&clock, &key, read()));
        for found in futures_util::future::join_all(crowd).await {
            found.unwrap();
        }
        assert_eq!(count.load(Ordering::SeqCst), 2, "one for the first, one for those who came while it was under way");
        reads.share(&clock, &key, read()).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 3, "what was read before is old");
        // One that gives up leaves the next to itself, and nothing behind.
        let _ = tokio::time::timeout(Duration::from_millis(1), reads.share(&clock, &key, read())).await;
        reads.share(&clock, &key, read()).await.unwrap();
        assert!(reads.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_read_that_nobody_polls_holds_up_no_other() {
        let (reads, clock, key) = (Reads::default(), Clock::system(), LockKey::new("k").unwrap());
        let mut aside = Box::pin(reads.share(&clock, &key, std::future::pending()));
        assert!(aside.as_mut().now_or_never().is_none());
        reads.share(&clock, &key, async { Ok((None, None)) }).await.unwrap();
        drop(aside);
        assert!(reads.0.lock().unwrap().is_empty());
    }
}
