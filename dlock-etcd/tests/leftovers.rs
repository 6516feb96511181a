//! What is cancelled, and what breaks, leaves nothing in etcd, and nobody believes what is not so.
#![allow(clippy::unwrap_used)]

use dlock_core::{Attempt, Clock, ErrorKind, LockBackend, LockKey, Locks, LostCause, Request};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::EtcdServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

async fn backend(server: &EtcdServer) -> EtcdBackend {
    EtcdBackend::connect(&server.url().parse().unwrap()).await.unwrap()
}

async fn client(server: &EtcdServer) -> Locks {
    Locks::builder(Arc::new(backend(server).await)).op_timeout(Duration::from_secs(2)).build().unwrap()
}

async fn eventually(what: &str, limit: Duration, mut done: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let end = clock.now() + limit;
    while !done().await {
        assert!(clock.now() < end, "not within {limit:?}: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}

/// Does to the server what blocks, elsewhere.
async fn to<T: Send + 'static>(
    server: EtcdServer,
    what: impl FnOnce(&mut EtcdServer) -> T + Send + 'static,
) -> (EtcdServer, T) {
    let done = tokio::task::spawn_blocking(move || {
        let mut server = server;
        let output = what(&mut server);
        (server, output)
    });
    done.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_the_key_free_and_no_keys() {
    let server = EtcdServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let clock = Clock::system();
    let (mut cut, mut longest) = (0, Duration::ZERO);
    for round in 0..1_000_u64 {
        // What was dropped may still be on its way: one key is always the same kind of lock.
        let of = |locks: &Locks| if round % 3 == 0 { locks.lock("p").permits(1) } else { locks.lock("k") };
        let (lock, other) = (of(&one), of(&two));
        let holder = if round % 2 == 0 { other.try_acquire().await.unwrap() } else { None };
        let moment = clock.now() + Duration::from_micros(rand::random_range(0..3_000));
        let acquired = clock.timeout_at(moment, lock.acquire()).await;
        cut += usize::from(acquired.is_none());
        drop(acquired);
        drop(holder);
        let begun = clock.now();
        let guard = other.wait_at_most(Duration::from_secs(5)).acquire().await.expect("the key is free");
        longest = longest.max(clock.now().since(begun));
        guard.release().await.unwrap();
    }
    println!("{cut} of 1000 were cut off; the key was free again after {longest:?} at the most");
    assert!(cut > 300, "only {cut} were cut off");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    eventually("no keys are left in the whole store", Duration::from_secs(5), async || server.keys("").is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_restart_holders_hold_and_all_waiters_are_served() {
    let server = EtcdServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let mut guards = Vec::new();
    for number in 0..10 {
        guards.push(one.lock(format!("k{number}")).acquire().await.unwrap());
    }
    let mut waiting = JoinSet::new();
    for number in 0..10 {
        waiting.spawn(two.lock(format!("k{number}")).acquire());
    }
    eventually("ten wait", Duration::from_secs(10), async || server.keys("dlock/").len() == 20).await;
    let (server, ()) = to(server, EtcdServer::restart).await;
    for guard in &guards {
        let info = one.inspect(guard.key().as_str()).await.unwrap();
        assert!(guard.is_valid(), "a restart keeps leases");
        assert_eq!(info.holders[0].id, guard.holder());
    }
    // What comes and goes after the restart is noticed at once, by waiters and holders.
    let broken = guards.pop().unwrap();
    assert!(two.break_lock(broken.key().as_str(), &broken.holder()).await.unwrap());
    let lost = tokio::time::timeout(Duration::from_secs(10), broken.lost()).await.unwrap();
    assert_eq!(lost, LostCause::Revoked);
    for guard in guards {
        guard.release().await.unwrap();
    }
    let served = tokio::time::timeout(Duration::from_secs(20), async {
        let mut served = Vec::new();
        while let Some(guard) = waiting.join_next().await {
            served.push(guard.unwrap().unwrap());
        }
        served
    });
    for guard in served.await.expect("all are served") {
        let info = one.inspect(guard.key().as_str()).await.unwrap();
        assert_eq!((guard.is_valid(), &info.holders[0].id), (true, &guard.holder()));
        guard.release().await.unwrap();
    }
    assert_eq!(server.keys("dlock/"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_unavailable_in_time_and_the_loss_is_told() {
    let server = EtcdServer::start();
    let locks =
        Locks::builder(Arc::new(backend(&server).await)).op_timeout(Duration::from_millis(300)).build().unwrap();
    let guard = locks.lock("k").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    server.pause();
    let clock = Clock::system();
    let begun = clock.now();
    let error = locks.lock("other").ttl(Duration::from_secs(2)).try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // Of another TTL: a session has to be opened first.
    let error = locks.lock("other").ttl(Duration::from_secs(9)).acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let took = clock.now().since(begun);
    assert!(took < Duration::from_millis(1_600), "{took:?}");
    let until = guard.valid_until();
    assert_eq!(guard.lost().await, LostCause::Expired);
    // No keep-alive was answered since, so that it is still the same.
    assert!(clock.now().since(until) < Duration::from_millis(50), "told {:?} late", clock.now().since(until));
    server.resume();
    let again = tokio::time::timeout(Duration::from_secs(15), locks.lock("k").acquire()).await.unwrap();
    again.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_listens_there_is_said_at_once() {
    let port = dlock_fixtures::free_port();
    let error = EtcdBackend::connect(&format!("etcd://127.0.0.1:{port}").parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("nothing listens there"), "{error}");
    let mut server = EtcdServer::start();
    let locks = client(&server).await;
    server.kill();
    let begun = std::time::Instant::now();
    assert_eq!(locks.lock("k").try_acquire().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    // One of two hosts is enough.
    let server = EtcdServer::start();
    let url = format!("etcd://127.0.0.1:{port},127.0.0.1:{}", server.port());
    let locks = Locks::new(EtcdBackend::connect(&url.parse().unwrap()).await.unwrap()).unwrap();
    for _ in 0..20 {
        locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_locks_are_kept_alive_by_one_message_an_interval() {
    let server = EtcdServer::start();
    let locks = client(&server).await;
    let mut guards = Vec::new();
    for number in 0..1_000 {
        guards.push(locks.lock(format!("k{number}")).ttl(Duration::from_secs(3)).acquire().await.unwrap());
    }
    // Each lock's watch, and the one that keeps their stream open.
    eventually("all are watched", Duration::from_secs(10), async || server.messages(Some("Watch")) > 1_000).await;
    let (clock, before, all) = (Clock::system(), server.messages(Some("LeaseKeepAlive")), server.messages(None));
    clock.sleep(Duration::from_secs(6)).await;
    let (kept, all) = (server.messages(Some("LeaseKeepAlive")) - before, server.messages(None) - all);
    println!("{kept} keep-alives and {all} messages in 6 s for 1000 locks");
    assert!((4..=8).contains(&kept), "{kept} keep-alives in six intervals");
    // And a look once a TTL.
    assert!(all <= kept + 3, "{all} messages");
    assert!(guards.iter().all(|guard| guard.is_valid()));
    assert_eq!(server.ctl(&["lease", "list"]).lines().count(), 2, "one lease for all");
    for guard in guards {
        guard.release().await.unwrap();
    }
    locks.close().await.unwrap();
    assert_eq!((server.keys(""), server.ctl(&["lease", "list"]).lines().count()), (Vec::new(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_is_told_at_once_and_the_next_lock_has_another() {
    let server = EtcdServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let guards = [one.lock("a").acquire().await.unwrap(), one.lock("b").shared().acquire().await.unwrap()];
    let waiting = tokio::spawn(two.lock("a").acquire());
    // Until it is watched, and somebody waits.
    eventually("it waits", Duration::from_secs(5), async || server.keys("dlock/a/").len() == 2).await;
    Clock::system().sleep(Duration::from_millis(300)).await;
    let lease = server.ctl(&["lease", "list"]).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    for lease in &lease {
        // Of the two sessions the holder's is that of key b.
        if server.ctl(&["lease", "timetolive", "--keys", lease]).contains("dlock/b/") {
            server.ctl(&["lease", "revoke", lease]);
        }
    }
    let begun = std::time::Instant::now();
    for guard in &guards {
        assert_eq!(guard.lost().await, LostCause::SessionEnded);
    }
    assert!(begun.elapsed() < Duration::from_millis(300), "told only after {:?}", begun.elapsed());
    let next = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap();
    next.release().await.unwrap();
    for guard in guards {
        assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    one.lock("a").try_acquire().await.unwrap().expect("free").release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_data_gives_locks_anew() {
    let server = EtcdServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let guard = one.lock("k").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    let waiting = tokio::spawn(two.lock("k").ttl(Duration::from_secs(2)).acquire());
    eventually("it waits", Duration::from_secs(5), async || server.keys("dlock/k/").len() == 2).await;
    let (server, ()) = to(server, EtcdServer::wipe).await;
    let lost = tokio::time::timeout(Duration::from_secs(10), guard.lost()).await.unwrap();
    assert!(matches!(lost, LostCause::SessionEnded | LostCause::Expired | LostCause::Revoked), "{lost}");
    let next = tokio::time::timeout(Duration::from_secs(15), waiting).await.unwrap().unwrap().unwrap();
    let info = one.inspect("k").await.unwrap();
    assert_eq!((next.is_valid(), &info.holders[0].id), (true, &next.holder()));
    next.release().await.unwrap();
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_mark_was_removed_goes_on() {
    let server = EtcdServer::start();
    let backend = backend(&server).await;
    let request = |key: &str| Request::new(LockKey::new(key).unwrap()).with_op_timeout(Duration::from_secs(2));
    let first = request("a");
    let held = backend.try_acquire(&first).await.unwrap();
    assert!(matches!(held, Attempt::Acquired(_)));
    // What is withdrawn moves the session's mark.
    backend.withdraw(&first).await.unwrap();
    let mut raw = etcd_client::Client::connect([server.url().replace("etcd", "http")], None).await.unwrap();
    let everything = etcd_client::DeleteOptions::new().with_all_keys();
    assert!(raw.delete("", Some(everything)).await.unwrap().deleted() > 0);
    for key in ["a", "b"] {
        let held = backend.try_acquire(&request(key)).await.unwrap();
        assert!(matches!(held, Attempt::Acquired(_)), "{key}: {held:?}");
        let waited = tokio::time::timeout(Duration::from_secs(5), backend.acquire(&request(&format!("{key}/w")))).await;
        assert!(matches!(waited.unwrap().unwrap(), Attempt::Acquired(_)));
    }
}
