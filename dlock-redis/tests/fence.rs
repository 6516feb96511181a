//! A holder that was overtaken is refused at the resource, in the same script as its write.
#![allow(clippy::unwrap_used)]

use dlock_core::{FencingToken, Locks};
use dlock_fixtures::{Overtaken, RedisServer};
use dlock_redis::{RedisBackend, fence};
use redis::Commands;
use std::time::Duration;

const WRITE: &str = "return redis.call('SET', KEYS[2], ARGV[2])";

fn write(connection: &mut redis::Connection, token: FencingToken, balance: u64) -> redis::RedisResult<()> {
    let script = redis::Script::new(&fence::script(WRITE));
    script.key("{account}:fence").key("{account}").arg(token.0).arg(balance).invoke(connection)
}

async fn locks(url: &str) -> Locks {
    let locks = Locks::new(RedisBackend::connect(&url.parse().unwrap()).await.unwrap());
    locks.unwrap()
}

/// The process that is stopped: it holds the lock, and writes when it is told to.
async fn holder(url: &str, fenced: bool) {
    let guard = locks(url).await.lock("account/7").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    Overtaken::holds();
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    if !fenced {
        let () = connection.set("{account}", 101).unwrap();
        return Overtaken::says("written");
    }
    let error = write(&mut connection, guard.token(), 101).unwrap_err();
    assert_eq!(fence::refusal(&error).unwrap().token, guard.token(), "{error}");
    Overtaken::says("refused");
}

async fn overtaken(fenced: bool) {
    let server = RedisServer::start();
    let mut raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let first = Overtaken::stop(&server.url(), fenced);
    let guard = locks(&server.url()).await.lock("account/7").acquire().await.unwrap();
    write(&mut raw, guard.token(), 250).unwrap();
    let (said, balance) = if fenced { ("refused", 250) } else { ("written", 101) };
    assert_eq!(first.wake(), said);
    assert_eq!(raw.get::<_, u64>("{account}").unwrap(), balance);
    write(&mut raw, guard.token(), 300).unwrap();
    guard.release().await.unwrap();
}

/// Without the fence, what it guards against happens.
async fn the_check() {
    overtaken(true).await;
    overtaken(false).await;
}

fn what_is_no_token_or_no_fence_is_told() {
    let server = RedisServer::start();
    let mut raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    for (token, highest) in [(u64::MAX, u64::MAX), (u64::MAX, 9_007_199_254_740_993)] {
        let () = raw.set("{account}:fence", highest).unwrap();
        write(&mut raw, FencingToken(token), 1).unwrap();
        let stale = write(&mut raw, FencingToken(token - 1), 2).unwrap_err();
        assert_eq!(fence::refusal(&stale).unwrap().highest, FencingToken(u64::MAX));
        assert_eq!(raw.get::<_, u64>("{account}").unwrap(), 1);
    }
    let error = write(&mut raw, FencingToken(0), 3).unwrap_err();
    assert!(error.to_string().contains("BADTOKEN") && fence::refusal(&error).is_none(), "{error}");
    let () = raw.set("{account}:fence", "what").unwrap();
    let error = write(&mut raw, FencingToken(7), 3).unwrap_err();
    assert!(error.to_string().contains("BADFENCE"), "{error}");
    assert_eq!(raw.get::<_, u64>("{account}").unwrap(), 1);
}

#[tokio::main]
async fn main() {
    match Overtaken::asked() {
        Some((url, fenced)) => holder(&url, fenced).await,
        None => {
            the_check().await;
            what_is_no_token_or_no_fence_is_told();
            println!("fence: a stale token is refused, and what is no token is told");
        }
    }
}
