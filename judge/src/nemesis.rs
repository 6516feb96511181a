//! [`Nemesis`]: carries a plan of faults out.

use crate::history::{Done, Line, Recorder};
use crate::plan::{Fault, Planned, index};
use crate::proxy::{Link, State};
use crate::store::Server;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is broken, and by whom it is whole again.
#[derive(Debug)]
pub(crate) struct Nemesis {
    pub(crate) members: Vec<Arc<Member>>,
    pub(crate) workers: Vec<Mutex<Process>>,
    pub(crate) links: Vec<Link>,
    pub(crate) recorder: Recorder,
}

/// A server of the store, and what connects the other members of its cluster to it.
#[derive(Debug)]
pub(crate) struct Member {
    server: Mutex<Box<dyn Server>>,
    /// Of its faults one after the other: a loaded machine may take longer to start it than the plan thinks.
    turn: tokio::sync::Mutex<()>,
    peers: Vec<Link>,
}

impl Member {
    pub(crate) fn new(server: Box<dyn Server>, peers: Vec<Link>) -> Self {
        Self { server: Mutex::new(server), turn: tokio::sync::Mutex::default(), peers }
    }

    async fn with(self: &Arc<Self>, work: fn(&mut dyn Server)) {
        let this = self.clone();
        on_a_thread(move || work(&mut **locked(&this.server))).await;
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's process.
pub(crate) struct Process {
    child: Child,
    pub(crate) life: u32,
    command: Box<dyn Fn(u32) -> Command + Send>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("life", &self.life).field("child", &self.child).finish_non_exhaustive()
    }
}

impl Process {
    /// Starts it; `command` makes the command of each life.
    pub(crate) fn start(command: Box<dyn Fn(u32) -> Command + Send>) -> std::io::Result<Self> {
        Ok(Self { child: spawn(command(0))?, life: 0, command })
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself, which its history shows.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn start_again(&mut self) -> std::io::Result<()> {
        self.life += 1;
        self.child = spawn((self.command)(self.life))?;
        Ok(())
    }

    /// Tells it to hold nothing. Answers where it says that it does so: a line on its stdout.
    pub(crate) fn tell_to_rest(&mut self) -> Option<ChildStdout> {
        self.child.stdin.as_mut()?.write_all(b"rest\n").ok()?;
        self.child.stdout.take()
    }

    /// Tells it to end, and waits for that. Blocks.
    pub(crate) fn end(&mut self, limit: Duration) -> bool {
        drop(self.child.stdin.take());
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(mut command: Command) -> std::io::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

impl Nemesis {
    /// Carries the plan out, and heals everything at its end or once `interrupted`.
    pub(crate) async fn run(self: Arc<Self>, plan: &[Planned], length: Duration, interrupted: watch::Receiver<bool>) {
        let begun = tokio::time::Instant::now();
        let stopped = || {
            let mut interrupted = interrupted.clone();
            async move {
                let _ = interrupted.wait_for(|is| *is).await;
            }
        };
        let mut faults = JoinSet::new();
        for Planned { at_ms, fault } in plan.iter().copied() {
            tokio::select! {
                () = tokio::time::sleep_until(begun + Duration::from_millis(at_ms)) => {}
                () = stopped() => break,
            }
            let (this, stopped) = (self.clone(), stopped());
            faults.spawn(async move { this.cause(fault, stopped).await });
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + length) => {}
            () = stopped() => {}
        }
        while let Some(done) = faults.join_next().await {
            if let Err(panic) = done {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        for member in &self.members {
            member.with(|server| server.wait()).await;
        }
        self.recorder.record(&Line::now(Done::Over));
    }

    /// Breaks something, waits, and heals it.
    async fn cause(self: Arc<Self>, fault: Fault, stopped: impl Future<Output = ()> + Send + 'static) {
        let lasts = fault.lasts();
        let wait = async move {
            tokio::select! {
                () = tokio::time::sleep(lasts) => {}
                () = stopped => {}
            }
        };
        match fault {
            Fault::KillWorker { slot } => {
                let this = self.clone();
                on_a_thread(move || {
                    let mut process = locked(this.worker(slot));
                    this.begins(fault, Some(process.life));
                    process.kill();
                    process.start_again().expect("a worker starts");
                })
                .await;
            }
            Fault::StopWorker { slot, .. } => {
                {
                    let process = locked(self.worker(slot));
                    self.begins(fault, Some(process.life));
                    process.signal(Signal::STOP);
                }
                wait.await;
                locked(self.worker(slot)).signal(Signal::CONT);
            }
            Fault::KillServer { member, .. } => {
                let member = self.member(member);
                let _turn = member.turn.lock().await;
                self.begins(fault, None);
                member.with(|server| server.kill()).await;
                wait.await;
                member.with(|server| server.restart()).await;
            }
            Fault::StopServer { member, .. } => {
                let member = self.member(member);
                let _turn = member.turn.lock().await;
                self.begins(fault, None);
                member.with(|server| server.pause()).await;
                wait.await;
                member.with(|server| server.resume()).await;
            }
            Fault::CutMember { member, .. } => {
                let member = self.member(member);
                self.begins(fault, None);
                member.peers.iter().for_each(|link| link.set(State { cut: true, ..State::default() }));
                wait.await;
                member.peers.iter().for_each(|link| link.set(State::default()));
            }
            Fault::Cut { slot, .. } => {
                self.begins(fault, None);
                self.set(slot, State { cut: true, ..State::default() });
                wait.await;
                self.set(slot, State::default());
            }
            Fault::Stall { slot, requests, replies, .. } => {
                self.begins(fault, None);
                self.set(slot, State { holds_requests: requests, holds_replies: replies, ..State::default() });
                wait.await;
                self.set(slot, State::default());
            }
            Fault::Delay { slot, by_ms, .. } => {
                self.begins(fault, None);
                self.set(slot, State { delay: Duration::from_millis(by_ms), ..State::default() });
                wait.await;
                self.set(slot, State::default());
            }
            Fault::LoseReplies { slot, .. } => {
                self.begins(fault, None);
                self.set(slot, State { loses_replies: true, ..State::default() });
                wait.await;
                self.set(slot, State::default());
            }
        }
        self.recorder.record(&Line::now(Done::Heals { fault }));
    }

    /// Kills a worker that nobody follows. Blocks.
    pub(crate) fn end_worker(&self, slot: u32) {
        let mut process = locked(self.worker(slot));
        self.begins(Fault::KillWorker { slot }, Some(process.life));
        process.kill();
    }

    fn begins(&self, fault: Fault, life: Option<u32>) {
        self.recorder.record(&Line::now(Done::Begins { fault, life }));
    }

    pub(crate) fn worker(&self, slot: u32) -> &Mutex<Process> {
        &self.workers[index(slot)]
    }

    fn member(&self, member: u32) -> Arc<Member> {
        self.members[index(member)].clone()
    }

    fn set(&self, slot: Option<u32>, state: State) {
        match slot {
            Some(slot) => self.links[index(slot)].set(state),
            None => self.links.iter().for_each(|link| link.set(state)),
        }
    }
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(output) => output,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
