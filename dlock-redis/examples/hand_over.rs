//! Hand-overs of one lock among many tasks, and what they cost: `cargo run -p dlock-redis --release --example hand_over`
//!
//! Starts a Redis server of its own.

use dlock_core::{Locks, Result};
use dlock_fixtures::RedisServer;
use dlock_redis::RedisBackend;
use std::time::Instant;
use tokio::task::JoinSet;

/// Hand-overs in all.
const HAND_OVERS: usize = 2_000;

/// Scripts that the server has run so far.
fn commands(url: &str) -> redis::RedisResult<u64> {
    let info: String =
        redis::cmd("INFO").arg("commandstats").query(&mut redis::Client::open(url)?.get_connection()?)?;
    let calls =
        |line: &str| line.strip_prefix("cmdstat_eval")?.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
    Ok(info.lines().filter_map(calls).sum())
}

async fn take_turns(locks: &Locks, tasks: usize) -> Result<()> {
    let mut crowd: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..tasks {
        let lock = locks.lock("baton");
        crowd.spawn(async move {
            for _ in 0..HAND_OVERS / tasks {
                lock.acquire().await?.release().await?;
            }
            Ok(())
        });
    }
    crowd.join_all().await.into_iter().collect()
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let server = RedisServer::start();
    let url = server.url();
    let locks = Locks::new(RedisBackend::connect(&url.parse()?).await?)?;
    let mut costs = Vec::new();
    for tasks in [2, 16, 64] {
        let (before, begun) = (commands(&url)?, Instant::now());
        take_turns(&locks, tasks).await?;
        let (took, after) = (begun.elapsed(), commands(&url)?);
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let (rate, cost) = (HAND_OVERS as f64 / took.as_secs_f64(), (after - before) as f64 / HAND_OVERS as f64);
        println!("{tasks:3} tasks: {rate:7.0} hand-overs/s, {cost:.2} commands a hand-over");
        costs.push(cost);
    }
    if costs[2] > costs[0] * 1.5 {
        return Err("the commands a hand-over costs grow with the waiters".into());
    }
    Ok(())
}
