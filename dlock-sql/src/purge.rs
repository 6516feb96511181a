//! Removes the rows of locks that nobody has used for long.
//!
//! Tokens never go back over that: a row goes only when the server's clock has passed its last token, so that the next one,
//! which is at least that clock, is larger (rule F1). And only when it has been idle for longer than any request lives: one that
//! wants to create the row, and is still under way, would succeed otherwise (rule R3).

use async_trait::async_trait;
use dlock_core::record::{Record, RecordStore, Snapshot, StoreTime};
use dlock_core::{Clock, ErrorKind, LockKey, Moment, Result, drift};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A store that finds what was not used for long.
#[async_trait]
pub(crate) trait Purges: RecordStore<Version = i64> {
    /// What this client has watched so far.
    fn watched(&self) -> &Watched;

    /// Rows whose key comes after `after` and that nobody has written for `unused_for`, in the order of their keys.
    async fn unused(
        &self,
        unused_for: Duration,
        after: &str,
        at_most: u16,
    ) -> Result<Vec<(LockKey, Result<Snapshot<i64>>)>>;
}

/// Rows with entries that are long over, as they were first seen: only one that stays the same while we watch it for the
/// entries' TTL goes, whatever the server's clock says meanwhile (rule C2).
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<HashMap<LockKey, (i64, Moment)>>);

/// How many rows are looked at in one request, and how many are watched.
const BATCH: u16 = 200;
const MOST_WATCHED: usize = 10_000;
/// Passes are at the most this far apart.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// One pass over the table; answers how many rows went.
pub(crate) async fn pass<S: Purges>(store: &S, unused_for: Duration) -> Result<u64> {
    let watched = store.watched();
    let (mut after, mut removed) = (String::new(), 0);
    loop {
        let rows = store.unused(unused_for, &after, BATCH).await?;
        let is_last = rows.len() < usize::from(BATCH);
        for (key, found) in rows {
            key.as_str().clone_into(&mut after);
            // What can't be read is never touched.
            let Ok(Snapshot { record: Some(record), version: Some(version), reading: Some(reading), .. }) = found
            else {
                continue;
            };
            let may_go = record.last_token < reading.unix_micros
                && (record.is_idle() || watched.is_over(&key, version, &record, reading.at, unused_for, store));
            if may_go && store.purge(&key, &version).await? {
                watched.lock().remove(&key);
                removed += 1;
            }
        }
        if is_last {
            return Ok(removed);
        }
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<LockKey, (i64, Moment)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all entries of a record are over: long ago by the server's clock, and it has not changed while we watched.
    fn is_over<S: Purges>(
        &self,
        key: &LockKey,
        version: i64,
        record: &Record,
        now: StoreTime,
        unused_for: Duration,
        store: &S,
    ) -> bool {
        let holders = record.holders.iter().map(|holder| (holder.expires, holder.entry.ttl()));
        let waiters = record.queue.iter().map(|waiter| (waiter.alive_until, waiter.entry.ttl()));
        let (mut ends, mut longest) = (StoreTime(0), Duration::ZERO);
        for (end, ttl) in holders.chain(waiters) {
            (ends, longest) = (ends.max(end), longest.max(ttl));
        }
        if now <= ends + unused_for {
            return false;
        }
        let local = store.clock().now();
        let mut watched = self.lock();
        match watched.get(key) {
            Some((seen, since)) if *seen == version => {
                local.since(*since) > longest + drift(longest) + store.clock_margin()
            }
            _ => {
                if watched.len() < MOST_WATCHED {
                    watched.insert(key.clone(), (version, local));
                }
                false
            }
        }
    }
}

/// Passes from time to time, until the store is gone.
pub(crate) async fn keep_purging<S: Purges>(store: impl Fn() -> Option<S>, unused_for: Duration, clock: Clock) {
    // Many clients of one table need not begin at once.
    let mut pause = Duration::from_millis(rand::random_range(100..1_000));
    loop {
        clock.sleep(pause).await;
        pause = (unused_for / 4).min(LONGEST_PAUSE).mul_f64(rand::random_range(0.5..1.0));
        let Some(store) = store() else { return };
        match pass(&store, unused_for).await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(store = store.name(), removed, "purged locks that nobody has used for long"),
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                tracing::warn!(
                    store = store.name(),
                    error = %error.chain(),
                    "locks that nobody uses stay: this user may not delete rows (purge_after needs the right DELETE)"
                );
                return;
            }
            Err(error) => tracing::debug!(store = store.name(), error = %error.chain(), "could not purge; later again"),
        }
    }
}
