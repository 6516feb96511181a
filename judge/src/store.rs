//! [`STORES`]: the stores that can be judged. One more is one more line there, and one for its fixture.

use crate::history::LosesLeases;
use dlock_fixtures::{
    DynamoServer, EtcdServer, MariaDbServer, Peer, PostgresServer, RedisOptions, RedisServer, ZooKeeperPeer,
    ZooKeeperServer,
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
    /// When a server, set up as here, loses leases that it gave.
    pub loses_leases: LosesLeases,
    /// How many servers it has, with connections to them.
    pub members: u32,
    /// At how many ports the members of a cluster call each other.
    pub(crate) peers: usize,
    /// Starts them. Local keeps its file in the folder.
    start: fn(&Path, &[Vec<Peer>]) -> Servers,
    /// The URL of the servers at these hosts.
    url: fn(&str) -> String,
}

/// All of a store's servers.
pub(crate) type Servers = Vec<Box<dyn Server>>;

/// All stores.
pub const STORES: &[Store] = &[
    Store {
        name: "local",
        members: 0,
        start: |folder, _| vec![Box::new(File::at(folder))],
        url: |_| String::new(),
        ..SERVER
    },
    Store {
        name: "redis",
        start: |_, _| vec![Box::new(RedisServer::start_with(&RedisOptions { persistent: true, ..Default::default() }))],
        url: redis,
        ..SERVER
    },
    Store {
        name: "redis-volatile",
        loses_leases: LosesLeases::WhenKilled,
        start: |_, _| vec![Box::new(RedisServer::start())],
        url: redis,
        ..SERVER
    },
    Store { name: "etcd", start: |_, _| vec![Box::new(EtcdServer::start())], url: etcd, ..SERVER },
    Store {
        name: "etcd-3",
        loses_leases: LosesLeases::WhenResumed,
        members: 3,
        peers: 1,
        start: |_, peers| {
            let peers: Vec<_> = peers.iter().map(|peers| peers[0]).collect();
            boxed(EtcdServer::start_cluster(&peers))
        },
        url: etcd,
    },
    Store { name: "zk", start: |_, _| vec![Box::new(ZooKeeperServer::start())], url: zk, ..SERVER },
    Store {
        name: "zk-3",
        members: 3,
        peers: 2,
        start: |_, peers| {
            let peer = |peers: &Vec<Peer>| ZooKeeperPeer { quorum: peers[0], election: peers[1] };
            boxed(ZooKeeperServer::start_ensemble(&peers.iter().map(peer).collect::<Vec<_>>()))
        },
        url: zk,
        ..SERVER
    },
    Store {
        name: "dynamo",
        start: |_, _| vec![Box::new(DynamoServer::start())],
        url: |host| format!("dynamodb://test:secret@locks?endpoint=http://{host}&create=true&poll=50ms&op_timeout=2s"),
        ..SERVER
    },
    Store {
        name: "postgres",
        start: |_, _| vec![Box::new(PostgresServer::start())],
        url: |host| format!("postgres://postgres@{host}/test?create=true&op_timeout=2s"),
        ..SERVER
    },
    Store {
        name: "mariadb",
        start: |_, _| vec![Box::new(MariaDbServer::start())],
        url: |host| format!("mysql://root@{host}/test?create=true&op_timeout=2s"),
        ..SERVER
    },
];

/// What most stores are: one server, which keeps its leases.
const SERVER: Store = Store {
    name: "",
    loses_leases: LosesLeases::Never,
    members: 1,
    peers: 0,
    start: |_, _| Vec::new(),
    url: |_| String::new(),
};

fn redis(host: &str) -> String {
    format!("redis://{host}?op_timeout=2s")
}

fn etcd(hosts: &str) -> String {
    format!("etcd://{hosts}?op_timeout=2s")
}

fn zk(hosts: &str) -> String {
    format!("zk://{hosts}?op_timeout=2s")
}

fn boxed<S: Server + 'static>(servers: Vec<S>) -> Servers {
    servers.into_iter().map(|server| Box::new(server) as Box<dyn Server>).collect()
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

    /// Starts its servers; `peers` says for each where the others call it.
    pub(crate) fn start(&self, folder: &Path, peers: &[Vec<Peer>]) -> Servers {
        (self.start)(folder, peers)
    }

    /// The URL of its servers at these ports of 127.0.0.1.
    pub(crate) fn url(&self, ports: &[u16], folder: &Path) -> String {
        if self.members == 0 {
            return format!("local:{}?op_timeout=2s", file(folder));
        }
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        (self.url)(&hosts.join(","))
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
    /// Waits until it serves. Whoever did not wait for that at the restart does it here.
    fn wait(&mut self) {}
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
servers!(RedisServer, EtcdServer, DynamoServer, PostgresServer, MariaDbServer);

/// It serves when most others do, and they are broken too.
impl Server for ZooKeeperServer {
    fn port(&self) -> u16 {
        Self::port(self)
    }
    fn kill(&mut self) {
        Self::kill(self);
    }
    fn restart(&mut self) {
        self.start_again();
    }
    fn wait(&mut self) {
        Self::wait(self);
    }
    fn pause(&mut self) {
        Self::pause(self);
    }
    fn resume(&mut self) {
        Self::resume(self);
    }
}

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
