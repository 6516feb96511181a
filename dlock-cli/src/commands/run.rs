//! `dlock run`: a command under a lock.

use crate::cli::{RunArgs, StoreArgs};
use crate::exit::{Failure, LOST, NOT_OBTAINED, SIGNAL, UNAVAILABLE, USAGE, say};
use crate::signals::Signals;
use crate::warden::{News, Ward};
use crate::{events, store, text};
use dlocks::{Clock, ErrorKind, Held, Lock, LockGuard, LockInfo, Locks, LostCause, Moment};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Pid, Signal, getpgrp, kill_process_group};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};
use std::future::pending;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

/// The longest grace unless one is given.
const GRACE: Duration = Duration::from_secs(5);
/// How long a store that may be gone is told of a release after a loss.
const FAREWELL: Duration = Duration::from_millis(500);
/// The pause before a store that can't be reached is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// By how much a warden may be late.
const SLOW: Duration = Duration::from_millis(100);
/// How long a wait goes without a word.
const SILENCE: Duration = Duration::from_secs(1);

pub(crate) async fn run(store: &StoreArgs, args: RunArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    events::tell(args.verbose);
    if store.url.is_none() && store.url_file.is_none() {
        let own = store::url(store)?;
        say(&format!(
            "no --url, --url-file or DLOCK_URL: this lock is among this user's processes on this machine ({own})"
        ));
    }
    let label = args.label.clone().unwrap_or_else(|| label(&args));
    let until = args.wait.map(|limit| Clock::system().now() + limit);
    let locks = tokio::select! {
        locks = reach(store, &label, until) => locks?,
        number = signals.next() => return Ok(by_signal(number).into()),
    };
    let lock = lock(&locks, &args, until);
    let grace = grace(&lock, &args)?;
    let obtained = tokio::select! {
        obtained = obtain(&locks, &lock, &args) => obtained,
        number = signals.next() => {
            // What waited withdraws.
            until_told(&mut signals, locks.close()).await;
            return Ok(by_signal(number).into());
        }
    };
    let guard = match obtained {
        Ok(guard) => guard,
        Err(failure) => {
            // What waited withdraws, if the store can be told at all.
            let reached = failure.code == NOT_OBTAINED;
            let limit = if reached { Duration::MAX } else { FAREWELL };
            until_told(&mut signals, tokio::time::timeout(limit, locks.close())).await;
            return if reached { Ok(not_obtained(&args, &failure)) } else { Err(failure) };
        }
    };
    let started = locks.clock().now();
    let cap = args.max_hold.map_or(Moment::MAX, |most| started + most);
    let ran = match supervise(&locks, &guard, &args, (grace, cap), &mut signals).await {
        Ok(ran) => ran,
        Err(failure) => {
            // Told the store if it can be told at all.
            let _ = tokio::time::timeout(FAREWELL, guard.release()).await;
            return Err(failure);
        }
    };
    // A command that could not be started has done nothing to keep others from.
    if let Some(least) = args.at_least.filter(|_| ran.started && !ran.told_to_end) {
        tokio::select! {
            () = locks.clock().sleep_until(started + least) => {}
            () = signals.end() => {}
            cause = guard.lost() => {
                say(&format!("the lock on {:?} was lost after the command had ended: {cause}", args.key));
                let leave = async {
                    let _ = guard.release().await;
                    let _ = locks.close().await;
                };
                let _ = tokio::time::timeout(FAREWELL, leave).await;
                return Ok(ran.status.into());
            }
        }
    }
    let leave = async {
        let released = guard.release().await;
        if released.is_ok() {
            // Its sessions end with it.
            let _ = locks.close().await;
        }
        released
    };
    let Some(released) = until_told(&mut signals, leave).await else {
        say("the lock ends with its TTL");
        return Ok(ran.status.into());
    };
    match released {
        Err(error) if error.kind() == ErrorKind::LeaseLost => {
            Err(lost_failure(&args.key, error.lost_cause().unwrap_or(LostCause::Expired)))
        }
        // The command did its work under the lock; its TTL ends what could not be told.
        Err(error) => {
            say(&format!("{}; the lock ends with its TTL", error.chain()));
            Ok(ran.status.into())
        }
        Ok(()) => Ok(ran.status.into()),
    }
}

