//! The warden: a process of its own that starts the command and ends it when the lock is lost, also when `dlock` itself is
//! killed or stopped.
//!
//! `dlock` executes itself again. The two talk over a socket, the warden's standard input; the command's own standard
//! input, and the sign of life of a local store, are handed over on it. The command gets a process group of its own, and
//! the warden ends when nobody of that group is left. What leaves the group (a daemon, `setsid`) is not
//! covered, and what takes another user's id (`sudo`) keeps the lock for as long as it runs, but can't be ended.

mod guard;
mod message;
mod ward;

pub(crate) use guard::guard;
pub(crate) use ward::{News, Ward};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process_group};

/// Whether nobody of a process group is left. One that refuses our signals, since it runs as another user, is there.
fn is_gone(group: Pid) -> bool {
    test_kill_process_group(group) == Err(Errno::SRCH)
}
