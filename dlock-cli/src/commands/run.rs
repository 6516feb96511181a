//! `dlock run`: a command under a lock.

use crate::cli::{RunArgs, StoreArgs};
use crate::exit::{Failure, LOST, NOT_OBTAINED, SIGNAL, USAGE, say};
use crate::warden::{News, Ward};
use crate::{store, text};
use dlocks::{ErrorKind, Held, Lock, LockGuard, Locks, LostCause, Moment};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Pid, Signal, getpgrp, kill_process_group};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};
use std::future::pending;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// The longest grace unless one is given.
const GRACE: Duration = Duration::from_secs(5);
/// How long a store that may be gone is told of a release after a loss.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a wait goes without a word.
const SILENCE: Duration = Duration::from_secs(1);

pub(crate) async fn run(store: &StoreArgs, args: RunArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let label = args.label.clone().unwrap_or_else(|| label(&args));
    let locks = tokio::select! {
        locks = store::connect(store, Some(label)) => locks?,
        number = signals.next() => return Ok(by_signal(number)),
    };
    let lock = lock(&locks, &args);
    let guard = tokio::select! {
        guard = obtain(&locks, &lock, &args) => guard?,
        number = signals.next() => {
            // What waited withdraws.
            let _ = locks.close().await;
            return Ok(by_signal(number));
        }
    };
    let started = locks.clock().now();
    let most = guard.ttl() / 3;
    let grace = match args.grace {
        Some(grace) if grace > most => {
            let (grace, most) = (text::duration(grace), text::duration(most));
            let message = format!("--grace {grace} is more than a third of the TTL, {most}; take a longer --ttl");
            return Err(Failure::new(USAGE, message));
        }
        Some(grace) => grace,
        None => most.min(GRACE),
    };
    let cap = args.max_hold.map_or(Moment::MAX, |most| started + most);
    let outcome = supervise(&locks, &guard, &args, (grace, cap), &mut signals).await;
    if let (Ok(_), Some(least)) = (&outcome, args.at_least) {
        tokio::select! {
            () = locks.clock().sleep_until(started + least) => {}
            _ = guard.lost() => {}
            _ = signals.next() => {}
        }
    }
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            // Told the store if it can be told at all.
            let _ = tokio::time::timeout(FAREWELL, guard.release()).await;
            return Err(failure);
        }
    };
    let released = guard.release().await;
    if released.is_ok() {
        // Its sessions end with it.
        let _ = locks.close().await;
    }
    match released {
        Err(error) if error.kind() == ErrorKind::LeaseLost => {
            Err(lost_failure(&args.key, error.lost_cause().unwrap_or(LostCause::Expired)))
        }
        // The command did its work under the lock; its TTL ends what could not be told.
        Err(error) => {
            say(&format!("{}; the lock ends with its TTL", error.chain()));
            Ok(code.into())
        }
        Ok(()) => Ok(code.into()),
    }
}

fn lost_failure(key: &str, cause: LostCause) -> Failure {
    Failure::new(LOST, format!("the lock on {key:?} was lost: {cause}"))
}

fn by_signal(number: i32) -> ExitCode {
    (SIGNAL + u8::try_from(number).unwrap_or_default()).into()
}

/// Host, pid and program; its arguments may be secrets.
fn label(args: &RunArgs) -> String {
    let host = rustix::system::uname();
    let program =
        args.command.first().map(std::path::Path::new).and_then(std::path::Path::file_name).unwrap_or_default();
    format!("{} pid {} {}", host.nodename().to_string_lossy(), std::process::id(), program.to_string_lossy())
}

fn lock(locks: &Locks, args: &RunArgs) -> Lock {
    let mut lock = locks.lock(&args.key);
    if args.shared {
        lock = lock.shared();
    }
    if let Some(limit) = args.permits {
        lock = lock.permits(limit);
    }
    if let Some(ttl) = args.ttl {
        lock = lock.ttl(ttl);
    }
    if let Some(limit) = args.wait {
        lock = lock.wait_at_most(limit);
    }
    if let Some(limit) = args.max_hold {
        lock = lock.max_hold(limit);
    }
    lock
}

