//! W1 to W11: waiters get the lock.

use crate::case::declare;
use crate::env::{NOTICED, PATIENCE, eventually, find_held, grab, queued, release, wait_for, within};
use crate::{Env, Fault, Need};
use dlock_core::{ErrorKind, LockBackend, Locks, Mode, Request};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

declare! {
    w1_a_waiter_gets_the_lock_soon_after_the_release [];
    w2_a_waiter_gets_the_lock_after_the_holders_crash [Need::Crash];
    w3_a_limited_wait_ends_in_time_and_leaves_nothing [];
    w4_waiters_are_granted_in_order_of_arrival [Need::Fifo, Need::Waiters];
    w5_a_cancelled_waiter_delays_nobody [];
    w6_a_crashed_waiter_delays_nobody_by_more_than_a_ttl [Need::Crash];
    w7_a_hundred_waiters_are_all_served alone yes [];
    w8_a_waiter_whose_session_ended_is_not_told_that_it_holds [Need::Session, Need::Can(Fault::EndSession)];
    w9_requests_per_hand_over_do_not_grow_with_the_waiters alone yes [Need::Event, Need::Can(Fault::Requests)];
    w10_no_permit_stays_unused_while_one_waits [Need::Permits];
    w11_a_waiter_whose_session_ended_takes_part_again [Need::Session, Need::Can(Fault::EndSession)];
}

/// Waits until `count` wait, where the store shows it.
async fn in_queue(env: &Env, client: &Arc<dyn LockBackend>, count: usize) {
    if env.capabilities.shows.waiters {
        queued(client, &env.key("a"), count).await;
    } else {
        client.clock().sleep(env.wake()).await;
    }
}

async fn w1_a_waiter_gets_the_lock_soon_after_the_release(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    for (holder, waiter) in [(&one, &two), (&two, &two), (&two, &one)] {
        let lease = grab(holder, &env.long("a")).await;
        let waiting = wait_for(waiter, &env.long("a"));
        in_queue(&env, &one, 1).await;
        release(holder, &lease).await;
        let released = one.clock().now();
        let (next, granted) = within(PATIENCE, "the hand-over", waiting).await.expect("the waiter");
        assert!(granted.since(released) <= env.wake(), "after {:?}", granted.since(released));
        release(waiter, &next).await;
    }
}

async fn w2_a_waiter_gets_the_lock_after_the_holders_crash(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &env.request("a")).await;
    let ttl = lease.ttl();
    let waiting = wait_for(&two, &env.request("a"));
    in_queue(&env, &two, 1).await;
    drop(lease);
    env.harness.crash(one).await;
    let crashed = two.clock().now();
    let (next, granted) = within(PATIENCE, "the lease ends", waiting).await.expect("the waiter");
    assert!(granted.since(crashed) <= env.expiry(ttl), "after {:?}", granted.since(crashed));
    release(&two, &next).await;
}

async fn w3_a_limited_wait_ends_in_time_and_leaves_nothing(env: Env) {
    let (one, two) = (env.locks().await, env.locks().await);
    let clock = one.clock().clone();
    let guard = one.lock(env.name("a")).label("the holder").acquire().await.expect("acquire");
    for limit in [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(300)] {
        let begun = clock.now();
        let error = two.lock(env.name("a")).wait_at_most(limit).acquire().await.expect_err("it is held");
        let took = clock.now().since(begun);
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(took >= limit && took <= limit + NOTICED, "{took:?} for {limit:?}");
    }
    let leaves =
        async || one.inspect(&env.name("a")).await.expect("inspect").waiters.is_none_or(|waiters| waiters.is_empty());
    eventually(NOTICED, "no waiter is left", leaves).await;
    guard.release().await.expect("release");
    let guard = one.lock(env.name("a")).try_acquire().await.expect("try");
    guard.expect("nobody who gave up was granted").release().await.expect("release");
}

async fn w4_waiters_are_granted_in_order_of_arrival(env: Env) {
    let clients = [env.client().await, env.client().await, env.client().await];
    let lease = grab(&clients[0], &env.long("a")).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = JoinSet::new();
    for turn in 0..9 {
        let (client, request, order) = (clients[turn % 3].clone(), env.long("a"), order.clone());
        waiting.spawn(async move {
            let (lease, _) = wait_for(&client, &request).await.expect("the waiter");
            order.lock().expect("order").push(turn);
            release(&client, &lease).await;
        });
        queued(&clients[0], &env.key("a"), turn + 1).await;
    }
    // A newcomer does not get in between.
    release(&clients[0], &lease).await;
    within(PATIENCE, "all are served", waiting.join_all()).await;
    assert_eq!(*order.lock().expect("order"), (0..9).collect::<Vec<_>>());
}

async fn w5_a_cancelled_waiter_delays_nobody(env: Env) {
    let (one, two, three) = (env.client().await, env.client().await, env.client().await);
    let lease = grab(&one, &env.long("a")).await;
    let cancelled = env.long("a");
    let first = tokio::spawn({
        let (two, cancelled) = (two.clone(), cancelled.clone());
        async move { two.acquire(&cancelled).await.expect("acquire") }
    });
    in_queue(&env, &one, 1).await;
    let second = wait_for(&three, &env.long("a"));
    in_queue(&env, &one, 2).await;
    cancelled.cancel().fire();
    let attempt = within(PATIENCE, "the cancelled waiter answers", first).await.expect("the waiter");
    assert!(matches!(attempt, dlock_core::Attempt::Held(_)), "it was told that it holds");
    if env.capabilities.shows.waiters {
        queued(&one, &env.key("a"), 1).await;
    }
    release(&one, &lease).await;
    let released = one.clock().now();
    let (next, granted) = within(PATIENCE, "the hand-over", second).await.expect("the waiter");
    assert!(granted.since(released) <= env.wake(), "after {:?}", granted.since(released));
    release(&three, &next).await;
}

