//! P1 to P3 and P5: the store is out of reach, silent, restarted, or cuts in the middle.

use super::rounds::{SOON, insist, rounds};
use crate::case::declare;
use crate::env::{NOTICED, OP_TIMEOUT, PATIENCE, eventually, find_held, grab, queued, release, wait_for, within};
use crate::proxy::{Action, Proxy, Requests};
use crate::{Env, Fault, Need};
use dlock_core::{Attempt, Clock, ErrorKind, Lifetime, LostCause, Release, Result};
use futures_util::TryStreamExt;
use std::time::Duration;

declare! {
    p1_where_nothing_listens_it_is_unavailable_in_time [Need::Can(Fault::Proxy)];
    p1_a_lock_is_lost_in_time_when_nothing_listens_any_more [Need::Can(Fault::Proxy)];
    p2_a_server_that_never_answers_is_unavailable_in_time [Need::Can(Fault::Proxy)];
    p2_a_lock_is_lost_in_time_when_the_server_falls_silent [Need::Can(Fault::Proxy)];
    p2_connections_that_died_in_silence_are_replaced [Need::Can(Fault::Proxy)];
    p3_after_a_restart_of_the_server_clients_go_on alone yes [Need::Can(Fault::Restart)];
    p5_a_reset_in_the_middle_of_an_operation_is_survived [Need::Can(Fault::Proxy)];
}

/// How late a loss may be told.
const TOLD: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
enum Outage {
    /// Nothing listens.
    Refused,
    /// What is sent is never answered.
    Silent,
}

impl Outage {
    async fn begin(self, line: &Proxy) {
        match self {
            Outage::Refused => line.cut().await,
            Outage::Silent => line.freeze_both(),
        }
    }
}

/// The call fails as unavailable, no later than after `limit` and what a user would notice.
async fn fails<T>(what: &str, limit: Duration, call: impl Future<Output = Result<T>>) {
    let Err(error) = within(limit + NOTICED, what, call).await else { panic!("{what} succeeded without the store") };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {}", error.chain());
}

async fn every_call_fails_in_time(env: &Env, outage: Outage) {
    let (line, direct) = (env.line().await, env.client().await);
    let (over, locks) = (env.over(&line).await, env.locks_over(&line).await);
    let request = |key: &str| env.long(key).with_op_timeout(OP_TIMEOUT);
    let (renewed, released) = (grab(&over, &request("renewed")).await, grab(&over, &request("released")).await);
    let withdrawn = request("withdrawn");
    let _held = grab(&over, &withdrawn).await;
    let session = env.capabilities.lifetime == Lifetime::Session;
    outage.begin(&line).await;
    let give_up = over.clock().now() + OP_TIMEOUT;
    let (tried, waited, shown) = (request("a"), request("b"), env.name("a"));
    tokio::join!(
        fails("connecting", OP_TIMEOUT, env.harness.proxied_client(&line, OP_TIMEOUT)),
        fails("try_acquire", OP_TIMEOUT, over.try_acquire(&tried)),
        fails("acquire", OP_TIMEOUT, over.acquire(&waited)),
        fails("withdraw", OP_TIMEOUT, over.withdraw(&withdrawn)),
        fails("release", OP_TIMEOUT, released.release(give_up)),
        async {
            // A session may know by itself that it is alive.
            if !session {
                fails("renew", OP_TIMEOUT, renewed.renew(give_up)).await;
            }
        },
        fails("inspect", OP_TIMEOUT, locks.inspect(&shown)),
        fails("list", OP_TIMEOUT, locks.list(env.prefix()).try_collect::<Vec<_>>()),
        fails("a try of a lock", OP_TIMEOUT, locks.lock(env.name("c")).try_acquire()),
        fails("the wait for a lock", OP_TIMEOUT, locks.lock(env.name("d")).acquire()),
    );
    line.heal().await;
    insist("connecting", async || env.harness.proxied_client(&line, OP_TIMEOUT).await).await;
    insist("a try", async || locks.lock(env.name("e")).try_acquire().await).await;
    insist("a renewal", async || renewed.renew(over.clock().now() + OP_TIMEOUT).await).await;
    find_held(&direct, &env.long("renewed")).await;
    // What was given up while the store was away is free in the end, whatever arrived of it.
    insist("the withdrawal", async || over.withdraw(&withdrawn).await).await;
    insist("the release", async || released.release(over.clock().now() + OP_TIMEOUT).await).await;
    for key in ["c", "d", "withdrawn", "released"] {
        let (lease, _) = within(SOON, key, wait_for(&direct, &env.long(key))).await.expect("the waiter");
        release(&direct, &lease).await;
    }
}

