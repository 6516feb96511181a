//! A1 to A6: lost replies, and requests that come late or twice.

use super::rounds::{SOON, insist, rounds};
use crate::case::declare;
use crate::env::{
    NOTICED, OP_TIMEOUT, PATIENCE, eventually, find_held, grab, queued, release, renew, wait_for, within,
};
use crate::proxy::{Action, Requests, Way};
use crate::{Env, Fault, Need};
use dlock_core::{Attempt, ErrorKind, Lease, Lifetime, LockBackend, Moment, Release, Request, Ttl};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

declare! {
    a1_an_acquire_whose_reply_is_lost_is_held_by_its_caller_or_nobody [Need::Can(Fault::Proxy)];
    a1_a_try_whose_reply_is_lost_is_held_by_its_caller_or_nobody [Need::Can(Fault::Proxy)];
    a1_an_acquire_in_doubt_is_taken_back_once_the_store_answers [Need::Can(Fault::Proxy)];
    a1_a_grant_that_was_told_while_the_line_was_down_is_noticed_soon [Need::Can(Fault::Proxy)];
    a1_a_grant_that_was_told_too_late_is_not_believed [Need::Can(Fault::Proxy), Need::OwnTtl];
    a1_a_grant_of_a_place_that_was_lost_is_not_believed [Need::Can(Fault::Proxy), Need::OwnTtl];
    a2_a_release_whose_reply_is_lost_has_released [Need::Can(Fault::Proxy)];
    a2_a_release_that_was_lost_is_repeated_until_it_arrives [Need::Can(Fault::Proxy)];
    a3_a_renewal_whose_reply_is_lost_loses_nothing [Need::Can(Fault::Proxy), Need::OwnTtl];
    a3_a_held_lock_outlives_lost_renewals [Need::Can(Fault::Proxy)];
    a4_a_withdrawal_whose_reply_is_lost_has_withdrawn [Need::Can(Fault::Proxy)];
    a4_a_waiter_that_gives_up_on_a_bad_line_leaves_nothing [Need::Can(Fault::Proxy), Need::Waiters];
    a5_the_same_call_twice_changes_nothing [];
    a5_a_request_that_is_delivered_twice_changes_nothing [Need::Can(Fault::Proxy), Need::Can(Fault::Twice)];
    a6_an_undo_may_overtake_the_request_that_it_undoes [Need::Can(Fault::Proxy)];
}

/// How a reply gets lost.
const LOST: [Action; 3] = [Action::LoseReply, Action::CutReply, Action::Stall];

async fn a1_an_acquire_whose_reply_is_lost_is_held_by_its_caller_or_nobody(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    rounds(&env, &line, &LOST, async |round| {
        let rule = round.arm();
        let acquired = within(PATIENCE, "an answer", locks.lock(round.name()).acquire()).await;
        rule.end();
        match acquired {
            Ok(guard) => {
                assert!(guard.is_valid());
                round.is_held_by(&direct, &guard.holder()).await;
                guard.release().await.expect("release");
            }
            Err(error) => round.judge(&error),
        }
        round.is_free(&direct).await;
    })
    .await;
}

async fn a1_a_try_whose_reply_is_lost_is_held_by_its_caller_or_nobody(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    rounds(&env, &line, &LOST, async |round| {
        let rule = round.arm();
        let tried = within(PATIENCE, "an answer", locks.lock(round.name()).try_acquire()).await;
        rule.end();
        match tried {
            Ok(Some(guard)) => {
                round.is_held_by(&direct, &guard.holder()).await;
                guard.release().await.expect("release");
            }
            Ok(None) => panic!("nobody held it but this very try"),
            Err(error) => round.judge(&error),
        }
        round.is_free(&direct).await;
    })
    .await;
}

async fn a1_an_acquire_in_doubt_is_taken_back_once_the_store_answers(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    rounds(&env, &line, &[Action::Stall], async |round| {
        let rule = round.arm();
        let mut acquire = locks.lock(round.name()).acquire();
        let acquired = tokio::select! {
            acquired = &mut acquire => acquired,
            // It was carried out; from now on the store is out of reach.
            () = rule.struck() => {
                line.cut().await;
                within(PATIENCE, "an answer", acquire).await
            }
        };
        rule.end();
        line.heal().await;
        match acquired {
            Ok(guard) => drop(guard),
            Err(error) => round.judge(&error),
        }
        round.is_free(&direct).await;
    })
    .await;
}