/// What `work` answers; once a signal that ends a program has come, only for as long as a farewell takes.
async fn until_told<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        output = &mut work => return Some(output),
        () = signals.end() => {}
    }
    tokio::time::timeout(FAREWELL, work).await.ok()
}

/// The time from SIGTERM to SIGKILL, checked before anything is sent.
fn grace(lock: &Lock, args: &RunArgs) -> Result<Duration, Failure> {
    if args.max_hold.is_some_and(|most| most.is_zero() || args.at_least.is_some_and(|least| least >= most)) {
        return Err(Failure::new(USAGE, "--max-hold must be more than nothing, and more than --at-least"));
    }
    let ttl = lock.granted_ttl()?;
    let longest = args.max_hold.map_or(ttl, |most| most.min(ttl));
    let most = longest / 3;
    match args.grace {
        Some(grace) if grace > most => {
            let of = if longest < ttl { "--max-hold" } else { "the TTL" };
            let (grace, most) = (text::duration(grace), text::duration(most));
            Err(Failure::new(USAGE, format!("--grace {grace} is more than a third of {of}, {most}; take a longer one")))
        }
        Some(grace) => Ok(grace),
        None => Ok(most.min(GRACE)),
    }
}

/// Says that others have the lock, unless that is no failure to the caller.
fn not_obtained(args: &RunArgs, failure: &Failure) -> ExitCode {
    if args.skip_code != 0 {
        say(&failure.message);
    }
    args.skip_code.into()
}

fn lost_failure(key: &str, cause: LostCause) -> Failure {
    Failure::new(LOST, format!("the lock on {key:?} was lost: {cause}"))
}

/// The status of what a signal ended.
fn by_signal(number: i32) -> u8 {
    SIGNAL + u8::try_from(number).unwrap_or_default()
}

/// Host, pid and program; its arguments may be secrets.
fn label(args: &RunArgs) -> String {
    let host = rustix::system::uname();
    let program =
        args.command.first().map(std::path::Path::new).and_then(std::path::Path::file_name).unwrap_or_default();
    format!("{} pid {} {}", host.nodename().to_string_lossy(), std::process::id(), program.to_string_lossy())
}

/// Connects; a store that can't be reached is tried again until then.
async fn reach(store: &StoreArgs, label: &str, until: Option<Moment>) -> Result<Locks, Failure> {
    let (clock, mut told) = (Clock::system(), false);
    loop {
        match store::connect(store, Some(label.to_owned())).await {
            Err(failure) if failure.code == UNAVAILABLE && until.is_some_and(|until| clock.now() + AGAIN < until) => {
                if !std::mem::replace(&mut told, true) {
                    say(&format!("{}; trying again", failure.message));
                }
                clock.sleep(AGAIN).await;
            }
            connected => return connected,
        }
    }
}

fn lock(locks: &Locks, args: &RunArgs, until: Option<Moment>) -> Lock {
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
    if let Some(until) = until {
        lock = lock.wait_at_most(until.since(locks.clock().now()));
    }
    if let Some(limit) = args.max_hold {
        lock = lock.max_hold(limit);
    }
    lock
}

/// Gets the lock, or says who has it.
async fn obtain(locks: &Locks, lock: &Lock, args: &RunArgs) -> Result<LockGuard, Failure> {
    let key = &args.key;
    if args.try_once {
        return match lock.try_acquire().await? {
            Some(guard) => Ok(guard),
            None => Err(held_by_others(key, "", locks.inspect(key).await.ok().as_ref())),
        };
    }
    let mut acquire = lock.acquire();
    let told = tokio::select! {
        guard = &mut acquire => Some(guard),
        () = tokio::time::sleep(SILENCE) => None,
    };
    let guard = match told {
        Some(guard) => guard,
        None if args.skip_code == 0 => acquire.await,
        None => {
            let held =
                acquire.last_seen().map_or_else(String::new, |info| format!(", held by {}", text::holders(&info)));
            let own = std::env::var("DLOCK_KEY").is_ok_and(|outer| outer == *key);
            let hint = if own { "; this runs under it already, and would wait for itself" } else { "" };
            say(&format!("waiting for {key:?}{held}{hint}"));
            acquire.await
        }
    };
    match guard {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            let within = args.wait.map_or_else(String::new, |waited| format!(" within {}", text::duration(waited)));
            Err(held_by_others(key, &within, error.lock_info()))
        }
        guard => Ok(guard?),
    }
}

