//! The work of other processes: adding up in a file under the lock, or holding it.

use crate::Harness;
use dlock_core::Locks;
use std::fs;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// The variable by which a process of this executable knows that it is a worker: `add|key|rounds|file` or
/// `hold|key|milliseconds`.
pub(crate) const ORDER: &str = "DLOCK_CONFORMANCE_WORK";

/// Sends workers, and answers the sum that they left.
pub(crate) fn send(environment: &[(String, String)], key: &str, workers: usize, rounds: usize) -> usize {
    let name = format!("dlock-conformance-{:016x}", rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, "0").expect("a temporary file");
    let order = format!("add|{key}|{rounds}|{}", path.display());
    let start = |_| command(environment, &order).spawn().expect("a worker");
    let working: Vec<_> = (0..workers).map(start).collect();
    let failed = working
        .into_iter()
        .filter_map(|mut worker| Some(worker.wait().expect("a worker")).filter(|end| !end.success()));
    let failed = failed.count();
    let sum = fs::read_to_string(&path).expect("the sum").parse().expect("a number");
    fs::remove_file(&path).expect("the file");
    assert_eq!(failed, 0, "workers failed");
    sum
}

pub(super) fn command(environment: &[(String, String)], order: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this executable"));
    command.envs(environment.iter().cloned()).env(ORDER, order);
    command
}

/// Does what was ordered.
pub(crate) fn work(harness: Result<Arc<dyn Harness>, String>, order: &str) -> ExitCode {
    let done = harness.and_then(|harness| {
        let parts: Vec<_> = order.splitn(4, '|').collect();
        let mut runtime = match parts[0] {
            // Where nothing runs beside the holder.
            "hold" => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.enable_all().build().map_err(|error| error.to_string())?;
        let number = |text: &str| text.parse::<u32>().map_err(|error| format!("{ORDER}: {text:?}: {error}"));
        let done = match parts[..] {
            ["add", key, rounds, file] => runtime.block_on(add_up(&harness, key, number(rounds)?, file)),
            #[cfg(unix)]
            ["hold", key, ttl] => runtime.block_on(super::hold::hold(&harness, key, number(ttl)?)),
            _ => return Err(format!("{ORDER} is no order: {order}")),
        };
        done.map_err(|error| error.chain().to_string())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn add_up(harness: &Arc<dyn Harness>, key: &str, rounds: u32, file: &str) -> dlock_core::Result<()> {
    let locks = Locks::builder(harness.client().await?).build()?;
    let failed = |error: std::io::Error| {
        dlock_core::Error::new(dlock_core::ErrorKind::Unexpected, "the file").with_source(error)
    };
    for _ in 0..rounds {
        let guard = locks.lock(key).acquire().await?;
        let sum: u64 = fs::read_to_string(file).map_err(failed)?.parse().unwrap_or_default();
        fs::write(file, (sum + 1).to_string()).map_err(failed)?;
        guard.release().await?;
    }
    locks.close().await
}