async fn a1_a_grant_that_was_told_while_the_line_was_down_is_noticed_soon(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    for round in 0..3 {
        let part = format!("r{round}-");
        let lease = grab(&direct, &env.long(&part)).await;
        let waiting = wait_on(&over, &env.long(&part).with_op_timeout(OP_TIMEOUT));
        if env.capabilities.shows.waiters {
            queued(&direct, &env.key(&part), 1).await;
        }
        line.freeze(Way::Down);
        release(&direct, &lease).await;
        // What was told is lost with its connection.
        line.cut().await;
        // The outage lasts: the first try to connect again fails as well.
        direct.clock().sleep(OP_TIMEOUT / 4).await;
        line.heal().await;
        let next = within(SOON + env.wake(), "the grant is noticed", waiting).await.expect("the waiter");
        release(&over, &next).await;
    }
}

/// Waits on a line that may fail, as core does: failures are repeated under the same id.
fn wait_on(client: &Arc<dyn LockBackend>, request: &Request) -> JoinHandle<Arc<dyn Lease>> {
    let (client, request) = (client.clone(), request.clone());
    tokio::spawn(async move {
        loop {
            match client.acquire(&request).await {
                Ok(Attempt::Acquired(lease)) => return lease,
                Ok(Attempt::Held(info)) => panic!("gave up waiting without being told to: {info:?}"),
                Err(error) if error.is_retryable() => client.clock().sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{}", error.chain()),
            }
        }
    })
}

async fn a1_a_grant_that_was_told_too_late_is_not_believed(env: Env) {
    for its_repeat_arrives in [false, true] {
        told_too_late(&env, its_repeat_arrives).await;
    }
}

async fn told_too_late(env: &Env, its_repeat_arrives: bool) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    let part = format!("{its_repeat_arrives}-");
    let first = grab(&direct, &env.long(&part)).await;
    let request = env.request(&part).with_op_timeout(OP_TIMEOUT);
    let ttl = request.ttl().get();
    let late = wait_on(&over, &request);
    if env.capabilities.shows.waiters {
        queued(&direct, &env.key(&part), 1).await;
    }
    if its_repeat_arrives {
        line.freeze(Way::Down);
        release(&direct, &first).await;
        let repeats = line.count(Requests::with(&env.name(&part)));
        // Unless what it asked before is still not answered, and keeps it.
        let asks = eventually(PATIENCE, "the waiter asks, and is answered that it holds", async || repeats.seen() > 0);
        let _ = tokio::time::timeout(OP_TIMEOUT, asks).await;
        line.freeze(Way::Up);
    } else {
        line.freeze_both();
        release(&direct, &first).await;
    }
    let next = after_the_place(env, &direct, &part, ttl).await;
    let asked = line.count(Requests::with(&env.name(&part)));
    line.heal().await;
    // What was told arrives now; a waiter that does not believe it asks again.
    eventually(PATIENCE, "the waiter goes on", async || asked.seen() > 0 || late.is_finished()).await;
    find_held(&direct, &env.long(&part)).await;
    is_not_believed(&over, late, &direct, next).await;
}

/// The waiter is granted, or passed over; either way another has the lock when its place is over, and since then.
async fn after_the_place(
    env: &Env,
    direct: &Arc<dyn LockBackend>,
    part: &str,
    ttl: Duration,
) -> (Arc<dyn Lease>, Moment) {
    let next = wait_for(direct, &env.long(part));
    let next = within(2 * env.expiry(ttl) + PATIENCE / 4, "the one behind it", next).await;
    next.expect("the waiter")
}

/// The waiter does not hold beside the one that came after it.
async fn is_not_believed(
    over: &Arc<dyn LockBackend>,
    late: JoinHandle<Arc<dyn Lease>>,
    direct: &Arc<dyn LockBackend>,
    (next, granted): (Arc<dyn Lease>, Moment),
) {
    if late.is_finished() {
        let lease = late.await.expect("the waiter");
        let believed = lease.deadline().at();
        assert!(believed <= granted, "two held for {:?}", believed.since(granted));
        release(over, &lease).await;
        release(direct, &next).await;
        return;
    }
    release(direct, &next).await;
    let lease = within(PATIENCE, "it takes part again", late).await.expect("the waiter");
    assert!(lease.token() > next.token(), "it holds by what it was told before");
    release(over, &lease).await;
}

