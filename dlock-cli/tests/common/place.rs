//! [`Place`]: a folder with a journal, and a store. A new store is one function here, one line in [`Place::all`] and one test in
//! `on_every`.

#[cfg(feature = "dynamo")]
use dlock_fixtures::DynamoServer;
#[cfg(feature = "etcd")]
use dlock_fixtures::EtcdServer;
use dlock_fixtures::RedisServer;
#[cfg(feature = "zk")]
use dlock_fixtures::ZooKeeperServer;
#[cfg(feature = "sql")]
use dlock_fixtures::{MariaDbServer, PostgresServer};
use std::time::Duration;
use tempfile::TempDir;

/// A folder with a journal, and the store of its locks.
pub struct Place {
    pub folder: TempDir,
    pub name: &'static str,
    pub url: String,
    /// The store's server, if it has one.
    pub server: Option<Box<dyn Server>>,
    pub after_a_kill: AfterAKill,
}

/// When the lock of a killed process is free.
#[derive(Clone, Copy)]
pub enum AfterAKill {
    /// The store sees the death.
    AtOnce,
    /// After its TTL, and so much longer.
    Ttl(Duration),
}

/// A server that can crash.
pub trait Server: Send + Sync {
    fn kill(&mut self);
}

macro_rules! servers {
    ($($server:ty),*) => {
        $(impl Server for $server {
            fn kill(&mut self) {
                self.kill();
            }
        })*
    };
}

servers!(RedisServer);
#[cfg(feature = "sql")]
servers!(PostgresServer, MariaDbServer);
#[cfg(feature = "etcd")]
servers!(EtcdServer);
#[cfg(feature = "zk")]
servers!(ZooKeeperServer);
#[cfg(feature = "dynamo")]
servers!(DynamoServer);

/// A waiter is told, or looks, within this.
const TOLD: Duration = Duration::from_millis(500);

impl Place {
    pub fn local() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("local:{}/locks.db", folder.path().display());
        Self { folder, name: "local", url, server: None, after_a_kill: AfterAKill::AtOnce }
    }

    pub fn redis() -> Self {
        let redis = RedisServer::start();
        Self::on("redis", redis.url(), redis, AfterAKill::Ttl(TOLD))
    }

    #[cfg(feature = "etcd")]
    pub fn etcd() -> Self {
        let etcd = EtcdServer::start();
        Self::on("etcd", etcd.url(), etcd, AfterAKill::Ttl(dlocks::etcd::EtcdBackend::CAPABILITIES.lateness + TOLD))
    }

    #[cfg(feature = "zk")]
    pub fn zk() -> Self {
        let zookeeper = ZooKeeperServer::start();
        Self::on("zk", zookeeper.url(), zookeeper, AfterAKill::Ttl(dlocks::zk::ZkBackend::CAPABILITIES.lateness + TOLD))
    }

    #[cfg(feature = "dynamo")]
    pub fn dynamo() -> Self {
        let dynamo = DynamoServer::start();
        Self::on(
            "dynamo",
            dynamo.url() + "&create=true&poll=100ms",
            dynamo,
            AfterAKill::Ttl(dlocks::dynamo::DYNAMO_CAPABILITIES.lateness + TOLD),
        )
    }

    #[cfg(feature = "sql")]
    pub fn postgres() -> Self {
        let postgres = PostgresServer::start();
        Self::on("postgres", postgres.url() + "?create=true", postgres, AfterAKill::Ttl(SQL_MARGIN + TOLD))
    }

    #[cfg(feature = "sql")]
    pub fn mariadb() -> Self {
        let maria = MariaDbServer::start();
        Self::on("mariadb", maria.url() + "?create=true", maria, AfterAKill::Ttl(SQL_MARGIN + TOLD))
    }

    fn on(name: &'static str, url: String, server: impl Server + 'static, after_a_kill: AfterAKill) -> Self {
        Self { folder: TempDir::new().unwrap(), name, url, server: Some(Box::new(server)), after_a_kill }
    }

    /// One of each store.
    pub fn all() -> Vec<Self> {
        vec![
            Self::local(),
            Self::redis(),
            #[cfg(feature = "etcd")]
            Self::etcd(),
            #[cfg(feature = "zk")]
            Self::zk(),
            #[cfg(feature = "dynamo")]
            Self::dynamo(),
            #[cfg(feature = "sql")]
            Self::postgres(),
            #[cfg(feature = "sql")]
            Self::mariadb(),
        ]
    }

    /// Kills the store's server.
    pub fn kill_server(&mut self) {
        self.server.as_mut().expect("a store with a server").kill();
    }
}

/// The default `clock_margin`.
#[cfg(feature = "sql")]
const SQL_MARGIN: Duration = Duration::from_millis(200);

/// A check as one test for each store, or for each that has a server.
#[allow(unused_macros, reason = "each test file uses its part")]
macro_rules! on_every {
    (store, $name:ident, $check:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn on_local() {
                $check(Place::local());
            }

            on_every!(@servers $check);
        }
    };
    (server, $name:ident, $check:expr) => {
        mod $name {
            use super::*;

            on_every!(@servers $check);
        }
    };
    (@servers $check:expr) => {
        #[test]
        fn on_redis() {
            $check(Place::redis());
        }

        #[cfg(feature = "etcd")]
        #[test]
        fn on_etcd() {
            $check(Place::etcd());
        }

        #[cfg(feature = "zk")]
        #[test]
        fn on_zk() {
            $check(Place::zk());
        }

        #[cfg(feature = "dynamo")]
        #[test]
        fn on_dynamo() {
            $check(Place::dynamo());
        }

        #[cfg(feature = "sql")]
        #[test]
        fn on_postgres() {
            $check(Place::postgres());
        }

        #[cfg(feature = "sql")]
        #[test]
        fn on_mariadb() {
            $check(Place::mariadb());
        }
    };
}
#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use on_every;
