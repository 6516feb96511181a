//! The same code on any store, by the URL in the environment:
//! `DLOCK_URL=redis://127.0.0.1:6379 cargo run --example config_swap --features redis`

use dlocks::Config;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("DLOCK_URL").unwrap_or_else(|_| "memory:".to_owned());
    let mut config = Config::new(url.parse()?);
    config.prefix = Some("config-swap".to_owned());
    config.ttl = Some(Duration::from_secs(10));
    println!("{config:?}"); // a password does not show

    let locks = dlocks::registry().connect_with(&config).await?;
    let first = locks.lock("migration").acquire().await?;
    let waiting = tokio::spawn(locks.lock("migration").acquire());
    let token = first.token();
    first.release().await?;
    let second = waiting.await??;
    assert!(second.token() > token, "tokens grow on every store");
    println!("{}: tokens {token} and {}", locks.backend().name(), second.token());
    second.release().await?;
    locks.close().await?;
    Ok(())
}
