//! The program `dlock-judge`: the roles of the judge, each a process of its own.

use clap::{Args, Parser, Subcommand};
use dlock_judge::store::{STORES, Store};
use dlock_judge::worker::Job;
use dlock_judge::{Orders, Verdict, check, resource, run, worker};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Breaks servers, processes and connections under the locks, and judges what their holders saw
#[derive(Debug, Parser)]
#[command(name = "dlock-judge")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run stores, and judge each
    Run(Run),
    /// Judge the histories of a folder again
    Check {
        /// The folder that a run named
        folder: PathBuf,
    },
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        url: String,
        #[arg(long)]
        slot: u32,
        #[arg(long)]
        life: u32,
        #[arg(long)]
        tasks: u32,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        resource: u16,
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        no_checks: bool,
    },
    #[command(hide = true)]
    Resource {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        no_checks: bool,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Which stores; all of them if none is named
    stores: Vec<String>,
    /// For how many minutes faults are made on each store
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Names the plan of faults; a random one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Look at no validity and no fence: violations must be found, or the judge is blind
    #[arg(long)]
    no_checks: bool,
    /// How many stores are run at once: quicker, and rougher
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Where the histories are kept
    #[arg(long, default_value = "target/histories")]
    histories: PathBuf,
    /// How many processes take locks
    #[arg(long, default_value_t = 6)]
    workers: u32,
    /// How many tasks each of them has
    #[arg(long, default_value_t = 4)]
    tasks: u32,
}

fn main() -> ExitCode {
    let done = match Cli::parse().role {
        Role::Run(run) => run_all(&run),
        Role::Check { folder } => check(&folder).and_then(|verdict| {
            println!("{verdict}");
            if is_as_it_should_be(&verdict) { Ok(()) } else { Err("not as it should be".to_owned()) }
        }),
        Role::Worker { url, slot, life, tasks, seed, resource, folder, no_checks } => {
            let job = Job { url, slot, life, tasks, seed, resource, folder, checks: !no_checks };
            worker::work(job).map_err(|error| error.to_string())
        }
        Role::Resource { folder, no_checks } => resource::serve(&folder, !no_checks).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dlock-judge: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(asked: &Run) -> Result<(), String> {
    let all = || STORES.iter().map(|store| store.name.to_owned()).collect();
    let names: Vec<String> = if asked.stores.is_empty() { all() } else { asked.stores.clone() };
    let seed = asked.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let judged = |name: &String| {
        let verdict = run(&Orders {
            program: program.clone(),
            store: Store::named(name)?,
            length: Duration::from_secs_f64(asked.minutes.clamp(0.05, 1_440.0) * 60.0),
            seed,
            checks: !asked.no_checks,
            workers: asked.workers.max(2),
            tasks: asked.tasks.max(1),
            histories: asked.histories.clone(),
        });
        let verdict = verdict.map_err(|error| format!("{name}: {error}"))?;
        let control = if asked.no_checks { " --no-checks" } else { "" };
        println!("{verdict}\n  again: cargo xtask faults {name} --minutes {} --seed {seed}{control}", asked.minutes);
        if is_as_it_should_be(&verdict) { Ok(()) } else { Err(format!("{name} is not as it should be")) }
    };
    let (next, bad) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..asked.at_once.max(1) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = judged(name) {
                        bad.lock().unwrap_or_else(PoisonError::into_inner).push(why);
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
    if bad.is_empty() { Ok(()) } else { Err(bad.join("; ")) }
}

/// A run has no violations, and its control has some; in both, something happened.
fn is_as_it_should_be(verdict: &Verdict) -> bool {
    verdict.has_happened() && verdict.violations.is_empty() == verdict.checks
}
