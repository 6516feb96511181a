//! The library's events, on the standard error.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lets the library's events appear on the standard error.
pub(crate) fn tell(all: bool) {
    let told = if all { ("dlock", LevelFilter::DEBUG) } else { ("dlock_core::keeper", LevelFilter::WARN) };
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines::begin()).without_time().with_ansi(false);
    tracing_subscriber::registry().with(lines).with(Targets::new().with_target(told.0, told.1)).init();
}

/// Lines on their way to the standard error: a reader that has stopped must not stop a renewal. What is too much is let go.
struct Lines(SyncSender<Vec<u8>>);

impl Lines {
    /// How many may be on their way.
    const MOST: usize = 64;

    fn begin() -> impl Fn() -> Self + Send + Sync + 'static {
        let (lines, written) = sync_channel::<Vec<u8>>(Self::MOST);
        std::thread::spawn(move || written.iter().try_for_each(|line| io::stderr().write_all(&line)));
        move || Self(lines.clone())
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
