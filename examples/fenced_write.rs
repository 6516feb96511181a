//! A holder that wakes up too late is refused at the resource: `cargo run --example fenced_write`

use dlocks::fence::Gate;
use dlocks::{Clock, FencingToken, Locks, memory::Memory};
use std::sync::Mutex;
use std::time::Duration;

/// A resource that remembers the highest token it has seen. A table does the same in its own statement:
/// `UPDATE account SET balance = …, fence = :token WHERE id = … AND fence <= :token`.
#[derive(Default)]
struct Account {
    gate: Gate,
    balance: Mutex<i64>,
}

impl Account {
    fn write(&self, balance: i64, token: FencingToken) -> Result<(), Box<dyn std::error::Error>> {
        let mut present = self.balance.lock().map_err(|_| "poisoned")?;
        self.gate.admit(token)?; // under the same lock as the write
        *present = balance;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let account = Account::default();
    let clock = Clock::manual();
    let locks = Locks::new(Memory::with_clock(clock.clone()))?;

    let paused = locks.lock("account/7").acquire().await?;
    account.write(100, paused.token())?;

    // The process is stopped for longer than the TTL: a long pause of the garbage collector, a laptop's lid.
    clock.advance(Duration::from_secs(31));
    let next = locks.lock("account/7").acquire().await?;
    account.write(250, next.token())?;

    // It wakes up, knows nothing of that, and writes what it had in mind.
    let refused = account.write(101, paused.token()).expect_err("stale");
    println!("refused: {refused}");
    println!("and it can know: is_valid() is {}, {:?}", paused.is_valid(), paused.lost_cause());
    assert_eq!(*account.balance.lock().map_err(|_| "poisoned")?, 250);
    Ok(())
}