async fn w6_a_crashed_waiter_delays_nobody_by_more_than_a_ttl(env: Env) {
    let (one, two, three) = (env.client().await, env.client().await, env.client().await);
    let lease = grab(&one, &env.long("a")).await;
    let request = env.request("a");
    let ttl = request.ttl().get();
    let crashes = wait_for(&two, &request);
    in_queue(&env, &one, 1).await;
    crashes.abort();
    let _ = crashes.await;
    env.harness.crash(two).await;
    let waiting = wait_for(&three, &env.long("a"));
    in_queue(&env, &one, 2).await;
    release(&one, &lease).await;
    let released = one.clock().now();
    let (next, granted) = within(PATIENCE, "the waiter behind it", waiting).await.expect("the waiter");
    assert!(granted.since(released) <= env.expiry(ttl), "after {:?}", granted.since(released));
    release(&three, &next).await;
}

async fn w7_a_hundred_waiters_are_all_served(env: Env) {
    let clients: [Locks; 4] = [env.locks().await, env.locks().await, env.locks().await, env.locks().await];
    let guard = clients[0].lock(env.name("a")).acquire().await.expect("acquire");
    let mut waiting = JoinSet::new();
    for turn in 0..100 {
        let lock = clients[turn % 4].lock(env.name("a")).wait_at_most(2 * PATIENCE);
        waiting.spawn(async move { lock.acquire().await.expect("acquire").release().await.expect("release") });
    }
    guard.release().await.expect("release");
    within(2 * PATIENCE, "all are served", waiting.join_all()).await;
}

async fn w8_a_waiter_whose_session_ended_is_not_told_that_it_holds(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &env.request("a")).await;
    let waiting = wait_for(&two, &env.request("a"));
    in_queue(&env, &one, 1).await;
    env.harness.end_session(&two).await.expect("the session's end");
    one.clock().sleep(env.wake()).await;
    assert!(!waiting.is_finished(), "it was told that it holds");
    release(&one, &lease).await;
    let (next, _) = within(PATIENCE, "it takes part again", waiting).await.expect("the waiter");
    let info = one.inspect(&env.key("a")).await.expect("inspect");
    assert_eq!(info.holders.iter().map(|holder| holder.id.clone()).collect::<Vec<_>>(), [next.holder()]);
    release(&two, &next).await;
}

/// How many requests a hand-over costs with so many waiters.
async fn cost(env: &Env, key: &str, waiters: usize) -> f64 {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &env.long(key)).await;
    let mut waiting = JoinSet::new();
    for _ in 0..waiters {
        let (client, request) = (two.clone(), env.long(key));
        waiting.spawn(async move {
            let (lease, _) = wait_for(&client, &request).await.expect("the waiter");
            release(&client, &lease).await;
        });
    }
    queued(&one, &env.key(key), waiters).await;
    let before = env.harness.requests().await.expect("a count");
    release(&one, &lease).await;
    within(PATIENCE, "all are served", waiting.join_all()).await;
    let after = env.harness.requests().await.expect("a count");
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let cost = (after - before) as f64 / (waiters + 1) as f64;
    cost
}

async fn w9_requests_per_hand_over_do_not_grow_with_the_waiters(env: Env) {
    let (few, many) = (cost(&env, "few", 8).await, cost(&env, "many", 64).await);
    assert!(many <= few * 1.5 + 1.0, "{few:.1} requests a hand-over with 8 waiters, {many:.1} with 64");
}

async fn w10_no_permit_stays_unused_while_one_waits(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let limit = NonZeroU32::new(3).expect("three");
    let permit = || -> Request { env.long("a").with_mode(Mode::Permit { limit }) };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(grab(&one, &permit()).await);
    }
    find_held(&one, &permit()).await;
    let waiting = [wait_for(&two, &permit()), wait_for(&two, &permit())];
    in_queue(&env, &one, 2).await;
    for (waiter, lease) in waiting.into_iter().zip([held.remove(1), held.remove(0)]) {
        release(&one, &lease).await;
        let released = one.clock().now();
        // Which of the two it is, depends on the order in which they came.
        drop(waiter);
        eventually(PATIENCE, "a waiter has the place", async || {
            one.inspect(&env.key("a")).await.expect("inspect").holders.len() == 3
        })
        .await;
        assert!(one.clock().now().since(released) <= env.wake(), "the place stayed empty");
    }
}

async fn w11_a_waiter_whose_session_ended_takes_part_again(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &env.request("a")).await;
    let waiting = wait_for(&two, &env.request("a"));
    in_queue(&env, &one, 1).await;
    env.harness.end_session(&two).await.expect("the session's end");
    release(&one, &lease).await;
    let (next, _) = within(PATIENCE, "it takes part again", waiting).await.expect("the waiter");
    release(&two, &next).await;
}
