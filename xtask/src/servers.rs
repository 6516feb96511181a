//! The servers that tests and examples share.

use crate::install::{build_dynamo_server, install, python};
use crate::shell::{Done, interrupted};
use dlock_fixtures::{DynamoServer, EtcdServer, MariaDbServer, PostgresServer, RedisServer, ZooKeeperServer};
use std::time::Duration;

/// The servers, stopped when this is dropped.
pub(crate) struct Servers {
    redis: RedisServer,
    etcd: EtcdServer,
    zookeeper: ZooKeeperServer,
    dynamo: DynamoServer,
    postgres: PostgresServer,
    mariadb: MariaDbServer,
    python: String,
}

impl Servers {
    /// Installs what is missing and starts them.
    pub(crate) fn start() -> Done<Self> {
        install()?;
        build_dynamo_server()?;
        Ok(Self {
            python: python()?,
            redis: RedisServer::start(),
            etcd: EtcdServer::start(),
            zookeeper: ZooKeeperServer::start(),
            dynamo: DynamoServer::start(),
            postgres: PostgresServer::start(),
            mariadb: MariaDbServer::start(),
        })
    }

    /// The URL of each store that has a server.
    pub(crate) fn urls(&self) -> Vec<(&'static str, String)> {
        let create = |url: String| format!("{url}{}create=true", if url.contains('?') { '&' } else { '?' });
        vec![
            ("REDIS", self.redis.url()),
            ("ETCD", self.etcd.url()),
            ("ZK", self.zookeeper.url()),
            ("DYNAMO", create(self.dynamo.url())),
            ("POSTGRES", create(self.postgres.url())),
            ("MYSQL", create(self.mariadb.url())),
        ]
    }

    /// The environment in which the tests run: a missing server is a failure.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let urls = self.urls().into_iter().map(|(store, url)| (format!("DLOCK_TEST_{store}_URL"), url));
        let rest = [("DLOCK_TEST_REQUIRE", "1"), ("DLOCK_TEST_PYTHON", &self.python)];
        urls.chain(rest.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
    }
}

/// Keeps the servers running until it is interrupted.
pub(crate) fn servers() -> Done {
    let servers = Servers::start()?;
    for (name, value) in servers.environment() {
        println!("export {name}='{value}'");
    }
    println!("# Ctrl-C stops the servers");
    while !interrupted() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
