//! A worker: a process with one client and several tasks, which take locks, write to the resource while they hold them,
//! and write down what they see.

use crate::history::{Event, HoldId, Line, Mode, Recorder, Told, millis, now, word};
use crate::resource::{Answer, Ask};
use dlocks::{Error, ErrorKind, Held, Lock, LockGuard, Locks, LostCause, Moment};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct Job {
    /// The store.
    pub url: String,
    /// Which worker it is.
    pub slot: u32,
    /// Its how manieth process.
    pub life: u32,
    /// How many tasks.
    pub tasks: u32,
    /// Of the run.
    pub seed: u64,
    /// Where the resource listens.
    pub resource: u16,
    /// Where it writes its history.
    pub folder: PathBuf,
    /// Whether it looks at the validity of what it holds.
    pub checks: bool,
}

/// The keys, and how each is asked for: by writers alone, by readers and writers, by two at once.
pub const KEYS: &[(&str, Kind)] =
    &[("a", Kind::Alone), ("b/c", Kind::Alone), ("d", Kind::Alone), ("e", Kind::ReadersToo), ("f", Kind::Two)];

/// How a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exclusive holders.
    Alone,
    /// Exclusive and shared ones.
    ReadersToo,
    /// Two permits.
    Two,
}

/// The longest TTL that is asked for.
pub const LONGEST_TTL: Duration = Duration::from_secs(3);

/// Whether the work goes on, as the other end of stdin says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    GoesOn,
    /// Hold nothing, ask for nothing, and stay.
    Rests,
    /// Close the client and end.
    Ends,
}

#[derive(Debug)]
struct Worker {
    job: Job,
    locks: Locks,
    recorder: Arc<Recorder>,
    work: watch::Receiver<Work>,
}

/// What is drawn for one acquisition.
#[derive(Clone, Debug)]
struct Wish {
    key: &'static str,
    mode: Mode,
    ttl: Duration,
    wait: Wait,
    writes: u32,
    think: Duration,
    /// How long it takes from a look at the validity to the request that follows: where a stop makes it too late.
    dawdle: Duration,
    releases: bool,
}

#[derive(Clone, Copy, Debug)]
enum Wait {
    Tries,
    Forever,
    AtMost(Duration),
    CancelledAfter(Duration),
}

impl Wish {
    fn draw(dice: &mut ChaCha8Rng) -> Self {
        let (key, kind) = KEYS[dice.random_range(0..KEYS.len())];
        let mode = match kind {
            Kind::Alone => Mode::Exclusive,
            Kind::ReadersToo if dice.random_bool(0.6) => Mode::Shared,
            Kind::ReadersToo => Mode::Exclusive,
            Kind::Two => Mode::Permit(2),
        };
        // The first is raised to the store's shortest.
        let ttl = [50, 300, 600, 1_000, 1_000, 1_500, 3_000][dice.random_range(0..7)];
        let wait = match dice.random_range(0..10) {
            0..2 => Wait::Tries,
            2..6 => Wait::Forever,
            6..8 => Wait::AtMost(Duration::from_millis(dice.random_range(20..3_000))),
            _ => Wait::CancelledAfter(Duration::from_millis(dice.random_range(0..1_000))),
        };
        // Most are short; some outlast their TTL, and must be renewed.
        let (writes, think) = if dice.random_bool(0.12) { (6, ttl / 3) } else { (dice.random_range(1..4), 20) };
        let think = Duration::from_millis(dice.random_range(0..think.max(2)));
        let dawdle = Duration::from_millis(if dice.random_bool(0.2) { dice.random_range(0..200) } else { 0 });
        let releases = dice.random_bool(0.85);
        Self { key, mode, ttl: Duration::from_millis(ttl), wait, writes, think, dawdle, releases }
    }

    fn lock(&self, locks: &Locks) -> Lock {
        let lock = locks.lock(self.key).ttl(self.ttl);
        let lock = match self.mode {
            Mode::Exclusive => lock,
            Mode::Shared => lock.shared(),
            Mode::Permit(limit) => lock.permits(limit),
        };
        match self.wait {
            Wait::AtMost(limit) => lock.wait_at_most(limit),
            _ => lock,
        }
    }
}