async fn a1_a_grant_of_a_place_that_was_lost_is_not_believed(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    // What is sent once a connection or server (scripts, statements) is no part of the operation.
    let once = grab(&over, &env.long("once")).await;
    release(&over, &once).await;
    let first = grab(&direct, &env.long("a")).await;
    let request = env.long("a").with_ttl(Ttl::new(env.ttl(1_000)).expect("a good TTL")).with_op_timeout(4 * OP_TIMEOUT);
    let ttl = request.ttl().get();
    // It has a place and does not know it. When that is nearly over it asks again; this takes long to arrive, and what
    // comes of the place is told before.
    let asks = Requests::with(&env.name("a"));
    line.freeze(Way::Down);
    let late = wait_on(&over, &request);
    // Unless it looks before it takes a place, and sees nothing.
    let _ = tokio::time::timeout(OP_TIMEOUT, queued(&direct, &env.key("a"), 1)).await;
    line.cut().await;
    direct.clock().sleep(ttl.mul_f64(0.6)).await;
    let repeated = line.on(asks.clone(), 0, Action::Hold);
    line.heal().await;
    within(PATIENCE, "it asks again", repeated.struck()).await;
    release(&direct, &first).await;
    let next = after_the_place(&env, &direct, "a", ttl).await;
    let asked = line.count(asks);
    repeated.let_go();
    // It is told that it waits; so it asks again, unless it believes that it holds.
    eventually(PATIENCE, "the waiter goes on", async || asked.seen() > 0 || late.is_finished()).await;
    find_held(&direct, &env.long("a")).await;
    is_not_believed(&over, late, &direct, next).await;
}

async fn a2_a_release_whose_reply_is_lost_has_released(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    rounds(&env, &line, &LOST, async |round| {
        // The fault of the last round may have met a message that nobody waited for, such as that of a watch: then this is the
        // first call on a connection that has died in silence.
        let guard = insist("a lock", async || locks.lock(round.name()).acquire().await).await;
        let rule = round.arm();
        let released = within(PATIENCE, "an answer", guard.release()).await;
        rule.end();
        // Not lost: it was released before its deadline (rule R4).
        if let Err(error) = released {
            round.judge(&error);
        }
        round.is_free(&direct).await;
    })
    .await;
}

async fn a2_a_release_that_was_lost_is_repeated_until_it_arrives(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    let dropped = locks.lock(env.name("dropped")).acquire().await.expect("acquire");
    let released = locks.lock(env.name("released")).acquire().await.expect("acquire");
    line.cut().await;
    let begun = locks.clock().now();
    drop(dropped);
    let error = released.release().await.expect_err("the store is out of reach");
    let took = locks.clock().now().since(begun);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(took <= OP_TIMEOUT + NOTICED, "{took:?}");
    for key in ["dropped", "released"] {
        find_held(&direct, &env.long(key)).await;
    }
    line.heal().await;
    for key in ["dropped", "released"] {
        let waiting = wait_for(&direct, &env.long(key));
        let (lease, _) = within(SOON, "the release arrives", waiting).await.expect("the waiter");
        release(&direct, &lease).await;
    }
}

async fn a3_a_renewal_whose_reply_is_lost_loses_nothing(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    rounds(&env, &line, &LOST, async |round| {
        let lease = grab(&over, &round.request()).await;
        let (clock, before) = (over.clock(), lease.deadline().at());
        let rule = round.arm();
        let renewed = within(OP_TIMEOUT + NOTICED, "an answer", lease.renew(clock.now() + OP_TIMEOUT)).await;
        rule.end();
        if let Err(error) = &renewed {
            round.judge(error);
        }
        assert_eq!(lease.deadline().cause(), None, "lost, for a reply that did not come");
        assert!(lease.deadline().at() >= before, "the deadline came nearer");
        round.is_held_by(&direct, &lease.holder()).await;
        insist("the next renewal", async || lease.renew(clock.now() + OP_TIMEOUT).await).await;
        assert!(lease.deadline().at() > before, "the renewal moved no deadline");
        assert_eq!(release(&over, &lease).await, Release::Released);
        round.is_free(&direct).await;
    })
    .await;
}

async fn a3_a_held_lock_outlives_lost_renewals(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    let session = env.capabilities.lifetime == Lifetime::Session;
    for nth in 0..3 {
        let part = format!("r{nth}-");
        let guard = locks.lock(env.name(&part)).ttl(env.ttl(1_500)).acquire().await.expect("acquire");
        let granted = guard.valid_until();
        let which = if session { Requests::all() } else { Requests::with(&env.name(&part)) };
        let rule = line.on(which, nth, Action::LoseReply);
        within(2 * guard.ttl(), "a renewal's reply is lost", rule.struck()).await;
        // It is tried again in time.
        eventually(guard.ttl(), "the lock is renewed", async || guard.valid_until() > granted).await;
        locks.clock().sleep_until(granted).await;
        assert!(guard.is_valid(), "{:?}", guard.lost_cause());
        find_held(&direct, &env.long(&part)).await;
        guard.release().await.expect("release");
    }
}

async fn a4_a_withdrawal_whose_reply_is_lost_has_withdrawn(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    rounds(&env, &line, &LOST, async |round| {
        let request = round.request();
        let _held = grab(&over, &request).await;
        let rule = round.arm();
        let withdrawn = within(OP_TIMEOUT + NOTICED, "an answer", over.withdraw(&request)).await;
        rule.end();
        if let Err(error) = &withdrawn {
            round.judge(error);
            insist("the withdrawal", async || over.withdraw(&request).await).await;
        }
        let next = grab(&direct, &round.request()).await;
        // It was for that one acquisition alone.
        insist("another withdrawal", async || over.withdraw(&request).await).await;
        round.is_held_by(&direct, &next.holder()).await;
        release(&direct, &next).await;
    })
    .await;
}

