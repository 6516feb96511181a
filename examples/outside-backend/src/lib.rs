//! A backend from outside: a folder with a JSON file for each lock, changed under a file lock beside it. It has no wake-up, so its
//! waiters poll; all else comes from `RecordBackend`.

use async_trait::async_trait;
use dlock_core::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, StoreTime, Swap};
use dlock_core::{
    Capabilities, Clock, Effect, Error, ErrorKind, HolderId, Lifetime, LockKey, LocksBuilder, Moment, Result, Shows,
    TokenSurvives, Ttl, TtlRange, Wake,
};
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How far apart waiters look.
const LOOK: Duration = Duration::from_millis(20);

/// Locks in a folder.
pub type FolderBackend = RecordBackend<Folder>;

/// The folder, as a store of records.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// What stands in a lock's file.
#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    /// Random, and so never used twice for a key.
    version: u64,
    record: String,
}

impl Folder {
    /// Locks in this folder, which must exist on a local disk.
    pub fn open(folder: impl AsRef<Path>) -> Result<FolderBackend> {
        let folder = Self(folder.as_ref().canonicalize().map_err(failed)?);
        Ok(RecordBackend::new(folder))
    }

    /// The file of a key: its bytes as hexadecimal digits, so that no two keys share one. Long names are cut into folders.
    fn path(&self, key: &LockKey) -> PathBuf {
        let digits: String = key.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
        let parts = digits.as_bytes().chunks(200).map(|part| String::from_utf8_lossy(part).into_owned());
        let path: PathBuf = parts.collect();
        self.0.join("keys").join(path).with_extension("json")
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.map_err(|error| {
            let error = Error::new(ErrorKind::Closed, "the runtime ended").with_source(error);
            error.with_effect(Effect::Unknown)
        })?
    }

    /// Until it is dropped, no other process changes the key of this path. A process that was stopped with it in hand
    /// costs the others their call, and no more.
    fn alone(&self, path: &Path, give_up: Moment) -> Result<File> {
        fs::create_dir_all(path.parent().unwrap_or(&self.0)).map_err(failed)?;
        let file = File::create(path.with_extension("lock")).map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Clock::system().now() < give_up => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    let error = Error::new(ErrorKind::Unavailable, "another process does not let go of the lock's file");
                    return Err(error.with_effect(Effect::NotApplied));
                }
            }
        }
    }

    fn get(&self, path: &Path) -> Result<Option<Row>> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(failed)?,
        };
        let corrupt = |error| Error::new(ErrorKind::Corrupt, "the lock's file can't be read").with_source(error);
        serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
    }

    fn snapshot(&self, row: Option<Row>) -> Result<Snapshot<u64>> {
        let version = row.as_ref().map(|row| row.version);
        let record = row.map(|row| Record::decode(row.record.as_bytes())).transpose()?;
        Ok(Snapshot::new(record, version, self.reading()))
    }
}

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the folder of locks can't be used").with_source(error)
}

#[async_trait]
impl RecordStore for Folder {
    type Version = u64;

    fn name(&self) -> &'static str {
        "folder"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            shared: true,
            permits: true,
            fifo: true,
            wake: Wake::Poll(LOOK),
            ttl: TtlRange { min: Duration::from_millis(100), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
            lifetime: Lifetime::Lease,
            lateness: Duration::from_millis(100),
            death_seen_within: None,
            token_survives: TokenSurvives { restart: true, data_loss: true },
            leases_survive_restart: true,
            fence_floor: true,
            shows: Shows { label: true, remaining: true, since: true, waiters: true },
        }
    }

    /// The processes of one machine share its clock.
    fn reading(&self) -> Option<StoreReading> {
        let (sent, unix) = (Clock::system().now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH));
        Some(StoreReading {
            at: StoreTime(sent.as_nanos() / 1000),
            granularity: Duration::from_micros(1),
            unix_micros: u64::try_from(unix.unwrap_or_default().as_micros()).unwrap_or(u64::MAX),
            sent,
            received: sent,
        })
    }

    async fn read(&self, key: &LockKey, _give_up: Moment) -> Result<Snapshot<u64>> {
        // Files are renamed into place whole, so that readers need not be alone.
        let path = self.path(key);
        self.blocking(move |this| this.snapshot(this.get(&path)?)).await
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, u64>) -> Result<Swap<u64>> {
        let (path, key, expected, next) =
            (self.path(key), key.to_string(), change.expected.copied(), change.next.clone());
        let give_up = change.give_up;
        self.blocking(move |this| {
            let _alone = this.alone(&path, give_up)?;
            let present = this.get(&path)?;
            if present.as_ref().map(|row| row.version) != expected {
                return Ok(Swap::Conflict(Some(this.snapshot(present)?)));
            }
            let row = Row { key, version: rand::random(), record: next.encode() };
            let text = serde_json::to_vec(&row).map_err(|error| failed(error.into()))?;
            // Whole or not at all.
            let draft = path.with_extension("draft");
            fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path)).map_err(failed)?;
            Ok(Swap::Done { version: Some(row.version), reading: this.reading() })
        })
        .await
    }

    async fn changed(&self, _key: &LockKey, _waiter: &HolderId, _since: Option<&u64>, at_most: Duration) -> Result<()> {
        // Apart, so that a crowd does not look at one moment.
        Clock::system().sleep(at_most.min(LOOK.mul_f64(rand::random_range(0.7..=1.0)))).await;
        Ok(())
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<u64>)>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let all = async move {
            this.blocking(move |this| {
                let (mut folders, mut found) = (vec![this.0.join("keys")], Vec::new());
                while let Some(folder) = folders.pop() {
                    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                        let path = entry.path();
                        if path.is_dir() {
                            folders.push(path);
                        } else if path.extension().is_none_or(|kind| kind != "json") {
                            continue;
                        } else {
                            // One that can't be read hides no other.
                            let row = this.get(&path).transpose();
                            let ours = row.filter(|row| row.as_ref().map_or(true, |row| row.key.starts_with(&prefix)));
                            found.extend(ours.map(|row| {
                                let row = row?;
                                Ok((LockKey::new(&row.key)?, this.snapshot(Some(row))?))
                            }));
                        }
                    }
                }
                Ok(found)
            })
            .await
        };
        let rows = async move { futures_util::stream::iter(all.await.unwrap_or_else(|error| vec![Err(error)])) };
        futures_util::stream::once(rows).flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &u64) -> Result<bool> {
        let (path, expected, give_up) = (self.path(key), *expected, Clock::system().now() + LocksBuilder::OP_TIMEOUT);
        self.blocking(move |this| {
            let _alone = this.alone(&path, give_up)?;
            let is_it = this.get(&path)?.is_some_and(|row| row.version == expected);
            if is_it {
                fs::remove_file(&path).map_err(failed)?;
            }
            Ok(is_it)
        })
        .await
    }
}
