//! [`Signals`]: those that `dlock` takes for its command.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are passed on to the command. What this process was started to ignore (`nohup`, a job in the
/// background of a script) is left as it is, and so ignored by the command as well.
pub(crate) struct Signals {
    heard: Vec<(Signal, i32)>,
    /// Started by one that ignores it, this process would not learn how its own children end.
    _children: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let heard = kinds.into_iter().filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0);
        let heard = heard.map(|kind| Ok((signal(kind)?, kind.as_raw_value()))).collect::<io::Result<_>>()?;
        Ok(Self { heard, _children: signal(SignalKind::child())? })
    }

    /// Whether a signal is one that ends a program, and no message to it.
    pub(crate) fn ends(number: i32) -> bool {
        ![SignalKind::user_defined1(), SignalKind::user_defined2()].contains(&SignalKind::from_raw(number))
    }

    /// Resolves at the next one that ends a program. Cancel-safe.
    pub(crate) async fn end(&mut self) {
        while !Self::ends(self.next().await) {}
    }

    /// The number of the next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        let received = self.heard.iter_mut().map(|(stream, number)| {
            Box::pin(async move {
                stream.recv().await;
                *number
            })
        });
        if received.len() == 0 {
            std::future::pending().await
        } else {
            futures_util::future::select_all(received).await.0
        }
    }
}

/// The signals that this process ignores, a bit each. Systems without `/proc` do not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
