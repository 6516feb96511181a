//! [`Report`]: all figures.

use crate::entry::Role;
use serde::{Deserialize, Serialize};

/// All figures of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The figures, by store and workload.
    pub rows: Vec<Row>,
    /// What was not run, and why.
    pub not_run: Vec<NotRun>,
    /// Under which circumstances: machine, versions, sizes.
    pub notes: Vec<String>,
}

/// A contender that was not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotRun {
    /// The store.
    pub store: String,
    /// The contender, and the workload unless it is all.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The figures of one contender under one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The store.
    pub store: String,
    /// The workload.
    pub workload: String,
    /// Its tasks in all processes.
    pub tasks: u32,
    /// Whether the rate counts hand-overs, and the times are waits.
    pub contended: bool,
    /// The contender.
    pub contender: String,
    /// What it is for.
    pub role: Role,
    /// In a second: the median of the rounds.
    pub rate: f64,
    /// To the floor of the same round: the median, the lowest and the highest.
    pub ratio: Option<(f64, f64, f64)>,
    /// Nanoseconds at these parts of all turns, as (0.5, 12345).
    pub times: Vec<(f64, u64)>,
    /// Turns of the task that got the fewest in a round, and of the one that got the most: medians.
    pub served: (f64, f64),
    /// Requests to the store for each pair or hand-over.
    pub requests: Option<f64>,
    /// How often two held one lock at once.
    pub overlaps: u64,
    /// What a reader must know.
    pub note: String,
}

/// The parts of all turns at which times are told.
pub(crate) const PARTS: [f64; 11] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0];

impl Row {
    /// Nanoseconds at a part of all turns.
    pub fn time_at(&self, part: f64) -> u64 {
        self.times.iter().find(|(at, _)| (at - part).abs() < 1e-9).map_or(0, |(_, nanos)| *nanos)
    }
}

impl Report {
    /// Adds what another has.
    pub fn extend(&mut self, other: Report) {
        self.rows.extend(other.rows);
        self.not_run.extend(other.not_run);
        self.notes.extend(other.notes);
    }

    /// The stores, in order.
    pub fn stores(&self) -> Vec<&str> {
        let mut stores: Vec<&str> = Vec::new();
        for store in self.rows.iter().map(|row| &*row.store).chain(self.not_run.iter().map(|not| &*not.store)) {
            if !stores.contains(&store) {
                stores.push(store);
            }
        }
        stores
    }
}
