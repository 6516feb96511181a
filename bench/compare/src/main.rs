//! Measures dlock, the raw clients and other projects' locks beside each other: run by `cargo xtask bench`.

mod setup;
mod simple;
mod stores;

use clap::{Parser, Subcommand};
use dlock_bench::{BoxError, Entry, NotRun, Plan, Report, Workload, crash, hold, series, time_text, workloads};
use indicatif::{ProgressBar, ProgressStyle};
use setup::Setup;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all contenders of a store
    Compare {
        /// redis, postgres, mariadb, etcd, zookeeper, dynamodb, local or memory
        store: String,
        /// Its URL, as dlock has it
        url: String,
        /// Few and short rounds
        #[arg(long)]
        quick: bool,
        /// Where the report goes, as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Where the programs of other languages are: `cargo xtask bench` makes them
        #[arg(long, value_name = "FOLDER")]
        peers: Option<PathBuf>,
        /// Only contenders whose name has this in it; the floors always
        #[arg(long, default_value = "")]
        only: String,
        /// Only workloads whose name has this in it
        #[arg(long, default_value = "")]
        workload: String,
        #[arg(long)]
        rounds: Option<u32>,
        /// Milliseconds
        #[arg(long)]
        round: Option<u64>,
    },
    /// Take turns of one contender in a loop, for a profiler
    Loop {
        store: String,
        url: String,
        contender: String,
        tasks: u32,
        turns: u32,
        /// All tasks want one key
        #[arg(long)]
        one_key: bool,
    },
    /// One contender as a process that is told what to do
    #[command(hide = true)]
    Serve { store: String, url: String, contender: String },
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    match Arguments::parse().command {
        Command::Serve { store, url, contender } => {
            let setup = Setup::of(&store, &url, None)?;
            dlock_bench::protocol::serve(&*setup.here(&contender)?).await
        }
        Command::Loop { store, url, contender, tasks, turns, one_key } => {
            repeat(&Setup::of(&store, &url, None)?, &contender, tasks, turns, one_key).await
        }
        Command::Compare { store, url, quick, json, peers, only, workload, rounds, round } => {
            let setup = Setup::of(&store, &url, peers.as_deref())?;
            let plan = Plan {
                store: store.clone(),
                rounds: rounds.unwrap_or(if quick { 3 } else { 7 }),
                round: Duration::from_millis(round.unwrap_or(if quick { 300 } else { 800 })),
                prefix: format!("bench-{:08x}-", std::process::id()),
            };
            let report = compare(setup, &plan, quick, &only, &workload).await;
            print!("{}", dlock_bench::tables(&report));
            if let Some(path) = json {
                std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
            }
            Ok(())
        }
    }
}

async fn compare(setup: Setup, plan: &Plan, quick: bool, only: &str, which: &str) -> Report {
    let mut report = Report { not_run: setup.not_run.clone(), ..Report::default() };
    let entries: Vec<Entry> = setup
        .entries
        .iter()
        .filter(|entry| !matches!(entry.role, dlock_bench::Role::Peer) || entry.name.contains(only))
        .cloned()
        .collect();
    let is_possible = |workload: &Workload| workload.processes == 1 || setup.spans_processes();
    let is_wanted = |workload: &Workload| workload.name.contains(which) && is_possible(workload);
    let workloads: Vec<_> = workloads(quick).into_iter().filter(is_wanted).collect();
    let bar = ProgressBar::new(workloads.len() as u64 + 2);
    bar.set_style(
        ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}").expect("a template"),
    );
    bar.set_prefix(plan.store.clone());
    for workload in &workloads {
        let tell = |what: &str| bar.set_message(what.to_owned());
        report.extend(series(&entries, workload, plan, setup.meter.as_deref(), &tell).await);
        bar.inc(1);
        setup.clear().await;
    }
    for entry in entries.iter().filter(|_| "crash and held".contains(which)) {
        let mut not_run = |what: &str, error: BoxError| {
            let what = format!("{}: {what}", entry.name);
            report.not_run.push(NotRun { store: plan.store.clone(), what, why: error.to_string() });
        };
        if let Some((entry, ttl)) = setup.with_ttl(entry, Duration::from_secs(2)).filter(|_| setup.spans_processes()) {
            bar.set_message(format!("{}: a holder's crash", entry.name));
            match crash(&entry, if quick { 2 } else { 5 }, &plan.prefix).await {
                Ok(mut times) => {
                    times.sort_unstable();
                    report.notes.push(format!(
                        "{}, {}: from a holder's crash to the next holder {} ({} to {}), TTL {ttl:?}",
                        plan.store,
                        entry.name,
                        time_text(times[times.len() / 2]),
                        time_text(times[0]),
                        time_text(times[times.len() - 1]),
                    ));
                }
                Err(error) => not_run("a holder's crash", error),
            }
        }
        if entry.role == dlock_bench::Role::Dlock {
            let (count, rest, ttl) = if quick { (2_000, 4, 6) } else { (10_000, 20, 30) };
            if let Some((entry, ttl)) = setup.with_ttl(entry, Duration::from_secs(ttl)) {
                bar.set_message(format!("{}: {count} held leases", entry.name));
                match hold(&entry, count, Duration::from_secs(rest), &plan.prefix, setup.meter.as_deref()).await {
                    Ok(told) => report.notes.push(format!("{}, {told}, TTL {ttl:?}", plan.store)),
                    Err(error) => not_run("held leases", error),
                }
            }
        }
    }
    setup.clear().await;
    bar.finish_and_clear();
    report
}

async fn repeat(setup: &Setup, contender: &str, tasks: u32, turns: u32, one_key: bool) -> Result<(), BoxError> {
    let client = setup.here(contender)?.client().await?;
    let begun = std::time::Instant::now();
    let mut crowd = tokio::task::JoinSet::new();
    for who in 0..tasks {
        let (client, key) = (client.clone(), if one_key { "loop".to_owned() } else { format!("loop-{who}") });
        crowd.spawn(async move {
            for _ in 0..turns / tasks {
                client.acquire(&key).await?.release().await?;
            }
            Ok::<_, BoxError>(())
        });
    }
    crowd.join_all().await.into_iter().collect::<Result<(), _>>()?;
    println!("{contender}: {:.0} turns/s", f64::from(turns) / begun.elapsed().as_secs_f64());
    client.close().await
}
