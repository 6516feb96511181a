//! [`Proxy`].
#![allow(dead_code, reason = "each test uses its part of it")]

use dlock_core::Locks;
use dlock_etcd::EtcdBackend;
use dlock_fixtures::free_port;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Stands between client and server, and loses what the server says as long as it is told to.
#[derive(Clone)]
pub(crate) struct Proxy {
    port: u16,
    deaf: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn before(server: u16) -> Self {
        let port = free_port();
        let this = Self { port, deaf: Arc::default(), mute: Arc::default(), open: Arc::default() };
        let (listener, proxy) = (TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap(), this.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, server))) else {
                    // The server is down: so is the client's connection.
                    continue;
                };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    proxy.open.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let mute = proxy.mute.clone();
                std::thread::spawn(move || pass(client, to_server, &mute));
                let deaf = proxy.deaf.clone();
                std::thread::spawn(move || pass(server, to_client, &deaf));
            }
        });
        this
    }

    /// From now on replies are lost.
    pub(crate) fn lose(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// From now on nothing passes.
    pub(crate) fn cut(&self) {
        self.mute.store(true, Ordering::SeqCst);
        self.lose();
    }

    /// Resets what is open, and then works again.
    pub(crate) fn reset(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        for stream in open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.mute.store(false, Ordering::SeqCst);
        self.deaf.store(false, Ordering::SeqCst);
    }

    pub(crate) fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn client(&self, op_timeout: Duration) -> Locks {
        let backend = EtcdBackend::connect(&self.url().parse().unwrap()).await.unwrap();
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
