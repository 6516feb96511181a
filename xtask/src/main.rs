//! The project's own tasks: `cargo xtask test | servers | faults | fuzz | bench | verify | readme`.

mod bench;
mod faults;
mod fuzz;
mod install;
mod readme;
mod servers;
mod shell;
mod test;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Task {
    #[command(subcommand)]
    task: Tasks,
}

#[derive(Debug, Subcommand)]
enum Tasks {
    /// Install what is missing, start the servers, and run all tests and examples
    Test {
        /// Only the tests of these packages
        #[arg(short, long)]
        package: Vec<String>,
    },
    /// Start the servers and keep them running
    Servers,
    /// Measure dlock beside the raw clients and other projects' locks
    Bench(bench::Bench),
    /// Break servers, processes and connections under the locks, and judge what their holders saw
    Faults(faults::Faults),
    /// Give random input to everything that reads what others wrote
    Fuzz(fuzz::Fuzz),
    /// Format, lints, docs, licences, features and the README's table
    Verify,
    /// Write the table of stores into the README
    Readme {
        /// Only say whether it is up to date
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    shell::on_interrupt();
    let done = match Task::parse().task {
        Tasks::Test { package } => test::test(&package),
        Tasks::Servers => servers::servers(),
        Tasks::Bench(wanted) => bench::bench(&wanted),
        Tasks::Faults(orders) => faults::faults(&orders),
        Tasks::Fuzz(orders) => fuzz::fuzz(&orders),
        Tasks::Verify => verify::verify(),
        Tasks::Readme { check } => readme::readme(check),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