async fn a4_a_waiter_that_gives_up_on_a_bad_line_leaves_nothing(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    for action in [Action::LoseRequest, Action::LoseReply, Action::Stall] {
        for nth in 0..3 {
            let part = format!("{action:?}{nth}-").to_lowercase();
            // What stalled in the last round was given up: by the connection that locks are taken on, which may be another
            // than the one that is asked about them.
            insist("the client is well", async || locks.lock(env.name("other")).acquire().await?.release().await).await;
            let lease = grab(&direct, &env.long(&part)).await;
            let limit = Duration::from_millis(300);
            let mut waiting = tokio::spawn(locks.lock(env.name(&part)).wait_at_most(limit).acquire());
            let key = env.key(&part);
            tokio::select! {
                () = queued(&direct, &key, 1) => {}
                ended = &mut waiting => panic!("it gave up before it waited: {ended:?}"),
            }
            let rule = line.on(Requests::with(&env.name(&part)), nth, action);
            let ended = within(limit + 2 * NOTICED, "it gives up in time", waiting).await.expect("the waiter");
            assert_eq!(ended.expect_err("it is held").kind(), ErrorKind::TimedOut);
            let gone = async || direct.inspect(&key).await.expect("inspect").waiters.is_none_or(|left| left.is_empty());
            eventually(SOON, "no waiter is left", gone).await;
            rule.end();
            release(&direct, &lease).await;
            let next = grab(&direct, &env.long(&part)).await;
            release(&direct, &next).await;
        }
    }
}

async fn a5_the_same_call_twice_changes_nothing(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let request = env.long("a");
    let (first, again) = (grab(&one, &request).await, grab(&one, &request).await);
    assert_eq!((first.holder(), first.token()), (again.holder(), again.token()));
    for _ in 0..2 {
        renew(&one, &first).await.expect("a renewal");
    }
    find_held(&two, &env.long("a")).await;
    assert_eq!(release(&one, &first).await, Release::Released);
    let next = grab(&two, &env.long("a")).await;
    // Released a second time, by the handle of the second call.
    release(&one, &again).await;
    assert_eq!(two.inspect(&env.key("a")).await.expect("inspect").holders[0].id, next.holder());
    for broken in [true, false] {
        assert_eq!(one.break_lock(&env.key("a"), &next.holder()).await.expect("break"), broken);
    }
    let undone = env.long("a");
    let _held = grab(&one, &undone).await;
    for _ in 0..2 {
        one.withdraw(&undone).await.expect("withdraw");
    }
    let last = grab(&two, &env.long("a")).await;
    release(&two, &last).await;
}

async fn a5_a_request_that_is_delivered_twice_changes_nothing(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    rounds(&env, &line, &[Action::Twice], async |round| {
        let rule = round.arm();
        let lease = grab(&over, &round.request()).await;
        rule.end();
        round.is_held_by(&direct, &lease.holder()).await;
        let info = direct.inspect(&round.key()).await.expect("inspect");
        assert_eq!(info.holders[0].token.unwrap_or(lease.token()), lease.token(), "the store has another token");
        let rule = round.arm();
        renew(&over, &lease).await.expect("a renewal");
        rule.end();
        round.is_held_by(&direct, &lease.holder()).await;
        let rule = round.arm();
        assert_eq!(release(&over, &lease).await, Release::Released);
        rule.end();
        round.is_free(&direct).await;
    })
    .await;
}

async fn a6_an_undo_may_overtake_the_request_that_it_undoes(env: Env) {
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    // What is sent once a connection or server (scripts, statements) is no part of the operation.
    let first = grab(&over, &env.long("first")).await;
    release(&over, &first).await;
    rounds(&env, &line, &[Action::Hold], async |round| {
        let (rule, request) = (round.arm(), round.request());
        let tried = within(OP_TIMEOUT + NOTICED, "an answer", over.try_acquire(&request)).await;
        if let Err(error) = &tried {
            round.judge(error);
        }
        // On the connection of the request it comes behind it; on another one it is there first.
        let undone = within(OP_TIMEOUT + NOTICED, "an answer", over.withdraw(&request)).await;
        rule.let_go();
        if rule.is_struck() {
            within(PATIENCE, "the late request is carried out", rule.answered()).await;
        }
        rule.end();
        if undone.is_err() {
            insist("the undo", async || over.withdraw(&request).await).await;
        }
        let next = grab(&direct, &round.request()).await;
        release(&direct, &next).await;
    })
    .await;
}
