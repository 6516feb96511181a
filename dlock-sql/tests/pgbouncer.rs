//! The suite through a transaction pooler: ten sessions for all clients, and each statement may reach another.

mod common;

use dlock_conformance::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    run("postgres", || Ok(common::Database::behind_a_pooler()))
}