/// Works until stdin ends. A line on stdin makes it rest; it prints one when it does.
///
/// # Errors
/// When its history can't be written.
///
/// # Panics
/// When a runtime can't be made.
pub fn work(job: Job) -> std::io::Result<()> {
    let path = job.folder.join(format!("worker-{}-{}.jsonl", job.slot, job.life));
    let recorder = Arc::new(Recorder::open(&path)?);
    let beat = Arc::new(AtomicU64::new(0));
    watch_sleep(job.clone(), recorder.clone(), beat.clone());
    let work = listen();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.spawn(async move {
        loop {
            beat.store(now(), Ordering::Relaxed);
            sleep(Duration::from_millis(5)).await;
        }
    });
    runtime.block_on(async {
        let id = HoldId { slot: job.slot, life: job.life, ..HoldId::default() };
        let broken = |error: Error| {
            recorder.record(&Line::now(Told { id, event: Event::Broken { error: text(&error) } }));
        };
        let Some(locks) = connect(&job.url, work.clone()).await.unwrap_or_else(|error| {
            broken(error);
            None
        }) else {
            return;
        };
        let worker = Arc::new(Worker { job, locks: locks.clone(), recorder: recorder.clone(), work: work.clone() });
        let tasks: Vec<_> = (0..worker.job.tasks).map(|task| tokio::spawn(worker.clone().task(task))).collect();
        for task in tasks {
            if let Err(panic) = task.await {
                let error = format!("panic: {panic}");
                recorder.record(&Line::now(Told { id, event: Event::Broken { error } }));
            }
        }
        recorder.record(&Line::now(Told { id, event: Event::Rests }));
        // Nobody listens any more if the run was ended.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), b"rests\n");
        let mut work = work;
        let _ = work.wait_for(|work| *work == Work::Ends).await;
        if let Err(error) = locks.close().await {
            broken(error);
        }
    });
    Ok(())
}

/// A client, tried for until the store answers; `None` when the work ends before.
async fn connect(url: &str, work: watch::Receiver<Work>) -> Result<Option<Locks>, Error> {
    while *work.borrow() == Work::GoesOn {
        match dlocks::connect(url).await {
            Ok(locks) => return Ok(Some(locks)),
            Err(error) if error.is_retryable() => sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What stdin says.
fn listen() -> watch::Receiver<Work> {
    let (sender, work) = watch::channel(Work::GoesOn);
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|length| length > 0) {
            sender.send_replace(Work::Rests);
        }
        sender.send_replace(Work::Ends);
        // Closing must end by itself; this one is for a bug in it, which the end of the run reports.
        std::thread::sleep(Duration::from_secs(60));
        std::process::exit(1);
    });
    work
}

/// How many threads the runtime has, beside those that may block.
const THREADS: usize = 2;
/// How long a thread that sleeps for 5 ms must sleep until that counts as not having run.
const ASLEEP: u64 = 20_000_000;
/// For how long the runtime's own beat, every 5 ms, must be missing until that is written down.
const BLOCKED: u64 = 20_000_000;

/// Writes down when this process did not run, by a thread that shares nothing with the runtime: so a runtime that is blocked is
/// not taken for a process that is stopped, and is written down as such with what its threads wait for.
fn watch_sleep(job: Job, recorder: Arc<Recorder>, beat: Arc<AtomicU64>) {
    let id = HoldId { slot: job.slot, life: job.life, ..HoldId::default() };
    std::thread::spawn(move || {
        let (mut from, mut blocked, mut waited) = (now(), None, 0);
        loop {
            std::thread::sleep(Duration::from_millis(5));
            // A kernel that holds the address space up (a page of a mapped file that waits for the disk) stops all threads that
            // need memory. So this one maps some, more than an allocator keeps, and touches a page of it.
            let mut memory = vec![0_u8; 64 << 20];
            memory[32 << 20] = 1;
            std::hint::black_box(memory);
            let woke = now();
            let slept = woke - from > ASLEEP;
            if slept {
                recorder.record(&Line { at: woke, event: Told { id, event: Event::Slept { from } } });
            }
            from = woke;
            let last = beat.load(Ordering::Relaxed);
            match blocked.take() {
                Some((since, threads)) if since != last => {
                    let event =
                        Event::Blocked { since, starved: waited_for_a_processor().saturating_sub(waited), threads };
                    recorder.record(&Line { at: last, event: Told { id, event } });
                }
                Some(still) => blocked = Some(still),
                // Who has just woken from a sleep is given time to beat.
                None if last > 0 && !slept && woke.saturating_sub(last) > BLOCKED => blocked = Some((last, threads())),
                None if woke.saturating_sub(last) < BLOCKED / 2 => waited = waited_for_a_processor(),
                None => {}
            }
        }
    });
}

