//! While the server is killed and stopped and its clients are cut off, no two believe at one time that they hold a lock.
#![allow(clippy::unwrap_used)]

mod proxy;

use dlock_core::{Clock, FencingToken, Locks, Moment};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::EtcdServer;
use proxy::Proxy;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// From when to when somebody believed to hold the lock.
#[derive(Clone, Copy, Debug)]
struct Stay {
    from: Moment,
    to: Moment,
    token: FencingToken,
    lost: bool,
}

async fn visit(locks: Locks, stays: Arc<Mutex<Vec<Stay>>>, stop: Arc<AtomicBool>) {
    let clock = Clock::system();
    while !stop.load(Ordering::SeqCst) {
        let Ok(guard) = locks.lock("k").wait_at_most(Duration::from_secs(3)).acquire().await else { continue };
        let from = clock.now();
        // Now and then longer than the TTL.
        let most = if rand::random_ratio(1, 5) { 4_000 } else { 200 };
        let until = from + Duration::from_millis(rand::random_range(0..most));
        let mut stay = Stay { from, to: from, token: guard.token(), lost: false };
        loop {
            let now = clock.now();
            // Looked at in this order: it was held when `now` was read.
            stay.lost = !guard.is_valid();
            if stay.lost {
                break;
            }
            stay.to = now;
            if now >= until {
                break;
            }
            clock.sleep(Duration::from_millis(1)).await;
        }
        stays.lock().unwrap().push(stay);
        // Its outcome is told by what others see.
        let _ = guard.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_believe_to_hold_whatever_breaks() {
    let mut server = EtcdServer::start();
    let (stays, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (mut visitors, mut clients) = (JoinSet::new(), Vec::new());
    let proxies: Vec<_> = (0..3).map(|_| Proxy::before(server.port())).collect();
    for (client, proxy) in (0..).zip(&proxies) {
        let backend = EtcdBackend::connect(&proxy.url().parse().unwrap()).await.unwrap();
        let locks =
            Locks::builder(Arc::new(backend)).ttl(Duration::from_secs(1 + client)).op_timeout(Duration::from_secs(1));
        let locks = locks.build().unwrap();
        for _ in 0..3 {
            visitors.spawn(visit(locks.clone(), stays.clone(), stop.clone()));
        }
        clients.push(locks);
    }
    let server = tokio::task::spawn_blocking(move || {
        let sleep = |millis| std::thread::sleep(Duration::from_millis(rand::random_range(millis)));
        for round in 0..12 {
            sleep(300..1_200);
            let proxy = &proxies[round % 3];
            match round % 4 {
                0 => server.restart(),
                1 => {
                    server.pause();
                    sleep(300..2_500);
                    server.resume();
                }
                2 => {
                    proxy.cut();
                    sleep(300..4_500);
                    proxy.reset();
                }
                _ => {
                    proxy.lose();
                    sleep(300..3_500);
                    proxy.reset();
                }
            }
        }
        server
    });
    let server = server.await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(20), visitors.join_all()).await.expect("all end");
    let mut stays = stays.lock().unwrap().clone();
    stays.sort_by_key(|stay| stay.from);
    let lost = stays.iter().filter(|stay| stay.lost).count();
    println!("{} stays, {lost} of them lost", stays.len());
    assert!(stays.len() > 20, "only {} stays", stays.len());
    for pair in stays.windows(2) {
        assert!(pair[0].to <= pair[1].from, "two at one time: {pair:?}");
        assert!(pair[0].token < pair[1].token, "a token went back: {pair:?}");
    }
    for locks in clients {
        locks.close().await.unwrap();
    }
    assert_eq!(server.keys(""), [""; 0]);
}
