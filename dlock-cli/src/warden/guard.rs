//! The warden's own side.

use super::is_gone;
use super::message::{LENGTH, Order, Report};
use crate::cli::WardenArgs;
use crate::exit::{self, NOT_EXECUTABLE, NOT_FOUND, SIGNAL, SOFTWARE};
use crate::signals::Signals;
use dlocks::{Clock, Moment};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, set_child_subreaper, wait};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};

/// How often the warden looks whether the last of the group is gone: nobody tells it of the end of others' children.
const LOOK: Duration = Duration::from_millis(10);

/// Runs the command, and ends it when it must.
pub(crate) fn guard(args: &WardenArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(Guard::run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::tell(exit::Failure::new(SOFTWARE, format!("the warden failed: {error}"))),
    }
}

struct Guard {
    clock: Clock,
    grace: Duration,
    group: Pid,
    /// How the command ended, once it has.
    status: Option<u64>,
    /// SIGKILL at this moment, and no later.
    deadline: Moment,
    /// Set once the command was told to end; then SIGKILL comes at this moment.
    ending: Option<Moment>,
    /// Whether it was told to end for the lock's sake.
    cut: bool,
    /// Whether it was said that it can't be told anything.
    is_out_of_reach: bool,
}

/// What `dlock` hands over.
struct Inheritance {
    deadline: Moment,
    stdin: OwnedFd,
    /// Held open until this process ends.
    _sign_of_life: Option<OwnedFd>,
}

impl Guard {
    async fn run(args: &WardenArgs) -> io::Result<()> {
        let socket = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let inheritance = receive(&socket)?;
        // The warden outlives what ends others; these handlers are not passed on to the command.
        let _deaf = Signals::new()?;
        let mut children = signal(SignalKind::child())?;
        // Orphans of the group become our children, so that their end is seen.
        set_child_subreaper(Some(rustix::process::getpid()))?;
        socket.set_nonblocking(true)?;
        let (mut orders, mut reports) = UnixStream::from_std(socket)?.into_split();

        let (clock, grace) = (Clock::system(), Duration::from_millis(args.grace));
        if clock.now() >= inheritance.deadline - grace {
            // This machine was asleep meanwhile, say: the command must not begin.
            Report::Cut.write(&mut reports).await;
            return Ok(());
        }
        let started = Command::new(&args.command[0])
            .args(&args.command[1..])
            .stdin(Stdio::from(inheritance.stdin))
            .process_group(0)
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                let code = match error.kind() {
                    io::ErrorKind::NotFound => NOT_FOUND,
                    _ => NOT_EXECUTABLE,
                };
                exit::say(&format!("{} can't be started: {error}", args.command[0].display()));
                Report::Ended(code.into()).write(&mut reports).await;
                return Ok(());
            }
        };
        let mut guard = Self {
            clock,
            grace,
            group: Pid::from_child(&child),
            status: None,
            deadline: inheritance.deadline,
            ending: None,
            cut: false,
            is_out_of_reach: false,
        };
        Report::Started(u64::from(child.id())).write(&mut reports).await;
        guard.watch(&mut orders, &mut children, &mut reports).await
    }

    async fn watch(
        &mut self,
        orders: &mut OwnedReadHalf,
        children: &mut tokio::signal::unix::Signal,
        reports: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut listening = true;
        loop {
            self.reap()?;
            if is_gone(self.group) {
                let ended = Report::Ended(self.status.unwrap_or(u64::from(SOFTWARE)));
                if self.cut { Report::Cut } else { ended }.write(reports).await;
                return Ok(());
            }
            if self.status.is_some() {
                // What the command left running in its group must not work on without the lock.
                self.end();
            }
            let now = self.clock.now();
            if now >= self.ending.unwrap_or(Moment::MAX).min(self.deadline) {
                self.cut |= self.status.is_none();
                self.ending.get_or_insert(now);
                self.signal_group(Signal::KILL);
            } else if now >= self.deadline - self.grace {
                self.cut();
            }
            tokio::select! {
                order = Order::read(orders), if listening => match order {
                    Some(Order::Deadline(at)) => self.deadline = self.deadline.max(Moment::from_nanos(at)),
                    Some(Order::Signal(number)) => {
                        if let Some(signal) = i32::try_from(number).ok().and_then(Signal::from_named_raw) {
                            self.signal_group(signal);
                            if Signals::ends(signal.as_raw()) {
                                // A stopped process takes no signal.
                                self.signal_group(Signal::CONT);
                            }
                        }
                    }
                    Some(Order::End) => self.cut(),
                    None => {
                        listening = false;
                        self.cut();
                    }
                },
                _ = children.recv() => {}
                () = self.clock.sleep_until(self.next_look()) => {}
            }
        }
    }

    fn next_look(&self) -> Moment {
        let now = self.clock.now();
        match self.ending {
            Some(_) => now + LOOK,
            None => self.deadline - self.grace,
        }
    }

    /// Ends the command for the lock's sake, unless it has ended by itself.
    fn cut(&mut self) {
        self.cut |= self.status.is_none();
        self.end();
    }

    /// SIGTERM, once; SIGKILL comes after the grace.
    fn end(&mut self) {
        if self.ending.is_none() {
            self.ending = Some(self.clock.now() + self.grace);
            self.signal_group(Signal::TERM);
            // A stopped process takes no SIGTERM.
            self.signal_group(Signal::CONT);
        }
    }

    fn signal_group(&mut self, signal: Signal) {
        // What else fails is a group that is gone.
        if kill_process_group(self.group, signal) == Err(Errno::PERM) && !self.is_out_of_reach {
            self.is_out_of_reach = true;
            exit::say("the command runs as another user, and takes no signals from this one: it can't be ended");
        }
    }

    /// Collects whoever has ended.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => self.reaped(pid, status),
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) {
        if status.stopping_signal() == Some(Signal::TSTP.as_raw()) {
            // Ctrl-Z: a command that sleeps under a lock would lose it.
            self.signal_group(Signal::CONT);
        }
        if pid == self.group {
            let ended = status.exit_status().or(status.terminating_signal().map(|number| i32::from(SIGNAL) + number));
            self.status = ended.and_then(|code| u64::try_from(code).ok()).or(self.status);
        }
    }
}

/// The first message: the first deadline, with the command's standard input and perhaps the sign of life.
fn receive(socket: &StdStream) -> io::Result<Inheritance> {
    let mut bytes = [0; LENGTH];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    let mut descriptors = ancillary
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(rights) = message { Some(rights) } else { None })
        .flatten();
    match (received.bytes == LENGTH, descriptors.next(), descriptors.next()) {
        (true, Some(stdin), sign_of_life) => {
            let at = bytes[1..].try_into().map_or(0, u64::from_le_bytes);
            Ok(Inheritance { deadline: Moment::from_nanos(at), stdin, _sign_of_life: sign_of_life })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a command for people; use `dlock run`")),
    }
}