/// For how long the two threads of the runtime, together, were to run and got no processor: the kernel's own count.
fn waited_for_a_processor() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut ids: Vec<u32> = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    let of = |id: &u32, file: &str| std::fs::read_to_string(format!("/proc/self/task/{id}/{file}")).unwrap_or_default();
    // The first two of that name: later ones are those that may block.
    let runtime = ids.iter().filter(|id| of(id, "comm").trim() == "tokio-rt-worker").take(THREADS);
    runtime.filter_map(|id| of(id, "schedstat").split(' ').nth(1)?.parse::<u64>().ok()).sum()
}

/// The threads of this process that wait for the kernel or run, and where: name, state, function.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let shown = tasks.filter_map(|task| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let (name, rest) = stat.split_once(") ")?;
        let state = rest.get(..1)?;
        Some(format!("{} {state} {}", name.split_once('(')?.1, read("wchan")))
    });
    shown.collect()
}

fn text(error: &Error) -> String {
    error.chain().to_string()
}

fn kind(error: &Error) -> String {
    format!("{:?}", error.kind())
}

fn until(held: &Held) -> u64 {
    held.valid_until().as_nanos()
}

impl Worker {
    fn tell(&self, id: HoldId, at: u64, event: Event) {
        self.recorder.record(&Line { at, event: Told { id, event } });
    }

    fn goes_on(&self) -> bool {
        *self.work.borrow() == Work::GoesOn
    }

    /// Resolves when the work is to rest or end.
    async fn stops(&self) {
        let mut work = self.work.clone();
        let _ = work.wait_for(|work| *work != Work::GoesOn).await;
    }

