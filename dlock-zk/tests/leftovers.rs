//! What is cancelled, and what breaks, leaves nothing in the server, and nobody is told that it holds what it doesn't.
#![allow(clippy::unwrap_used)]

mod support;

use dlock_core::{Attempt, Clock, ErrorKind, LockBackend, LockGuard, LockKey, Locks, LostCause, Mode, Request, Ttl};
use dlock_fixtures::ZooKeeperServer;
use dlock_zk::ZkBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{backend, raw};
use tokio::task::JoinSet;
use zookeeper_client::{Acls, Client, CreateMode, Error};

const LIMIT: Duration = Duration::from_secs(30);

async fn client(server: &ZooKeeperServer) -> Locks {
    // After a restart the driver looks for the server at growing intervals.
    Locks::builder(Arc::new(backend(server).await)).op_timeout(Duration::from_secs(15)).build().unwrap()
}

/// The nodes of all locks, as another client sees them.
async fn nodes(raw: &Client) -> Vec<String> {
    let mut nodes = Vec::new();
    for folder in raw.list_children("/dlock").await.unwrap() {
        match raw.list_children(&format!("/dlock/{folder}")).await {
            Ok(children) => nodes.extend(children.into_iter().map(|child| format!("/dlock/{folder}/{child}"))),
            // Empty containers go by themselves.
            Err(Error::NoNode) => {}
            Err(error) => panic!("{error}"),
        }
    }
    nodes
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let end = clock.now() + LIMIT;
    while !done().await {
        assert!(clock.now() < end, "not within {LIMIT:?}: {what}");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

async fn waiters(locks: &Locks, key: &str, count: usize) {
    eventually("they wait", async || locks.inspect(key).await.unwrap().waiters.unwrap().len() == count).await;
}

/// How long after its deadline a loss is told, with its cause. An answer that is still on its way moves the deadline.
async fn told_late(guard: &LockGuard) -> (LostCause, Duration) {
    let (clock, held, mut until) = (Clock::system(), guard.held(), guard.valid_until());
    let mut lost = std::pin::pin!(guard.lost());
    loop {
        tokio::select! {
            biased;
            cause = &mut lost => return (cause, clock.now().since(until)),
            moved = held.renewed(until) => until = until.max(moved),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_the_key_free_and_no_nodes() {
    let server = ZooKeeperServer::start();
    let (one, two, raw) = (client(&server).await, client(&server).await, raw(&server).await);
    let clock = Clock::system();
    one.lock("k").acquire().await.unwrap().release().await.unwrap();
    let (mut cut, mut longest) = (0, Duration::ZERO);
    for round in 0..1_000_u64 {
        let holder = if round % 2 == 0 { two.lock("k").try_acquire().await.unwrap() } else { None };
        let moment = clock.now() + Duration::from_micros(rand::random_range(0..2_500));
        let lock = if round % 3 == 0 { one.lock("k").shared() } else { one.lock("k") };
        let acquired = clock.timeout_at(moment, lock.acquire()).await;
        cut += usize::from(acquired.is_none());
        drop(acquired);
        drop(holder);
        let begun = clock.now();
        let guard = match two.lock("k").wait_at_most(Duration::from_secs(5)).acquire().await {
            Ok(guard) => guard,
            Err(error) => panic!("round {round}: {error}; there is {:?}", nodes(&raw).await),
        };
        longest = longest.max(clock.now().since(begun));
        guard.release().await.unwrap();
    }
    println!("{cut} of 1000 were cut off; the key was free again after {longest:?} at the most");
    assert!(cut > 300, "only {cut} were cut off");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    eventually("no node is left", async || nodes(&raw).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_restart_nobody_holds_what_it_does_not_and_all_waiters_are_served() {
    let mut server = ZooKeeperServer::start();
    let (holders, others) = (client(&server).await, client(&server).await);
    let ttl = Duration::from_secs(20);
    let mut held = Vec::new();
    let mut waiting = JoinSet::new();
    let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..10).map(|_| AtomicUsize::new(1)).collect());
    for number in 0..10 {
        let key = format!("k{number}");
        held.push(holders.lock(&key).ttl(ttl).acquire().await.unwrap());
        let (lock, inside) = (others.lock(&key).ttl(ttl).wait_at_most(LIMIT), inside.clone());
        waiting.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            assert_eq!(inside[number].fetch_add(1, Ordering::SeqCst), 0, "two hold k{number}");
            assert!(guard.is_valid());
            guard.release().await.unwrap();
        });
        waiters(&others, &key, 1).await;
    }
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    // The sessions outlive it, and so do their nodes.
    for (number, guard) in held.into_iter().enumerate() {
        assert!(guard.is_valid());
        let info = others.inspect(&format!("k{number}")).await;
        if let Ok(info) = info {
            assert_eq!(info.holders[0].id, guard.holder());
        }
        assert_eq!(inside[number].fetch_sub(1, Ordering::SeqCst), 1);
        guard.release().await.unwrap();
    }
    tokio::time::timeout(LIMIT, waiting.join_all()).await.expect("all are served");
    eventually("no node is left", {
        let raw = raw(&server).await;
        async move || nodes(&raw).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_for_longer_than_the_ttl_costs_the_locks_and_no_more() {
    let mut server = ZooKeeperServer::start();
    let (one, two) = (client(&server).await, client(&server).await);
    let ttl = Duration::from_secs(1);
    let guard = one.lock("k").ttl(ttl).acquire().await.unwrap();
    let waiting = tokio::spawn(two.lock("k").ttl(ttl).wait_at_most(LIMIT).acquire());
    waiters(&one, "k", 1).await;
    server.kill();
    let (cause, late) = told_late(&guard).await;
    assert_eq!(cause, LostCause::Expired);
    assert!(late < Duration::from_millis(50), "told {late:?} late");
    assert!(!waiting.is_finished(), "it was told that it holds");
    Clock::system().sleep(ttl).await;
    let server = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let server = server.await.unwrap();
    let next = waiting.await.unwrap().unwrap();
    assert!(next.is_valid() && next.token() > guard.token());
    next.release().await.unwrap();
    // Both clients work again by themselves.
    one.lock("k").wait_at_most(LIMIT).acquire().await.unwrap().release().await.unwrap();
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    let raw = raw(&server).await;
    eventually("no node is left", async || nodes(&raw).await.is_empty()).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_unavailable_in_time_and_the_loss_is_told() {
    let server = ZooKeeperServer::start();
    let backend = Arc::new(backend(&server).await);
    let locks = Locks::builder(backend).op_timeout(Duration::from_millis(300)).build().unwrap();
    let guard = locks.lock("k").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    server.pause();
    let clock = Clock::system();
    let told = told_late(&guard);
    let asks = async {
        for ttl in [2, 5] {
            // The second needs a session of its own, which can't be had.
            let begun = clock.now();
            let lock = locks.lock("other").ttl(Duration::from_secs(ttl));
            let error = lock.try_acquire().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            let took = clock.now().since(begun);
            assert!(took < Duration::from_millis(700), "{took:?}");
        }
    };
    let ((cause, late), ()) = tokio::join!(told, asks);
    assert_eq!(cause, LostCause::Expired);
    assert!(late < Duration::from_millis(50), "told {late:?} late");
    let begun = clock.now();
    let url = format!("{}?op_timeout=300ms", server.url()).parse().unwrap();
    assert_eq!(ZkBackend::connect(&url).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(clock.now().since(begun) < Duration::from_millis(600));
    server.resume();
    let again = locks.lock("k").ttl(Duration::from_secs(2)).wait_at_most(LIMIT);
    eventually("it can be had again", async || match again.acquire().await {
        Ok(guard) => guard.release().await.is_ok(),
        Err(error) => error.kind() != ErrorKind::Unavailable && panic!("{error}"),
    })
    .await;
    // What was sent to the server while it hung was carried out later, and taken back.
    let raw = raw(&server).await;
    eventually("no node is left", async || nodes(&raw).await.is_empty()).await;
}

#[tokio::test]
async fn where_nothing_listens_connecting_is_unavailable_in_time() {
    let url = format!("zk://127.0.0.1:{}?op_timeout=500ms", dlock_fixtures::free_port()).parse().unwrap();
    let clock = Clock::system();
    let begun = clock.now();
    let error = ZkBackend::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(clock.now().since(begun) < Duration::from_millis(800));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_held_locks_send_no_more_than_their_session() {
    let server = ZooKeeperServer::start();
    let locks = client(&server).await;
    let ttl = Duration::from_secs(3);
    let mut acquiring = JoinSet::new();
    for number in 0..1_000 {
        acquiring.spawn(locks.lock(format!("k{number}")).ttl(ttl).acquire());
    }
    let guards: Vec<LockGuard> = acquiring.join_all().await.into_iter().map(Result::unwrap).collect();
    let clock = Clock::system();
    // A watch for each, which was asked for in the background, is there once the server has all.
    eventually("all are watched", async || server.metric("zk_watch_count") >= 1_000).await;
    clock.sleep(ttl / 3).await;
    let before = server.metric("zk_packets_received");
    clock.sleep(2 * ttl).await;
    let packets = server.metric("zk_packets_received") - before;
    println!("{packets} packets in {:?} with 1000 locks held", 2 * ttl);
    // Pings every 3/20 of the TTL, a request every third of it, a look at the nodes once in it.
    assert!(packets < 40, "{packets} packets");
    assert!(guards.iter().all(|guard| guard.is_valid()));
    assert_eq!(server.metric("zk_ephemerals_count"), 1_000);
    locks.close().await.unwrap();
    assert_eq!(server.metric("zk_ephemerals_count"), 0, "close frees at once");
    locks.close().await.unwrap();
}

#[tokio::test]
async fn a_node_that_another_deletes_is_a_lock_revoked_at_once() {
    let server = ZooKeeperServer::start();
    let (locks, raw) = (client(&server).await, raw(&server).await);
    let (guard, other) = (locks.lock("k").acquire().await.unwrap(), locks.lock("l").acquire().await.unwrap());
    let node = nodes(&raw).await.into_iter().find(|node| node.starts_with("/dlock/k/")).unwrap();
    // Writing over it harms nothing.
    raw.set_data(&node, b"x", None).await.unwrap();
    raw.delete(&node, None).await.unwrap();
    let clock = Clock::system();
    let begun = clock.now();
    assert_eq!(guard.lost().await, LostCause::Revoked);
    assert!(clock.now().since(begun) < Duration::from_millis(250), "{:?}", clock.now().since(begun));
    assert!(other.is_valid());
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_told_at_once_and_the_client_goes_on_by_another() {
    let server = ZooKeeperServer::start();
    let backend = Arc::new(backend(&server).await);
    let locks = Locks::builder(backend.clone()).build().unwrap();
    let guard = locks.lock("k").acquire().await.unwrap();
    let ids = backend.session_ids();
    tokio::task::block_in_place(|| ids.iter().for_each(|id| server.end_session(*id)));
    let lost = tokio::time::timeout(Duration::from_secs(15), guard.lost()).await.expect("long before the TTL");
    assert_eq!(lost, LostCause::SessionEnded);
    let next = locks.lock("k").try_acquire().await.unwrap().expect("free");
    assert_ne!(backend.session_ids(), ids);
    assert!(next.token() > guard.token());
    next.release().await.unwrap();
}

#[tokio::test]
async fn nodes_that_nobody_wants_are_removed_within_a_ttl_while_the_session_lives() {
    let server = ZooKeeperServer::start();
    let (backend, raw) = (Arc::new(backend(&server).await), raw(&server).await);
    let ttl = Ttl::new(Duration::from_secs(1)).unwrap();
    let request = |key: &str| Request::new(LockKey::new(key).unwrap()).with_ttl(ttl);
    let Attempt::Acquired(held) = backend.try_acquire(&request("held")).await.unwrap() else { panic!("free") };
    let Attempt::Acquired(dropped) = backend.try_acquire(&request("dropped")).await.unwrap() else { panic!("free") };
    drop(dropped);
    let waiting = tokio::spawn({
        let (backend, request) = (backend.clone(), request("held"));
        async move { backend.acquire(&request).await.map(drop) }
    });
    eventually("it waits", async || nodes(&raw).await.len() == 3).await;
    // Core never does that to a call.
    waiting.abort();
    let _ = waiting.await;
    let (clock, begun) = (Clock::system(), Clock::system().now());
    eventually("only the held one is left", async || nodes(&raw).await.len() == 1).await;
    assert!(clock.now().since(begun) < 2 * ttl.get() + Duration::from_millis(500), "{:?}", clock.now().since(begun));
    assert!(held.deadline().at() > clock.now());
    assert_eq!(backend.session_ids().len(), 1);
}

/// How many packets a hand-over costs with so many waiters for one of two permits.
async fn permit_cost(server: &ZooKeeperServer, key: &str, count: usize) -> f64 {
    let (one, two) = (backend(server).await, backend(server).await);
    let mode = Mode::Permit { limit: 2.try_into().unwrap() };
    let request = || Request::new(LockKey::new(key).unwrap()).with_mode(mode);
    let mut held = Vec::new();
    for _ in 0..2 {
        let Attempt::Acquired(lease) = one.try_acquire(&request()).await.unwrap() else { panic!("free") };
        held.push(lease);
    }
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        let (two, request) = (two.clone(), request());
        waiting.spawn(async move {
            let Attempt::Acquired(lease) = two.acquire(&request).await.unwrap() else { panic!("not cancelled") };
            two.clock().sleep(Duration::from_millis(20)).await;
            lease.release(two.clock().now() + LIMIT).await.unwrap();
        });
    }
    let shown = async || two.inspect(&LockKey::new(key).unwrap()).await.unwrap().waiters.unwrap().len();
    eventually("all wait", async || shown().await == count).await;
    two.clock().sleep(Duration::from_millis(200)).await;
    let before = server.metric("zk_packets_received");
    // The later one goes first: the next in line does not stand behind it.
    for lease in held.into_iter().rev() {
        lease.release(one.clock().now() + LIMIT).await.unwrap();
    }
    tokio::time::timeout(LIMIT, waiting.join_all()).await.expect("all are served");
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let cost = (server.metric("zk_packets_received") - before) as f64 / (count + 2) as f64;
    cost
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permits_hand_over_costs_the_same_however_many_wait() {
    let server = ZooKeeperServer::start();
    let (few, many) = (permit_cost(&server, "few", 8).await, permit_cost(&server, "many", 64).await);
    println!("{few:.1} packets a hand-over with 8 waiters, {many:.1} with 64");
    assert!(many <= few * 1.5 + 1.0, "{few:.1} packets a hand-over with 8 waiters, {many:.1} with 64");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_place_stays_empty_while_waiters_for_permits_come_go_and_give_up() {
    let server = ZooKeeperServer::start();
    let clients = [client(&server).await, client(&server).await, client(&server).await];
    let inside = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for turn in 0..24_usize {
        let (lock, inside) = (clients[turn % 3].lock("p").permits(3), inside.clone());
        crowd.spawn(async move {
            let mut served = 0;
            for _ in 0..12 {
                let wait = Duration::from_millis(rand::random_range(0..40));
                // Every third gives up at some moment, also as the next in line.
                let lock =
                    if turn % 3 == 0 { lock.clone().wait_at_most(wait) } else { lock.clone().wait_at_most(LIMIT) };
                match lock.acquire().await {
                    Ok(guard) => {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3, "a permit too many");
                        tokio::time::sleep(Duration::from_micros(rand::random_range(0..3_000))).await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        guard.release().await.unwrap();
                        served += 1;
                    }
                    // A wait so short may also be over before the server has answered anything.
                    Err(error) => assert!(turn % 3 == 0 && error.kind() != ErrorKind::Unexpected, "{error}"),
                }
            }
            served
        });
    }
    let served: usize =
        tokio::time::timeout(2 * LIMIT, crowd.join_all()).await.expect("nobody is forgotten").iter().sum();
    println!("{served} of 288 were served");
    let raw = raw(&server).await;
    eventually("no node is left", async || nodes(&raw).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_never_finds_a_free_lock_held_by_another_attempt() {
    let server = ZooKeeperServer::start();
    let clients = [client(&server).await, client(&server).await, client(&server).await, client(&server).await];
    for round in 0..150 {
        let key = format!("k{}", round % 3);
        let mut tries = JoinSet::new();
        for locks in &clients {
            tries.spawn(locks.lock(&key).try_acquire());
        }
        let guards: Vec<_> = tries.join_all().await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(guards.len(), 1, "round {round}: exactly one gets a free lock");
        for guard in guards {
            guard.release().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_beside_a_release_leave_nothing() {
    let server = ZooKeeperServer::start();
    let (holder, raw) = (client(&server).await, raw(&server).await);
    let tries = [client(&server).await, client(&server).await, client(&server).await];
    // With sessions so long that no heart takes away in time what an attempt left behind.
    let ttl = Duration::from_secs(60);
    for round in 0..200 {
        // A key that nobody remembers as contended, so that all attempts make a node at once.
        let key = format!("k{round}");
        let guard = holder.lock(&key).ttl(ttl).acquire().await.unwrap();
        let mut crowd = JoinSet::new();
        for locks in &tries {
            let lock = locks.lock(&key).ttl(ttl);
            crowd.spawn(async move {
                if let Some(guard) = lock.try_acquire().await.unwrap() {
                    guard.release().await.unwrap();
                }
            });
        }
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..3_000))).await;
        guard.release().await.unwrap();
        tokio::time::timeout(LIMIT / 2, crowd.join_all()).await.expect("attempts do not wait");
        assert_eq!(nodes(&raw).await, [""; 0], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_any_name_are_let_be() {
    let server = ZooKeeperServer::start();
    let (locks, raw) = (client(&server).await, raw(&server).await);
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let all = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for name in ["caf\u{e9}", "\u{9501}", "notes-2024"] {
        raw.create(&format!("/dlock/k/{name}"), b"", &all).await.unwrap();
    }
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    assert!(!locks.inspect("k").await.unwrap().is_held());
    // One with a number of a recipe that nobody knows excludes, and is waited for.
    let unknown = format!("/dlock/k/\u{9501}{:010}", 1);
    raw.create(&unknown, b"", &all).await.unwrap();
    assert!(locks.lock("k").try_acquire().await.unwrap().is_none());
    raw.delete(&unknown, None).await.unwrap();
    locks.lock("k").try_acquire().await.unwrap().expect("free again").release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_waiter_for_a_permit_keeps_no_other_place_empty() {
    let server = ZooKeeperServer::start();
    let (locks, raw) = (client(&server).await, raw(&server).await);
    let permit = || locks.lock("k").permits(3).ttl(Duration::from_secs(60));
    let (one, two, three) =
        (permit().acquire().await.unwrap(), permit().acquire().await.unwrap(), permit().acquire().await.unwrap());
    // A client that was stopped as soon as it stood in the queue.
    let dead = format!("/dlock/k/_c_{}-p3-lock-", "01234567-89ab-cdef-0123-456789abcdef");
    let mode = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    raw.create(&dead, b"", &mode).await.unwrap();
    let behind = [tokio::spawn(permit().acquire()), tokio::spawn(permit().acquire())];
    waiters(&locks, "k", 3).await;
    let begun = Clock::system().now();
    for guard in [one, two, three] {
        guard.release().await.unwrap();
    }
    for waiter in behind {
        let _guard = waiter.await.unwrap().unwrap();
    }
    let took = Clock::system().now().since(begun);
    assert!(took < Duration::from_secs(15), "the places stayed empty for {took:?}");
}