async fn a_lock_is_lost_in_time(env: &Env, outage: Outage) {
    let (line, direct) = (env.line().await, env.client().await);
    let locks = env.locks_over(&line).await;
    let guard = locks.lock(env.name("a")).ttl(env.short()).acquire().await.expect("acquire");
    let mut waiting = wait_for(&direct, &env.long("a"));
    let lost = tokio::spawn({
        let (held, clock) = (guard.held(), Clock::system());
        async move { (held.lost().await, clock.now()) }
    });
    outage.begin(&line).await;
    // A renewal may have come through before; from now on none does.
    let ends = async {
        loop {
            let until = guard.valid_until();
            locks.clock().sleep_until(until).await;
            if guard.valid_until() == until {
                break until;
            }
        }
    };
    let deadline = tokio::select! {
        biased;
        deadline = ends => deadline,
        _ = &mut waiting => panic!("another has the lock, and its holder still believes in it"),
    };
    // What a timer that was set for the same moment is late is not the lock's doing.
    let timer = locks.clock().now();
    let (cause, told) = within(PATIENCE, "the loss is told", lost).await.expect("the watcher");
    assert_eq!(cause, LostCause::Expired);
    assert!(told >= deadline, "lost {:?} before its deadline", deadline.since(told));
    assert!(told <= timer + TOLD, "told {:?} after the deadline", told.since(deadline));
    assert!(!guard.is_valid());
    assert_eq!(guard.remaining(), Duration::ZERO);
    let (next, granted) = within(PATIENCE, "another gets it", waiting).await.expect("the waiter");
    assert!(granted >= deadline, "another got it {:?} before the deadline", deadline.since(granted));
    let error = within(OP_TIMEOUT + NOTICED, "the release", guard.release()).await.expect_err("it was lost");
    assert!(matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::Unavailable), "{}", error.chain());
    let heard = line.count(Requests::all());
    line.heal().await;
    // What it was to give up while nobody heard it comes now, and harms nobody. With a session it has gone already, and
    // nothing need come.
    if env.capabilities.lifetime != Lifetime::Session {
        eventually(PATIENCE, "the line is in use again", async || heard.seen() > 0).await;
    }
    insist("another lock", async || locks.lock(env.name("b")).try_acquire().await).await;
    let info = direct.inspect(&env.key("a")).await.expect("inspect");
    assert_eq!(info.holders.iter().map(|holder| holder.id.clone()).collect::<Vec<_>>(), [next.holder()]);
    release(&direct, &next).await;
}

async fn p1_where_nothing_listens_it_is_unavailable_in_time(env: Env) {
    every_call_fails_in_time(&env, Outage::Refused).await;
}

async fn p1_a_lock_is_lost_in_time_when_nothing_listens_any_more(env: Env) {
    a_lock_is_lost_in_time(&env, Outage::Refused).await;
}

async fn p2_a_server_that_never_answers_is_unavailable_in_time(env: Env) {
    every_call_fails_in_time(&env, Outage::Silent).await;
}

async fn p2_a_lock_is_lost_in_time_when_the_server_falls_silent(env: Env) {
    a_lock_is_lost_in_time(&env, Outage::Silent).await;
}

async fn p2_connections_that_died_in_silence_are_replaced(env: Env) {
    let line = env.line().await;
    let over = env.over(&line).await;
    for round in 0..8 {
        let part = format!("r{round}-");
        let rule = line.on(Requests::with(&env.name(&part)), 0, Action::Stall);
        // One short call is not enough for a connection to be given up that others use as well.
        eventually(SOON, "a request gets through", async || {
            let request = env.long(&part).with_op_timeout(OP_TIMEOUT / 4);
            let tried = within(PATIENCE, "an answer", over.try_acquire(&request)).await;
            assert!(tried.is_err(), "its reply was lost, and yet {tried:?}");
            rule.is_struck()
        })
        .await;
    }
    let last = env.long("a").with_op_timeout(OP_TIMEOUT);
    let attempt = insist("a try", async || over.try_acquire(&last).await).await;
    assert!(matches!(attempt, Attempt::Acquired(_)), "{attempt:?}");
}

