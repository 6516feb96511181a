//! A job that many machines start at about the same time, and one runs: `cargo run --example scheduled_job`

use dlocks::{Clock, Locks, memory::Memory};
use std::time::Duration;
use tokio::sync::oneshot;

/// For how long the lock is kept at the least: longer than the machines' clocks differ, shorter than until the next night.
/// Released as soon as a short report is over, the lock would be free for a machine whose timer strikes late, which would
/// run the report again.
const AT_LEAST: Duration = Duration::from_secs(20);

/// What each machine does when its timer strikes. Answers whether it was the one.
async fn nightly(locks: &Locks, machine: &str, report: impl Future<Output = ()> + Send) -> Result<bool, dlocks::Error> {
    let Some(guard) = locks.lock("nightly-report").label(machine).try_acquire().await? else {
        println!("{machine}: somebody else is at it, or was just now");
        return Ok(false);
    };
    println!("{machine}: runs the report");
    let clock = locks.clock();
    let free_at = clock.now() + AT_LEAST;
    let kept = async {
        report.await;
        println!("{machine}: done");
        clock.sleep_until(free_at).await;
    };
    tokio::select! {
        cause = guard.lost() => println!("{machine}: the lock was lost: {cause}"),
        () = kept => {}
    }
    guard.release().await?;
    Ok(true)
}

#[tokio::main]
async fn main() -> Result<(), dlocks::Error> {
    // A clock that is moved by hand, so that nobody waits here; elsewhere it is the machine's.
    let clock = Clock::manual();
    let store = Memory::with_clock(clock.clone());
    let (here, there) = (Locks::new(store.another_client())?, Locks::new(store.another_client())?);
    let (done, is_done) = oneshot::channel();

    let report = async {
        let _ = done.send(());
    };
    let late = async {
        // The timer of machine 2 strikes when the report of machine 1 is over.
        let _ = is_done.await;
        let ran = nightly(&there, "machine 2", async {}).await?;
        clock.advance(AT_LEAST);
        Ok::<_, dlocks::Error>(ran)
    };
    let (one, two) = tokio::try_join!(nightly(&here, "machine 1", report), late)?;
    assert!(one && !two, "exactly one runs");
    Ok(())
}
