//! One of several processes leads, and another takes over when it goes: `cargo run --example leader`

use dlocks::{Error, Held, Locks, memory::Memory};
use std::time::Duration;

/// What the leader does, until it is told to step down. Should its lock be lost, this is dropped.
async fn lead(held: Held) {
    println!("leads: the token {} goes with each of its writes", held.token());
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Stands for election until it has led once. Its address is the label, by which the others find it.
async fn stand(locks: Locks, address: &str) -> Result<(), Error> {
    let lock = locks.lock("scheduler/leader").label(address);
    loop {
        match lock.run(lead).await {
            Ok(()) => return locks.close().await,
            // A leader that was cut off stands again; so does one whose store was away for long.
            Err(error) if error.is_retryable() || error.lost_cause().is_some() => {
                println!("{address}: {}", error.chain());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The address of the leader, if there is one.
async fn leader(locks: &Locks) -> Result<Option<String>, Error> {
    let info = locks.inspect("scheduler/leader").await?;
    Ok(info.holders.into_iter().next().and_then(|holder| holder.label))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let store = Memory::new();
    let client = || Locks::new(store.another_client());
    let watcher = client()?;
    let (one, two) = (stand(client()?, "10.0.0.1:80"), stand(client()?, "10.0.0.2:80"));
    let watch = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        println!("the others ask {:?}", leader(&watcher).await?);
        Ok(())
    };
    tokio::try_join!(one, two, watch)?;
    Ok(())
}
