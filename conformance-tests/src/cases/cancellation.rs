//! C1 to C4: nothing is left behind.

use crate::case::declare;
use crate::env::{NOTICED, PATIENCE, eventually, find_held, grab, release, wait_for, within};
use crate::{Env, Fault};
use dlock_core::{Clock, ErrorKind, Locks, LostCause};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

declare! {
    c1_a_dropped_acquire_leaves_the_key_free_at_once [];
    c2_a_dropped_guard_frees_the_key [];
    c3_a_closed_client_leaves_nothing [];
    c4_a_runtime_that_vanishes_costs_one_ttl [];
}

/// Polls a future until `moment` has come and drops it there, unless it ends before.
async fn drop_at<T>(future: impl Future<Output = T>, polls: usize, delay: Duration) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(delay, future).await.ok()
}

/// Nothing is left in the store, where the harness can count, and else nothing is shown.
async fn nothing_is_left(env: &Env, locks: &Locks, key: &str) {
    eventually(PATIENCE, "nothing is left of the lock", async || {
        let info = locks.inspect(key).await.expect("inspect");
        let free = !info.is_held() && info.waiters.is_none_or(|waiters| waiters.is_empty());
        free && (!env.can(Fault::Leftovers) || env.harness.leftovers(env.prefix()).await.expect("a count") == 0)
    })
    .await;
}

async fn c1_a_dropped_acquire_leaves_the_key_free_at_once(env: Env) {
    let (one, two, other) = (env.locks().await, env.locks().await, env.client().await);
    let key = env.name("a");
    for round in 0..60_u64 {
        // What was dropped in the last round may still be on its way to the store, and out again.
        let holder = if round % 3 == 0 {
            let waiting = within(env.wake(), "the key is free", wait_for(&other, &env.long("a")));
            Some(waiting.await.expect("the waiter").0)
        } else {
            None
        };
        let polls = usize::try_from(round % 4).expect("a small number");
        let delay = Duration::from_micros(rand::random_range(0..1500));
        let acquire = one.lock(&key).acquire();
        let ended = drop_at(acquire, polls, delay).await;
        drop(ended.map(|guard| guard.expect("acquire")));
        if let Some(lease) = holder {
            release(&other, &lease).await;
        }
        let next = two.lock(&key).wait_at_most(PATIENCE).acquire();
        let begun = two.clock().now();
        let guard = next.await.expect("the key is free");
        let took = two.clock().now().since(begun);
        assert!(took <= env.wake(), "round {round}: the key was free only after {took:?}");
        guard.release().await.expect("release");
    }
    // Never polled is never sent.
    drop(one.lock(&key).acquire());
    drop(one.lock(&key).try_acquire());
    nothing_is_left(&env, &one, &key).await;
}

async fn c2_a_dropped_guard_frees_the_key(env: Env) {
    let (one, two) = (env.locks().await, env.locks().await);
    let key = env.name("a");
    for _ in 0..5 {
        let guard = one.lock(&key).acquire().await.expect("acquire");
        drop(guard);
        let begun = two.clock().now();
        let guard = two.lock(&key).wait_at_most(PATIENCE).acquire().await.expect("the key is free");
        assert!(two.clock().now().since(begun) <= env.wake(), "the guard's drop did not free the key");
        guard.release().await.expect("release");
    }
    let dropped = one.lock(&key).acquire().await.expect("acquire");
    std::thread::spawn(move || drop(dropped)).join().expect("a drop on another thread");
    nothing_is_left(&env, &two, &key).await;
}

async fn c3_a_closed_client_leaves_nothing(env: Env) {
    let (one, two) = (env.locks().await, env.locks().await);
    let (held, waited) = (env.name("a"), env.name("b"));
    let guard = one.lock(&held).acquire().await.expect("acquire");
    let other = two.lock(&waited).acquire().await.expect("acquire");
    let waiting = tokio::spawn(one.lock(&waited).acquire());
    if env.capabilities.shows.waiters {
        eventually(PATIENCE, "it waits", async || {
            two.inspect(&waited).await.expect("inspect").waiters.is_some_and(|waiters| waiters.len() == 1)
        })
        .await;
    }
    one.close().await.expect("close");
    let refused = within(PATIENCE, "the waiter gives up", waiting).await.expect("the waiter").expect_err("closed");
    assert_eq!(refused.kind(), ErrorKind::Closed, "{refused}");
    assert_eq!(guard.lost_cause(), Some(LostCause::Released));
    assert_eq!(one.lock(&held).try_acquire().await.expect_err("closed").kind(), ErrorKind::Closed);
    one.close().await.expect("a second close");
    let next = two.lock(&held).try_acquire().await.expect("try").expect("what it held is free");
    next.release().await.expect("release");
    other.release().await.expect("release");
    nothing_is_left(&env, &two, &held).await;
    nothing_is_left(&env, &two, &waited).await;
}

async fn c4_a_runtime_that_vanishes_costs_one_ttl(env: Env) {
    let watcher = env.client().await;
    let (ttl, holder) = (env.short(), env.clone());
    let guard = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let guard = runtime.block_on(async {
            let locks = Locks::builder(holder.client().await).build().expect("locks");
            locks.lock(holder.name("a")).ttl(ttl).acquire().await.expect("acquire")
        });
        runtime.shutdown_background();
        guard
    })
    .await
    .expect("the other runtime");
    let gone = Clock::system().now();
    let lost = within(guard.ttl() + NOTICED, "the loss is told", guard.lost()).await;
    assert_ne!(lost, LostCause::Released);
    assert!(!guard.is_valid());
    std::thread::spawn(move || drop(guard)).join().expect("a drop without a runtime");
    eventually(PATIENCE, "the key is free", async || !watcher.inspect(&env.key("a")).await.expect("inspect").is_held())
        .await;
    let took = Clock::system().now().since(gone);
    assert!(took <= env.expiry(env.ttl(400)) + NOTICED, "only after {took:?}");
    let lease = grab(&watcher, &env.long("a")).await;
    find_held(&watcher, &env.long("a")).await;
    release(&watcher, &lease).await;
}
