//! [`series`]: rounds of all contenders in turn.

use crate::contender::{Meter, Result};
use crate::entry::{Entry, Running};
use crate::figures::{Figures, median};
use crate::protocol::{Ask, Process, chain};
use crate::report::{NotRun, PARTS, Report, Row};
use crate::turn::{Turn, now};
use crate::workload::Workload;
use hdrhistogram::Histogram;
use std::time::Duration;

/// How long is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The store's name in the report.
    pub store: String,
    /// Rounds of each contender.
    pub rounds: u32,
    /// The length of each, with up to 64 tasks. More take longer until all are in line, so that rounds grow with them.
    pub round: Duration,
    /// What all keys begin with.
    pub prefix: String,
}

impl Plan {
    fn length(&self, workload: &Workload) -> Duration {
        self.round * (workload.tasks * workload.processes / 64).max(1)
    }
}

/// How long after its end a round's last turn may come.
const LAST_TURN: Duration = Duration::from_secs(30);
/// Until all tasks of all processes are ready.
const GET_READY: Duration = Duration::from_millis(20);

struct Contest<'a> {
    entry: &'a Entry,
    running: Running,
    rounds: Vec<Figures>,
    requests: Option<f64>,
}

/// Measures a workload: the contenders take their rounds in turn, after one that is thrown away. `tell` hears what is
/// being done.
pub async fn series(
    entries: &[Entry],
    workload: &Workload,
    plan: &Plan,
    meter: Option<&dyn Meter>,
    tell: &(dyn Fn(&str) + Sync),
) -> Report {
    let mut report = Report::default();
    let mut failed = |entry: &Entry, error: &(dyn std::error::Error + 'static)| {
        let what = format!("{}: {}", entry.name, workload.name);
        report.not_run.push(NotRun { store: plan.store.clone(), what, why: chain(error) });
    };
    let mut contests = Vec::new();
    for entry in entries.iter().filter(|entry| entry.takes_part(workload)) {
        match Running::start(entry, workload.processes).await {
            Ok(running) => contests.push(Contest { entry, running, rounds: Vec::new(), requests: None }),
            Err(error) => failed(entry, &*error),
        }
    }
    for number in 0..=plan.rounds {
        let mut left = Vec::new();
        for mut contest in contests {
            tell(&format!("{}: {} ({number}/{})", workload.name, contest.entry.name, plan.rounds));
            // The first round warms up.
            let length = plan.length(workload) / if number == 0 { 2 } else { 1 };
            match round(&mut contest, workload, plan, length).await {
                Ok(figures) => {
                    contest.rounds.extend((number > 0).then_some(figures));
                    left.push(contest);
                }
                Err(error) => failed(contest.entry, &*error),
            }
        }
        contests = left;
        // Nobody is always the one after the heaviest.
        if let Some(first) = (contests.len() > 1).then(|| contests.remove(0)) {
            contests.push(first);
        }
    }
    if let Some(meter) = meter {
        for contest in &mut contests {
            tell(&format!("{}: {} (requests)", workload.name, contest.entry.name));
            match metered(contest, workload, plan, meter).await {
                Ok(requests) => contest.requests = Some(requests),
                Err(error) => failed(contest.entry, &*error),
            }
        }
    }
    let floor: Option<Vec<f64>> = contests
        .iter()
        .find(|contest| contest.entry.is_floor(workload))
        .map(|contest| contest.rounds.iter().map(|figures| figures.rate).collect());
    for contest in contests {
        report.rows.push(contest.row(workload, &plan.store, floor.as_deref()));
        if let Err(error) = contest.running.end().await {
            tell(&format!("{} did not end well: {error}", contest.entry.name));
        }
    }
    report
}

async fn round(contest: &mut Contest<'_>, workload: &Workload, plan: &Plan, length: Duration) -> Result<Figures> {
    let (from, until) = span(length);
    let mut turns = turns(contest, workload, plan, from, until).await?;
    Ok(Figures::of(workload, &mut turns, from, until))
}

fn span(length: Duration) -> (u64, u64) {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let from = now() + nanos(GET_READY);
    (from, from + nanos(length))
}

async fn turns(
    contest: &mut Contest<'_>,
    workload: &Workload,
    plan: &Plan,
    from: u64,
    until: u64,
) -> Result<Vec<Turn>> {
    // A key of each contender's own: what one leaves behind must not be in another's way.
    let name: String = contest.entry.name.chars().filter(char::is_ascii_alphanumeric).collect();
    let key = format!("{}{name}-{}", plan.prefix, workload.tasks);
    let limit = Duration::from_nanos(until.saturating_sub(now())) + LAST_TURN;
    let turns = tokio::time::timeout(limit, contest.running.round(workload, &key, from, until)).await;
    turns.map_err(|_| format!("the last turn did not come within {LAST_TURN:?}"))?
}

