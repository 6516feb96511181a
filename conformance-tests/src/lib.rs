//! What every dlock backend must do, as tests that anybody can run against a backend.
//!
//! Write a [`Harness`]: how to connect a fresh client, and which faults it can inject. Then a test target with
//! `harness = false` and this `main`:
//!
//! ```no_run
//! # use dlock_conformance::{Harness, run};
//! # use dlock_core::{LockBackend, Result, memory::Memory};
//! # use std::sync::Arc;
//! #[derive(Debug)]
//! struct Mine(Memory);
//!
//! #[async_trait::async_trait]
//! impl Harness for Mine {
//!     async fn client(&self) -> Result<Arc<dyn LockBackend>> {
//!         Ok(Arc::new(self.0.another_client()))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     run("mine", || Ok(Mine(Memory::new())))
//! }
//! ```
//!
//! Each case is a test with a name that begins with its number. What a backend owes in each stands in the tables below; those
//! that bind one method stand also in the docs of [`LockBackend`](dlock_core::LockBackend) and [`Lease`](dlock_core::Lease),
//! under the same number. Cases that the backend's capabilities, or the harness, rule out are listed as ignored with the
//! reason; what a backend declares not to have must answer `Unsupported`, and that is a case too.
//!
#![doc = include_str!("cases.md")]

mod case;
mod cases;
mod env;
mod harness;
pub mod proxy;
mod report;
mod runner;

pub use case::{Case, Need, cases};
pub use env::Env;
pub use harness::{Fault, Harness};
pub use proxy::Proxy;
pub use report::{Outcome, Report, Tested, check, run_case};
pub use runner::run;
