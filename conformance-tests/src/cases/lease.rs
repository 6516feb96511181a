//! L1 to L11: how long a lease lasts, and who believes in it.

use crate::case::declare;
use crate::env::{NOTICED, PATIENCE, find_held, grab, queued, release, renew, wait_for, within};
use crate::{Env, Need};
use dlock_core::{ErrorKind, Lease, LockBackend, LostCause, Release};
use std::sync::Arc;
use std::time::Duration;

declare! {
    l1_an_unrenewed_lease_ends_at_its_ttl_and_no_sooner [Need::OwnTtl];
    l2_a_renewed_lease_outlives_three_ttls [];
    l3_renewing_a_lease_that_another_has_taken_is_lease_lost [];
    l4_releasing_a_lease_that_another_has_taken_is_already_lost [];
    l5_a_second_release_harms_nobody [];
    l6_a_renewal_beside_a_release_brings_nothing_back [];
    l7_nobody_believes_in_a_lease_that_another_could_have [Need::OwnTtl];
    l7_nobody_believes_in_a_lease_whose_client_vanished [];
    l8_ttls_are_rounded_up_and_limits_are_told [];
    l9_two_locks_of_one_client_are_independent [];
    l10_a_renewal_after_the_deadline_revives_nothing [Need::OwnTtl];
    l11_a_handed_over_lease_is_not_believed_longer_than_it_is_kept [Need::OwnTtl];
}

async fn l1_an_unrenewed_lease_ends_at_its_ttl_and_no_sooner(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let clock = one.clock();
    let sent = clock.now();
    let lease = grab(&one, &env.request("a")).await;
    let answered = clock.now();
    let waiter = wait_for(&two, &env.request("a"));
    let (next, granted) = within(PATIENCE, "the lease ends", waiter).await.expect("the waiter");
    assert!(
        granted.since(sent) + Duration::from_millis(1) >= lease.ttl(),
        "{:?} early",
        lease.ttl() - granted.since(sent)
    );
    assert!(granted.since(answered) <= env.expiry(lease.ttl()), "after {:?}", granted.since(answered));
    release(&two, &next).await;
}

async fn l2_a_renewed_lease_outlives_three_ttls(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let clock = one.clock();
    let lease = grab(&one, &env.request("a")).await;
    let end = clock.now() + 3 * lease.ttl() + lease.ttl() / 2;
    while clock.now() < end {
        clock.sleep(lease.ttl() / 4).await;
        renew(&one, &lease).await.expect("a renewal");
        assert!(lease.deadline().at() > clock.now() + lease.ttl() / 2, "the renewal moved no deadline");
        find_held(&two, &env.request("a")).await;
    }
    assert_eq!(release(&one, &lease).await, Release::Released);
}

/// A lease of `one` that `two` has taken: by its end, or where that does not come by itself, by breaking it.
async fn taken(env: &Env, one: &Arc<dyn LockBackend>, two: &Arc<dyn LockBackend>) -> (Arc<dyn Lease>, Arc<dyn Lease>) {
    let lease = grab(one, &env.request("a")).await;
    if Need::OwnTtl.lacks(&env.capabilities, &[]).is_some() {
        assert!(two.break_lock(&env.key("a"), &lease.holder()).await.expect("break"));
    }
    let waiter = wait_for(two, &env.long("a"));
    let (next, _) = within(PATIENCE, "the lease ends", waiter).await.expect("the waiter");
    (lease, next)
}

async fn keeps_the_lock(env: &Env, client: &Arc<dyn LockBackend>, lease: &Arc<dyn Lease>) {
    let info = client.inspect(&env.key("a")).await.expect("inspect");
    let holders: Vec<_> = info.holders.iter().map(|holder| holder.id.clone()).collect();
    assert_eq!(holders, [lease.holder()], "the new holder lost the lock");
    find_held(client, &env.request("a")).await;
}

async fn l3_renewing_a_lease_that_another_has_taken_is_lease_lost(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let (old, new) = taken(&env, &one, &two).await;
    let error = renew(&one, &old).await.expect_err("a lost lease was renewed");
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    assert!(old.deadline().at() <= one.clock().now());
    keeps_the_lock(&env, &two, &new).await;
    renew(&two, &new).await.expect("the new holder renews");
    release(&two, &new).await;
}

async fn l4_releasing_a_lease_that_another_has_taken_is_already_lost(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let (old, new) = taken(&env, &one, &two).await;
    assert_eq!(release(&one, &old).await, Release::AlreadyLost);
    keeps_the_lock(&env, &two, &new).await;
    assert_eq!(release(&two, &new).await, Release::Released);
}

async fn l5_a_second_release_harms_nobody(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let old = grab(&one, &env.long("a")).await;
    assert_eq!(release(&one, &old).await, Release::Released);
    let new = grab(&two, &env.long("a")).await;
    release(&one, &old).await;
    keeps_the_lock(&env, &two, &new).await;
    assert_eq!(release(&two, &new).await, Release::Released);
}

async fn l6_a_renewal_beside_a_release_brings_nothing_back(env: Env) {
    let client = env.client().await;
    for round in 0..30 {
        let lease = grab(&client, &env.long("a")).await;
        if round % 2 == 0 {
            let (_, released) = tokio::join!(renew(&client, &lease), release(&client, &lease));
            assert_eq!(released, Release::Released);
        } else {
            let (released, _) = tokio::join!(release(&client, &lease), renew(&client, &lease));
            assert_eq!(released, Release::Released);
        }
        let after = renew(&client, &lease).await;
        assert!(after.is_err(), "a released lease was renewed");
        let info = client.inspect(&env.key("a")).await.expect("inspect");
        assert!(!info.is_held(), "round {round}: a renewal brought the lock back: {info:?}");
    }
}

