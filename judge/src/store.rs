//! [`STORES`]: the stores that can be judged. One more is one more line there, and one for its fixture.

use dlock_fixtures::{
    DynamoServer, EtcdServer, MariaDbServer, PostgresServer, RedisOptions, RedisServer, ZooKeeperServer,
};
use rusqlite::{Connection, OpenFlags};
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

/// A store and how it is set up.
#[derive(Debug)]
pub struct Store {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether a restarted server, set up as here, still has the leases that it gave.
    pub keeps_leases: bool,
    /// Whether it has a server, with connections to it.
    pub has_server: bool,
    /// Starts it. Local keeps its file in the folder.
    start: fn(&Path) -> Box<dyn Server>,
    /// The URL of the server at this port of 127.0.0.1.
    url: fn(u16) -> String,
}

/// All stores.
pub const STORES: &[Store] = &[
    Store {
        name: "local",
        keeps_leases: true,
        has_server: false,
        start: |folder| Box::new(File::at(folder)),
        url: |_| String::new(),
    },
    server(
        "redis",
        true,
        |_| Box::new(RedisServer::start_with(&RedisOptions { persistent: true, ..Default::default() })),
        |port| format!("redis://127.0.0.1:{port}?op_timeout=2s"),
    ),
    server(
        "redis-volatile",
        false,
        |_| Box::new(RedisServer::start()),
        |port| format!("redis://127.0.0.1:{port}?op_timeout=2s"),
    ),
    server("etcd", true, |_| Box::new(EtcdServer::start()), |port| format!("etcd://127.0.0.1:{port}?op_timeout=2s")),
    server("zk", true, |_| Box::new(ZooKeeperServer::start()), |port| format!("zk://127.0.0.1:{port}?op_timeout=2s")),
    server(
        "dynamo",
        true,
        |_| Box::new(DynamoServer::start()),
        |port| {
            let endpoint = format!("http://127.0.0.1:{port}");
            format!("dynamodb://test:secret@locks?endpoint={endpoint}&create=true&poll=50ms&op_timeout=2s")
        },
    ),
    server(
        "postgres",
        true,
        |_| Box::new(PostgresServer::start()),
        |port| format!("postgres://postgres@127.0.0.1:{port}/test?create=true&op_timeout=2s"),
    ),
    server(
        "mariadb",
        true,
        |_| Box::new(MariaDbServer::start()),
        |port| format!("mysql://root@127.0.0.1:{port}/test?create=true&op_timeout=2s"),
    ),
];

const fn server(
    name: &'static str,
    keeps_leases: bool,
    start: fn(&Path) -> Box<dyn Server>,
    url: fn(u16) -> String,
) -> Store {
    Store { name, keeps_leases, has_server: true, start, url }
}

impl Store {
    /// The store of this name.
    ///
    /// # Errors
    /// When there is none; says which there are.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        let names = || STORES.iter().map(|store| store.name).collect::<Vec<_>>().join(", ");
        STORES
            .iter()
            .find(|store| store.name == name)
            .ok_or_else(|| format!("no store {name:?}; there are {}", names()))
    }

    pub(crate) fn start(&self, folder: &Path) -> Box<dyn Server> {
        (self.start)(folder)
    }

    pub(crate) fn url(&self, port: u16, folder: &Path) -> String {
        if self.has_server { (self.url)(port) } else { format!("local:{}?op_timeout=2s", file(folder)) }
    }
}

fn file(folder: &Path) -> String {
    folder.join("locks.db").display().to_string()
}

/// What the nemesis does to a server.
pub(crate) trait Server: Send + Debug {
    fn port(&self) -> u16;
    /// As a crash.
    fn kill(&mut self);
    /// Starts it on the data that it had.
    fn restart(&mut self);
    fn pause(&mut self);
    fn resume(&mut self);
}

macro_rules! servers {
    ($($fixture:ty),*) => {
        $(impl Server for $fixture {
            fn port(&self) -> u16 {
                <$fixture>::port(self)
            }
            fn kill(&mut self) {
                <$fixture>::kill(self);
            }
            fn restart(&mut self) {
                <$fixture>::restart(self);
            }
            fn pause(&mut self) {
                <$fixture>::pause(self);
            }
            fn resume(&mut self) {
                <$fixture>::resume(self);
            }
        })*
    };
}
servers!(RedisServer, EtcdServer, ZooKeeperServer, DynamoServer, PostgresServer, MariaDbServer);

/// A lock file: its pause is somebody else's write lock on it.
#[derive(Debug)]
struct File {
    path: String,
    held: Option<Connection>,
}

impl File {
    fn at(folder: &Path) -> Self {
        Self { path: file(folder), held: None }
    }
}

impl Server for File {
    fn port(&self) -> u16 {
        0
    }

    fn kill(&mut self) {}

    fn restart(&mut self) {}

    fn pause(&mut self) {
        // Made by the workers: before that there is nothing to hold.
        let Ok(connection) = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE) else { return };
        let begun =
            connection.busy_timeout(Duration::from_secs(2)).and_then(|()| connection.execute_batch("BEGIN IMMEDIATE"));
        self.held = begun.is_ok().then_some(connection);
    }

    fn resume(&mut self) {
        // Closing rolls back.
        self.held = None;
    }
}
