//! F1 to F10: tokens grow.

use crate::case::declare;
use crate::env::{PATIENCE, find_held, grab, queued, release, renew, wait_for, within};
use crate::{Env, Fault, Need};
use dlock_core::fence::Gate;
use dlock_core::{FencingToken, LockBackend, Mode};
use std::num::NonZeroU32;
use std::sync::Arc;

declare! {
    f1_tokens_grow_over_release [];
    f2_tokens_grow_over_expiry [Need::OwnTtl];
    f3_tokens_grow_over_clients [];
    f4_tokens_grow_over_a_restart alone yes [Need::TokenOverRestart, Need::Can(Fault::Restart)];
    f5_tokens_grow_over_modes [Need::Shared];
    f6_tokens_grow_over_a_purge [Need::Can(Fault::Purge)];
    f7_tokens_grow_over_the_loss_of_all_data alone yes [Need::TokenOverLoss, Need::Can(Fault::LoseData)];
    f8_a_renewal_keeps_the_token [];
    f9_the_token_that_is_shown_is_the_holders [];
    f10_the_floor_of_a_shared_lease_is_the_last_exclusive_token [Need::Shared, Need::Floor];
}

async fn next_token(client: &Arc<dyn LockBackend>, env: &Env) -> FencingToken {
    let lease = grab(client, &env.long("a")).await;
    let token = lease.token();
    release(client, &lease).await;
    token
}

async fn f1_tokens_grow_over_release(env: Env) {
    let client = env.client().await;
    let mut last = FencingToken(0);
    for _ in 0..20 {
        let token = next_token(&client, &env).await;
        assert!(token > last, "{token} after {last}");
        last = token;
    }
}

async fn f2_tokens_grow_over_expiry(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let before = next_token(&one, &env).await;
    let lost = grab(&one, &env.request("a")).await;
    let (next, _) = within(PATIENCE, "the lease ends", wait_for(&two, &env.request("a"))).await.expect("the waiter");
    assert!(before < lost.token() && lost.token() < next.token());
    release(&two, &next).await;
}

async fn f3_tokens_grow_over_clients(env: Env) {
    let mut last = FencingToken(0);
    for _ in 0..4 {
        let client = env.client().await;
        let token = next_token(&client, &env).await;
        assert!(token > last, "{token} after {last}");
        last = token;
        client.close().await.expect("close");
    }
    // And from hand to hand.
    let (one, two) = (env.client().await, env.client().await);
    let first = grab(&one, &env.long("a")).await;
    let waiter = wait_for(&two, &env.long("a"));
    if env.capabilities.shows.waiters {
        queued(&one, &env.key("a"), 1).await;
    }
    release(&one, &first).await;
    let (second, _) = within(PATIENCE, "the hand-over", waiter).await.expect("the waiter");
    assert!(last < first.token() && first.token() < second.token());
    release(&two, &second).await;
}

async fn f4_tokens_grow_over_a_restart(env: Env) {
    let client = env.client().await;
    let before = next_token(&client, &env).await;
    env.harness.restart().await.expect("a restart");
    let after = next_token(&env.client().await, &env).await;
    assert!(after > before, "{after} after {before}");
}

async fn f5_tokens_grow_over_modes(env: Env) {
    let client = env.client().await;
    let mut last = FencingToken(0);
    for round in 0..8 {
        let mode = if round % 2 == 0 { Mode::Exclusive } else { Mode::Shared };
        let lease = grab(&client, &env.long("a").with_mode(mode)).await;
        assert!(lease.token() > last, "{} after {last}", lease.token());
        last = lease.token();
        release(&client, &lease).await;
    }
    if env.capabilities.permits {
        let limit = NonZeroU32::new(2).expect("two");
        let lease = grab(&client, &env.long("a").with_mode(Mode::Permit { limit })).await;
        assert!(lease.token() > last, "{} after {last}", lease.token());
        release(&client, &lease).await;
    }
}

async fn f6_tokens_grow_over_a_purge(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let mut last = FencingToken(0);
    for _ in 0..3 {
        let token = next_token(&one, &env).await;
        assert!(token > last, "{token} after {last}");
        env.harness.purge(&env.key("a")).await.expect("a purge");
        // What the first client remembers of the lock is no more: it must not overwrite what came since.
        let lease = grab(&two, &env.long("a")).await;
        assert!(lease.token() > token, "{} after {token}", lease.token());
        for _ in 0..4 {
            renew(&two, &lease).await.expect("a renewal");
            find_held(&one, &env.long("a")).await;
        }
        last = lease.token();
        release(&two, &lease).await;
    }
}

async fn f7_tokens_grow_over_the_loss_of_all_data(env: Env) {
    let client = env.client().await;
    let before = next_token(&client, &env).await;
    env.harness.lose_data().await.expect("loss");
    let after = next_token(&env.client().await, &env).await;
    assert!(after > before, "{after} after {before}");
}

async fn f8_a_renewal_keeps_the_token(env: Env) {
    let client = env.client().await;
    let lease = grab(&client, &env.long("a")).await;
    let token = lease.token();
    renew(&client, &lease).await.expect("a renewal");
    assert_eq!(lease.token(), token);
    let info = client.inspect(&env.key("a")).await.expect("inspect");
    assert_eq!(info.holders[0].token, Some(token), "the store has another token");
    release(&client, &lease).await;
}

async fn f9_the_token_that_is_shown_is_the_holders(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    for client in [&one, &two] {
        let lease = grab(client, &env.long("a")).await;
        let info = one.inspect(&env.key("a")).await.expect("inspect");
        assert_eq!((&info.holders[0].id, info.holders[0].token), (&lease.holder(), Some(lease.token())));
        release(client, &lease).await;
    }
}

async fn f10_the_floor_of_a_shared_lease_is_the_last_exclusive_token(env: Env) {
    let client = env.client().await;
    let exclusive = grab(&client, &env.long("a")).await;
    let last = exclusive.token();
    assert_eq!(exclusive.fence_floor(), Some(last));
    release(&client, &exclusive).await;
    let gate = Gate::resume(last);
    let shared = env.long("a").with_mode(Mode::Shared);
    let (one, two) = (grab(&client, &shared).await, grab(&client, &env.long("a").with_mode(Mode::Shared)).await);
    for lease in [&one, &two] {
        let floor = lease.fence_floor().expect("a floor");
        assert!(last <= floor && floor < lease.token(), "{last} <= {floor} < {}", lease.token());
        gate.admit_shared(floor).expect("no exclusive holder came after");
        release(&client, lease).await;
    }
    let other = env.client().await;
    let newer = grab(&other, &env.long("a")).await;
    gate.admit(newer.token()).expect("the newest");
    assert!(gate.admit_shared(two.fence_floor().expect("a floor")).is_err(), "an exclusive holder came after");
    release(&other, &newer).await;
    // The first client was not told of that one.
    let three = grab(&client, &env.long("a").with_mode(Mode::Shared)).await;
    gate.admit_shared(three.fence_floor().expect("a floor")).expect("no exclusive holder came after");
    release(&client, &three).await;
}
