//! What goes wrong between client and service: throttling, lost replies, requests that come twice or late, clocks.
#![allow(clippy::unwrap_used)]

mod support;

use dlock_core::{Attempt, Clock, Effect, ErrorKind, LockKey, Locks, Registry, Request, Ttl};
use dlock_fixtures::DynamoServer;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::proxy::{Action, Proxy, Request as Sent};
use support::{is_in_use, items, raw};
use tokio::sync::Notify;

async fn connect(url: &str) -> Locks {
    Registry::new().with(dlock_dynamo::driver()).connect(url).await.unwrap()
}

/// A server with its table, a proxy before it, a client through the proxy and one that goes past it.
async fn set_up(parameters: &str) -> (DynamoServer, Proxy, Locks, Locks) {
    let server = DynamoServer::start();
    let direct = connect(&format!("{}&create=true&poll=50ms", server.url())).await;
    let proxy = Proxy::start(server.port()).await;
    let through = connect(&format!("{}&poll=50ms{parameters}", proxy.url())).await;
    proxy.take_log();
    (server, proxy, through, direct)
}

/// `action` for the next `times` writes, then all passes.
fn writes(times: usize, action: Action) -> impl FnMut(&Sent) -> Action + Send {
    let mut left = times;
    move |request| {
        if request.operation != "PutItem" || left == 0 {
            return Action::Pass;
        }
        left -= 1;
        action.clone()
    }
}

#[tokio::test]
async fn throttled_requests_are_sent_again_and_are_no_contention() {
    let (_server, proxy, locks, direct) = set_up("").await;
    for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"] {
        let mut count = 0;
        proxy.act(move |_| {
            count += 1;
            if count % 3 == 0 { Action::Pass } else { Action::Refuse(400, code) }
        });
        let guard = locks.lock("k").try_acquire().await.unwrap().expect("a free lock is no contention");
        assert!(direct.lock("k").try_acquire().await.unwrap().is_none());
        guard.release().await.unwrap();
    }
    assert!(proxy.take_log().len() > 12);
}

#[tokio::test]
async fn throttling_without_end_is_unavailable_in_time_and_nothing_was_done() {
    let (_server, proxy, locks, direct) = set_up("&op_timeout=2s").await;
    proxy.act(|_| Action::Refuse(400, "ThrottlingException"));
    let clock = Clock::system();
    let begun = clock.now();
    let error = locks.lock("k").try_acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{}", error.chain());
    assert!(error.to_string().contains("throttles"), "{error}");
    let took = clock.now().since(begun);
    assert!(took < Duration::from_secs(3), "{took:?}");
    direct.lock("k").try_acquire().await.unwrap().expect("free").release().await.unwrap();
    // A repeat has only what the attempts before have left, and says in that time why nothing was done.
    let url = proxy.url().parse().unwrap();
    proxy.act(|_| Action::Pass);
    let backend = Registry::new().with(dlock_dynamo::driver()).connect_backend(&url).await.unwrap();
    proxy.act(|_| Action::Refuse(400, "ThrottlingException"));
    let request = Request::new(LockKey::new("k").unwrap()).with_op_timeout(Duration::from_secs(1));
    let error = backend.try_acquire(&request).await.unwrap_err();
    assert!(error.to_string().contains("throttles"), "{error}");
}

