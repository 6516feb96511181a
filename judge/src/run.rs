//! [`run`]: starts a store, its workers and the nemesis, and judges what came of it.

use crate::check::{Verdict, check};
use crate::history::{Line, Probe, Recorder, Setting, millis};
use crate::nemesis::{Member, Nemesis, Process, locked};
use crate::plan::{Targets, plan};
use crate::proxy::Link;
use crate::store::Store;
use crate::worker::{KEYS, Kind, LONGEST_TTL};
use dlock_fixtures::{Peer, free_port};
use dlocks::{Error, Lifetime, Locks, Wake};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What to run.
#[derive(Clone, Debug)]
pub struct Orders {
    /// This program, which has the roles of worker and resource too.
    pub program: PathBuf,
    /// Which store.
    pub store: &'static Store,
    /// How long faults are made.
    pub length: Duration,
    /// Of faults and workers.
    pub seed: u64,
    /// `false`: validity and fence are not looked at; then violations must be found, or the judge is blind.
    pub checks: bool,
    /// How many processes.
    pub workers: u32,
    /// How many tasks each.
    pub tasks: u32,
    /// Where histories are kept: a new folder is made in it.
    pub histories: PathBuf,
}

/// The TTL that faults are measured by; see [`plan`].
const TTL: Duration = Duration::from_secs(1);
/// How much longer than a TTL and the store's lateness a fresh client may have to wait once all is whole.
const BOUND: Duration = Duration::from_millis(1_500);
/// How long closing may take: `op_timeout` for what is under way, and once more for what that leads to.
const CLOSE: Duration = Duration::from_secs(10);

