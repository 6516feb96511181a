//! [`Holder`]: another process that holds a lock, and can be stopped.

use super::work::{ORDER, command};
use crate::Harness;
use crate::env::PATIENCE;
use dlock_core::{Clock, Error, ErrorKind, Locks, Moment};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Another process that holds a lock. Killed when it is dropped.
pub(crate) struct Holder {
    process: Child,
    says: BufReader<ChildStdout>,
}

/// What it found when it went on.
pub(crate) struct Told {
    /// Its first look at `is_valid` after the stop.
    pub(crate) first_look: String,
    /// What its release answered.
    pub(crate) release: String,
}

impl Holder {
    /// Starts it, and waits until it holds.
    pub(crate) fn start(environment: &[(String, String)], key: &str, ttl: Duration) -> Self {
        let order = format!("hold|{key}|{}", ttl.as_millis());
        let mut process = command(environment, &order).stdout(Stdio::piped()).spawn().expect("a holder");
        let says = BufReader::new(process.stdout.take().expect("its output"));
        let mut holder = Self { process, says };
        assert_eq!(holder.line(), "held");
        holder
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("its output");
        line.trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("the holder runs");
    }

    /// Stops it; when that was.
    pub(crate) fn stop(&self) -> Moment {
        self.signal(Signal::STOP);
        Clock::system().now()
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it has told all, and ended well.
    pub(crate) fn told(mut self) -> Told {
        let (first_look, release) = (self.line(), self.line());
        assert!(self.process.wait().expect("its end").success(), "{ORDER} failed: {first_look} {release}");
        Told { first_look, release }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How long it looks at the lock before the runtime has its turn, on the only thread there is.
const TURN: Duration = Duration::from_millis(20);

/// Holds the lock until it notices that it was stopped for longer than the TTL.
pub(super) async fn hold(harness: &Arc<dyn Harness>, key: &str, ttl: u32) -> dlock_core::Result<()> {
    let ttl = Duration::from_millis(ttl.into());
    let locks = Locks::builder(harness.client().await?).build()?;
    let guard = locks.lock(key).ttl(ttl).acquire().await?;
    let clock = locks.clock();
    let end = clock.now() + PATIENCE;
    // Before it is told: the stop may come at once.
    let (mut last, mut turn) = (clock.now(), clock.now());
    say("held");
    let valid = loop {
        // The clock first: a stop between the two shows in the next round. No other task runs beside this one, so that
        // nothing has looked at the lock before it.
        let (now, valid) = (clock.now(), guard.is_valid());
        if now.since(last) > ttl {
            break valid;
        }
        if now > end {
            return Err(Error::new(ErrorKind::Unexpected, "this process was to be stopped, and was not"));
        }
        if now.since(turn) > TURN {
            clock.sleep(Duration::from_millis(1)).await;
            turn = clock.now();
        }
        last = now;
    };
    say(if valid { "valid" } else { "invalid" });
    match guard.release().await {
        Ok(()) => say("Released"),
        Err(error) => say(&format!("{:?}", error.kind())),
    }
    locks.close().await
}

fn say(word: &str) {
    let mut out = std::io::stdout();
    // Without a reader it is killed soon.
    let _ = writeln!(out, "{word}").and_then(|()| out.flush());
}
