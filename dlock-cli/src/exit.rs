//! Exit codes (those of `sysexits.h`, and the shell's) and failures.

use dlocks::{Error, ErrorKind};
use std::process::ExitCode;

/// What `show --quiet` says of a lock that nobody holds.
pub(crate) const FREE: u8 = 1;
/// The command line, a key or a TTL is wrong.
pub(crate) const USAGE: u8 = 64;
/// The store can't be reached.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Something unforeseen.
pub(crate) const SOFTWARE: u8 = 70;
/// The lock was not to be had in time.
pub(crate) const NOT_OBTAINED: u8 = 75;
/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 76;
/// The store or its URL is not set up.
pub(crate) const CONFIG: u8 = 78;
/// The command was found, and can't be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub(crate) const NOT_FOUND: u8 = 127;
/// What a signal adds to its number.
pub(crate) const SIGNAL: u8 = 128;

/// Why `dlock` ends without having done what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            // A client's settings come from the URL, a lock's from the command line.
            ErrorKind::InvalidConfig | ErrorKind::Unsupported | ErrorKind::Unauthorized | ErrorKind::Corrupt
                if matches!(error.operation(), None | Some("connect")) =>
            {
                CONFIG
            }
            ErrorKind::InvalidKey | ErrorKind::InvalidConfig => USAGE,
            ErrorKind::Unsupported | ErrorKind::Unauthorized | ErrorKind::Corrupt => CONFIG,
            ErrorKind::Unavailable => UNAVAILABLE,
            ErrorKind::TimedOut => NOT_OBTAINED,
            ErrorKind::LeaseLost => LOST,
            _ => SOFTWARE,
        };
        Self::new(code, error.chain().to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(SOFTWARE, error.to_string())
    }
}

/// Says what went wrong, and gives the code.
pub(crate) fn tell(failure: Failure) -> ExitCode {
    say(&failure.message);
    failure.code.into()
}

/// A message for people. One that can't be written is let go.
pub(crate) fn say(message: &str) {
    use std::io::Write;
    let lines: Vec<_> = message.lines().map(crate::text::plain).collect();
    let _ = writeln!(std::io::stderr(), "dlock: {}", lines.join("\n"));
}