async fn l7_nobody_believes_in_a_lease_that_another_could_have(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    for renewed in [false, true] {
        let old = grab(&one, &env.request("a")).await;
        if renewed {
            renew(&one, &old).await.expect("a renewal");
        }
        let (new, granted) =
            within(PATIENCE, "the lease ends", wait_for(&two, &env.request("a"))).await.expect("the waiter");
        let believed = old.deadline().at();
        assert!(believed <= granted, "believed {:?} longer than the store kept it", believed.since(granted));
        release(&two, &new).await;
    }
}

/// What holds of leases with a TTL of their own must hold of those that live by a session, once nobody keeps that alive:
/// they end in time, are believed no longer than they are kept, and leave a smaller token behind (F2).
async fn l7_nobody_believes_in_a_lease_whose_client_vanished(env: Env) {
    let two = env.client().await;
    let holder = env.clone();
    let old = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let lease = runtime.block_on(async { grab(&holder.client().await, &holder.request("a")).await });
        runtime.shutdown_background();
        lease
    });
    let old = old.await.expect("the other runtime");
    let gone = two.clock().now();
    let waiter = wait_for(&two, &env.request("a"));
    let (new, granted) = within(PATIENCE, "the lease ends", waiter).await.expect("the waiter");
    let believed = old.deadline().at();
    assert!(believed <= granted, "believed {:?} longer than the store kept it", believed.since(granted));
    assert!(granted.since(gone) <= env.expiry(old.ttl()), "after {:?}", granted.since(gone));
    assert!(new.token() > old.token(), "{} after {}", new.token(), old.token());
    release(&two, &new).await;
}

async fn l8_ttls_are_rounded_up_and_limits_are_told(env: Env) {
    let locks = env.locks().await;
    let range = env.capabilities.ttl;
    let wanted = range.min + range.step + Duration::from_micros(300);
    let guard = locks.lock(env.name("a")).ttl(wanted).acquire().await.expect("acquire");
    assert!(guard.ttl() >= wanted, "{:?} is less than {wanted:?}", guard.ttl());
    guard.release().await.expect("release");
    let guard = locks.lock(env.name("a")).ttl(Duration::from_millis(10)).acquire().await.expect("acquire");
    assert!(guard.ttl() >= range.min);
    drop(guard);
    for wrong in [Duration::ZERO, range.max + Duration::from_secs(1)] {
        let error = locks.lock(env.name("b")).ttl(wrong).acquire().await.expect_err("a TTL out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
    let client = env.client().await;
    let lease = grab(&client, &env.request("c")).await;
    assert!(lease.ttl() >= env.short());
    release(&client, &lease).await;
}

async fn l9_two_locks_of_one_client_are_independent(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let (a, b, c) =
        (grab(&one, &env.long("a")).await, grab(&one, &env.long("b")).await, grab(&one, &env.long("c")).await);
    release(&one, &a).await;
    assert!(two.break_lock(&env.key("b"), &b.holder()).await.expect("break"));
    assert!(renew(&one, &b).await.is_err(), "a broken lease was renewed");
    renew(&one, &c).await.expect("the third lock stands");
    assert!(c.deadline().at() > one.clock().now() && c.deadline().cause().is_none());
    find_held(&two, &env.long("c")).await;
    assert_eq!(release(&one, &c).await, Release::Released);
}

async fn l10_a_renewal_after_the_deadline_revives_nothing(env: Env) {
    let client = env.client().await;
    let clock = client.clock();
    let lease = grab(&client, &env.request("a")).await;
    // Some stores still have it for a moment: that is when a renewal would come through.
    clock.sleep_until(lease.deadline().at()).await;
    let error = renew(&client, &lease).await.expect_err("a lease past its deadline was renewed");
    assert_eq!((error.kind(), error.lost_cause()), (ErrorKind::LeaseLost, Some(LostCause::Expired)));
    assert!(lease.deadline().at() <= clock.now(), "the deadline was moved");
    release(&client, &lease).await;
    grab(&client, &env.request("a")).await;
}

async fn l11_a_handed_over_lease_is_not_believed_longer_than_it_is_kept(env: Env) {
    let (one, two, three) = (env.client().await, env.client().await, env.client().await);
    let first = grab(&one, &env.long("a")).await;
    let waiter = wait_for(&two, &env.request("a"));
    if env.capabilities.shows.waiters {
        queued(&two, &env.key("a"), 1).await;
    }
    // Late in the time for which the waiter's last request counts.
    one.clock().sleep(env.short() / 4).await;
    let released = one.clock().now();
    release(&one, &first).await;
    let (second, granted) = within(PATIENCE, "the hand-over", waiter).await.expect("the waiter");
    assert!(granted.since(released) <= env.wake() + NOTICED);
    assert!(second.deadline().at() > granted, "a grant that is past is none");
    let (third, granted) =
        within(PATIENCE, "the lease ends", wait_for(&three, &env.request("a"))).await.expect("the waiter");
    let believed = second.deadline().at();
    assert!(believed <= granted, "believed {:?} longer than the store kept it", believed.since(granted));
    release(&three, &third).await;
}
