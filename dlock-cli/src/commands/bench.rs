//! `dlock bench`: what locks cost on a live store.

use crate::cli::StoreArgs;
use crate::exit::{Failure, NOT_OBTAINED, SOFTWARE, say};
use crate::{store, text};
use dlock_bench::{Dlock, Entry, Plan, Report, Role, Workload, histogram, rate_text, series, time_text};
use dlocks::Config;
use futures_util::{FutureExt, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The key that keeps two of these from measuring each other, and what all keys begin with. The keys are always the
/// same ones, so that a store that remembers a key's last token does not fill up.
const KEY: &str = "dlock-bench";

pub(crate) async fn bench(store: &StoreArgs, quick: bool, json: bool) -> Result<ExitCode, Failure> {
    let locks = store::connect(store, Some("dlock bench".to_owned())).await?;
    let Some(alone) = locks.lock(KEY).try_acquire().await? else {
        let holders = text::holders(&locks.inspect(KEY).await?);
        let message = format!("{KEY:?} is held, by another `dlock bench`? {holders}; try again when it is done");
        return Err(Failure::new(NOT_OBTAINED, message));
    };
    let report = measure(store, quick).await?;
    let text =
        if json { serde_json::to_string_pretty(&report).map_err(std::io::Error::from)? + "\n" } else { shown(&report) };
    text::print(&text)?;
    for not in &report.not_run {
        say(&format!("{}: {}", not.what, not.why));
    }
    let own = alone.key().to_string();
    let mut left = locks.list(KEY);
    while let Some(lock) = left.next().await {
        match lock {
            Ok(lock) if [own.as_str(), KEY].contains(&lock.key.as_str()) => {}
            Ok(lock) => say(&format!("{:?} is still {}; its TTL ends that", lock.key.as_str(), text::holders(&lock))),
            Err(error) => say(&error.chain().to_string()),
        }
    }
    if let Err(error) = alone.release().await {
        say(&error.chain().to_string());
    }
    locks.close().await?;
    let overlaps: u64 = report.rows.iter().map(|row| row.overlaps).sum();
    if overlaps > 0 {
        say(&format!("two held a lock at once, {overlaps} times: do not trust locks on this store"));
    }
    Ok(if report.not_run.is_empty() && overlaps == 0 { ExitCode::SUCCESS } else { SOFTWARE.into() })
}

async fn measure(store: &StoreArgs, quick: bool) -> Result<Report, Failure> {
    let mut config = Config::new(store::url(store)?);
    config.prefix = store.prefix.clone();
    let connect = move || {
        let config = config.clone();
        async move { dlocks::registry().connect_with(&config).await }.boxed()
    };
    let dlock = Arc::new(Dlock::new(connect));
    let entry = Entry { name: "dlock".to_owned(), role: Role::Dlock, here: Some(dlock), command: Vec::new(), note: "" };
    let (rounds, round) = if quick { (1, Duration::from_millis(500)) } else { (3, Duration::from_secs(1)) };
    let plan = Plan { store: "store".to_owned(), rounds, round, prefix: format!("{KEY}-") };
    let none = Duration::ZERO;
    let workloads = [
        Workload::lone(),
        Workload::spread(64),
        Workload::crowd(2, none),
        Workload::crowd(16, none),
        Workload::crowd(64, none),
    ];
    // Hidden unless there is a terminal.
    let bar = ProgressBar::new(workloads.len() as u64);
    bar.set_style(ProgressStyle::with_template("[{bar:30}] {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut report = Report::default();
    for workload in &workloads {
        bar.set_message(workload.name.clone());
        report.extend(series(std::slice::from_ref(&entry), workload, &plan, None, &|_| ()).await);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

fn shown(report: &Report) -> String {
    let mut text = String::new();
    for row in &report.rows {
        let (what, times) = if row.contended { ("hand-overs/s", "wait") } else { ("pairs/s", "pair") };
        let time = |part| time_text(row.time_at(part));
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{:<20} {:>9} {what:<12}  {times} p50 {}, p99 {}, max {}",
            row.workload,
            rate_text(row.rate),
            time(0.5),
            time(0.99),
            time(1.0)
        );
        if row.tasks == 1 {
            text += &histogram(row);
        }
        if row.overlaps > 0 {
            let _ = writeln!(text, "  TWO HELD IT AT ONCE, {} times: do not trust locks on this store", row.overlaps);
        }
    }
    text
}
