//! [`LocalStore`]: records in a SQLite file.

use crate::alive::{Alive, Life};
use crate::error::from_sqlite;
use crate::worker::Worker;
use crate::{filesystem, schema};
use async_trait::async_trait;
use dlock_core::record::{Change, Entry, Record, RecordStore, Snapshot, StoreReading, StoreTime, Swap, Wakes};
use dlock_core::{
    Capabilities, Clock, Error, ErrorKind, HolderId, Lifetime, LockKey, Moment, Result, Shows, TokenSurvives, Ttl,
    TtlRange, Wake,
};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// How far apart a waiter looks.
const LOOK: Duration = Duration::from_millis(10);
/// How long a read waits for a writer.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// Records in a SQLite file. Stores of one file in one process share their connection and sign of life.
#[derive(Clone, Debug)]
pub(crate) struct LocalStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Device and inode, to see that the file was replaced.
    identity: (u64, u64),
    worker: Worker,
    alive: Alive,
    wakes: Wakes,
    clock: Clock,
    others: Mutex<Others>,
}

/// What this process knows of changes by other processes: it looks once for all its waiters.
#[derive(Debug, Default)]
struct Others {
    looked: Option<Moment>,
    data_version: i64,
    changes: u64,
}

type OpenFiles = HashMap<(u64, u64), Weak<Shared>>;

static OPEN: LazyLock<Mutex<OpenFiles>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalStore {
    /// Opens a file. Blocks for as long as the disk takes.
    pub(crate) fn open(path: &Path, full_sync: bool) -> Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let Ok(folder) = folder.canonicalize() else {
            let message = format!("the folder {} does not exist or can't be entered; make it first", folder.display());
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        };
        filesystem::check(&folder)?;
        let Some(name) = path.file_name() else {
            let message = format!("{} names no file; write local:/path/to/locks.db", path.display());
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        };
        let path = folder.join(name);
        // One at a time, so that a file has one sign of life in this process.
        let mut open = locked(&OPEN);
        let connection = schema::open(&path, full_sync)?;
        filesystem::check_file(&path)?;
        let identity = identity(&path)?;
        if let Some(shared) = open.get(&identity).and_then(Weak::upgrade) {
            if full_sync {
                // One that wants it is enough.
                shared.worker.tell(schema::sync_fully);
            }
            return Ok(Self(shared));
        }
        let alive = Alive::begin(&path, |name| {
            let named = "SELECT EXISTS (SELECT 1 FROM locks WHERE instr(record, ?1))";
            connection.query_row(named, [name], |row| row.get(0)).map_err(from_sqlite)
        })?;
        let shared = Arc::new(Shared {
            path,
            identity,
            worker: Worker::start(connection)?,
            alive,
            wakes: Wakes::default(),
            clock: Clock::system(),
            others: Mutex::default(),
        });
        open.retain(|_, shared| shared.strong_count() > 0);
        open.insert(identity, Arc::downgrade(&shared));
        Ok(Self(shared))
    }

    /// Runs `work` on the thread that has the connection.
    async fn blocking<T: Send + 'static>(
        &self,
        give_up: Moment,
        work: impl FnOnce(&Shared, &mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.0.clone();
        let checked = move |connection: &mut Connection| {
            if identity(&shared.path).ok() != Some(shared.identity) {
                let message = "the lock file was deleted or replaced while it was in use; start this program anew";
                return Err(Error::new(ErrorKind::Unexpected, message));
            }
            connection.busy_timeout(give_up.since(shared.clock.now())).map_err(from_sqlite)?;
            work(&shared, connection)
        };
        self.0.worker.ask(&self.0.clock, give_up, checked).await
    }

    /// How often other processes were seen to have changed the file; looks at most once in [`LOOK`].
    async fn changes_by_others(&self) -> Result<u64> {
        let now = self.0.clock.now();
        {
            let mut others = locked(&self.0.others);
            if others.looked.is_some_and(|looked| now.since(looked) < LOOK) {
                return Ok(others.changes);
            }
            others.looked = Some(now);
        }
        self.blocking(self.read_give_up(), |shared, connection| {
            let version = connection.pragma_query_value(None, "data_version", |row| row.get(0)).map_err(from_sqlite)?;
            let mut others = locked(&shared.others);
            if others.data_version != version {
                others.data_version = version;
                others.changes += 1;
            }
            Ok(others.changes)
        })
        .await
    }

    fn read_give_up(&self) -> Moment {
        self.0.clock.now() + READ_PATIENCE
    }
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let found = std::fs::metadata(path).map_err(|error| {
        Error::new(ErrorKind::Unexpected, format!("{} can't be looked at", path.display())).with_source(error)
    })?;
    Ok((found.dev(), found.ino()))
}