async fn p3_after_a_restart_of_the_server_clients_go_on(env: Env) {
    let (one, two) = (env.locks().await, env.locks().await);
    let ttl = env.ttl(4_000);
    let guard = one.lock(env.name("a")).ttl(ttl).acquire().await.expect("acquire");
    let waiting = tokio::spawn(two.lock(env.name("a")).ttl(ttl).acquire());
    if env.capabilities.shows.waiters {
        queued(two.backend(), &env.key("a"), 1).await;
    }
    env.harness.restart().await.expect("a restart");
    let probe = async || {
        let info = two.inspect(&env.name("b")).await;
        info.map(drop)
    };
    insist("the same client asks", probe).await;
    let other = insist("the same client acquires", async || two.lock(env.name("b")).try_acquire().await).await;
    other.expect("it is free").release().await.expect("release");
    if env.capabilities.leases_survive_restart {
        // Longer than it was granted for before the restart.
        let granted = guard.valid_until();
        within(PATIENCE, "the lock is renewed", guard.held().renewed(granted)).await;
        assert!(guard.is_valid() && !waiting.is_finished(), "{:?}", guard.lost_cause());
        guard.release().await.expect("release");
    } else {
        // The store has forgotten it: the holder hears of that at its next renewal.
        let cause = within(ttl + NOTICED, "the loss is told", guard.lost()).await;
        assert!(matches!(cause, LostCause::Revoked | LostCause::SessionEnded | LostCause::Expired), "{cause}");
    }
    let next = within(PATIENCE, "the waiter takes part again", waiting).await.expect("the waiter").expect("acquire");
    next.release().await.expect("release");
}

async fn p5_a_reset_in_the_middle_of_an_operation_is_survived(env: Env) {
    const RESETS: [Action; 4] = [Action::LoseRequest, Action::CutRequest, Action::LoseReply, Action::CutReply];
    let (line, direct) = (env.line().await, env.client().await);
    let over = env.over(&line).await;
    let clock = over.clock();
    rounds(&env, &line, &RESETS, async |round| {
        let request = round.request();
        // Each operation meets the fault, and then comes through; what it did is not done twice.
        let mut lease = None;
        round
            .through(
                "try_acquire",
                async || over.try_acquire(&request).await,
                |attempt| {
                    let Attempt::Acquired(granted) = attempt else { panic!("nobody holds it: {attempt:?}") };
                    lease = Some(granted);
                },
            )
            .await;
        let lease = lease.expect("a lease");
        round.is_held_by(&direct, &lease.holder()).await;
        round.through("renew", async || lease.renew(clock.now() + OP_TIMEOUT).await, drop).await;
        round.through("inspect", async || over.inspect(&round.key()).await, |info| assert!(info.is_held())).await;
        let list = async || over.list(&round.name()).try_collect::<Vec<_>>().await;
        round.through("list", list, |all| assert_eq!(all.len(), 1)).await;
        let released = async || lease.release(clock.now() + OP_TIMEOUT).await;
        round.through("release", released, |released| assert_eq!(released, Release::Released)).await;
        round.is_free(&direct).await;
        let other = grab(&direct, &round.request()).await;
        round.through("break_lock", async || over.break_lock(&round.key(), &other.holder()).await, drop).await;
        round.is_free(&direct).await;
        let waiter = round.request();
        let mut next = None;
        round.through("acquire", async || over.acquire(&waiter).await, |attempt| next = Some(attempt)).await;
        assert!(matches!(next, Some(Attempt::Acquired(_))), "nobody holds it: {next:?}");
        round.through("withdraw", async || over.withdraw(&waiter).await, drop).await;
        round.is_free(&direct).await;
    })
    .await;
}
