//! The command line.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Run a command under a distributed lock, and see who holds what.
#[derive(Debug, Parser)]
#[command(name = "dlock", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit status: that of CMD (128+n if signal n ended it); 75 the lock was not obtained in time, \
76 it was lost, 64 bad usage, key or TTL, 69 the store can't be reached, 70 a check failed or something unforeseen \
happened, 78 the store is not set up, 126 CMD can't be executed, 127 CMD was not found.";

const ENVIRONMENT: &str = "CMD finds in its environment DLOCK_KEY, DLOCK_TOKEN (the fencing token), \
DLOCK_FENCE_FLOOR (what a shared or permit holder compares) and DLOCK_HOLDER.";

/// Which store.
#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// The store, as redis://host:6379 or local:/path/locks.db; by default a file in your state folder
    #[arg(long, global = true, env = "DLOCK_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// A file with the URL in it, in place of --url: so no password stands in a command line or in CMD's environment
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) url_file: Option<PathBuf>,
    /// A prefix of all keys: with billing, the key x is billing/x
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding a lock
    #[command(after_help = format!("{ENVIRONMENT}\n\n{EXIT_CODES}"))]
    Run(RunArgs),
    /// List the locks that are held or waited for
    Ls {
        /// Only keys that begin with this
        #[arg(default_value = "", value_name = "PREFIX", id = "begin")]
        begin: String,
        /// As JSON, one lock a line
        #[arg(long)]
        json: bool,
    },
    /// Show who holds a lock and who waits for it
    Show {
        key: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Nothing is printed: the exit status is 0 if somebody holds it, and 1 if it is free
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
    },
    /// Take a lock from its holder; what it does under the lock goes on until it learns of that
    Break {
        key: String,
        /// Only this holder or waiter, by the id that `show` tells
        #[arg(long, value_name = "ID", conflicts_with = "token")]
        holder: Option<String>,
        /// Only the holder with this fencing token
        #[arg(long)]
        token: Option<u64>,
    },
    /// Make what the store needs before it can keep locks (a table), or bring it up to date; done twice it changes nothing
    Init,
    /// Check a live store against what dlock expects of it
    Check {
        /// Only cases whose name has this in it
        #[arg(default_value = "")]
        filter: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what locks cost on a live store
    Bench {
        /// A few seconds
        #[arg(long)]
        quick: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the completions for a shell
    Completions { shell: Shell },
    #[cfg(unix)]
    #[command(name = "__warden", hide = true)]
    Warden(WardenArgs),
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Give up at once if the lock is held
    #[arg(short = 'n', long = "try", conflicts_with = "wait")]
    pub(crate) try_once: bool,
    /// Give up after this long, such as 30s or 5m, also if the store can't be reached at first; without it, wait as long as it takes
    #[arg(short, long, value_parser = duration, value_name = "DURATION")]
    pub(crate) wait: Option<Duration>,
    /// The exit status when others hold the lock and --try or --wait gives up; with 0 nothing is said of others either
    #[arg(long, value_name = "N", default_value_t = crate::exit::NOT_OBTAINED)]
    pub(crate) skip_code: u8,
    /// How long the store keeps the lock when this machine falls silent (default 30s)
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) ttl: Option<Duration>,
    /// Hold it together with other shared holders
    #[arg(short, long, conflicts_with = "permits")]
    pub(crate) shared: bool,
    /// Hold it together with at most N-1 others
    #[arg(long, value_name = "N")]
    pub(crate) permits: Option<u32>,
    /// Keep the lock for at least this long from the start, even if CMD ends before
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) at_least: Option<Duration>,
    /// End CMD and give the lock up after this long; SIGTERM comes earlier, by the grace
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) max_hold: Option<Duration>,
    /// From SIGTERM to SIGKILL when the lock is about to be lost; at most a third of the TTL and of --max-hold (default 5s, or that)
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,
    /// Tell each failure in the store, also where it is made up for; without it, only renewals that fail
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Who this is, for people who look at the lock (default: host, pid and program)
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// The lock
    pub(crate) key: String,
    /// The command, after --
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// What the warden is told on its command line; the rest comes through its socket.
#[derive(Args, Debug)]
pub(crate) struct WardenArgs {
    /// Milliseconds from SIGTERM to SIGKILL
    pub(crate) grace: u64,
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

fn duration(text: &str) -> Result<Duration, String> {
    // As timeout(1) and flock(1) have it.
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration such as 30s or 5m"))
}
