//! A lock of ours, redis-py's `Lock` and `SET key value NX PX` exclude each other, on one key.
#![allow(clippy::unwrap_used)]

use dlock_core::{ErrorKind, Locks};
use dlock_fixtures::{RedisServer, python};
use dlock_redis::RedisBackend;
use redis::Commands;
use std::process::Command;
use std::time::Duration;

async fn client(server: &RedisServer) -> Locks {
    Locks::new(RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap()).unwrap()
}

/// What a Python program prints that has `r`, a client of redis-py.
fn redis_py(server: &RedisServer, program: &str) -> String {
    let start = format!("import redis, time\nr = redis.Redis(port={})\n{program}", server.port());
    let output = Command::new(python()).args(["-c", &start]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn redis_py_finds_our_lock_held_and_ours_finds_its() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let attempt = "print(r.lock('jobs/1', timeout=30).acquire(blocking=False))";

    let guard = locks.lock("jobs/1").acquire().await.unwrap();
    assert_eq!(redis_py(&server, attempt), "False");
    guard.release().await.unwrap();
    for mode in [locks.lock("jobs/1").shared(), locks.lock("jobs/1").permits(3)] {
        let guard = mode.acquire().await.unwrap();
        assert_eq!(redis_py(&server, attempt), "False");
        guard.release().await.unwrap();
    }

    assert_eq!(redis_py(&server, attempt), "True");
    assert!(locks.lock("jobs/1").try_acquire().await.unwrap().is_none());
    assert!(locks.lock("jobs/1").shared().try_acquire().await.unwrap().is_none());
    let info = locks.inspect("jobs/1").await.unwrap();
    let holder = &info.holders[0];
    assert_eq!((holder.label.as_ref(), holder.token, info.holders.len()), (None, None, 1));
    assert!(holder.remaining.unwrap() > Duration::from_secs(20));
    // A foreign holder can be looked at and broken.
    assert!(locks.break_lock("jobs/1", &holder.id).await.unwrap());
    locks.lock("jobs/1").try_acquire().await.unwrap().expect("free").release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_follows_a_foreign_release_within_a_second() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    // A lock without a TTL, as some write it.
    let () = raw.set("k", "somebody").unwrap();
    let waiting = tokio::spawn(locks.lock("k").acquire());
    while locks.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let late = locks.lock("k").wait_at_most(Duration::from_millis(50)).acquire().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    let begun = std::time::Instant::now();
    let () = raw.del("k").unwrap();
    let guard = waiting.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1_300), "{:?}", begun.elapsed());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn many_take_turns_without_overlap() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let program = "
for n in range(50):
    with r.lock('k', timeout=10, sleep=0.001):
        v = int(r.get('sum') or 0); time.sleep(0.001); r.set('sum', v + 1)
";
    let port = server.port();
    let foreign = {
        let start = format!("import redis, time\nr = redis.Redis(port={port})\n{program}");
        let mut command = Command::new(python());
        command.args(["-c", &start]);
        tokio::task::spawn_blocking(move || command.status().unwrap().success())
    };
    let mut raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    for _ in 0..50 {
        let guard = locks.lock("k").acquire().await.unwrap();
        let sum: Option<u64> = raw.get("sum").unwrap();
        tokio::task::yield_now().await;
        let () = raw.set("sum", sum.unwrap_or_default() + 1).unwrap();
        guard.release().await.unwrap();
    }
    assert!(foreign.await.unwrap());
    assert_eq!(raw.get::<_, u64>("sum").unwrap(), 100);
}
