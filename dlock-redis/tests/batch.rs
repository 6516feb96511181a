//! Calls that go to the server together answer each as if it had gone alone.
#![allow(clippy::unwrap_used)]

use dlock_core::{Attempt, ErrorKind, Lease, LockBackend, LockKey, Mode, Release, Request, Result, Ttl};
use dlock_fixtures::RedisServer;
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
    let () = raw.set("{queue}:q", "no list").unwrap();
    let () = raw.set("{fence}:f", "no fence").unwrap();
    let mut requests: Vec<_> =
        ["a", "held", "b", "list", "queue", "fence", "foreign", "c"].iter().map(|key| request(key)).collect();
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
    for key in ["list", "queue", "fence"] {
        corrupt(answer(key));
    }
    for (key, holder) in [("held", held.holder().as_str().to_owned()), ("foreign", "another client's".to_owned())] {
        let Attempt::Held(info) = answer(key).unwrap() else { panic!("{key} was free") };
        assert_eq!(info.holders[0].id.as_str(), holder);
    }
    assert_eq!(answer("withdrawn").unwrap_err().kind(), ErrorKind::Unexpected);
    let leases = ["a", "b", "c", "shared"].map(|key| lease(answer(key)));
    for key in ["list", "{queue}:q", "{fence}:f", "foreign", "held", "a", "b", "c"] {
        assert!(raw.exists::<_, bool>(key).unwrap(), "{key} is gone");
    }
    for key in ["queue", "fence"] {
        assert!(!raw.exists::<_, bool>(key).unwrap(), "{key} was half taken");
    }

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
    let mut raw = raw(&server);
    let rights = ["on", ">secret", "~mine*", "~{mine*", "&dlock:*", "+@all"];
    let () = redis::cmd("ACL").arg("SETUSER").arg("somebody").arg(&rights).query(&mut raw).unwrap();
    let url = server.url().replace("redis://", "redis://somebody:secret@");
    let backend = client(&url).await;
    let requests = ["mine1", "mine2", "others", "mine3"].map(request);
    let mut answers = at_once(&backend, &requests).await;
    assert_eq!(answers.remove(2).unwrap_err().kind(), ErrorKind::Unauthorized);
    let _held: Vec<_> = answers.into_iter().map(lease).collect();
}

#[test]
fn a_runtime_that_ends_takes_nobody_elses_calls_along() {
    let server = RedisServer::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (lasting, passing) = (runtime(), runtime());
    let backend = lasting.block_on(client(&server.url()));
    let (one, two) = (request("one"), request("two"));
    passing.block_on(async {
        // The first is on its way, and the second waits for a task of a runtime that runs none any more.
        let first = backend.try_acquire(&one);
        let second = backend.try_acquire(&two);
        futures_util::pin_mut!(first, second);
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
    });
    drop(passing);
    lasting.block_on(async {
        for key in ["three", "four"] {
            lease(backend.try_acquire(&request(key).with_op_timeout(Duration::from_secs(5))).await);
        }
    });
}
