//! `dlock` as a process, and a journal that its commands write.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

mod place;

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use place::on_every;
#[allow(unused_imports, reason = "each test file uses its part")]
pub use place::{AfterAKill, Place};

use dlock_fixtures::wait_until;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const SOON: Duration = Duration::from_secs(20);

impl Place {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `dlock` with these arguments, on this place's store.
    pub fn dlock(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_dlock"));
        command.args(arguments);
        command
    }

    /// A program that finds this place's store and journal in its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DLOCK_URL", &self.url).env("J", self.path("journal")).stdin(Stdio::null());
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.dlock(arguments).output().unwrap()
    }

    /// Starts `dlock` and waits until its command has written `word` into the journal.
    pub fn start(&self, arguments: &[&str], word: &str) -> Child {
        let child = self.dlock(arguments).stderr(Stdio::piped()).spawn().unwrap();
        self.until(word, SOON);
        child
    }

    pub fn journal(&self) -> String {
        std::fs::read_to_string(self.path("journal")).unwrap_or_default()
    }

    /// Waits until the journal has a word.
    pub fn until(&self, word: &str, limit: Duration) {
        wait_until(word, limit, || self.journal().contains(word));
    }

    /// Waits until somebody waits for the key.
    pub fn until_waiting(&self, key: &str) {
        wait_until("a waiter", SOON, || {
            let shown = self.output(&["show", key, "--json"]);
            String::from_utf8_lossy(&shown.stdout).contains("\"waiters\": [\n    {")
        });
    }
}

/// A command that writes `<name> starts`, then lets a grandchild write `<name> works` again and again.
pub fn busy(name: &str) -> String {
    format!("echo {name} starts >> $J; sh -c 'while :; do echo {name} works >> $J; sleep 0.02; done' & wait")
}

/// A command that writes `<name> starts` and `<name> ends`.
pub fn brief(name: &str) -> String {
    format!("echo {name} starts >> $J; sleep 0.3; echo {name} ends >> $J")
}

/// Nothing of `first` was done once `second` had begun.
pub fn judge(journal: &str, first: &str, second: &str) {
    let begins = journal.find(&format!("{second} starts")).expect("the second has begun");
    let late = journal[begins..].lines().find(|line| line.starts_with(&format!("{first} ")));
    assert_eq!(late, None, "{first} went on beside {second}:\n{journal}");
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit code of a child, which must end soon, and what it said.
pub fn ended(child: Child, limit: Duration) -> (Option<i32>, String) {
    let mut child = child;
    let begun = Instant::now();
    wait_until("the process ends", limit, || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() <= limit + SOON);
    (output.status.code(), stderr(&output))
}
