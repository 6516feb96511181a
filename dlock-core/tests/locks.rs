//! What applications use, on the memory backend.
#![allow(clippy::unwrap_used)]

use dlock_core::memory::Memory;
use dlock_core::{Clock, ErrorKind, LockKey, Locks, LostCause, StoreUrl};
use futures_util::StreamExt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn locks(memory: &Memory) -> Locks {
    Locks::new(memory.another_client()).unwrap()
}

/// Polls once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Waits until `done`, at most five seconds.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = std::time::Instant::now() + 5 * SECOND;
    while !done().await {
        assert!(std::time::Instant::now() < end, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_holds_and_the_next_follows() {
    let memory = Memory::new();
    let (one, two) = (locks(&memory), locks(&memory));
    let guard = one.lock("a").acquire().await.unwrap();
    assert!(two.lock("a").try_acquire().await.unwrap().is_none());
    let waiter = tokio::spawn(two.lock("a").acquire());
    eventually("a waiter", async || one.inspect("a").await.unwrap().waiters.unwrap().len() == 1).await;
    let token = guard.token();
    guard.release().await.unwrap();
    let next = waiter.await.unwrap().unwrap();
    assert!(next.token() > token);
    // What its place had left of its 15 s: more follows with the first renewal (rule E6).
    assert!(next.is_valid() && next.remaining() > 13 * SECOND);
    drop(next);
    eventually("nothing is left", async || memory.is_empty()).await;
}

#[tokio::test]
async fn what_is_never_polled_sends_nothing_and_what_is_dropped_leaves_nothing() {
    let memory = Memory::new();
    let locks = locks(&memory);
    drop(locks.lock("a").acquire());
    assert!(memory.is_empty());
    let guard = locks.lock("a").acquire().await.unwrap();
    let mut waiting = locks.lock("a").acquire();
    assert!(poll_once(&mut waiting).await.is_none());
    assert_eq!(locks.inspect("a").await.unwrap().waiters.unwrap().len(), 1);
    drop(waiting);
    eventually("the waiter left", async || locks.inspect("a").await.unwrap().waiters.unwrap().is_empty()).await;
    guard.release().await.unwrap();
    eventually("nothing is left", async || memory.is_empty()).await;
}

#[tokio::test]
async fn waiting_ends_in_time_and_says_who_holds() {
    let memory = Memory::new();
    let locks = locks(&memory);
    let _guard = locks.lock("a").label("the holder").acquire().await.unwrap();
    let error = locks.lock("a").wait_at_most(Duration::from_millis(30)).acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.lock_info().unwrap().holders[0].label.as_deref(), Some("the holder"));
    assert!(error.to_string().contains("\"the holder\""), "{error}");
    assert_eq!(locks.inspect("a").await.unwrap().waiters.unwrap().len(), 0);
}

#[tokio::test]
async fn a_lock_is_renewed_until_it_is_given_up() {
    let memory = Memory::new();
    let locks = locks(&memory);
    let guard = locks.lock("a").ttl(Duration::from_millis(60)).acquire().await.unwrap();
    let mut until = guard.valid_until();
    for _ in 0..5 {
        until = guard.renewed(until).await;
    }
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_holder_that_was_stopped_knows_it_at_once_and_harms_nobody() {
    let clock = Clock::manual();
    let memory = Memory::with_clock(clock.clone());
    let (one, two) = (locks(&memory), locks(&memory));
    let guard = one.lock("a").acquire().await.unwrap();
    let held = guard.held();
    let lost = tokio::spawn(held.lost());
    clock.advance(31 * SECOND);
    assert!(!held.is_valid());
    assert_eq!(lost.await.unwrap(), LostCause::Expired);
    let next = two.lock("a").try_acquire().await.unwrap().expect("free");
    let error = guard.release().await.unwrap_err();
    assert_eq!((error.kind(), error.lost_cause()), (ErrorKind::LeaseLost, Some(LostCause::Expired)));
    assert!(next.is_valid());
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_broken_lock_is_lost_at_its_next_renewal() {
    let memory = Memory::new();
    let (one, two) = (locks(&memory), locks(&memory));
    let guard = one.lock("a").ttl(Duration::from_millis(200)).acquire().await.unwrap();
    assert!(two.break_lock("a", &guard.holder()).await.unwrap());
    assert!(!two.break_lock("a", &guard.holder()).await.unwrap());
    let next = two.lock("a").try_acquire().await.unwrap().expect("free");
    assert_eq!(guard.lost().await, LostCause::Revoked);
    assert_eq!(guard.release().await.unwrap_err().lost_cause(), Some(LostCause::Revoked));
    next.release().await.unwrap();
}

#[tokio::test]
async fn margin_and_max_hold_end_a_lock_early() {
    let clock = Clock::manual();
    let locks = locks(&Memory::with_clock(clock.clone()));
    let with_margin = locks.lock("a").margin(10 * SECOND).acquire().await.unwrap();
    let capped = locks.lock("b").max_hold(5 * SECOND).acquire().await.unwrap();
    clock.advance(5 * SECOND);
    assert_eq!(capped.lost().await, LostCause::MaxHold);
    assert!(with_margin.is_valid());
    clock.advance(15 * SECOND);
    assert_eq!(with_margin.lost().await, LostCause::Expired);
    assert_eq!(locks.lock("c").margin(11 * SECOND).acquire().await.unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn run_gives_the_result_or_tells_of_the_loss() {
    let clock = Clock::manual();
    let locks = locks(&Memory::with_clock(clock.clone()));
    let lock = locks.lock("a");
    let seven = tokio::spawn(lock.run(|held| async move { if held.is_valid() { 7 } else { 0 } }));
    assert_eq!(seven.await.unwrap().unwrap(), 7);
    let late = lock.run(async |_held| clock.advance(31 * SECOND)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
    let dropped = lock.run(async |_held| {
        clock.advance(31 * SECOND);
        std::future::pending::<()>().await;
    });
    assert_eq!(dropped.await.unwrap_err().lost_cause(), Some(LostCause::Expired));
}

#[tokio::test]
async fn a_record_that_can_not_be_read_hides_no_other_from_a_list() {
    let memory = Memory::new();
    let locks = locks(&memory);
    let _held = [locks.lock("a").acquire().await.unwrap(), locks.lock("z").acquire().await.unwrap()];
    memory.store().put_bytes(&LockKey::new("b").unwrap(), b"{ no record");
    memory.store().put_bytes(&LockKey::new("c").unwrap(), br#"{"v":2,"of":"a newer version"}"#);
    let listed: Vec<_> = locks.list("").collect().await;
    let told = listed
        .iter()
        .map(|one| one.as_ref().map_or_else(|error| format!("{:?}", error.kind()), |info| info.key.to_string()));
    let mut told: Vec<_> = told.collect();
    told.sort();
    assert_eq!(told, ["Corrupt", "Unsupported", "a", "z"]);
    locks.close().await.unwrap();
    let after: Vec<_> = locks.list("").collect().await;
    assert!(matches!(&after[..], [Err(error)] if error.kind() == ErrorKind::Closed));
}

#[test]
fn a_call_under_way_ends_with_the_runtime_of_its_client() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (clients, callers) = (runtime(), runtime());
    let memory = Memory::new();
    let _holder = callers.block_on(async { locks(&memory).lock("a").acquire().await.unwrap() });
    let waiter = clients.block_on(async { locks(&memory) });
    let (waits, is_waiting) = std::sync::mpsc::channel();
    let waiting = callers.spawn(async move {
        let mut acquire = waiter.lock("a").acquire();
        assert!(poll_once(&mut acquire).await.is_none());
        waits.send(()).unwrap();
        acquire.await.map(drop)
    });
    is_waiting.recv().unwrap();
    drop(clients);
    let ended = callers.block_on(async { tokio::time::timeout(5 * SECOND, waiting).await.unwrap().unwrap() });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn try_run_runs_the_body_if_the_lock_is_free() {
    let memory = Memory::new();
    let (one, two) = (locks(&memory), locks(&memory));
    let ran = one.lock("a").try_run(async |held| {
        held.check().unwrap();
        let other = two.lock("a").try_run(async |_held| panic!("two run")).await;
        (held, other.unwrap().is_none())
    });
    let (held, was_alone) = ran.await.unwrap().unwrap();
    assert!(was_alone);
    assert_eq!(held.check().unwrap_err().lost_cause(), Some(LostCause::Released));
    assert_eq!(two.lock("a").try_run(async |_held| 7).await.unwrap(), Some(7));
}

#[tokio::test]
async fn close_releases_what_is_held_and_refuses_what_is_new() {
    let memory = Memory::new();
    let locks = locks(&memory);
    let guard = locks.lock("a").acquire().await.unwrap();
    let mut waiting = pin!(locks.lock("a").acquire());
    assert!(poll_once(&mut waiting).await.is_none());
    let (closed, refused) = tokio::join!(locks.close(), waiting);
    closed.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!guard.is_valid());
    assert_eq!(guard.lost().await, LostCause::Released);
    assert_eq!(locks.lock("a").try_acquire().await.unwrap_err().kind(), ErrorKind::Closed);
    drop(guard);
    eventually("nothing is left", async || memory.is_empty()).await;
}

#[test]
fn a_guard_outlives_its_runtime_without_harm() {
    let memory = Memory::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let locks = runtime.block_on(async { locks(&memory) });
    let guard = runtime.block_on(locks.lock("a").ttl(Duration::from_millis(100)).acquire()).unwrap();
    let long = runtime.block_on(locks.lock("c").acquire()).unwrap();
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(other.block_on(guard.lost()), LostCause::Expired);
    assert_eq!(other.block_on(locks.lock("b").acquire()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(other.block_on(guard.release()).unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(other.block_on(long.release()).unwrap_err().kind(), ErrorKind::Closed);
    other.block_on(locks.close()).unwrap();
}

#[tokio::test]
async fn prefixes_divide_and_bad_input_is_told_when_it_is_used() {
    let memory = Memory::new();
    let build = |prefix: &str| Locks::builder(std::sync::Arc::new(memory.another_client())).prefix(prefix).build();
    let (a, b) = (build("a").unwrap(), build("b").unwrap());
    let _one = a.lock("k").acquire().await.unwrap();
    let two = b.lock("k").try_acquire().await.unwrap().expect("another prefix");
    assert_eq!((two.key().as_str(), b.inspect("k").await.unwrap().key.as_str()), ("b/k", "k"));
    assert!(build("a/b").is_err() && build(&"x".repeat(65)).is_err());
    for (lock, kind) in [
        (a.lock(""), ErrorKind::InvalidKey),
        (a.lock("x".repeat(256)), ErrorKind::InvalidKey),
        (a.lock("k").ttl(Duration::ZERO), ErrorKind::InvalidConfig),
        (a.lock("k").permits(0), ErrorKind::InvalidConfig),
        (a.lock("k").permits(2), ErrorKind::InvalidConfig),
    ] {
        assert_eq!(lock.try_acquire().await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn a_registry_connects_by_url_and_explains_what_it_refuses() {
    let registry = dlock_core::Registry::new().with_missing(&["redis"], "redis");
    let locks = registry.connect("memory:registry?ttl=5s&prefix=p").await.unwrap();
    let guard = locks.lock("a").acquire().await.unwrap();
    assert_eq!((guard.ttl(), guard.key().as_str()), (5 * SECOND, "p/a"));
    for (url, part) in [
        ("memory:?tll=5s", "tll"),
        ("memory:?ttl=five", "ttl"),
        ("redis://h", "feature"),
        ("ftp://h", "memory"),
        ("memory://host", "host"),
    ] {
        let error = registry.connect(url).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!("no url".parse::<StoreUrl>().is_err());
}

#[tokio::test]
async fn shared_and_permit_locks_hold_together() {
    let memory = Memory::new();
    let locks = locks(&memory);
    let one = locks.lock("s").shared().acquire().await.unwrap();
    let two = locks.lock("s").shared().acquire().await.unwrap();
    assert!(locks.lock("s").try_acquire().await.unwrap().is_none());
    assert!(one.fence_floor() < Some(one.token()));
    drop((one, two));
    let writer = locks.lock("s").acquire().await.unwrap();
    assert_eq!(writer.fence_floor(), Some(writer.token()));
    let permits =
        [locks.lock("p").permits(2).acquire().await.unwrap(), locks.lock("p").permits(2).acquire().await.unwrap()];
    assert!(locks.lock("p").permits(2).try_acquire().await.unwrap().is_none());
    drop(permits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_the_key_free_and_no_records() {
    let memory = Memory::new();
    let (one, two) = (locks(&memory), locks(&memory));
    let mut cut = 0;
    for round in 0..1_000 {
        let holder = if round % 2 == 0 { two.lock("k").try_acquire().await.unwrap() } else { None };
        let mut acquire = one.lock("k").acquire();
        let mut acquired = None;
        for _ in 0..round % 5 {
            acquired = poll_once(&mut acquire).await;
            if acquired.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        cut += usize::from(acquired.is_none());
        drop((acquired, acquire));
        drop(holder);
        let next = two.lock("k").wait_at_most(SECOND).acquire().await.expect("the key is free");
        next.release().await.unwrap();
    }
    assert!(cut > 300, "only {cut} were cut off");
    eventually("nothing is left", async || memory.is_empty()).await;
}

#[tokio::test]
async fn a_local_queue_shows_the_store_one_waiter_a_client_and_serves_all() {
    let memory = Memory::new();
    let queued = || Locks::builder(std::sync::Arc::new(memory.another_client())).local_queue(true).build().unwrap();
    let (one, two) = (queued(), queued());
    assert!(!one.capabilities().fifo && locks(&memory).capabilities().fifo);
    let guard = one.lock("a").acquire().await.unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for turn in 0..20 {
        let lock = if turn % 2 == 0 { one.lock("a") } else { two.lock("a") };
        crowd.spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() });
    }
    let waiters = async || one.inspect("a").await.unwrap().waiters.unwrap().len();
    eventually("one waiter a client", async || waiters().await == 2).await;
    let late = one.lock("a").wait_at_most(Duration::from_millis(20)).acquire().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    let mut dropped = one.lock("a").acquire();
    assert!(poll_once(&mut dropped).await.is_none());
    drop(dropped);
    assert_eq!(waiters().await, 2);
    guard.release().await.unwrap();
    crowd.join_all().await;
    eventually("nothing is left", async || memory.is_empty()).await;
    // Who waits in line hears that the client closes.
    let guard = two.lock("a").acquire().await.unwrap();
    let waiting = [tokio::spawn(one.lock("a").acquire()), tokio::spawn(one.lock("a").acquire())];
    eventually("one waits", async || two.inspect("a").await.unwrap().waiters.unwrap().len() == 1).await;
    one.close().await.unwrap();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
    guard.release().await.unwrap();
}
