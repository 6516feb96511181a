//! Calls that go to the server together answer each as if it had gone alone.
#![allow(clippy::unwrap_used)]

use dlock_conformance::proxy::{Action, Framing, Proxy, Requests};
use dlock_core::{Attempt, ErrorKind, Lease, LockBackend, LockKey, Mode, Release, Request, Result, Ttl};
use dlock_fixtures::{RedisServer, wait_until};
use dlock_redis::RedisBackend;
use futures_util::future::join_all;
use redis::{Commands, Connection};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

async fn client(url: &str) -> RedisBackend {
    RedisBackend::connect(&url.parse().unwrap()).await.unwrap()
}

fn raw(server: &RedisServer) -> Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

/// The URL of a user with these rights.
fn somebody(server: &RedisServer, rights: &[&str]) -> String {
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("somebody").arg("on").arg(">secret").arg(rights);
    let () = user.query(&mut raw(server)).unwrap();
    server.url().replace("redis://", "redis://somebody:secret@")
}

fn request(key: &str) -> Request {
    Request::new(LockKey::new(key).unwrap()).with_ttl(Ttl::new(Duration::from_secs(20)).unwrap())
}

/// All tries at the same time: those behind the first go together.
async fn at_once(backend: &RedisBackend, requests: &[Request]) -> Vec<Result<Attempt>> {
    join_all(requests.iter().map(|request| backend.try_acquire(request))).await
}

