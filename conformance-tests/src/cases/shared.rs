//! S0 to S6: shared and permit locks.

use crate::case::declare;
use crate::env::{PATIENCE, find_held, grab, queued, release, wait_for, within};
use crate::{Env, Need};
use dlock_core::{ErrorKind, Mode, Request};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

declare! {
    s0_missing_shared_locks_are_unsupported [Need::NoShared];
    s0_missing_permit_locks_are_unsupported [Need::NoPermits];
    s1_shared_holders_hold_together [Need::Shared];
    s2_an_exclusive_holder_holds_alone [Need::Shared];
    s3_a_waiting_writer_is_not_starved [Need::Shared, Need::Fifo, Need::Waiters];
    s4_never_more_than_the_limit_hold_permits [Need::Permits];
    s5_callers_that_disagree_are_told [Need::Permits];
    s6_a_crashed_permit_holder_gives_back_one_place_only [Need::Permits, Need::Crash];
    s6_a_crashed_shared_holder_ends_alone [Need::Shared, Need::Crash];
}

fn permit(env: &Env, limit: u32) -> Request {
    env.long("a").with_mode(Mode::Permit { limit: NonZeroU32::new(limit).expect("a limit") })
}

fn shared(env: &Env) -> Request {
    env.long("a").with_mode(Mode::Shared)
}

async fn s0_missing_shared_locks_are_unsupported(env: Env) {
    let error = env.locks().await.lock(env.name("a")).shared().acquire().await.expect_err("no shared locks");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

async fn s0_missing_permit_locks_are_unsupported(env: Env) {
    let error = env.locks().await.lock(env.name("a")).permits(2).acquire().await.expect_err("no permit locks");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

async fn s1_shared_holders_hold_together(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let (a, b, c) = (grab(&one, &shared(&env)).await, grab(&two, &shared(&env)).await, grab(&two, &shared(&env)).await);
    assert_eq!(one.inspect(&env.key("a")).await.expect("inspect").holders.len(), 3);
    assert!(a.token() != b.token() && b.token() != c.token());
    for (client, lease) in [(&one, &a), (&two, &b), (&two, &c)] {
        find_held(&one, &env.long("a")).await;
        release(client, lease).await;
    }
    release(&one, &grab(&one, &env.long("a")).await).await;
}

async fn s2_an_exclusive_holder_holds_alone(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let writer = grab(&one, &env.long("a")).await;
    find_held(&two, &shared(&env)).await;
    find_held(&one, &shared(&env)).await;
    find_held(&two, &env.long("a")).await;
    let readers = [wait_for(&two, &shared(&env)), wait_for(&one, &shared(&env))];
    if env.capabilities.shows.waiters {
        queued(&one, &env.key("a"), 2).await;
    }
    release(&one, &writer).await;
    for reader in readers {
        let (lease, _) = within(PATIENCE, "both readers get in", reader).await.expect("the reader");
        find_held(&one, &env.long("a")).await;
        std::mem::forget(lease);
    }
}

async fn s3_a_waiting_writer_is_not_starved(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let reader = grab(&one, &shared(&env)).await;
    let writer = wait_for(&two, &env.long("a"));
    queued(&one, &env.key("a"), 1).await;
    find_held(&one, &shared(&env)).await;
    let late = wait_for(&one, &shared(&env));
    queued(&one, &env.key("a"), 2).await;
    release(&one, &reader).await;
    let (written, _) = within(PATIENCE, "the writer gets in first", writer).await.expect("the writer");
    assert!(!late.is_finished(), "a reader got in beside the writer");
    release(&two, &written).await;
    let (lease, _) = within(PATIENCE, "the late reader gets in", late).await.expect("the reader");
    release(&one, &lease).await;
}

async fn s4_never_more_than_the_limit_hold_permits(env: Env) {
    let clients = [env.locks().await, env.locks().await];
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut crowd = JoinSet::new();
    for turn in 0..12 {
        let (lock, inside, most) = (clients[turn % 2].lock(env.name("a")).permits(3), inside.clone(), most.clone());
        crowd.spawn(async move {
            for _ in 0..5 {
                let guard = lock.acquire().await.expect("acquire");
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.expect("release");
            }
        });
    }
    within(PATIENCE, "all are served", crowd.join_all()).await;
    assert!(most.load(Ordering::SeqCst) <= 3, "{} held 3 permits", most.load(Ordering::SeqCst));
    // And as many as the limit do hold at once.
    let client = env.client().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(grab(&client, &permit(&env, 3)).await);
    }
    find_held(&client, &permit(&env, 3)).await;
    for lease in held {
        release(&client, &lease).await;
    }
}

async fn s5_callers_that_disagree_are_told(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let lease = grab(&one, &permit(&env, 2)).await;
    let mut others = vec![permit(&env, 3), env.long("a")];
    if env.capabilities.shared {
        others.push(shared(&env));
    }
    for other in others {
        let error = two.try_acquire(&other).await.expect_err("they disagree");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        let error = two.acquire(&other).await.expect_err("they disagree");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
    release(&one, &lease).await;
    // Once nobody uses it, the key may become another kind of lock.
    release(&two, &grab(&two, &permit(&env, 3)).await).await;
}

async fn s6_a_crashed_permit_holder_gives_back_one_place_only(env: Env) {
    let (one, two, three) = (env.client().await, env.client().await, env.client().await);
    let limit = Mode::Permit { limit: NonZeroU32::new(2).expect("two") };
    let stays = grab(&one, &env.long("a").with_mode(limit)).await;
    let crashes = grab(&two, &env.request("a").with_mode(limit)).await;
    // A waiter whose own TTL is long looks seldom: it must know of the end of the one place, not of the last.
    let waiter = wait_for(&three, &env.long("a").with_mode(limit));
    let ttl = crashes.ttl();
    drop(crashes);
    env.harness.crash(two).await;
    let (next, _) = within(env.expiry(ttl), "the place is free", waiter).await.expect("the waiter");
    find_held(&three, &permit(&env, 2)).await;
    release(&three, &next).await;
    release(&one, &stays).await;
}

async fn s6_a_crashed_shared_holder_ends_alone(env: Env) {
    let (one, two, three) = (env.client().await, env.client().await, env.client().await);
    let stays = grab(&one, &shared(&env)).await;
    let crashes = grab(&two, &env.request("a").with_mode(Mode::Shared)).await;
    let ttl = crashes.ttl();
    drop(crashes);
    env.harness.crash(two).await;
    let clock = one.clock();
    clock.sleep(env.expiry(ttl)).await;
    let info = one.inspect(&env.key("a")).await.expect("inspect");
    assert_eq!(info.holders.iter().map(|holder| holder.id.clone()).collect::<Vec<_>>(), [stays.holder()]);
    find_held(&three, &env.long("a")).await;
    release(&one, &stays).await;
    release(&three, &grab(&three, &env.long("a")).await).await;
}
