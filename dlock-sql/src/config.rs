//! What a URL says, and the tables.

use crate::{MySqlBackend, MySqlStore, PostgresBackend, PostgresStore};
use dlock_core::{
    Capabilities, Config, Driver, Error, ErrorKind, Lifetime, LockBackend, Result, Shows, StoreUrl, TokenSurvives, Ttl,
    TtlRange, Wake,
};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

/// How far apart waiters look where nobody tells them.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// What a URL says beyond where the server is.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) table: String,
    pub(crate) create: bool,
    pub(crate) pool: u32,
    pub(crate) tls: Tls,
    pub(crate) clock_margin: Duration,
    pub(crate) op_timeout: Duration,
}

/// How the connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    Disable,
    Prefer,
    Require,
    VerifyFull,
}

impl Settings {
    pub(crate) fn of(url: &StoreUrl) -> Result<Self> {
        let wrong = |message: String| Err(Error::new(ErrorKind::InvalidConfig, message));
        let table = url.param("table").unwrap_or("dlock_locks").to_owned();
        let is_name = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if table.len() > 120 || table.split('.').count() > 2 || !table.split('.').all(is_name) {
            return wrong(format!(
                "{table:?} is no name of a table; take letters, digits and underscores, as in app.locks"
            ));
        }
        let pool = url.parsed("pool")?.unwrap_or(5);
        if !(2..=1000).contains(&pool) {
            return wrong(format!("a pool of {pool} connections is out of range; give one from 2 to 1000"));
        }
        let tls = match url.param("tls") {
            Some("disable") => Tls::Disable,
            None | Some("prefer") => Tls::Prefer,
            Some("require") => Tls::Require,
            Some("verify-full") => Tls::VerifyFull,
            Some(_) => return wrong("the parameter tls is disable, prefer, require or verify-full".to_owned()),
        };
        Ok(Self {
            table,
            create: url.flag("create")?,
            pool,
            tls,
            clock_margin: url.duration("clock_margin")?.unwrap_or(CLOCK_MARGIN),
            op_timeout: Config::op_timeout_of(url)?,
        })
    }

    pub(crate) fn capabilities(&self, wake: Wake) -> Capabilities {
        Capabilities { wake, lateness: self.clock_margin + LATENESS, ..POSTGRES_CAPABILITIES }
    }
}

/// How far apart the servers' clocks may be unless the URL says otherwise.
const CLOCK_MARGIN: Duration = Duration::from_millis(200);
/// How much later than its end by the margin a lease may end.
const LATENESS: Duration = Duration::from_millis(100);

/// What this backend can do on PostgreSQL, with the parameters' defaults and where `LISTEN` gets through.
pub const POSTGRES_CAPABILITIES: Capabilities = Capabilities {
    shared: true,
    permits: true,
    fifo: true,
    wake: Wake::Event,
    ttl: TtlRange { min: Duration::from_millis(500), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
    lifetime: Lifetime::Lease,
    lateness: Duration::from_millis(300),
    death_seen_within: None,
    token_survives: TokenSurvives { restart: true, data_loss: true },
    leases_survive_restart: true,
    fence_floor: true,
    shows: Shows { label: true, remaining: true, since: true, waiters: true },
};

/// What this backend can do on MySQL and MariaDB, with the parameters' defaults.
pub const MYSQL_CAPABILITIES: Capabilities = Capabilities { wake: Wake::Poll(LOOK), ..POSTGRES_CAPABILITIES };

/// The one host, and the database.
pub(crate) fn place(url: &StoreUrl) -> Result<(&str, Option<u16>, &str)> {
    let wrong = |message: &'static str| Err(Error::new(ErrorKind::InvalidConfig, message));
    let [host] = url.hosts() else {
        return wrong("a database URL has one host; write postgres://user@host:5432/database");
    };
    match url.path().trim_start_matches('/') {
        "" => wrong("a database URL names a database; write postgres://user@host:5432/database"),
        database => Ok((&host.name, host.port, database)),
    }
}

/// The SQL that makes the table in PostgreSQL.
pub fn postgres_table(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (key text COLLATE \"C\" PRIMARY KEY, version bigint NOT NULL, record text NOT NULL, \
         holders text NOT NULL, changed timestamptz NOT NULL) WITH (fillfactor = 50)"
    )
}

/// The SQL that makes the table in MySQL or MariaDB.
pub fn mysql_table(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (`key` varbinary(255) PRIMARY KEY, version bigint NOT NULL, record mediumtext \
         CHARACTER SET utf8mb4 NOT NULL, holders text CHARACTER SET utf8mb4 NOT NULL, changed datetime(6) NOT NULL) ENGINE = InnoDB"
    )
}

/// The holders' labels, for people who look at the table.
pub(crate) fn holders(record: &dlock_core::record::Record) -> String {
    record.holders.iter().map(|holder| holder.entry.label.as_str()).collect::<Vec<_>>().join("; ")
}

/// The driver of `postgres:`, `postgresql:`, `mysql:` and `mariadb:` URLs.
pub fn driver() -> Driver {
    let schemes = &["postgres", "postgresql", "mysql", "mariadb"];
    Driver::new("sql", schemes, &["table", "create", "pool", "tls", "clock_margin"], |url| {
        async move {
            let backend: Arc<dyn LockBackend> = if url.scheme().starts_with("postgres") {
                Arc::new(PostgresBackend::new(PostgresStore::connect(&url).await?))
            } else {
                Arc::new(MySqlBackend::new(MySqlStore::connect(&url).await?))
            };
            Ok(backend)
        }
        .boxed()
    })
}
