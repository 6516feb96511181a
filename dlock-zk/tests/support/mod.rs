//! Clients of a test's server: ours, and the driver's own.
#![allow(dead_code, reason = "each test file uses its part")]

use dlock_core::Locks;
use dlock_fixtures::ZooKeeperServer;
use dlock_zk::ZkBackend;
use zookeeper_client::Client;

pub(crate) async fn backend(server: &ZooKeeperServer) -> ZkBackend {
    ZkBackend::connect(&server.url().parse().unwrap()).await.unwrap()
}

pub(crate) async fn client(server: &ZooKeeperServer) -> Locks {
    Locks::new(backend(server).await).unwrap()
}

pub(crate) async fn raw(server: &ZooKeeperServer) -> Client {
    Client::connect(&format!("127.0.0.1:{}", server.port())).await.unwrap()
}
