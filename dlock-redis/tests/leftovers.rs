//! What is cancelled, and what breaks, leaves nothing in the server.
#![allow(clippy::unwrap_used)]

use dlock_conformance::proxy::{Action, Framing, Proxy, Requests};
use dlock_core::{Clock, ErrorKind, LockBackend, LockKey, Locks, LostCause, Request};
use dlock_fixtures::RedisServer;
use dlock_redis::RedisBackend;
use redis::Commands;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn client(server: &RedisServer) -> Locks {
    let backend = RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap();
    Locks::builder(Arc::new(backend)).op_timeout(Duration::from_secs(2)).build().unwrap()
}

fn raw(server: &RedisServer) -> redis::Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn keys(server: &RedisServer) -> Vec<String> {
    let mut raw = raw(server);
    raw.keys("*").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_the_key_free_and_no_keys() {
    let server = RedisServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let clock = Clock::system();
    let (mut cut, mut longest) = (0, Duration::ZERO);
    for round in 0..1_000_u64 {
        let holder = if round % 2 == 0 { two.lock("k").try_acquire().await.unwrap() } else { None };
        let moment = clock.now() + Duration::from_micros(rand::random_range(0..900));
        let acquired = clock.timeout_at(moment, one.lock("k").acquire()).await;
        cut += usize::from(acquired.is_none());
        drop(acquired);
        drop(holder);
        let begun = clock.now();
        let guard = two.lock("k").wait_at_most(Duration::from_secs(5)).acquire().await.expect("the key is free");
        longest = longest.max(clock.now().since(begun));
        guard.release().await.unwrap();
    }
    println!("{cut} of 1000 were cut off; the key was free again after {longest:?} at the most");
    assert!(cut > 300, "only {cut} were cut off");
    assert!(longest < Duration::from_millis(250), "{longest:?}");
    // The fence goes by itself, five seconds after its last use.
    let end = clock.now() + Duration::from_secs(15);
    while !keys(&server).is_empty() {
        assert!(clock.now() < end, "left: {:?}", keys(&server));
        clock.sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_forgets_a_lock_is_found_out_at_the_next_renewal() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let guard = locks.lock("k").ttl(Duration::from_millis(600)).acquire().await.unwrap();
    let mut raw = raw(&server);
    let () = redis::cmd("FLUSHALL").query(&mut raw).unwrap();
    assert_eq!(guard.lost().await, LostCause::Revoked);
    assert_eq!(raw.exists::<_, usize>("k").unwrap(), 0, "a renewal made the lock anew");
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn waiters_and_holders_go_on_after_a_restart() {
    let mut server = RedisServer::start_with(&dlock_fixtures::RedisOptions { persistent: true, ..Default::default() });
    let (one, two) = (client(&server).await, client(&server).await);
    let guard = one.lock("k").acquire().await.unwrap();
    let waiting = tokio::spawn(two.lock("k").acquire());
    while one.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    assert!(guard.is_valid());
    guard.release().await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(15), waiting).await.unwrap().unwrap().unwrap();
    next.release().await.unwrap();
    drop(server);
}

#[tokio::test]
async fn a_server_that_hangs_is_unavailable_in_time_and_the_loss_is_told() {
    let server = RedisServer::start();
    let backend = RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap();
    let locks = Locks::builder(Arc::new(backend)).op_timeout(Duration::from_millis(300)).build().unwrap();
    let guard = locks.lock("k").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    server.pause();
    let clock = Clock::system();
    let begun = clock.now();
    let error = locks.lock("other").try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let took = clock.now().since(begun);
    assert!(took < Duration::from_millis(800), "{took:?}");
    let until = guard.valid_until();
    assert_eq!(guard.lost().await, LostCause::Expired);
    assert!(clock.now().since(until) < Duration::from_millis(50), "told {:?} late", clock.now().since(until));
    server.resume();
    let again = tokio::time::timeout(Duration::from_secs(15), locks.lock("k").acquire()).await.unwrap();
    again.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_queue_that_is_empty_again_leaves_nothing_for_good() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let guard = locks.lock("k").ttl(Duration::from_secs(600)).acquire().await.unwrap();
    // The second and the third come to a queue in which somebody waits already.
    let wait = || locks.lock("k").ttl(Duration::from_secs(1)).wait_at_most(Duration::from_millis(300)).acquire();
    let (one, two, three) = tokio::join!(wait(), wait(), wait());
    for waited in [one, two, three] {
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::TimedOut);
    }
    let mut raw = raw(&server);
    let left: i64 = raw.pttl("{k}:f").unwrap();
    assert!((0..=7_000).contains(&left), "the fence ends in {left} ms");
    let token = guard.token();
    guard.release().await.unwrap();
    assert_eq!(raw.get::<_, String>("{k}:f").unwrap(), token.to_string());
    let next = locks.lock("k").acquire().await.unwrap();
    assert!(next.token() > token);
}

#[tokio::test]
async fn a_silent_connection_is_replaced_once_whoever_waits_on_it() {
    let server = RedisServer::start();
    let proxy = Proxy::tcp(Framing::Resp, server.url().trim_start_matches("redis://")).await.unwrap();
    let url = format!("redis://{}", proxy.address());
    let backend = RedisBackend::connect(&url.parse().unwrap()).await.unwrap();
    let request = |name: String, millis: u64| {
        Request::new(LockKey::new(name).unwrap()).with_op_timeout(Duration::from_millis(millis))
    };
    let _warm = backend.try_acquire(&request("warm".into(), 5_000)).await.unwrap();
    let anew = proxy.count(Requests::with("HELLO"));
    let silent = proxy.on(Requests::with("EVALSHA"), 0, Action::Stall);
    let calls = (1..=10).map(|n| {
        let (backend, request) = (backend.clone(), request(format!("k{n}"), 100 * n));
        tokio::spawn(async move { backend.try_acquire(&request).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(silent.is_struck());
    let _after = backend.try_acquire(&request("after".into(), 5_000)).await.unwrap();
    assert_eq!(anew.seen(), 1);
}

#[tokio::test]
async fn a_replaced_connection_listens_though_it_found_no_server_at_first() {
    let mut server = RedisServer::start();
    let proxy = Proxy::tcp(Framing::Resp, server.url().trim_start_matches("redis://")).await.unwrap();
    let backend = RedisBackend::connect(&format!("redis://{}", proxy.address()).parse().unwrap()).await.unwrap();
    let locks = Locks::builder(Arc::new(backend)).op_timeout(Duration::from_millis(500)).build().unwrap();
    locks.lock("warm").acquire().await.unwrap().release().await.unwrap();
    let silent = proxy.on(Requests::with("EVALSHA"), 0, Action::Stall);
    let lock = locks.lock("k");
    let call = tokio::spawn(async move { lock.try_acquire().await.map(drop) });
    silent.struck().await;
    server.kill();
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    // By now the silent connection was given up, and the one in its place has found nobody.
    let clock = Clock::system();
    clock.sleep(Duration::from_millis(500)).await;
    server.restart();
    let mut raw = raw(&server);
    let end = clock.now() + Duration::from_secs(10);
    loop {
        let listening: Vec<String> = redis::cmd("PUBSUB").arg(&["CHANNELS", "dlock:*"]).query(&mut raw).unwrap();
        if !listening.is_empty() {
            break;
        }
        assert!(clock.now() < end, "nobody listens for grants");
        clock.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_wait_that_ends_in_an_outage_says_so() {
    let mut server = RedisServer::start();
    let backend = RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap();
    let locks = Locks::builder(Arc::new(backend)).op_timeout(Duration::from_millis(300)).build().unwrap();
    let _guard = locks.lock("k").acquire().await.unwrap();
    let mut wait = locks.lock("k").wait_at_most(Duration::from_secs(3)).acquire();
    let queued = async { while locks.inspect("k").await.unwrap().waiters.unwrap().is_empty() {} };
    tokio::select! {
        biased;
        waited = &mut wait => panic!("{waited:?}"),
        () = queued => server.kill(),
    }
    let error = wait.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
}

#[tokio::test]
async fn a_fence_that_is_none_ends_no_lease_and_stays_as_it_is() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = raw(&server);
    for garbage in [&["SET", "{k}:f", "no fence"], &["RPUSH", "{k}:f", "no fence"]] {
        let guard = locks.lock("k").ttl(Duration::from_millis(600)).acquire().await.unwrap();
        let () = raw.del("{k}:f").unwrap();
        let () = redis::cmd(garbage[0]).arg(&garbage[1..]).query(&mut raw).unwrap();
        let refused = locks.lock("k").wait_at_most(Duration::from_secs(1)).acquire().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(!raw.exists::<_, bool>(&["{k}:q", "{k}:w"]).unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
        guard.check().unwrap();
        guard.release().await.unwrap();
        assert!(!raw.exists::<_, bool>("k").unwrap());
        let dumped = |raw: &mut redis::Connection| redis::cmd("DUMP").arg("{k}:f").query::<Vec<u8>>(raw).unwrap();
        let left = dumped(&mut raw);
        let () = redis::cmd(garbage[0]).arg("other").arg(&garbage[2..]).query(&mut raw).unwrap();
        let () = raw.rename("other", "{k}:f").unwrap();
        assert_eq!(left, dumped(&mut raw));
        let () = raw.del("{k}:f").unwrap();
    }
}

#[tokio::test]
async fn all_of_a_crowd_that_come_at_once_get_their_places() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let guard = locks.lock("k").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    let waiting: Vec<_> = (0..40).map(|_| tokio::spawn(locks.lock("k").acquire())).collect();
    let mut raw = raw(&server);
    let end = Instant::now() + Duration::from_secs(10);
    while raw.llen::<_, u64>("{k}:q").unwrap() < 40 {
        assert!(Instant::now() < end, "not all came into the queue");
        tokio::task::yield_now().await;
    }
    let commands: String = redis::cmd("INFO").arg("commandstats").query(&mut raw).unwrap();
    // The script for one operation would look whether this one was withdrawn, and the other take the place back.
    assert!(!commands.contains("cmdstat_exists") && !commands.contains("cmdstat_rpop"), "{commands}");
    guard.release().await.unwrap();
    for waiting in waiting {
        waiting.await.unwrap().unwrap().release().await.unwrap();
    }
}

/// The waiter counts as alive for an hour, as after the clock was set back.
#[tokio::test]
async fn who_is_granted_a_lock_has_it_for_no_longer_than_its_ttl() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = raw(&server);
    // Passed on by the script for the usual cases, and by that for any.
    for shared in [false, true] {
        let first = if shared { locks.lock("k").shared() } else { locks.lock("k") };
        let first = first.acquire().await.unwrap();
        let waiting = tokio::spawn(locks.lock("k").ttl(Duration::from_secs(20)).acquire());
        let id = loop {
            let info = locks.inspect("k").await.unwrap();
            if let Some(waiter) = info.waiters.unwrap().first() {
                break waiter.id.to_string();
            }
        };
        let packed: String = raw.hget("{k}:w", &id).unwrap();
        let (alive, rest) = packed.split_once('|').unwrap();
        let later = alive.parse::<u64>().unwrap() + 3_600_000_000;
        let () = raw.hset("{k}:w", &id, format!("{later}|{rest}")).unwrap();
        first.release().await.unwrap();
        assert!((15_000..=20_000).contains(&raw.pttl::<_, i64>("k").unwrap()));
        waiting.await.unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test]
async fn the_fence_outlasts_the_queue() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = raw(&server);
    let _guard = locks.lock("k").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    let token: String = raw.get::<_, String>("k").unwrap().split('|').nth(1).unwrap().to_owned();
    // From a queue that was there before.
    let () = redis::cmd("SET").arg("{k}:f").arg(format!("{token}|w")).arg("PX").arg(21_000).query(&mut raw).unwrap();
    let waiting = tokio::spawn(locks.lock("k").ttl(Duration::from_secs(60)).acquire());
    while locks.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let (fence, queue): (i64, i64) = (raw.pttl("{k}:f").unwrap(), raw.pttl("{k}:q").unwrap());
    assert!(fence >= queue, "the fence ends in {fence} ms, the queue in {queue} ms");
    waiting.abort();
}

#[tokio::test]
async fn a_server_without_memory_lets_locks_be_kept_and_given_up() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = raw(&server);
    let ttl = Duration::from_secs(1);
    let exclusive = locks.lock("k").ttl(ttl).acquire().await.unwrap();
    let shared = locks.lock("s").shared().ttl(ttl).acquire().await.unwrap();
    let () = raw.del("{k}:f").unwrap();
    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query(&mut raw).unwrap();
    tokio::time::sleep(ttl * 2).await;
    assert_eq!(locks.lock("other").acquire().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let token = exclusive.token();
    exclusive.release().await.unwrap();
    shared.release().await.unwrap();
    assert_eq!(raw.get::<_, String>("{k}:f").unwrap(), token.to_string());
}

#[tokio::test]
async fn a_holder_that_is_none_ends_no_other_lease_and_is_gone_with_the_lock() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = raw(&server);
    let shared = || locks.lock("k").shared().ttl(Duration::from_millis(600));
    let guard = shared().acquire().await.unwrap();
    let () = raw.hset("{k}:h", "somebody", "no holder").unwrap();
    assert_eq!(shared().acquire().await.unwrap_err().kind(), ErrorKind::Corrupt);
    tokio::time::sleep(Duration::from_secs(1)).await;
    guard.check().unwrap();
    guard.release().await.unwrap();
    // Nobody renews what is left: the lock ends, and the next one begins anew.
    while raw.exists::<_, bool>("k").unwrap() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (one, two) = tokio::join!(shared().acquire(), shared().acquire());
    assert!(one.is_ok() && two.is_ok());
}

#[tokio::test]
async fn a_queue_that_is_none_keeps_no_holder_from_leaving() {
    let server = RedisServer::start();
    let locks = client(&server).await;
    let mut raw = raw(&server);
    let guard = locks.lock("k").acquire().await.unwrap();
    let token = guard.token();
    let () = raw.rpush("{k}:q", "somebody").unwrap();
    let () = raw.hset("{k}:w", "somebody", "no waiter").unwrap();
    let () = raw.set("{k}:f", format!("{token}|w")).unwrap();
    guard.release().await.unwrap();
    assert!(!raw.exists::<_, bool>("k").unwrap());
    assert_eq!(raw.get::<_, String>("{k}:f").unwrap(), format!("{token}|w"));
    assert_eq!(locks.lock("k").acquire().await.unwrap_err().kind(), ErrorKind::Corrupt);

    // Nor is a withdrawal forgotten for it.
    let request = dlock_core::Request::new(dlock_core::LockKey::new("k").unwrap());
    let backend = RedisBackend::connect(&server.url().parse().unwrap()).await.unwrap();
    let () = redis::cmd("DEL").arg(&["{k}:q", "{k}:w"]).query(&mut raw).unwrap();
    let () = raw.set("{k}:q", "no queue").unwrap();
    let _ = dlock_core::LockBackend::withdraw(&backend, &request).await;
    assert!(raw.exists::<_, bool>(format!("{{k}}:g:{}", request.holder())).unwrap());
}
