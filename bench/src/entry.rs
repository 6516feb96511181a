//! [`Entry`]: a contender in a comparison.

use crate::contender::{Client, Contender, Result};
use crate::protocol::{Ask, Process};
use crate::turn::Turn;
use crate::workload::{Workload, take_turns};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a contender is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The raw client, with as many trips as a lock needs: what pairs are compared with.
    Pairs,
    /// The raw client, with the store's fastest way to pass something on: what hand-overs are compared with.
    HandOvers,
    /// The raw client's pairs, by one task of a process after the other: what hand-overs are compared with where the store
    /// passes nothing on.
    Chain,
    /// The raw client in both.
    Floor,
    /// dlock.
    Dlock,
    /// Another library.
    Peer,
}

/// A contender in a comparison.
#[derive(Clone)]
pub struct Entry {
    /// Its name in the report.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The contender, if it can be measured in this process.
    pub here: Option<Arc<dyn Contender>>,
    /// How to start it as a process of its own.
    pub command: Vec<String>,
    /// What a reader must know about its figures.
    pub note: &'static str,
}

impl Entry {
    /// Whether its figures are those that others are compared with.
    pub fn is_floor(&self, workload: &Workload) -> bool {
        match self.role {
            Role::Floor => true,
            Role::Pairs => !workload.is_contended(),
            Role::HandOvers => workload.is_contended(),
            Role::Chain => workload.is_contended() && workload.processes == 1,
            Role::Dlock | Role::Peer => false,
        }
    }

    /// Whether it takes part.
    pub fn takes_part(&self, workload: &Workload) -> bool {
        self.is_floor(workload) || matches!(self.role, Role::Dlock | Role::Peer)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// The clients of a contender for one workload.
pub enum Running {
    /// One, in this process.
    Here(Arc<dyn Client>),
    /// One in each process.
    Processes(Vec<Process>),
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Running::Here(_) => f.write_str("Here"),
            Running::Processes(processes) => f.debug_tuple("Processes").field(&processes.len()).finish(),
        }
    }
}

impl Running {
    /// Connects.
    ///
    /// # Errors
    /// When a client can't be made.
    pub async fn start(entry: &Entry, processes: u32) -> Result<Self> {
        if let Some(here) = entry.here.as_ref().filter(|_| processes == 1) {
            return Ok(Running::Here(here.client().await?));
        }
        let mut started = Vec::new();
        for _ in 0..processes {
            started.push(Process::start(&entry.command).await?);
        }
        Ok(Running::Processes(started))
    }

    /// One round.
    ///
    /// # Errors
    /// The first error of a task.
    pub async fn round(&mut self, workload: &Workload, key: &str, from: u64, until: u64) -> Result<Vec<Turn>> {
        let processes = match self {
            Running::Here(client) => return take_turns(client, workload, key, from, until).await,
            Running::Processes(processes) => processes,
        };
        let ask = Ask::Turns { workload: workload.clone(), key: key.to_owned(), from, until };
        let answers = join_all(processes.iter_mut().map(|process| process.ask(&ask))).await;
        let mut turns = Vec::new();
        for (number, answer) in (0..).zip(answers) {
            turns
                .extend(answer?.turns.into_iter().map(|turn| Turn { who: turn.who + number * workload.tasks, ..turn }));
        }
        Ok(turns)
    }

    /// Ends the clients.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn end(self) -> Result<()> {
        match self {
            Running::Here(client) => client.close().await,
            Running::Processes(processes) => {
                for process in processes {
                    process.end().await?;
                }
                Ok(())
            }
        }
    }
}