impl Shared {
    fn reading(&self) -> StoreReading {
        let now = self.clock.now();
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        StoreReading {
            at: StoreTime(now.as_nanos() / 1000),
            granularity: Duration::from_micros(1),
            unix_micros: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX),
            sent: now,
            received: now,
        }
    }

    fn is_dead(&self, entry: &Entry) -> bool {
        self.alive.life_of(entry.origin.as_deref()) == Life::Dead
    }

    fn snapshot(&self, found: Option<(i64, String)>, mark: u64) -> Result<Snapshot<i64>> {
        let version = found.as_ref().map(|(version, _)| *version);
        let record = found.map(|(_, text)| Record::decode(text.as_bytes())).transpose()?;
        let record = record.unwrap_or_else(|| Record::removed(mark));
        let mut snapshot = Snapshot::new(Some(record), version, Some(self.reading()));
        for entry in snapshot.record.iter().flat_map(entries) {
            match self.alive.life_of(entry.origin.as_deref()) {
                Life::Counts => {}
                Life::Dead => snapshot.departed.push(entry.id.clone()),
                Life::ElsewhereInTime => snapshot.doubted.push(entry.id.clone()),
            }
        }
        Ok(snapshot)
    }
}

fn entries(record: &Record) -> impl Iterator<Item = &Entry> {
    let holders = record.holders.iter().map(|holder| &holder.entry);
    holders.chain(record.queue.iter().map(|waiter| &waiter.entry))
}

