//! The servers that tests and examples share.

use crate::install::{install, python};
use crate::shell::{Done, interrupted};
use dlock_fixtures::{MariaDbServer, PostgresServer, RedisServer};
use std::time::Duration;

/// The servers, stopped when this is dropped.
pub(crate) struct Servers {
    redis: RedisServer,
    postgres: PostgresServer,
    mariadb: MariaDbServer,
    python: String,
}

impl Servers {
    /// Installs what is missing and starts them.
    pub(crate) fn start() -> Done<Self> {
        install()?;
        let (postgres, mariadb) = (PostgresServer::start(), MariaDbServer::start());
        Ok(Self { python: python()?, redis: RedisServer::start(), postgres, mariadb })
    }

    /// The URL of each store that has a server.
    pub(crate) fn urls(&self) -> Vec<(&'static str, String)> {
        let create = |url: String| format!("{url}?create=true");
        vec![
            ("REDIS", self.redis.url()),
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
        println!("export {name}={value}");
    }
    println!("# Ctrl-C stops the servers");
    while !interrupted() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
