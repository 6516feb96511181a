//! Rounds of contenders in turn, on memory.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use dlock_bench::{Client, Contender, Dlock, Entry, Held, Plan, Result, Role, Workload, markdown, series};
use dlock_core::{Locks, memory::Memory};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

/// Lets everybody hold.
struct Nothing;

#[async_trait]
impl Contender for Nothing {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Ok(Arc::new(Nothing))
    }
}

#[async_trait]
impl Client for Nothing {
    async fn acquire(&self, _key: &str) -> Result<Box<dyn Held>> {
        tokio::task::yield_now().await;
        Ok(Box::new(Nothing))
    }
}

#[async_trait]
impl Held for Nothing {
    async fn release(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Can't connect.
struct Broken;

#[async_trait]
impl Contender for Broken {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Err("no such server".into())
    }
}

fn entry(name: &str, role: Role, contender: impl Contender + 'static) -> Entry {
    Entry { name: name.to_owned(), role, here: Some(Arc::new(contender)), command: Vec::new(), note: "" }
}

fn dlock() -> Entry {
    let store = Memory::new();
    entry("dlock", Role::Dlock, Dlock::new(move || std::future::ready(Locks::new(store.clone())).boxed()))
}

fn plan() -> Plan {
    Plan { store: "memory".to_owned(), rounds: 2, round: Duration::from_millis(300), prefix: "k-".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_excludes_nobody_is_marked_and_what_fails_is_listed() {
    let entries = [entry("nothing", Role::Peer, Nothing), dlock(), entry("broken", Role::Peer, Broken)];
    let workload = Workload::crowd(4, Duration::from_millis(2));
    let report = series(&entries, &workload, &plan(), None, &|_| ()).await;
    // Contenders change places each round.
    let row = |name: &str| report.rows.iter().find(|row| row.contender == name).unwrap();
    let (nothing, dlock) = (row("nothing"), row("dlock"));
    assert!(nothing.overlaps > 0 && dlock.overlaps == 0, "{report:?}");
    assert!(dlock.rate > 0.0 && dlock.ratio.is_none(), "{report:?}");
    let text = markdown(&report);
    assert!(text.contains("| nothing (NO EXCLUSION)") && text.contains("| **dlock** |"), "{text}");
    assert!(text.contains("not run: broken: 4 tasks × 1 key, 2 ms inside (no such server)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_told_as_ratios_to_the_floor() {
    let entries = [entry("floor", Role::Pairs, Nothing), dlock()];
    let report = series(&entries, &Workload::lone(), &plan(), None, &|_| ()).await;
    let ratio = |name: &str| report.rows.iter().find(|row| row.contender == name).unwrap().ratio.unwrap();
    assert_eq!(ratio("floor"), (1.0, 1.0, 1.0));
    let (middle, lowest, highest) = ratio("dlock");
    assert!(0.0 < lowest && lowest <= middle && middle <= highest, "{report:?}");
    // The floor of pairs is none of hand-overs.
    let report = series(&entries, &Workload::crowd(2, Duration::ZERO), &plan(), None, &|_| ()).await;
    assert_eq!(report.rows.len(), 1);
}
