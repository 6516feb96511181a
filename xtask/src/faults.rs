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
/// Needs an etcd that is built for it.
const BUILT: &str = "etcd-3";

/// Runs each store, and a control: a judge that finds nothing there is blind, and its verdict worth nothing.
pub(crate) fn faults(orders: &Faults) -> Done {
    install()?;
    build_dynamo_server()?;
    let stores = &orders.stores;
    let is_wanted = |store: &str| stores.is_empty() || stores.iter().any(|wanted| wanted == store);
    let etcd = if is_wanted(BUILT) { Some(build_etcd_server()?) } else { None };
    build_programs()?;
    let minutes = orders.minutes.to_string();
    if orders.no_checks {
        return run(judge(orders, stores, etcd.as_deref()).args(["--minutes", &minutes, "--no-checks"]));
    }
    run(judge(orders, stores, etcd.as_deref()).args(["--minutes", &minutes]))?;
    let quick = CONTROLLED.into_iter().filter(|store| is_wanted(store)).map(str::to_owned).collect::<Vec<_>>();
    let controlled = if quick.is_empty() { stores } else { &quick };
    let minutes = orders.minutes.min(CONTROL).to_string();
    run(judge(orders, controlled, etcd.as_deref()).args(["--minutes", &minutes, "--no-checks"]))
}

fn judge(orders: &Faults, stores: &[String], etcd: Option<&str>) -> Command {
    let mut judge = program("dlock-judge");
    judge.envs(etcd.map(|etcd| ("DLOCK_TEST_ETCD", etcd))).arg("run").args(stores);
    if let Some(seed) = orders.seed {
        judge.args(["--seed", &seed.to_string()]);
    }
    judge.args(["--at-once", &orders.at_once.to_string()]);
    judge
}