/// The requests to the store for each turn, in a round of its own: counting costs time.
async fn metered(contest: &mut Contest<'_>, workload: &Workload, plan: &Plan, meter: &dyn Meter) -> Result<f64> {
    let (from, until) = span(plan.length(workload) / 2);
    let counting = meter.start().await?;
    let turns = turns(contest, workload, plan, from, until).await?;
    let requests = counting.stop().await?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(requests as f64 / turns.len().max(1) as f64)
}

impl Contest<'_> {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn row(&self, workload: &Workload, store: &str, floor: Option<&[f64]>) -> Row {
        let all = |of: fn(&Figures) -> f64| self.rounds.iter().map(of).collect::<Vec<_>>();
        let rates = all(|figures| figures.rate);
        let ratio = floor.map(|floor| {
            let ratios: Vec<_> = rates.iter().zip(floor).map(|(rate, floor)| rate / floor).collect();
            let ends = ratios.iter().fold((f64::MAX, f64::MIN), |ends, ratio| (ends.0.min(*ratio), ends.1.max(*ratio)));
            (median(&ratios), ends.0, ends.1)
        });
        let mut times = Histogram::<u64>::new(3).expect("3 digits");
        for figures in &self.rounds {
            times.add(&figures.times).expect("it grows");
        }
        Row {
            store: store.to_owned(),
            workload: workload.name.clone(),
            tasks: workload.tasks * workload.processes,
            contended: workload.is_contended(),
            contender: self.entry.name.clone(),
            role: self.entry.role,
            rate: median(&rates),
            ratio,
            times: PARTS.iter().map(|part| (*part, times.value_at_quantile(*part))).collect(),
            served: (median(&all(|figures| figures.served.0 as f64)), median(&all(|figures| figures.served.1 as f64))),
            requests: self.requests,
            overlaps: self.rounds.iter().map(|figures| figures.overlaps).sum(),
            note: self.entry.note.to_owned(),
        }
    }
}

/// Holds `count` locks in a process of its own for `rest`, and tells what that costs: percent of a core, bytes a lock,
/// requests to the store a minute.
///
/// # Errors
/// When they can't be had.
pub async fn hold(
    entry: &Entry,
    count: u32,
    rest: Duration,
    prefix: &str,
    meter: Option<&dyn Meter>,
) -> Result<String> {
    let mut process = Process::start(&entry.command).await?;
    let bytes = process.ask(&Ask::Hold { key: format!("{prefix}held"), count }).await?.bytes.unwrap_or_default();
    let counting = match meter {
        Some(meter) => Some(meter.start().await?),
        None => None,
    };
    let begun = std::time::Instant::now();
    let millis = u64::try_from(rest.as_millis())?;
    let cpu = process.ask(&Ask::Rest { millis }).await?.cpu.unwrap_or_default();
    let seconds = begun.elapsed().as_secs_f64();
    let mut told = format!(
        "{} holds {count} leases: {:.1} % of a core, {} bytes a lease",
        entry.name,
        Duration::from_nanos(cpu).as_secs_f64() / seconds * 100.0,
        bytes / u64::from(count.max(1)),
    );
    if let Some(counting) = counting {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let requests = counting.stop().await? as f64 / seconds * 60.0;
        told += &format!(", {} requests a minute", crate::rate_text(requests));
    }
    process.end().await?;
    Ok(told)
}

/// From the crash of a holder to the grant to one who waits, in nanoseconds: once for each of `tries`.
///
/// # Errors
/// When a lock can't be had.
pub async fn crash(entry: &Entry, tries: u32, prefix: &str) -> Result<Vec<u64>> {
    /// So that who waits is in the queue.
    const QUEUED: Duration = Duration::from_millis(150);
    let contender = entry.here.as_ref().ok_or("it can't be measured in this process")?;
    let client = contender.client().await?;
    let mut all = Vec::new();
    for number in 0..tries {
        let key = format!("{prefix}crash-{number}");
        let mut holder = Process::start(&entry.command).await?;
        holder.ask(&Ask::Hold { key: key.clone(), count: 0 }).await?;
        // The key that it holds then.
        let waiter = tokio::spawn({
            let (client, key) = (client.clone(), format!("{key}-first"));
            async move {
                let held = client.acquire(&key).await?;
                let at = now();
                held.release().await.map(|()| at)
            }
        });
        tokio::time::sleep(QUEUED).await;
        if waiter.is_finished() {
            return Err("it was granted while another held it".into());
        }
        let killed = holder.kill().await?;
        let granted =
            tokio::time::timeout(Duration::from_secs(60), waiter).await.map_err(|_| "no grant within 60 s")??;
        all.push(granted?.saturating_sub(killed));
    }
    client.close().await?;
    Ok(all)
}
