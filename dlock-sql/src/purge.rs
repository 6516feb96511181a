//! Removes the rows of locks that nobody has used for long.
//!
//! Tokens never go back over that: a row goes only when the server's clock has passed its last token, so that the next one,
//! which is at least that clock, is larger (rule F1). And only when it has been idle for longer than any request lives: one that
//! wants to create the row, and is still under way, would succeed otherwise (rule R3).

use async_trait::async_trait;
use dlock_core::record::{Record, RecordStore, Snapshot, StoreTime};
use dlock_core::{Clock, ErrorKind, LockKey, Moment, Result, drift};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A store that finds what was not used for long.
#[async_trait]
pub(crate) trait Purges: RecordStore<Version = i64> {
    /// What this client has watched so far.
    fn watched(&self) -> &Watched;

    /// Rows whose key comes after `after` and that nobody has written for `unused_for`, in the order of their keys.
    async fn unused(&self, unused_for: Duration, after: &[u8], at_most: u16) -> Result<Vec<Row>>;
}

/// A row: its key as it stands there, and its record, unless it is of another kind and no lock's.
pub(crate) type Row = (Vec<u8>, Option<(LockKey, Result<Snapshot<i64>>)>);

/// The locks among rows, for a list.
pub(crate) fn locks(rows: Vec<Row>) -> impl Iterator<Item = Result<(LockKey, Snapshot<i64>)>> {
    rows.into_iter().filter_map(|(_, row)| {
        let (key, found) = row?;
        Some(found.map_err(|error| error.during("list", Some(&key))).map(|found| (key, found)))
    })
}

/// Rows with entries that are long over, as they were first seen: only one that stays the same while we watch it for the
/// entries' TTL goes, whatever the server's clock says meanwhile (rule C2).
#[derive(Debug, Default)]
pub(crate) struct Watched {
    rows: Mutex<HashMap<LockKey, Seen>>,
    passes: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    version: i64,
    since: Moment,
    /// The pass that saw it last.
    pass: u64,
}

/// How many rows are looked at in one request, and how many are watched.
const BATCH: u16 = 200;
const MOST_WATCHED: usize = 10_000;
/// Passes are at the most this far apart.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Copy)]
struct Pass {
    number: u64,
    unused_for: Duration,
}

/// One pass over the table; answers how many rows went.
pub(crate) async fn pass<S: Purges>(store: &S, unused_for: Duration) -> Result<u64> {
    let watched = store.watched();
    let this = Pass { number: watched.passes.fetch_add(1, Ordering::Relaxed) + 1, unused_for };
    let (mut after, mut removed) = (Vec::new(), 0);
    loop {
        let rows = store.unused(unused_for, &after, BATCH).await?;
        let is_last = rows.len() < usize::from(BATCH);
        for (raw, row) in rows {
            after = raw;
            let Some((key, found)) = row else { continue };
            // What can't be read is never touched.
            let Ok(Snapshot { record: Some(record), version: Some(version), reading: Some(reading), .. }) = found
            else {
                continue;
            };
            let may_go = record.last_token < reading.unix_micros
                && (record.is_idle() || watched.is_over(&key, version, &record, reading.at, this, store));
            if may_go && store.purge(&key, &version).await? {
                watched.lock().remove(&key);
                removed += 1;
            }
        }
        if is_last {
            // What others have removed or used again is watched no more.
            watched.lock().retain(|_, seen| seen.pass >= this.number);
            return Ok(removed);
        }
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<LockKey, Seen>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all entries of a record are over: long ago by the server's clock, and it has not changed while we watched.
    fn is_over<S: Purges>(
        &self,
        key: &LockKey,
        version: i64,
        record: &Record,
        now: StoreTime,
        pass: Pass,
        store: &S,
    ) -> bool {
        let holders = record.holders.iter().map(|holder| (holder.expires, holder.entry.ttl()));
        let waiters = record.queue.iter().map(|waiter| (waiter.alive_until, waiter.entry.ttl()));
        let (mut ends, mut longest) = (StoreTime(0), Duration::ZERO);
        for (end, ttl) in holders.chain(waiters) {
            (ends, longest) = (ends.max(end), longest.max(ttl));
        }
        if now <= ends + pass.unused_for {
            return false;
        }
        let local = store.clock().now();
        let mut watched = self.lock();
        let room = watched.len() < MOST_WATCHED;
        match watched.get_mut(key) {
            Some(seen) if seen.version == version => {
                seen.pass = pass.number;
                local.since(seen.since) > longest + drift(longest) + store.clock_margin()
            }
            Some(seen) => {
                *seen = Seen { version, since: local, pass: pass.number };
                false
            }
            None => {
                if room {
                    watched.insert(key.clone(), Seen { version, since: local, pass: pass.number });
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
