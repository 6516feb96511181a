//! E1 to E7: never two inside.

#[cfg(unix)]
pub(crate) mod hold;
pub(crate) mod work;

use crate::case::declare;
use crate::env::{PATIENCE, eventually, find_held, grab, release};
use crate::{Env, Fault, Need};
use dlock_core::{FencingToken, Locks, Mode};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

declare! {
    e1_a_second_try_is_told_who_holds [];
    e2_keys_that_differ_in_any_byte_are_different_locks [];
    e3_a_released_key_is_free_for_anyone [];
    e4_many_tasks_of_one_client_are_never_two_inside [];
    e5_many_clients_are_never_two_inside [];
    e6_many_processes_are_never_two_inside [Need::Can(Fault::Processes)];
    e7_clients_with_different_prefixes_never_meet [];
}

async fn e1_a_second_try_is_told_who_holds(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    let request = env.long("a").with_label("the first");
    let lease = grab(&one, &request).await;
    let info = find_held(&two, &env.long("a")).await;
    let holder = info.holders.first().expect("a holder");
    assert_eq!(holder.id, lease.holder());
    let shows = env.capabilities.shows;
    if shows.label {
        assert_eq!(holder.label.as_deref(), Some("the first"));
        assert_eq!(holder.mode, Some(Mode::Exclusive));
    }
    if shows.remaining {
        assert!(holder.remaining.expect("remaining") <= lease.ttl());
    }
    assert_eq!(holder.token, Some(lease.token()));
    // Asking left nothing behind: the next one in is not kept waiting by it.
    release(&one, &lease).await;
    let next = grab(&one, &env.long("a")).await;
    release(&one, &next).await;
}

async fn e2_keys_that_differ_in_any_byte_are_different_locks(env: Env) {
    let client = env.client().await;
    let room = dlock_core::LockKey::MAX_BYTES - env.prefix().len();
    let (long, longer) = (format!("{}1", "x".repeat(room - 1)), format!("{}2", "x".repeat(room - 1)));
    let names = [
        "a",
        "A",
        "á",
        "a\u{301}",
        "a ",
        " a",
        "a/",
        "a/b",
        "/a",
        "a//b",
        "a/b/c",
        ".",
        "..",
        "a.b",
        "a:b",
        "a*",
        "a?",
        "a#",
        "a%",
        "a%2Fb",
        "a%2fb",
        "a\\",
        "a{b}",
        "{a}",
        "a}",
        "{a}:f",
        "a,b",
        "a|b",
        "a\"b",
        "a'b",
        "a$b",
        "a~",
        "🔒",
        "a-lock-1",
        long.as_str(),
        longer.as_str(),
        &long[..room - 1],
        &long[..64],
    ];
    let mut leases = Vec::new();
    for name in names {
        leases.push((name, grab(&client, &env.long(name)).await));
    }
    for name in names {
        find_held(&client, &env.long(name)).await;
    }
    for (name, lease) in &leases {
        release(&client, lease).await;
        let info = client.inspect(&env.key(name)).await.expect("inspect");
        assert_eq!((info.key, info.holders.len()), (env.key(name), 0));
    }
}

async fn e3_a_released_key_is_free_for_anyone(env: Env) {
    let (one, two) = (env.client().await, env.client().await);
    for client in [&one, &two, &one, &one, &two] {
        let lease = grab(client, &env.long("a")).await;
        release(client, &lease).await;
    }
}

/// Adds up under the lock without any other care.
#[derive(Debug, Default)]
struct Room {
    inside: AtomicBool,
    sum: AtomicU64,
    tokens: Mutex<Vec<FencingToken>>,
}

impl Room {
    async fn visit(&self, locks: &Locks, key: &str) {
        let guard = locks.lock(key).wait_at_most(PATIENCE).acquire().await.expect("acquire");
        assert!(!self.inside.swap(true, Ordering::SeqCst), "two are inside");
        let sum = self.sum.load(Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.sum.store(sum + 1, Ordering::SeqCst);
        self.tokens.lock().expect("tokens").push(guard.token());
        assert!(self.inside.swap(false, Ordering::SeqCst), "two were inside");
        guard.release().await.expect("release");
    }

    fn judge(&self, visits: u64) {
        assert_eq!(self.sum.load(Ordering::SeqCst), visits, "additions were lost");
        let tokens = self.tokens.lock().expect("tokens");
        let own: BTreeSet<_> = tokens.iter().collect();
        assert_eq!(own.len(), tokens.len(), "a token was given twice");
        assert!(tokens.is_sorted(), "a token went back: {tokens:?}");
    }
}

async fn crowd(env: &Env, clients: usize, tasks: usize, rounds: usize) {
    let room = Arc::new(Room::default());
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let locks = env.locks().await;
        for _ in 0..tasks {
            let (locks, room, key) = (locks.clone(), room.clone(), env.name("a"));
            crowd.spawn(async move {
                for _ in 0..rounds {
                    room.visit(&locks, &key).await;
                }
            });
        }
    }
    while let Some(ended) = crowd.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    room.judge(u64::try_from(clients * tasks * rounds).expect("a small number"));
}

async fn e4_many_tasks_of_one_client_are_never_two_inside(env: Env) {
    crowd(&env, 1, 12, 8).await;
}

async fn e5_many_clients_are_never_two_inside(env: Env) {
    crowd(&env, 6, 2, 8).await;
}

async fn e6_many_processes_are_never_two_inside(env: Env) {
    let sum = tokio::task::spawn_blocking(move || work::send(&env.harness.worker_environment(), &env.name("a"), 4, 25));
    assert_eq!(sum.await.expect("workers"), 100, "additions were lost");
}

async fn e7_clients_with_different_prefixes_never_meet(env: Env) {
    let store = env.client().await;
    let with = |prefix: String| Locks::builder(store.clone()).prefix(prefix).build().expect("locks");
    let (one, two) = (with(env.name("p")), with(env.name("q")));
    let first = one.lock("a").acquire().await.expect("acquire");
    let second = two.lock("a").try_acquire().await.expect("try").expect("another prefix");
    assert_eq!(one.inspect("a").await.expect("inspect").key.as_str(), "a");
    let listed: Vec<_> = futures_util::TryStreamExt::try_collect(one.list("")).await.expect("list");
    let listed: Vec<dlock_core::LockInfo> = listed;
    assert_eq!(listed.iter().map(|info| info.key.as_str()).collect::<Vec<_>>(), ["a"]);
    drop((first, second));
    eventually(PATIENCE, "both are free", async || {
        !one.inspect("a").await.expect("inspect").is_held() && !two.inspect("a").await.expect("inspect").is_held()
    })
    .await;
}
