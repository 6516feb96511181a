//! [`Workload`]: how many tasks want which keys, and what they do under the lock.

use crate::contender::{Client, Result};
use crate::turn::{Turn, now};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How many tasks want which keys, and what they do under the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name in the report.
    pub name: String,
    /// Tasks in each process.
    pub tasks: u32,
    /// Which keys they want.
    pub keys: Keys,
    /// How long each holds the lock, in microseconds.
    pub work_us: u64,
    /// Processes, each with a client of its own.
    pub processes: u32,
}

/// Which keys the tasks want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// Each task one of its own.
    Own,
    /// All the same.
    One,
}

impl Workload {
    fn new(name: impl Into<String>, tasks: u32, keys: Keys) -> Self {
        Self { name: name.into(), tasks, keys, work_us: 0, processes: 1 }
    }

    /// One task, one key: what a lock costs when nobody else wants it.
    pub fn lone() -> Self {
        Self::new("lone pair", 1, Keys::Own)
    }

    /// Each task has a key of its own.
    pub fn spread(tasks: u32) -> Self {
        Self::new(format!("{tasks} tasks × {tasks} keys"), tasks, Keys::Own)
    }

    /// All tasks want one key.
    pub fn crowd(tasks: u32, work: Duration) -> Self {
        let inside = if work.is_zero() { String::new() } else { format!(", {} ms inside", work.as_millis()) };
        let work_us = u64::try_from(work.as_micros()).unwrap_or(u64::MAX);
        Self { work_us, ..Self::new(format!("{tasks} tasks × 1 key{inside}"), tasks, Keys::One) }
    }

    /// The same, in many processes.
    #[must_use]
    pub fn in_processes(mut self, processes: u32) -> Self {
        self.name = format!("{processes} × {}", self.name);
        self.processes = processes;
        self
    }

    /// Whether tasks have to wait for each other: then hand-overs are counted and not pairs.
    pub fn is_contended(&self) -> bool {
        self.keys == Keys::One && self.tasks * self.processes > 1
    }
}

/// The workloads of a comparison; `quick` leaves most sizes out.
pub fn workloads(quick: bool) -> Vec<Workload> {
    let (none, work) = (Duration::ZERO, Duration::from_millis(2));
    if quick {
        return vec![
            Workload::lone(),
            Workload::spread(64),
            Workload::crowd(2, none),
            Workload::crowd(16, none),
            Workload::crowd(16, work),
            Workload::crowd(16, none).in_processes(4),
        ];
    }
    let mut all = vec![Workload::lone()];
    all.extend([4, 16, 64].map(Workload::spread));
    all.extend([2, 4, 16, 64, 256].map(|tasks| Workload::crowd(tasks, none)));
    all.extend([2, 16, 256].map(|tasks| Workload::crowd(tasks, work)));
    all.push(Workload::crowd(16, none).in_processes(4));
    all
}

/// Lets the tasks of one process take turns from `from` until `until`. Who waits then still gets its last turn, so that
/// the longest wait is known.
///
/// # Errors
/// The first error of a task; the others then stop.
pub async fn take_turns(
    client: &Arc<dyn Client>,
    workload: &Workload,
    key: &str,
    from: u64,
    until: u64,
) -> Result<Vec<Turn>> {
    let mut tasks: JoinSet<Result<Vec<Turn>>> = JoinSet::new();
    let work = Duration::from_micros(workload.work_us);
    for who in 0..workload.tasks {
        let client = client.clone();
        let key = if workload.keys == Keys::One { key.to_owned() } else { format!("{key}-{who}") };
        tasks.spawn(async move {
            let mut turns = Vec::with_capacity(1024);
            tokio::time::sleep(Duration::from_nanos(from.saturating_sub(now()))).await;
            let mut asked = now();
            while asked < until {
                let held = client.acquire(&key).await?;
                let acquired = now();
                if !work.is_zero() {
                    tokio::time::sleep(work).await;
                }
                let released = now();
                held.release().await?;
                let done = now();
                turns.push(Turn { who, asked, acquired, released, done });
                asked = done;
            }
            Ok(turns)
        });
    }
    let mut all = Vec::new();
    while let Some(turns) = tasks.join_next().await {
        all.extend(turns??);
    }
    Ok(all)
}