fn row(connection: &Connection, key: &LockKey) -> Result<Option<(i64, String)>> {
    connection
        .prepare_cached("SELECT version, record FROM locks WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(from_sqlite)
}

/// The largest last token of all removed rows.
fn mark(connection: &Connection) -> Result<u64> {
    let mark: i64 = connection
        .prepare_cached("SELECT last_token FROM removed")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(from_sqlite)?;
    Ok(u64::try_from(mark).unwrap_or_default())
}

fn write(transaction: &Transaction<'_>, key: &LockKey, next: &Record) -> Result<Option<i64>> {
    if next.is_idle() {
        transaction
            .prepare_cached("DELETE FROM locks WHERE key = ?1")
            .and_then(|mut statement| statement.execute([key.as_str()]))
            .map_err(from_sqlite)?;
        let last = i64::try_from(next.last_token).unwrap_or(i64::MAX);
        transaction
            .prepare_cached("UPDATE removed SET last_token = max(last_token, ?1)")
            .and_then(|mut statement| statement.execute([last]))
            .map_err(from_sqlite)?;
        return Ok(None);
    }
    let version = i64::from_ne_bytes(uuid::Uuid::new_v4().as_u64_pair().0.to_ne_bytes());
    transaction
        .prepare_cached(
            "INSERT INTO locks (key, version, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET version = excluded.version, record = excluded.record",
        )
        .and_then(|mut statement| statement.execute(params![key.as_str(), version, next.encode()]))
        .map_err(from_sqlite)?;
    Ok(Some(version))
}

#[async_trait]
impl RecordStore for LocalStore {
    type Version = i64;

    fn name(&self) -> &'static str {
        "local"
    }

    fn capabilities(&self) -> Capabilities {
        crate::LocalBackend::CAPABILITIES
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    fn reading(&self) -> Option<StoreReading> {
        Some(self.0.reading())
    }

    fn origin(&self) -> Option<String> {
        Some(self.0.alive.origin().to_owned())
    }

    async fn read(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<i64>> {
        let key = key.clone();
        let read = move |shared: &Shared, connection: &mut Connection| {
            shared.snapshot(row(connection, &key)?, mark(connection)?)
        };
        self.blocking(give_up.min(self.read_give_up()), read).await
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, i64>) -> Result<Swap<i64>> {
        let (key, expected, next) = (key.clone(), change.expected.copied(), change.next.clone());
        let swap = move |shared: &Shared, connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(from_sqlite)?;
            let (present, mark) = (row(&transaction, &key)?, mark(&transaction)?);
            let is_other = present.as_ref().map(|(version, _)| *version) != expected;
            if is_other || (present.is_none() && next.last_token <= mark && !next.is_idle()) {
                return Ok(Swap::Conflict(Some(shared.snapshot(present, mark)?)));
            }
            let before = present.map(|(_, text)| Record::decode(text.as_bytes())).transpose()?;
            let reading = shared.reading();
            let version = write(&transaction, &key, &next)?;
            transaction.commit().map_err(from_sqlite)?;
            shared.wakes.changed(&key, before.as_ref(), &next);
            Ok(Swap::Done { version, reading: Some(reading) })
        };
        self.blocking(change.give_up, swap).await
    }

    fn wakes(&self) -> Wakes {
        self.0.wakes.clone()
    }

    async fn changed(&self, key: &LockKey, waiter: &HolderId, _since: Option<&i64>, at_most: Duration) -> Result<()> {
        let clock = &self.0.clock;
        let end = clock.now() + at_most;
        loop {
            let changes = self.changes_by_others().await?;
            let snapshot = self.read(key, Moment::MAX).await?;
            let record = snapshot.record.unwrap_or_default();
            let place = record.queue.iter().position(|other| other.entry.id == *waiter);
            let in_front = &record.queue[..place.unwrap_or_default()];
            let holders = record.holders.iter().map(|holder| &holder.entry);
            let before: Vec<_> = holders.chain(in_front.iter().map(|other| &other.entry)).collect();
            // Granted or removed; or a holder went without a word.
            if place.is_none() || record.holders.is_empty() {
                return Ok(());
            }
            while changes == self.changes_by_others().await? {
                if clock.now() >= end || before.iter().any(|entry| self.0.is_dead(entry)) {
                    return Ok(());
                }
                clock.sleep_until((clock.now() + LOOK).min(end)).await;
            }
        }
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<i64>)>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        let all = async move {
            let found = store.blocking(store.read_give_up(), move |shared, connection| {
                let mut statement = connection
                    .prepare_cached("SELECT key, version, record FROM locks WHERE substr(key, 1, length(?1)) = ?1")
                    .map_err(from_sqlite)?;
                let rows =
                    statement.query_map([prefix], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)));
                rows.map_err(from_sqlite)?
                    .map(|row| {
                        let (key, version, text) = row.map_err(from_sqlite)?;
                        let key = LockKey::new(key)?;
                        // One row that can't be read hides no other.
                        let snapshot = shared.snapshot(Some((version, text)), 0);
                        Ok(snapshot.map_err(|error| error.during("list", Some(&key))).map(|snapshot| (key, snapshot)))
                    })
                    .collect::<Result<Vec<_>>>()
            });
            Ok::<_, Error>(futures_util::stream::iter(found.await?))
        };
        futures_util::stream::once(all).try_flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &i64) -> Result<bool> {
        let (key, expected) = (key.clone(), *expected);
        self.blocking(self.read_give_up(), move |_, connection| {
            let gone = connection
                .execute("DELETE FROM locks WHERE key = ?1 AND version = ?2", params![key.as_str(), expected]);
            Ok(gone.map_err(from_sqlite)? > 0)
        })
        .await
    }

    fn sign_of_life(&self) -> Option<std::os::fd::OwnedFd> {
        self.0.alive.share().ok().map(Into::into)
    }
}

pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    shared: true,
    permits: true,
    fifo: true,
    wake: Wake::Poll(LOOK),
    ttl: TtlRange { min: Duration::from_millis(50), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
    lifetime: Lifetime::Lease,
    lateness: Duration::from_millis(50),
    death_seen_within: Some(Duration::from_millis(250)),
    token_survives: TokenSurvives { restart: true, data_loss: true },
    leases_survive_restart: true,
    fence_floor: true,
    shows: Shows { label: true, remaining: true, since: true, waiters: true },
};
