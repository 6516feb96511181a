//! [`Line`]: what a process writes down, one a line, as it happens.

use dlocks::{Clock, LostCause};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Nanoseconds of `CLOCK_BOOTTIME`: the true time of all processes of this machine.
pub type Nanos = u64;

/// The present moment.
pub fn now() -> Nanos {
    Clock::system().now().as_nanos()
}

/// One acquisition of one task of one life of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldId {
    /// Which worker.
    pub slot: u32,
    /// Its how manieth process: a killed one is followed by another.
    pub life: u32,
    /// Which of its tasks.
    pub task: u32,
    /// Which of the task's acquisitions.
    pub hold: u32,
}

/// Something that happened, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line<E> {
    /// When; what that means exactly says the event.
    pub at: Nanos,
    /// What.
    #[serde(flatten)]
    pub event: E,
}

/// How a worker asks for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With other readers.
    Shared,
    /// One of so many.
    Permit(u32),
}

/// What a worker tells of one acquisition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It is about to ask. `at`: before.
    Asks {
        /// For which key.
        key: String,
        /// How.
        mode: Mode,
        /// For how long, in milliseconds.
        ttl_ms: u64,
        /// The most it waits, in milliseconds; `None`: without end, or it is cancelled.
        limit_ms: Option<u64>,
    },
    /// It holds. `at`: after the guard was there, and before the first look at its validity.
    Got {
        /// The fencing token.
        token: u64,
        /// The last exclusive token, where the store knows it.
        floor: Option<u64>,
        /// The store's id of the acquisition.
        holder: String,
        /// Until when it may be believed unless it is renewed.
        until: Nanos,
    },
    /// It does not hold. `at`: after.
    GotNot {
        /// `held`, `cancelled`, or the kind of the error.
        why: String,
        /// The error.
        error: Option<String>,
    },
    /// It looked whether the lock is still held, before it acts on that. `at`: before the look.
    Looked {
        /// The answer.
        valid: bool,
        /// Until when it may be believed, read after the look.
        until: Nanos,
    },
    /// Its deadline was moved. `at`: when that was noticed.
    Renewed {
        /// To when.
        until: Nanos,
    },
    /// It sends a request to the resource. `at`: before.
    Sends,
    /// The resource answered. `at`: after.
    Answered {
        /// Whether the fence let it through.
        accepted: bool,
    },
    /// `lost()` has resolved. `at`: when.
    Lost {
        /// Why.
        cause: String,
        /// The last deadline before that.
        until: Nanos,
    },
    /// It gives the lock up, by release or drop. `at`: before.
    Leaves,
    /// The release was answered. `at`: after.
    Left {
        /// `released`, or the kind of the error.
        how: String,
        /// The error.
        error: Option<String>,
    },
    /// The process did not run for a while (it was stopped, or got no processor). `at`: the end of that.
    Slept {
        /// Its beginning.
        from: Nanos,
    },
    /// The process ran, and its runtime did not: it got no processor, or something that it polls blocks. `at`: when it ran
    /// again.
    Blocked {
        /// When the runtime's beat was last heard.
        since: Nanos,
        /// How long a thread of the runtime could have run, and got no processor, as the kernel counts it.
        starved: Nanos,
        /// What each thread did: name, state, and the kernel's function in which it waits.
        threads: Vec<String>,
    },
    /// A task asks for nothing more, and holds nothing.
    Rests,
    /// The client could not be made, or be closed.
    Broken {
        /// The error.
        error: String,
    },
}

/// A line of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Who.
    pub id: HoldId,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// A request as the resource carried it out or refused it. `at`: while nobody else was served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    /// Who asked.
    pub id: HoldId,
    /// Of which key.
    pub key: String,
    /// In which mode.
    pub mode: Mode,
    /// The token that came along.
    pub token: u64,
    /// For a shared or permit holder: what is compared.
    pub floor: Option<u64>,
    /// For a write: the value that the writer had read before.
    pub base: Option<u64>,
    /// The value before.
    pub value: u64,
    /// Whether it was let through.
    pub accepted: bool,
}

/// What the nemesis did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Done {
    /// It is about to do a fault. `at`: before.
    Begins {
        /// Which.
        fault: crate::plan::Fault,
        /// For a worker's: which life of it.
        life: Option<u32>,
    },
    /// What it broke is whole again. `at`: after.
    Heals {
        /// Which.
        fault: crate::plan::Fault,
    },
    /// All faults are over. `at`: after.
    Over,
}

/// What a fresh client found after all faults were over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Probe {
    /// It got a key.
    Got {
        /// Which.
        key: String,
        /// How long that took, in milliseconds.
        took_ms: u64,
        /// How long it may take.
        bound_ms: u64,
    },
    /// It did not get it.
    GotNot {
        /// Which.
        key: String,
        /// Why.
        error: String,
    },
    /// A worker that lived on did not come to rest, or did not end when it was told to.
    Stuck {
        /// Which.
        slot: u32,
        /// What it did not do.
        what: String,
    },
}

/// When a server, set up as it is in the run, loses leases that it gave before their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LosesLeases {
    /// Never.
    Never,
    /// When it is killed and started again.
    WhenKilled,
    /// For a moment when a stopped one goes on: an etcd leader that does not yet know its successor ends what that one has
    /// prolonged. Versions before 3.4.31 and 3.5.13 do so often (etcd-io/etcd#15247), 3.6.13 when its first tick comes
    /// before the news.
    WhenResumed,
}

/// What was run, and what the checker may ask of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// The store.
    pub store: String,
    /// The seed.
    pub seed: u64,
    /// How long, in seconds.
    pub seconds: u64,
    /// Whether validity and fence were looked at.
    pub checks: bool,
    /// When a server loses leases that it gave.
    pub loses_leases: LosesLeases,
    /// A lease lives by its own TTL, not by its client's session.
    pub own_ttl: bool,
}

impl<E: Serialize> Line<E> {
    /// Something that happened now.
    pub fn now(event: E) -> Self {
        Self { at: now(), event }
    }
}

/// An append-only file of lines. A process that is killed loses at most the line that it was writing.
#[derive(Debug)]
pub struct Recorder(File);

impl Recorder {
    /// Makes the file, or goes on with it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Writes a line by one `write(2)`.
    ///
    /// # Panics
    /// When the disk is full: a history with holes judges nothing.
    pub fn record<E: Serialize>(&self, line: &Line<E>) {
        let mut text = serde_json::to_vec(line).expect("an event is JSON");
        text.push(b'\n');
        (&self.0).write_all(&text).expect("the history is written");
    }
}

/// All lines of a file; the last may be cut short by a kill.
///
/// # Errors
/// When it can't be read, or another line than the last is none.
pub fn read<E: DeserializeOwned>(path: &Path) -> Result<Vec<Line<E>>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut read = Vec::with_capacity(lines.len());
    for (number, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => read.push(line),
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => return Err(format!("{}:{}: {error}", path.display(), number + 1)),
        }
    }
    Ok(read)
}

/// A cause as one word.
pub(crate) fn word(cause: LostCause) -> String {
    cause.as_str().to_owned()
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