    async fn task(self: Arc<Self>, task: u32) {
        let Job { slot, life, seed, resource, .. } = self.job;
        let mut own = [0; 32];
        own[..8].copy_from_slice(&seed.to_le_bytes());
        own[8..]
            .iter_mut()
            .zip([slot, life, task].iter().flat_map(|part| part.to_le_bytes()))
            .for_each(|(to, from)| *to = from);
        let mut dice = ChaCha8Rng::from_seed(own);
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, resource)).await.expect("the resource is there");
        stream.set_nodelay(true).expect("a TCP stream");
        let mut resource = BufReader::new(stream);
        let mut hold = 0;
        while self.goes_on() {
            let (id, wish) = (HoldId { slot, life, task, hold }, Wish::draw(&mut dice));
            if let Some(guard) = self.obtain(id, &wish).await {
                self.hold(id, &wish, guard, &mut resource).await;
            }
            sleep(Duration::from_millis(dice.random_range(0..30))).await;
            hold += 1;
        }
    }

    async fn obtain(&self, id: HoldId, wish: &Wish) -> Option<LockGuard> {
        let limit_ms = match wish.wait {
            Wait::AtMost(limit) => Some(millis(limit)),
            _ => None,
        };
        let asks = Event::Asks { key: wish.key.to_owned(), mode: wish.mode, ttl_ms: millis(wish.ttl), limit_ms };
        self.tell(id, now(), asks);
        let lock = wish.lock(&self.locks);
        let cancelled = match wish.wait {
            Wait::CancelledAfter(after) => after,
            _ => Duration::from_secs(3_600),
        };
        let got = async {
            match wish.wait {
                Wait::Tries => lock.try_acquire().await,
                _ => lock.acquire().await.map(Some),
            }
        };
        let got = tokio::select! {
            got = got => Some(got),
            () = sleep(cancelled) => None,
            () = self.stops() => None,
        };
        let at = now();
        let (why, error) = match got {
            Some(Ok(Some(guard))) => {
                let (token, floor) = (guard.token().0, guard.fence_floor().map(|floor| floor.0));
                let got = Event::Got { token, floor, holder: guard.holder().to_string(), until: until(&guard) };
                self.tell(id, at, got);
                return Some(guard);
            }
            Some(Ok(None)) => ("held".to_owned(), None),
            Some(Err(error)) => (kind(&error), Some(text(&error))),
            None => ("cancelled".to_owned(), None),
        };
        self.tell(id, at, Event::GotNot { why, error });
        None
    }

    async fn hold(&self, id: HoldId, wish: &Wish, guard: LockGuard, resource: &mut BufReader<TcpStream>) {
        if self.job.checks {
            tokio::spawn(watch_loss(id, guard.held(), self.recorder.clone()));
        }
        let mut ask = Ask {
            id,
            key: wish.key.to_owned(),
            mode: wish.mode,
            token: guard.token().0,
            floor: guard.fence_floor().map(|floor| floor.0),
            base: None,
        };
        for _ in 0..wish.writes {
            tokio::select! {
                () = sleep(wish.think) => {}
                () = self.stops() => break,
            }
            ask.base = None;
            let Some(read) = self.request(&guard, wish, &ask, resource).await else { break };
            if wish.mode == Mode::Exclusive {
                // What it does on the ground of what it has read takes a while.
                sleep(wish.think / 2).await;
                ask.base = Some(read.value);
                if self.request(&guard, wish, &ask, resource).await.is_none() {
                    break;
                }
            }
        }
        self.tell(id, now(), Event::Leaves);
        if wish.releases {
            let left = guard.release().await;
            let (how, error) = match left {
                Ok(()) => ("released".to_owned(), None),
                Err(error) => (kind(&error), Some(text(&error))),
            };
            self.tell(id, now(), Event::Left { how, error });
        }
    }

    /// Asks the resource while the lock is held; `None` when it is no longer, or the resource refused.
    async fn request(
        &self,
        guard: &LockGuard,
        wish: &Wish,
        ask: &Ask,
        resource: &mut BufReader<TcpStream>,
    ) -> Option<Answer> {
        let at = now();
        // Without checks it acts as if its lease never ended, and says so.
        let valid = !self.job.checks || guard.is_valid();
        let until = if self.job.checks { until(guard) } else { Moment::MAX.as_nanos() };
        self.tell(ask.id, at, Event::Looked { valid, until });
        if !valid {
            return None;
        }
        if !wish.dawdle.is_zero() {
            sleep(wish.dawdle).await;
        }
        let mut line = serde_json::to_vec(ask).expect("a request is JSON");
        line.push(b'\n');
        self.tell(ask.id, now(), Event::Sends);
        resource.get_mut().write_all(&line).await.expect("the resource is there");
        let mut text = String::new();
        resource.read_line(&mut text).await.expect("the resource is there");
        let answer: Answer = serde_json::from_str(&text).expect("the resource answers");
        self.tell(ask.id, now(), Event::Answered { accepted: answer.accepted });
        answer.accepted.then_some(answer)
    }
}

/// Writes down the renewals of a held lock, and its loss.
async fn watch_loss(id: HoldId, held: Held, recorder: Arc<Recorder>) {
    let lost = held.lost();
    tokio::pin!(lost);
    let (mut seen, mut last) = (held.valid_until(), until(&held));
    loop {
        tokio::select! {
            biased;
            cause = &mut lost => {
                if cause != LostCause::Released {
                    let event = Event::Lost { cause: word(cause), until: last };
                    recorder.record(&Line::now(Told { id, event }));
                }
                return;
            }
            moved = held.renewed(seen) => {
                seen = moved;
                // An end by the store's word is told by `lost`.
                if moved > Moment::MIN {
                    last = moved.as_nanos();
                    recorder.record(&Line::now(Told { id, event: Event::Renewed { until: last } }));
                }
            }
        }
    }
}

/// Whether an error may come while servers and connections break.
pub(crate) fn is_expected(kind: &str) -> bool {
    [ErrorKind::TimedOut, ErrorKind::Unavailable, ErrorKind::LeaseLost]
        .iter()
        .any(|expected| format!("{expected:?}") == kind)
}

/// Where a worker's history is.
pub(crate) fn is_history(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("worker-"))
}
