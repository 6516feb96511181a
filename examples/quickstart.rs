//! Hold a lock, and let it go: `cargo run --example quickstart`

use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), dlocks::Error> {
    // Also redis://127.0.0.1:6379 or local:/path/locks.db, with the feature of that store.
    let locks = dlocks::connect("memory:").await?;

    let guard = locks.lock("invoices/42").acquire().await?; // waits; renewed by itself
    println!("held with token {} for another {:?}", guard.token(), guard.remaining());

    // Somebody else finds it held, and may see by whom.
    assert!(locks.lock("invoices/42").try_acquire().await?.is_none());
    println!("{:?}", locks.inspect("invoices/42").await?.holders);

    let waiter = locks.lock("invoices/42").wait_at_most(Duration::from_millis(50)).acquire().await;
    println!("{}", waiter.expect_err("it is held"));

    guard.release().await?; // tells if the lock was lost meanwhile
    println!("free again: {}", locks.lock("invoices/42").try_acquire().await?.is_some());

    // The body is dropped if the lock is lost.
    let sum = locks.lock("invoices/42").run(async |_held| 40 + 2).await?;
    println!("computed under the lock: {sum}");
    locks.close().await
}