#[tokio::test]
async fn a_holder_outlives_throttling_that_is_shorter_than_its_lease() {
    let (_server, proxy, locks, direct) = set_up("").await;
    let guard = locks.lock("k").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    proxy.act(|_| Action::Refuse(400, "ThrottlingException"));
    let clock = Clock::system();
    clock.sleep(Duration::from_millis(1_500)).await;
    proxy.act(|_| Action::Pass);
    clock.sleep(Duration::from_secs(3)).await;
    assert!(guard.is_valid());
    assert!(direct.lock("k").try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn the_usual_acquire_renew_and_release_are_one_write_each() {
    let (_server, proxy, locks, _direct) = set_up("").await;
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    proxy.take_log();
    let guard = locks.lock("k").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    assert_eq!(operations(&proxy), ["PutItem"]);
    let before = guard.valid_until();
    guard.renewed(before).await;
    assert_eq!(operations(&proxy), ["PutItem"]);
    guard.release().await.unwrap();
    assert_eq!(operations(&proxy), ["PutItem"]);
    let fresh = locks.lock("another").acquire().await.unwrap();
    assert_eq!(operations(&proxy), ["PutItem"]);
    fresh.release().await.unwrap();
}

fn operations(proxy: &Proxy) -> Vec<String> {
    proxy.take_log().into_iter().map(|request| request.operation).collect()
}

#[tokio::test]
async fn a_write_that_comes_twice_is_its_own_success() {
    let (_server, proxy, locks, direct) = set_up("").await;
    proxy.act(writes(usize::MAX, Action::Twice));
    for _ in 0..3 {
        let guard = locks.lock("k").try_acquire().await.unwrap().expect("it is free");
        assert!(direct.lock("k").try_acquire().await.unwrap().is_none());
        guard.release().await.expect("released, not lost");
        direct.lock("k").try_acquire().await.unwrap().expect("free").release().await.unwrap();
    }
}

#[tokio::test]
async fn lost_replies_lose_no_lock_and_leave_none() {
    let (server, proxy, locks, direct) = set_up("").await;
    for action in [Action::LoseReply, Action::Reset, Action::Refuse(500, "InternalServerError")] {
        proxy.act(writes(1, action.clone()));
        let guard = locks.lock("k").ttl(Duration::from_secs(2)).acquire().await.unwrap();
        assert!(direct.lock("k").try_acquire().await.unwrap().is_none(), "{action:?}");
        proxy.act(writes(1, action.clone()));
        let before = guard.valid_until();
        guard.renewed(before).await;
        assert!(guard.is_valid(), "{action:?}");
        proxy.act(writes(1, action.clone()));
        guard.release().await.expect("released, not lost");
        let free = async {
            // The acquisition was in doubt: it is withdrawn in the background.
            direct.lock("k").wait_at_most(Duration::from_secs(5)).acquire().await.unwrap().release().await.unwrap();
        };
        free.await;
    }
    let clock = Clock::system();
    let end = clock.now() + Duration::from_secs(10);
    while items(&raw(&server.endpoint()), "").await.iter().any(is_in_use) {
        assert!(clock.now() < end, "something is left");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_acquire_that_arrives_after_its_undo_takes_nothing() {
    let (server, proxy, locks, direct) = set_up("&op_timeout=400ms").await;
    // Once before the item is there, and once on an item that is.
    for key in ["new", "known"] {
        if key == "known" {
            locks.lock(key).acquire().await.unwrap().release().await.unwrap();
        }
        let (late, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        proxy.act({
            let (late, count) = (late.clone(), count.clone());
            move |request| {
                let first = request.operation == "PutItem" && count.fetch_add(1, Ordering::SeqCst) == 0;
                // The caller repeats it under the same id, and gives up what it got then.
                if first { Action::Later(late.clone()) } else { Action::Pass }
            }
        });
        let acquire = locks.lock(key).acquire();
        if let Ok(guard) = acquire.await {
            guard.release().await.unwrap();
        }
        let client = raw(&server.endpoint());
        let clock = Clock::system();
        let end = clock.now() + Duration::from_secs(10);
        // The undo has written: the item is there and free, and nothing is on its way but the one that is late.
        while count.load(Ordering::SeqCst) < 2 || items(&client, key).await.iter().any(is_in_use) {
            assert!(clock.now() < end, "not undone");
            clock.sleep(Duration::from_millis(5)).await;
        }
        late.notify_one();
        // Told back once it was carried out.
        tokio::task::yield_now().await;
        clock.sleep(Duration::from_millis(100)).await;
        assert!(!items(&client, key).await.iter().any(is_in_use), "{key}: a late request took the lock for nobody");
        direct.lock(key).try_acquire().await.unwrap().expect("free").release().await.unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_is_set_shortens_nobodys_lease() {
    for jump in [100, -100] {
        let (_server, proxy, locks, _direct) = set_up("").await;
        let other = connect(&format!("{}&poll=50ms", proxy.url())).await;
        let guard = locks.lock("k").ttl(Duration::from_secs(4)).acquire().await.unwrap();
        assert!(other.lock("k").try_acquire().await.unwrap().is_none());
        proxy.set_ahead(jump);
        let waiting = tokio::spawn(other.lock("k").acquire());
        let clock = Clock::system();
        let until = clock.now() + Duration::from_secs(6);
        while clock.now() < until {
            assert!(guard.is_valid(), "by {jump} s: {:?}", guard.lost_cause());
            assert!(!waiting.is_finished(), "by {jump} s: two hold");
            clock.sleep(Duration::from_millis(50)).await;
        }
        let token = guard.token();
        guard.release().await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("not stuck").unwrap().unwrap();
        assert!(next.token() > token, "by {jump} s: the token went back");
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_crashed_holders_lock_is_free_again_though_the_clock_was_set() {
    for jump in [100, -100] {
        let (_server, proxy, other, _direct) = set_up("").await;
        let ttl = Duration::from_secs(1);
        // A lease that nobody renews.
        let url = proxy.url().parse().unwrap();
        let crashed = Registry::new().with(dlock_dynamo::driver()).connect_backend(&url).await.unwrap();
        let request = Request::new(LockKey::new("k").unwrap()).with_ttl(Ttl::new(ttl).unwrap());
        let attempt = crashed.try_acquire(&request).await.unwrap();
        let Attempt::Acquired(lease) = attempt else { panic!("it is free") };
        let until = lease.deadline().at();
        assert!(other.lock("k").try_acquire().await.unwrap().is_none());
        proxy.set_ahead(jump);
        let clock = Clock::system();
        let next = tokio::time::timeout(Duration::from_secs(25), other.lock("k").acquire()).await;
        let next = next.unwrap_or_else(|_| panic!("by {jump} s: stuck")).unwrap();
        println!("by {jump} s: free {:?} after the end of the lease", clock.now().since(until));
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_machine_with_a_wrong_clock_signs_by_the_services() {
    let (_server, proxy, locks, _direct) = set_up("").await;
    proxy.set_ahead(3_600);
    let mut refused = 0;
    proxy.act(move |_| {
        refused += 1;
        if refused == 1 { Action::Refuse(400, "InvalidSignatureException") } else { Action::Pass }
    });
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let signed: Vec<_> = proxy.take_log().into_iter().map(|request| request.signed).collect();
    let hour = |at: &str| -> u32 { at[9..11].parse().unwrap() };
    assert_eq!((hour(&signed[0]) + 1) % 24, hour(&signed[1]) % 24, "{signed:?}");
    // A secret key that is wrong is refused at any time, and not sent again and again.
    proxy.act(|_| Action::Refuse(400, "InvalidSignatureException"));
    let error = locks.lock("k").try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("clock"), "{error}");
    assert!(proxy.take_log().len() <= 2);
}
