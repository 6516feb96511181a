//! The suite on a real server of its own.

mod common;

use dlock_conformance::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    run("postgres", || Ok(common::Database::new()))
}
