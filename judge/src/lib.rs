//! The judge: many processes take locks and write to a fenced resource while a nemesis breaks servers, processes and
//! connections; a checker decides from what they wrote down whether the promises held.
//!
//! | where | what |
//! |---|---|
//! | [`plan`] | which fault begins when, a pure function of the seed |
//! | `nemesis`, `proxy`, `store` | how each is done |
//! | `worker`, `resource` | processes of their own: who takes locks, and what they write to |
//! | [`history`] | what they write down |
//! | [`mod@check`] | the checker, which needs nothing but the histories |
//! | [`run()`] | all of it |
//!
//! A history is a folder: `run.json` (what was run, and what the store promises), `faults.jsonl`, `resource.jsonl`,
//! `probe.jsonl` and one `worker-<slot>-<life>.jsonl` a process. All times are nanoseconds of `CLOCK_BOOTTIME`: everything runs
//! on one machine, so that they are the true time of all processes.

pub mod check;
pub mod history;
mod nemesis;
pub mod plan;
mod proxy;
pub mod resource;
pub mod run;
pub mod store;
pub mod worker;

pub use check::{Verdict, check};
pub use run::{Orders, run};
