//! Workloads that measure distributed locks, and how their figures are told.
//!
//! What is measured is a [`Contender`]: a lock library, or the raw client of a store. All contenders of a store take their
//! rounds in turn, so that whatever else the machine does hits all of them alike, and what is told first is the *ratio* to
//! a floor in the same round: a rate alone says more about the machine than about the lock. Each turn under a lock leaves
//! its four moments ([`Turn`]); all figures are made of these, also whether two ever held one lock at once.
//!
//! Contenders of other languages are processes that speak [`protocol`] on their standard input and output.

mod contender;
mod dlock;
mod entry;
mod figures;
mod report;
mod series;
mod table;
mod turn;
mod workload;

#[cfg(feature = "plots")]
pub mod plots;
pub mod protocol;

pub use contender::{BoxError, Client, Contender, Counting, Held, Meter, Result};
pub use dlock::Dlock;
pub use entry::{Entry, Role, Running};
pub use figures::{Figures, rate_text, time_text};
pub use report::{NotRun, Report, Row};
pub use series::{Plan, crash, hold, series};
pub use table::{histogram, markdown, tables};
pub use turn::{Turn, now};
pub use workload::{Keys, Workload, take_turns, workloads};
