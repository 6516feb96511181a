//! [`Turn`]: one time under a lock.

use serde::{Deserialize, Serialize};

/// One time under a lock, by nanoseconds of the machine's monotonic clock, which all its processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u64, u64, u64)", into = "(u32, u64, u64, u64, u64)")]
pub struct Turn {
    /// The task.
    pub who: u32,
    /// When it asked for the lock.
    pub asked: u64,
    /// When it had it.
    pub acquired: u64,
    /// When it began to give it up.
    pub released: u64,
    /// When that was done.
    pub done: u64,
}

impl From<(u32, u64, u64, u64, u64)> for Turn {
    fn from((who, asked, acquired, released, done): (u32, u64, u64, u64, u64)) -> Self {
        Self { who, asked, acquired, released, done }
    }
}

impl From<Turn> for (u32, u64, u64, u64, u64) {
    fn from(turn: Turn) -> Self {
        (turn.who, turn.asked, turn.acquired, turn.released, turn.done)
    }
}

/// The monotonic clock, in nanoseconds.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
