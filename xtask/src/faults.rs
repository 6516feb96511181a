//! `cargo xtask faults`: the judge, on each store and with its control.

use crate::install::{build_dynamo_server, build_etcd_server, build_programs, install, program};
use crate::shell::{Done, run};
use clap::Args;
use std::process::Command;

/// What the judge is to do.
#[derive(Debug, Args)]
pub(crate) struct Faults {
    /// Which stores; all that it knows if none is named
    stores: Vec<String>,
    /// For how many minutes faults are made on each store
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Names the plan of faults; a random one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Only the control: look at no validity and no fence, and find violations
    #[arg(long)]
    no_checks: bool,
    /// How many stores are run at once: quicker, and rougher
    #[arg(long, default_value_t = 1)]
    at_once: usize,
}

/// How long a control takes: violations show in seconds, on these stores. Where leases live by sessions they are rarer, and the
/// checker is the same for all.
const CONTROL: f64 = 0.5;
const CONTROLLED: [&str; 4] = ["local", "redis", "postgres", "mariadb"];

/// Runs each store, and a control: a judge that finds nothing there is blind, and its verdict worth nothing.
pub(crate) fn faults(orders: &Faults) -> Done {
    install()?;
    build_dynamo_server()?;
    let etcd = build_etcd_server()?;
    let controlled = orders.stores.is_empty() && !orders.no_checks;
    let controlled = if controlled { CONTROLLED.map(str::to_owned).to_vec() } else { orders.stores.clone() };
    build_programs()?;
    let minutes = orders.minutes.to_string();
    if !orders.no_checks {
        run(judge(orders, &orders.stores, &etcd).args(["--minutes", &minutes]))?;
    }
    let minutes = if orders.no_checks { minutes } else { orders.minutes.min(CONTROL).to_string() };
    run(judge(orders, &controlled, &etcd).args(["--minutes", &minutes, "--no-checks"]))
}

fn judge(orders: &Faults, stores: &[String], etcd: &str) -> Command {
    let mut judge = program("dlock-judge");
    judge.env("DLOCK_TEST_ETCD", etcd).arg("run").args(stores);
    if let Some(seed) = orders.seed {
        judge.args(["--seed", &seed.to_string()]);
    }
    judge.args(["--at-once", &orders.at_once.to_string()]);
    judge
}
