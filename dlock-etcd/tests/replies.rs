//! A reply that is lost is not a lock that is lost, nor one that nobody holds.
#![allow(clippy::unwrap_used)]

use dlock_core::{Clock, ErrorKind, Locks};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::{EtcdServer, free_port};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Stands between client and server, and loses what the server says as long as it is told to.
#[derive(Clone)]
struct Proxy {
    port: u16,
    deaf: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn before(server: u16) -> Self {
        let port = free_port();
        let this = Self { port, deaf: Arc::default(), open: Arc::default() };
        let (listener, proxy) = (TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap(), this.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, server))) else {
                    return;
                };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    proxy.open.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || pass(client, to_server, &AtomicBool::new(false)));
                let deaf = proxy.deaf.clone();
                std::thread::spawn(move || pass(server, to_client, &deaf));
            }
        });
        this
    }

    /// From now on replies are lost.
    fn lose(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// Resets what is open, and then works again.
    fn reset(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        for stream in open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.deaf.store(false, Ordering::SeqCst);
    }

    async fn client(&self, op_timeout: Duration) -> Locks {
        let url = format!("etcd://127.0.0.1:{}", self.port);
        let backend = EtcdBackend::connect(&url.parse().unwrap()).await.unwrap();
        Locks::builder(Arc::new(backend)).op_timeout(op_timeout).build().unwrap()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, lose: &AtomicBool) {
    let mut bytes = [0; 16_384];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if !lose.load(Ordering::SeqCst) && to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

async fn no_keys(server: &EtcdServer, limit: Duration) {
    let clock = Clock::system();
    let end = clock.now() + limit;
    loop {
        // A withdrawal leaves a mark as long as the session lives.
        let keys: Vec<_> = server.keys("").into_iter().filter(|key| !key.starts_with("dlock/.withdrawn/")).collect();
        if keys.is_empty() {
            return;
        }
        assert!(clock.now() < end, "left after {limit:?}: {keys:?}");
        clock.sleep(Duration::from_millis(20)).await;
    }
}

fn pause(most: u64) -> Duration {
    Duration::from_millis(rand::random_range(0..most))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_whose_reply_is_lost_holds_or_leaves_nothing() {
    let server = EtcdServer::start();
    let proxy = Proxy::before(server.port());
    let (locks, clock) = (proxy.client(Duration::from_millis(300)).await, Clock::system());
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let (mut held, mut failed) = (0, 0);
    for round in 0..24 {
        proxy.lose();
        let lock = match round % 4 {
            0 => locks.lock("s").shared(),
            1 => locks.lock("p").permits(2),
            _ => locks.lock("k"),
        };
        let acquiring = if round % 2 == 0 {
            tokio::spawn(lock.acquire())
        } else {
            tokio::spawn(async move { lock.try_acquire().await.map(|guard| guard.expect("nobody else is there")) })
        };
        // Every third is deaf for longer than the operation may take.
        clock.sleep(if round % 3 == 0 { Duration::from_millis(700) } else { pause(250) }).await;
        proxy.reset();
        match acquiring.await.unwrap() {
            Ok(guard) => {
                held += 1;
                guard.release().await.unwrap();
            }
            Err(error) => {
                failed += 1;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
        no_keys(&server, Duration::from_secs(5)).await;
    }
    println!("{held} held after all, {failed} failed");
    assert!(held > 0 && failed > 0, "{held} held, {failed} failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_or_withdrawal_whose_reply_is_lost_is_done_all_the_same() {
    let server = EtcdServer::start();
    let proxy = Proxy::before(server.port());
    let (locks, clock) = (proxy.client(Duration::from_millis(300)).await, Clock::system());
    for round in 0..10 {
        let guard = locks.lock("k").acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock("k").acquire());
        while locks.inspect("k").await.unwrap().waiters.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        proxy.lose();
        if round % 2 == 0 {
            waiter.abort();
            let _ = waiter.await;
            clock.sleep(pause(500)).await;
            proxy.reset();
            guard.release().await.unwrap();
        } else {
            let releasing = tokio::spawn(guard.release());
            clock.sleep(pause(500)).await;
            proxy.reset();
            if let Err(error) = releasing.await.unwrap() {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            let next = tokio::time::timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap().unwrap();
            next.release().await.unwrap();
        }
        no_keys(&server, Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alives_without_a_reply_lose_nothing_before_the_deadline() {
    let server = EtcdServer::start();
    let proxy = Proxy::before(server.port());
    let (locks, clock) = (proxy.client(Duration::from_millis(500)).await, Clock::system());
    let guard = locks.lock("k").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    for _ in 0..3 {
        proxy.lose();
        // What was heard before is counted by then.
        clock.sleep(Duration::from_millis(50)).await;
        let before = guard.valid_until();
        clock.sleep(Duration::from_millis(1_250)).await;
        // At least one was sent meanwhile, and none was answered: what was only sent counts for nothing.
        assert!(guard.is_valid() && guard.valid_until() == before, "believed without an answer");
        proxy.reset();
        let moved = async {
            while guard.valid_until() <= before {
                clock.sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(1_500), moved).await.expect("it is kept alive again");
    }
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}