/// Gets the lock, or says who has it.
async fn obtain(locks: &Locks, lock: &Lock, args: &RunArgs) -> Result<LockGuard, Failure> {
    if args.try_once {
        if let Some(guard) = lock.try_acquire().await? {
            return Ok(guard);
        }
        return Err(not_obtained(locks, &args.key, None).await);
    }
    let mut acquire = lock.acquire();
    let told = tokio::select! {
        guard = &mut acquire => Some(guard),
        () = tokio::time::sleep(SILENCE) => None,
    };
    let guard = match told {
        Some(guard) => guard,
        None => {
            if let Ok(info) = locks.inspect(&args.key).await {
                say(&format!("waiting for {:?}, held by {}", args.key, text::holders(&info)));
            }
            acquire.await
        }
    };
    match guard {
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(not_obtained(locks, &args.key, args.wait).await),
        guard => Ok(guard?),
    }
}

async fn not_obtained(locks: &Locks, key: &str, waited: Option<Duration>) -> Failure {
    let within = waited.map_or_else(String::new, |waited| format!(" within {}", text::duration(waited)));
    let held = match locks.inspect(key).await {
        Ok(info) => text::holders(&info),
        Err(_) => "another".to_owned(),
    };
    Failure::new(NOT_OBTAINED, format!("{key:?} was not obtained{within}: held by {held}"))
}

/// Runs the command under its warden until it and its group are gone. Answers its exit status.
async fn supervise(
    locks: &Locks,
    guard: &LockGuard,
    args: &RunArgs,
    (grace, cap): (Duration, Moment),
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let environment = [
        ("DLOCK_KEY", args.key.clone()),
        ("DLOCK_TOKEN", guard.token().to_string()),
        ("DLOCK_HOLDER", guard.holder().to_string()),
    ];
    let mut until = guard.valid_until();
    let sign_of_life = locks.backend().sign_of_life();
    let mut ward = Ward::start(&args.command, &environment, until.as_nanos(), grace, sign_of_life)?;
    let mut foreground = None;
    let mut lost: Option<LostCause> = None;
    let held: Held = guard.held();
    loop {
        tokio::select! {
            biased;
            news = ward.news() => match news? {
                News::Started(group) => foreground = Foreground::give(group),
                ended => {
                    drop(foreground);
                    let lost = lost.or_else(|| guard.lost_cause());
                    return match (ended, lost) {
                        (News::Ended(status), None) => Ok(status),
                        (_, Some(cause)) => Err(lost_failure(&args.key, cause)),
                        // Ended in time, before the lock was lost.
                        (_, None) if until + grace >= cap => Err(lost_failure(&args.key, LostCause::MaxHold)),
                        (_, None) => Err(lost_failure(&args.key, LostCause::Expired)),
                    };
                }
            },
            cause = async { if lost.is_none() { held.lost().await } else { pending().await } } => {
                lost = Some(cause);
                ward.end().await;
            }
            moved = held.renewed(until), if lost.is_none() => {
                until = moved;
                ward.set_deadline(until.as_nanos()).await;
            }
            number = signals.next() => ward.pass_on(number).await,
        }
    }
}

/// The signals that are passed on to the command.
struct Signals([(SignalStream, i32); 6]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let stream = |kind: SignalKind| Ok::<_, std::io::Error>((signal(kind)?, kind.as_raw_value()));
        Ok(Self([
            stream(SignalKind::terminate())?,
            stream(SignalKind::interrupt())?,
            stream(SignalKind::hangup())?,
            stream(SignalKind::quit())?,
            stream(SignalKind::user_defined1())?,
            stream(SignalKind::user_defined2())?,
        ]))
    }

    /// The number of the next signal. Cancel-safe.
    async fn next(&mut self) -> i32 {
        let received = self.0.iter_mut().map(|(stream, number)| {
            Box::pin(async move {
                stream.recv().await;
                *number
            })
        });
        futures_util::future::select_all(received).await.0
    }
}

/// The terminal's foreground, given to the command and taken back when this is dropped.
struct Foreground(Pid);

impl Foreground {
    /// Gives the foreground to `group`, if this process has it on a terminal.
    fn give(group: Pid) -> Option<Self> {
        let (stdin, own) = (std::io::stdin(), getpgrp());
        let has_it = isatty(stdin.as_fd()) && tcgetpgrp(stdin.as_fd()).is_ok_and(|foreground| foreground == own);
        if !has_it || tcsetpgrp(stdin.as_fd(), group).is_err() {
            return None;
        }
        // If it asked for the terminal before it had it, it was stopped.
        let _ = kill_process_group(group, Signal::CONT);
        Some(Self(own))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // Taking it from the background raises a signal that would stop this process.
        let mut background = SigSet::empty();
        background.add(NixSignal::SIGTTOU);
        if background.thread_block().is_ok() {
            let _ = tcsetpgrp(std::io::stdin().as_fd(), self.0);
            let _ = background.thread_unblock();
        }
    }
}