fn held_by_others(key: &str, within: &str, seen: Option<&LockInfo>) -> Failure {
    let held = seen.map_or_else(|| "others".to_owned(), text::holders);
    Failure::new(NOT_OBTAINED, format!("{key:?} was not obtained{within}: held by {held}"))
}

/// How the command went.
struct Ran {
    status: u8,
    started: bool,
    /// Whether a signal that ends a program was passed on to it.
    told_to_end: bool,
}

/// Runs the command under its warden until it and its group are gone.
async fn supervise(
    locks: &Locks,
    guard: &LockGuard,
    args: &RunArgs,
    (grace, cap): (Duration, Moment),
    signals: &mut Signals,
) -> Result<Ran, Failure> {
    let mut environment = vec![
        ("DLOCK_KEY", args.key.clone()),
        ("DLOCK_TOKEN", guard.token().to_string()),
        ("DLOCK_HOLDER", guard.holder().to_string()),
    ];
    environment.extend(guard.fence_floor().map(|floor| ("DLOCK_FENCE_FLOOR", floor.to_string())));
    let held: Held = guard.held();
    let mut until = held.valid_until();
    // A lock that was handed over may last so briefly at first that the command would be ended before the first renewal.
    while until.since(locks.clock().now()) < grace.mul_f64(1.7) {
        tokio::select! {
            biased;
            cause = held.lost() => return Err(lost_failure(&args.key, cause)),
            moved = held.renewed(until) => until = moved,
            number = signals.next() => if Signals::ends(number) {
                return Ok(Ran { status: by_signal(number), started: false, told_to_end: true });
            },
        }
    }
    let sign_of_life = locks.backend().sign_of_life();
    let mut ward = Ward::start(&args.command, &environment, until.as_nanos(), grace, sign_of_life)?;
    let mut foreground = None;
    let mut lost: Option<LostCause> = None;
    let (mut started, mut told_to_end) = (false, false);
    // When its warden must have ended the command.
    let mut over = Moment::MAX;
    loop {
        tokio::select! {
            biased;
            news = ward.news() => match news? {
                News::Started(group) => {
                    started = true;
                    foreground = Foreground::give(group);
                }
                ended => {
                    drop(foreground);
                    let lost = lost.or_else(|| guard.lost_cause());
                    return match (ended, lost) {
                        (News::Ended(status), None) => Ok(Ran { status, started, told_to_end }),
                        (_, Some(cause)) => Err(lost_failure(&args.key, cause)),
                        // Ended in time, before the lock was lost.
                        (_, None) if until + grace >= cap => Err(lost_failure(&args.key, LostCause::MaxHold)),
                        (_, None) => Err(lost_failure(&args.key, LostCause::Expired)),
                    };
                }
            },
            cause = async { if lost.is_none() { held.lost().await } else { pending().await } } => {
                lost = Some(cause);
                over = until.min(locks.clock().now() + grace) + SLOW;
                ward.end().await;
            }
            () = locks.clock().sleep_until(over), if lost.is_some() => {
                ward.kill();
                over = locks.clock().now() + SLOW;
            }
            moved = held.renewed(until), if lost.is_none() => {
                until = moved;
                ward.set_deadline(until.as_nanos()).await;
            }
            number = signals.next() => {
                told_to_end |= Signals::ends(number);
                ward.pass_on(number).await;
            }
        }
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
            // What else runs in this group (`dlock run … | less`) was stopped if it asked for the terminal meanwhile.
            let _ = kill_process_group(self.0, Signal::CONT);
            let _ = background.thread_unblock();
        }
    }
}