/// Runs, and judges. The histories stay in the folder that the verdict names.
///
/// # Errors
/// When something could not be started, or a history not be read. A violation is no error: see the verdict.
///
/// # Panics
/// When the store's server can't be started.
pub fn run(orders: &Orders) -> Result<Verdict, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let name = format!("{}-{}{}", orders.store.name, orders.seed, if orders.checks { "" } else { "-no-checks" });
    let folder = orders.histories.join(name);
    let made = std::fs::remove_dir_all(&folder).or(Ok(())).and_then(|()| std::fs::create_dir_all(&folder));
    made.map_err(|error: std::io::Error| format!("{}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    runtime.block_on(play(orders, &folder))?;
    runtime.shutdown_background();
    check(&folder)
}

async fn play(orders: &Orders, folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let (mut peers, mut peer_links) = (Vec::new(), Vec::new());
    for _ in 0..orders.store.members {
        let (mut ports, mut links) = (Vec::new(), Vec::new());
        for _ in 0..orders.store.peers {
            let port = free_port();
            let link = Link::open(&[port]).await.map_err(failed)?;
            ports.push(Peer { port, called_at: link.ports()[0] });
            links.push(link);
        }
        peers.push(ports);
        peer_links.push(links);
    }
    let (store, at) = (orders.store, folder.to_owned());
    let started = tokio::task::spawn_blocking(move || store.start(&at, &peers)).await;
    let servers = started.map_err(|panic| panic.to_string())?;
    let ports: Vec<_> = servers.iter().map(|server| server.port()).collect();
    let members = servers.into_iter().zip(peer_links.into_iter().chain(std::iter::repeat_with(Vec::new)));
    let members = members.map(|(server, links)| Arc::new(Member::new(server, links))).collect();
    let url = orders.store.url(&ports, folder);
    let locks = connect(&url).await.map_err(|error| error.chain().to_string())?;
    write_setting(orders, &locks, folder).map_err(failed)?;
    let targets = Targets { workers: orders.workers, members: orders.store.members, ttl: TTL };
    let plan = plan(orders.seed, orders.length, targets);
    let resource = Resource::start(orders, folder).map_err(failed)?;
    let (mut workers, mut links) = (Vec::new(), Vec::new());
    for slot in 0..orders.workers {
        let link = Link::open(&ports).await.map_err(failed)?;
        let url = orders.store.url(link.ports(), folder);
        links.push(link);
        let command = worker(orders, folder, slot, url, resource.port);
        workers.push(Mutex::new(Process::start(command).map_err(failed)?));
    }
    let recorder = Recorder::open(&folder.join("faults.jsonl")).map_err(failed)?;
    let nemesis = Arc::new(Nemesis { members, workers, links, recorder });
    let interrupted = interrupted();
    nemesis.clone().run(&plan, orders.length, interrupted.clone()).await;
    if *interrupted.borrow() {
        return Err("interrupted".to_owned());
    }
    aftermath(orders, &nemesis, &locks, folder).await
}

/// All is whole: half of the workers are killed with what they hold, the others give everything up, and a fresh client must
/// get every key.
async fn aftermath(orders: &Orders, nemesis: &Arc<Nemesis>, locks: &Locks, folder: &Path) -> Result<(), String> {
    let recorder = Recorder::open(&folder.join("probe.jsonl")).map_err(|error| error.to_string())?;
    let recorder = Arc::new(recorder);
    let (dead, living): (Vec<u32>, Vec<u32>) = (0..orders.workers).partition(|slot| slot % 2 == 0);
    let mut resting = tokio::task::JoinSet::new();
    for slot in living.iter().copied() {
        let told = locked(nemesis.worker(slot)).tell_to_rest();
        resting.spawn_blocking(move || {
            let word = told.and_then(|stdout| BufReader::new(stdout).lines().next());
            (slot, word.is_some_and(|line| line.is_ok()))
        });
    }
    for slot in dead {
        nemesis.end_worker(slot);
    }
    let mut left = living.clone();
    let rested = tokio::time::timeout(CLOSE, async {
        while let Some(done) = resting.join_next().await {
            if let Ok((slot, true)) = done {
                left.retain(|other| *other != slot);
            }
        }
    });
    let _ = rested.await;
    for slot in left {
        recorder.record(&Line::now(Probe::Stuck { slot, what: "come to rest".to_owned() }));
        // What it is asked to say will not come: the thread that listens must end.
        nemesis.end_worker(slot);
    }
    probe(locks, &recorder).await;
    let mut ending = tokio::task::JoinSet::new();
    for slot in living {
        let (nemesis, recorder) = (nemesis.clone(), recorder.clone());
        ending.spawn_blocking(move || {
            if !locked(nemesis.worker(slot)).end(CLOSE) {
                recorder.record(&Line::now(Probe::Stuck { slot, what: "close its client and end".to_owned() }));
            }
        });
    }
    while ending.join_next().await.is_some() {}
    locks.close().await.map_err(|error| error.chain().to_string())
}

/// Gets every key.
async fn probe(locks: &Locks, recorder: &Arc<Recorder>) {
    let capabilities = locks.capabilities();
    let wake = match capabilities.wake {
        Wake::Event => Duration::ZERO,
        Wake::Poll(apart) => apart,
    };
    let bound = LONGEST_TTL.max(capabilities.ttl.min) + capabilities.lateness + wake + BOUND;
    let mut probes = tokio::task::JoinSet::new();
    for (key, kind) in KEYS {
        for _ in 0..if *kind == Kind::Two { 2 } else { 1 } {
            let lock = locks.lock(*key).ttl(Duration::from_secs(60)).wait_at_most(bound * 2);
            let lock = if *kind == Kind::Two { lock.permits(2) } else { lock };
            let begun = Instant::now();
            probes.spawn(async move { (*key, lock.acquire().await, begun.elapsed()) });
        }
    }
    let mut held = Vec::new();
    while let Some(Ok((key, got, took))) = probes.join_next().await {
        let key = key.to_owned();
        let line = match got {
            Ok(guard) => {
                held.push(guard);
                Probe::Got { key, took_ms: millis(took), bound_ms: millis(bound) }
            }
            Err(error) => Probe::GotNot { key, error: error.chain().to_string() },
        };
        recorder.record(&Line::now(line));
    }
}

async fn connect(url: &str) -> Result<Locks, Error> {
    let url = if url.starts_with("local:") { url.to_owned() } else { format!("{url}&label=probe") };
    dlocks::connect(&url).await
}

fn write_setting(orders: &Orders, locks: &Locks, folder: &Path) -> std::io::Result<()> {
    let setting = Setting {
        store: orders.store.name.to_owned(),
        seed: orders.seed,
        seconds: orders.length.as_secs(),
        checks: orders.checks,
        loses_leases: orders.store.loses_leases,
        own_ttl: locks.capabilities().lifetime == Lifetime::Lease,
    };
    std::fs::write(folder.join("run.json"), serde_json::to_vec_pretty(&setting)?)
}

fn worker(orders: &Orders, folder: &Path, slot: u32, url: String, resource: u16) -> Box<dyn Fn(u32) -> Command + Send> {
    let (orders, folder) = (orders.clone(), folder.to_owned());
    Box::new(move |life| {
        let mut command = Command::new(&orders.program);
        command.arg("worker").arg("--folder").arg(&folder).args(["--url", &url]);
        let numbers = [
            ("--slot", u64::from(slot)),
            ("--life", u64::from(life)),
            ("--tasks", u64::from(orders.tasks)),
            ("--seed", orders.seed),
            ("--resource", u64::from(resource)),
        ];
        for (name, value) in numbers {
            command.args([name, &value.to_string()]);
        }
        if !orders.checks {
            command.arg("--no-checks");
        }
        command
    })
}

/// The resource's process. It ends when its stdin does.
#[derive(Debug)]
struct Resource {
    child: Child,
    port: u16,
}

impl Resource {
    fn start(orders: &Orders, folder: &Path) -> std::io::Result<Self> {
        let mut command = Command::new(&orders.program);
        command.arg("resource").arg("--folder").arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        if !orders.checks {
            command.arg("--no-checks");
        }
        let mut child = command.spawn()?;
        let mut port = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut port)?;
        }
        let port =
            port.trim().parse().map_err(|error| std::io::Error::other(format!("the resource's port: {error}")))?;
        Ok(Self { child, port })
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Turns true on Ctrl-C and SIGTERM: then what is stopped goes on, and what was started is ended.
fn interrupted() -> watch::Receiver<bool> {
    let (sender, interrupted) = watch::channel(false);
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        sender.send_replace(true);
    });
    interrupted
}
