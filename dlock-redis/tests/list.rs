//! Listing finds the locks among whatever else an application keeps in the same database.
#![allow(clippy::unwrap_used)]

use dlock_core::Locks;
use dlock_fixtures::RedisServer;
use dlock_redis::RedisBackend;
use futures_util::TryStreamExt;
use redis::Commands;

async fn names(locks: &Locks, prefix: &str) -> Vec<String> {
    let mut names: Vec<_> = locks.list(prefix).map_ok(|info| info.key.to_string()).try_collect().await.unwrap();
    names.sort_unstable();
    names
}

async fn connect(url: &str) -> Locks {
    Locks::new(RedisBackend::connect(&url.parse().unwrap()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn locks_are_found_among_other_keys() {
    let server = RedisServer::start();
    let locks = connect(&server.url()).await;
    let mut raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    for n in 0..2_000 {
        let () = raw.set(format!("jobs/session-{n}"), "x".repeat(100)).unwrap();
    }
    let () = raw.set(b"jobs/\xff".as_slice(), "no text").unwrap();
    let () = raw.set("jobs/empty", "").unwrap();
    let () = raw.set("jobs/foreign", "another client's").unwrap();
    let () = raw.set("jobs/bars", "ab|1|rest").unwrap();
    let () = raw.rpush("jobs/list", "a").unwrap();
    let () = raw.hset("jobs/hash", "0123456789abcdef|1|1|a", "1").unwrap();
    let () = raw.set("{jobs/braces}", "no lock").unwrap();

    let names_of_locks = ["jobs/a*[b]?", "jobs/{c}", "jobs/%d", "jobs/ü"];
    let mut held = Vec::new();
    for name in names_of_locks {
        held.push(locks.lock(name).acquire().await.unwrap());
    }
    held.push(locks.lock("jobs/shared").shared().acquire().await.unwrap());
    held.push(locks.lock("jobs/permit").permits(2).acquire().await.unwrap());
    held.push(locks.lock("other").acquire().await.unwrap());
    let released = locks.lock("jobs/released").acquire().await.unwrap();
    released.release().await.unwrap();
    // A foreign client's lock is one that we know of once we wait for it.
    let waiting = tokio::spawn(locks.lock("jobs/foreign").acquire());
    while locks.inspect("jobs/foreign").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }

    let mut expected: Vec<_> = names_of_locks.to_vec();
    expected.extend(["jobs/shared", "jobs/permit", "jobs/foreign"]);
    expected.sort_unstable();
    assert_eq!(names(&locks, "jobs/").await, expected);
    assert_eq!(names(&locks, "jobs/a*").await, ["jobs/a*[b]?"]);
    assert_eq!(names(&locks, "jobs/{").await, ["jobs/{c}"]);
    expected.push("other");
    assert_eq!(names(&locks, "").await, expected);
    waiting.abort();

    // Who may not see the other keys is shown its own.
    let mut user = redis::cmd("ACL");
    user.arg(&["SETUSER", "mine", "on", ">secret", "~jobs/p*", "~{jobs/p*", "&dlock:*", "+@all"]);
    let () = user.query(&mut raw).unwrap();
    let mine = connect(&format!("redis://mine:secret@127.0.0.1:{}", server.port())).await;
    assert_eq!(names(&mine, "jobs/").await, ["jobs/permit"]);
}
