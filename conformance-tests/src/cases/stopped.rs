//! P4: a process that was stopped for longer than its lease lasts.

use super::exclusion::hold::Holder;
use crate::case::declare;
use crate::env::{PATIENCE, find_held, release, wait_for, within};
use crate::{Env, Fault, Need};

declare! {
    p4_a_holder_that_was_stopped_knows_on_waking_and_harms_nobody [Need::Can(Fault::Processes)];
}

async fn p4_a_holder_that_was_stopped_knows_on_waking_and_harms_nobody(env: Env) {
    let client = env.client().await;
    let (environment, key, ttl) = (env.harness.worker_environment(), env.name("a"), env.ttl(700));
    let holder = move || Holder::start(&environment, &key, ttl);
    let holder = tokio::task::spawn_blocking(holder).await.expect("the holder starts");
    find_held(&client, &env.long("a")).await;
    let stopped = holder.stop();
    let waiting = wait_for(&client, &env.long("a"));
    let (next, _) = within(PATIENCE, "the lease of a stopped holder ends", waiting).await.expect("the waiter");
    // The fault lasts longer than the TTL, whenever the last renewal was.
    client.clock().sleep_until(stopped + ttl + ttl / 2).await;
    holder.go_on();
    let told = within(PATIENCE, "the holder ends", tokio::task::spawn_blocking(move || holder.told()));
    let told = told.await.expect("the holder");
    assert_eq!(told.first_look, "invalid", "it believed in a lock that another holds");
    assert_eq!(told.release, "LeaseLost", "it was told that it gave up a lock that it held");
    let info = client.inspect(&env.key("a")).await.expect("inspect");
    let holders: Vec<_> = info.holders.iter().map(|holder| holder.id.clone()).collect();
    assert_eq!(holders, [next.holder()], "the new holder lost the lock");
    release(&client, &next).await;
}
