//! A job that many machines start at the same time, and one runs: `cargo run --example scheduled_job`

use dlocks::{Locks, memory::Memory};
use std::time::Duration;

/// What each machine does when its timer strikes. Answers whether it was the one.
async fn nightly(locks: &Locks, machine: &str) -> Result<bool, dlocks::Error> {
    let Some(guard) = locks.lock("nightly-report").label(machine).try_acquire().await? else {
        println!("{machine}: somebody else is at it");
        return Ok(false);
    };
    println!("{machine}: runs the report");
    let report = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        println!("{machine}: done");
    };
    tokio::select! {
        cause = guard.lost() => println!("{machine}: stopped halfway: {cause}"),
        () = report => {}
    }
    guard.release().await?;
    Ok(true)
}

#[tokio::main]
async fn main() -> Result<(), dlocks::Error> {
    let store = Memory::new();
    let (here, there) = (Locks::new(store.another_client())?, Locks::new(store.another_client())?);
    let (one, two) = tokio::try_join!(nightly(&here, "machine 1"), nightly(&there, "machine 2"))?;
    assert!(one ^ two, "exactly one runs");
    Ok(())
}