fn lease(attempt: Result<Attempt>) -> Arc<dyn Lease> {
    match attempt.unwrap() {
        Attempt::Acquired(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// How often the server was asked to run a script.
fn scripts(raw: &mut Connection) -> u64 {
    let info: redis::InfoDict = redis::cmd("INFO").arg("commandstats").query(raw).unwrap();
    let line: String = info.get("cmdstat_evalsha").unwrap_or_default();
    line.split_once("calls=").and_then(|(_, rest)| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn what_is_asked_at_the_same_time_takes_few_scripts() {
    let server = RedisServer::start();
    let backend = client(&server.url()).await;
    let requests: Vec<_> = (0..200).map(|n| request(&format!("k{n}"))).collect();
    let _warm = lease(backend.try_acquire(&request("warm")).await);
    let before = scripts(&mut raw(&server));
    let leases: Vec<_> = at_once(&backend, &requests).await.into_iter().map(lease).collect();
    let give_up = backend.clock().now() + Duration::from_secs(5);
    for released in join_all(leases.iter().map(|lease| lease.release(give_up))).await {
        assert_eq!(released.unwrap(), Release::Released);
    }
    let took = scripts(&mut raw(&server)) - before;
    // One alone and four with at most 64, twice.
    assert_eq!(took, 10);
}

#[tokio::test]
async fn each_of_many_gets_its_own_answer() {
    let server = RedisServer::start();
    let (backend, other) = (client(&server.url()).await, client(&server.url()).await);
    let held = lease(other.try_acquire(&request("held")).await);
    let mut raw = raw(&server);
    let () = raw.set("foreign", "another client's").unwrap();
    let () = raw.rpush("list", "no lock").unwrap();
    let () = raw.set("{fence}:f", "no fence").unwrap();
    let mut requests: Vec<_> =
        ["a", "held", "b", "list", "fence", "foreign", "c"].iter().map(|key| request(key)).collect();
    requests.push(request("shared").with_mode(Mode::Shared));
    let withdrawn = request("withdrawn");
    other.withdraw(&withdrawn).await.unwrap();
    requests.push(withdrawn);

    let mut answers: HashMap<_, _> = HashMap::new();
    for (request, answer) in requests.iter().zip(at_once(&backend, &requests).await) {
        answers.insert(request.key().as_str(), answer);
    }
    let mut answer = |key: &str| answers.remove(key).unwrap();
    let corrupt = |answer: Result<Attempt>| assert_eq!(answer.unwrap_err().kind(), ErrorKind::Corrupt);
    for key in ["list", "fence"] {
        corrupt(answer(key));
    }
    for (key, holder) in [("held", held.holder().as_str().to_owned()), ("foreign", "another client's".to_owned())] {
        let Attempt::Held(info) = answer(key).unwrap() else { panic!("{key} was free") };
        assert_eq!(info.holders[0].id.as_str(), holder);
    }
    assert_eq!(answer("withdrawn").unwrap_err().kind(), ErrorKind::Unexpected);
    let leases = ["a", "b", "c", "shared"].map(|key| lease(answer(key)));
    for key in ["list", "{fence}:f", "foreign", "held", "a", "b", "c"] {
        assert!(raw.exists::<_, bool>(key).unwrap(), "{key} is gone");
    }
    assert!(!raw.exists::<_, bool>("fence").unwrap(), "it was half taken");

    // One of them is no longer held: the others' releases know nothing of it.
    let () = raw.set("b", "stolen").unwrap();
    let give_up = backend.clock().now() + Duration::from_secs(5);
    let released = join_all(leases.iter().map(|lease| lease.release(give_up))).await;
    let released: Vec<_> = released.into_iter().map(Result::unwrap).collect();
    assert_eq!(released, [Release::Released, Release::AlreadyLost, Release::Released, Release::Released]);
    assert_eq!(raw.get::<_, String>("b").unwrap(), "stolen");
}

#[tokio::test]
async fn what_one_may_not_touch_the_others_get() {
    let server = RedisServer::start();
    let backend = client(&somebody(&server, &["~mine*", "~{mine*", "&dlock:*", "+@all"])).await;
    let requests = ["mine1", "mine2", "others", "mine3"].map(request);
    let mut answers = at_once(&backend, &requests).await;
    assert_eq!(answers.remove(2).unwrap_err().kind(), ErrorKind::Unauthorized);
    let _held: Vec<_> = answers.into_iter().map(lease).collect();
}

#[tokio::test]
async fn a_release_is_told_as_it_was_though_another_call_is_refused_half_way() {
    let server = RedisServer::start();
    // Without the right to what stands beside the others' lock.
    let backend = client(&somebody(&server, &["~mine*", "~{mine*", "~others*", "&dlock:*", "+@all"])).await;
    let held = lease(backend.try_acquire(&request("mine1")).await);
    let give_up = backend.clock().now() + Duration::from_secs(5);
    let (alone, others, mine) = (request("mine0"), request("others"), request("mine2"));
    // The first goes alone, and the others as one script.
    let (_, released, refused, granted) = tokio::join!(
        backend.try_acquire(&alone),
        held.release(give_up),
        backend.try_acquire(&others),
        backend.try_acquire(&mine)
    );
    assert_eq!(released.unwrap(), Release::Released);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unauthorized);
    let _held = lease(granted);
}

#[tokio::test]
async fn who_may_not_publish_is_told_when_connecting() {
    let server = RedisServer::start();
    let url = somebody(&server, &["~*", "&dlock:*", "+@all", "-publish"]).parse().unwrap();
    assert_eq!(RedisBackend::connect(&url).await.unwrap_err().kind(), ErrorKind::Unauthorized);
}

#[tokio::test]
async fn what_fails_half_way_leaves_a_lock_as_it_was() {
    let server = RedisServer::start();
    let (one, two) = (client(&server.url()).await, client(&server.url()).await);
    let held = lease(one.try_acquire(&request("k")).await);
    let mut raw = raw(&server);
    for (bad, untouched) in [("{k}:w", "{k}:q"), ("{k}:q", "{k}:w")] {
        let () = raw.set(bad, "neither waiters nor a queue").unwrap();
        assert_eq!(two.acquire(&request("k")).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!raw.exists::<_, bool>(untouched).unwrap(), "{untouched} is left");
        let () = raw.del(bad).unwrap();
    }
    assert_eq!(held.release(one.clock().now() + Duration::from_secs(5)).await.unwrap(), Release::Released);
    lease(two.try_acquire(&request("k")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_replaced_when_a_call_among_others_is_not_answered() {
    let server = RedisServer::start();
    let proxy = Proxy::tcp(Framing::Resp, server.url().trim_start_matches("redis://")).await.unwrap();
    let backend = client(&format!("redis://{}", proxy.address())).await;
    let _warm = lease(backend.try_acquire(&request("warm")).await);
    let patient = request("patient").with_op_timeout(Duration::from_secs(60));
    for round in 0..5 {
        let _silent = proxy.on(Requests::with("EVALSHA"), 0, Action::Stall);
        // Alone on its way, for as long as the others are.
        let mut first = backend.try_acquire(&patient);
        assert!(futures_util::poll!(&mut first).is_pending());
        let short = request(&format!("short {round}")).with_op_timeout(Duration::from_millis(500));
        assert_eq!(backend.try_acquire(&short).await.unwrap_err().kind(), ErrorKind::Unavailable);
        let next = request(&format!("next {round}")).with_op_timeout(Duration::from_secs(5));
        let _next = lease(backend.try_acquire(&next).await);
    }
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_scripts_is_given_them() {
    let server = RedisServer::start();
    let backend = client(&server.url()).await;
    for round in 0..3 {
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut raw(&server)).unwrap();
        let requests: Vec<_> = (0..10).map(|n| request(&format!("{round} {n}"))).collect();
        let _leases: Vec<_> = at_once(&backend, &requests).await.into_iter().map(lease).collect();
    }
}

#[test]
fn a_callers_runtime_that_is_driven_no_more_holds_up_nobody() {
    let server = RedisServer::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (clients, callers) = (runtime(), runtime());
    let backend = clients.block_on(client(&server.url()));
    let (one, two) = (request("one"), request("two"));
    callers.block_on(async {
        // The first is on its way, and the second waits to go.
        let (mut first, mut second) = (backend.try_acquire(&one), backend.try_acquire(&two));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
    });
    clients.block_on(async {
        for key in ["three", "four"] {
            lease(backend.try_acquire(&request(key).with_op_timeout(Duration::from_secs(5))).await);
        }
    });
}

#[test]
fn a_runtime_that_ends_among_many_calls_ends() {
    let server = RedisServer::start();
    let mut raw = raw(&server);
    for round in 0..20 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let backend = runtime.block_on(client(&server.url()));
        for n in 0..64 {
            let backend = backend.clone();
            runtime.spawn(async move {
                while let Ok(Attempt::Acquired(lease)) = backend.try_acquire(&request(&format!("{round} {n}"))).await {
                    let _ = lease.release(backend.clock().now() + Duration::from_secs(5)).await;
                }
            });
        }
        let before = scripts(&mut raw);
        wait_until("they are at it", Duration::from_secs(10), || scripts(&mut raw) > before + 50);
        let (ended, has_ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            let _ = ended.send(());
        });
        has_ended.recv_timeout(Duration::from_secs(10)).expect("a runtime that ends");
    }
}
