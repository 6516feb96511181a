//! D1 to D5, and P6: looking and breaking.

use crate::case::declare;
use crate::env::{PATIENCE, eventually, find_held, grab, queued, release, renew, wait_for, within};
use crate::{Env, Fault, Need};
use dlock_core::{ErrorKind, HolderId, LockInfo, Mode};
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

declare! {
    d1_inspect_shows_the_lock_as_it_is [];
    d2_list_gives_each_lock_that_is_held_exactly_once [];
    d3_a_broken_lock_is_free_and_its_holder_learns_it [];
    d4_breaking_what_is_not_there_changes_nothing [];
    d5_a_waiter_can_be_removed [Need::Waiters];
    p6_garbage_is_corrupt_and_stays [Need::Can(Fault::Garbage)];
}

async fn d1_inspect_shows_the_lock_as_it_is(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let shows = env.capabilities.shows;
    let free = one.inspect(&env.key("a")).await.expect("inspect");
    assert!(!free.is_held() && free.waiters.is_none_or(|waiters| waiters.is_empty()));
    let begun = SystemTime::now();
    let lease = grab(&one, &env.long("a").with_label("the holder")).await;
    let waiting = wait_for(&two, &env.long("a").with_label("the waiter"));
    if shows.waiters {
        queued(&one, &env.key("a"), 1).await;
    }
    let info = two.inspect(&env.key("a")).await.expect("inspect");
    assert_eq!((info.key.clone(), info.holders.len()), (env.key("a"), 1));
    let holder = &info.holders[0];
    assert_eq!((&holder.id, holder.token), (&lease.holder(), Some(lease.token())));
    assert_eq!(holder.label.as_deref(), shows.label.then_some("the holder"));
    assert_eq!(holder.mode, shows.label.then_some(Mode::Exclusive).or(holder.mode));
    assert_eq!(holder.remaining.is_some(), shows.remaining);
    if let Some(left) = holder.remaining {
        assert!(left <= lease.ttl() && left > lease.ttl() / 2, "{left:?} of {:?}", lease.ttl());
    }
    assert_eq!(holder.since.is_some(), shows.since);
    if let Some(since) = holder.since {
        let apart = since.duration_since(begun).unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_secs(60), "held since {apart:?} off");
    }
    if shows.waiters {
        let waiters = info.waiters.expect("the waiters");
        assert_eq!(waiters[0].label.as_deref(), shows.label.then_some("the waiter"));
    }
    release(&one, &lease).await;
    let (next, _) = within(PATIENCE, "the hand-over", waiting).await.expect("the waiter");
    let info = one.inspect(&env.key("a")).await.expect("inspect");
    assert_eq!(info.holders[0].id, next.holder());
    release(&two, &next).await;
}

async fn d2_list_gives_each_lock_that_is_held_exactly_once(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let mut held = Vec::new();
    for number in 0..40 {
        held.push(grab(&one, &env.long(&format!("held/{number}"))).await);
    }
    let besides = grab(&one, &env.long("hel")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let coming_and_going = tokio::spawn({
        let (two, env, stop) = (two.clone(), env.clone(), stop.clone());
        async move {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let lease = grab(&two, &env.long(&format!("held/more-{number}"))).await;
                release(&two, &lease).await;
                // Where nothing is ever waited for, this task would never end with its runtime.
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..5 {
        let listed: Vec<LockInfo> = two.list(&env.name("held/")).try_collect().await.expect("list");
        let mut times = BTreeMap::new();
        for info in &listed {
            assert!(info.key.as_str().starts_with(&env.name("held/")), "{} does not belong here", info.key);
            *times.entry(info.key.clone()).or_insert(0) += 1;
        }
        for number in 0..40 {
            let key = env.key(&format!("held/{number}"));
            assert_eq!(times.get(&key), Some(&1), "{key} is held throughout");
        }
    }
    stop.store(true, Ordering::SeqCst);
    coming_and_going.await.expect("the others");
    for lease in held.iter().chain([&besides]) {
        release(&one, lease).await;
    }
    let listed: Vec<LockInfo> = two.list(env.prefix()).try_collect().await.expect("list");
    assert!(listed.is_empty(), "{listed:?}");
}

async fn d3_a_broken_lock_is_free_and_its_holder_learns_it(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &env.long("a")).await;
    let id = two.inspect(&env.key("a")).await.expect("inspect").holders[0].id.clone();
    assert!(two.break_lock(&env.key("a"), &id).await.expect("break"));
    let next = grab(&two, &env.long("a")).await;
    let error = renew(&one, &lease).await.expect_err("a broken lease was renewed");
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    find_held(&one, &env.long("a")).await;
    // Broken while another waits, it is handed over.
    let waiting = wait_for(&one, &env.long("a"));
    if env.capabilities.shows.waiters {
        queued(&two, &env.key("a"), 1).await;
    }
    assert!(one.break_lock(&env.key("a"), &next.holder()).await.expect("break"));
    let (last, _) = within(PATIENCE, "the waiter gets it", waiting).await.expect("the waiter");
    release(&one, &last).await;
}

async fn d4_breaking_what_is_not_there_changes_nothing(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    assert!(!two.break_lock(&env.key("a"), &HolderId::random()).await.expect("break"));
    let old = grab(&one, &env.long("a")).await;
    release(&one, &old).await;
    let lease = grab(&one, &env.long("a")).await;
    for id in [HolderId::random(), old.holder()] {
        assert!(!two.break_lock(&env.key("a"), &id).await.expect("break"), "it is not there");
        find_held(&two, &env.long("a")).await;
    }
    renew(&one, &lease).await.expect("the holder keeps it");
    release(&one, &lease).await;
}

async fn d5_a_waiter_can_be_removed(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &env.long("a")).await;
    let removed = wait_for(&two, &env.long("a"));
    queued(&one, &env.key("a"), 1).await;
    let stays = wait_for(&one, &env.long("a"));
    queued(&one, &env.key("a"), 2).await;
    let waiters = one.inspect(&env.key("a")).await.expect("inspect").waiters.expect("the waiters");
    assert!(one.break_lock(&env.key("a"), &waiters[0].id).await.expect("break"));
    let waiters = one.inspect(&env.key("a")).await.expect("inspect").waiters.expect("the waiters");
    assert!(!waiters.is_empty() && waiters.len() <= 2);
    find_held(&two, &env.long("a")).await;
    release(&one, &lease).await;
    let (next, _) = within(PATIENCE, "the one behind it gets the lock", stays).await.expect("the waiter");
    removed.abort();
    release(&one, &next).await;
}

async fn p6_garbage_is_corrupt_and_stays(env: Env) {
    let client = env.client().await;
    let key = env.key("a");
    env.harness.put_garbage(&key).await.expect("garbage");
    let before = env.harness.raw(&key).await.expect("the bytes");
    assert_eq!(client.try_acquire(&env.long("a")).await.expect_err("garbage").kind(), ErrorKind::Corrupt);
    assert_eq!(client.acquire(&env.long("a")).await.expect_err("garbage").kind(), ErrorKind::Corrupt);
    assert_eq!(client.inspect(&key).await.expect_err("garbage").kind(), ErrorKind::Corrupt);
    let _ = client.withdraw(&env.long("a")).await;
    assert!(client.break_lock(&key, &HolderId::random()).await.is_err());
    assert_eq!(env.harness.raw(&key).await.expect("the bytes"), before, "it was overwritten");
    eventually(PATIENCE, "other keys are not concerned", async || client.try_acquire(&env.long("b")).await.is_ok())
        .await;
}
