//! [`SqlOptions`]: how locks are kept in a database.

use dlock_core::{Config, Error, ErrorKind, LocksBuilder, Result, StoreUrl};
use std::time::Duration;

/// How locks are kept in a database, whatever connects to it: what the parameters of a URL say, for a pool of your own
/// ([`PostgresStore::from_pool`](crate::PostgresStore::from_pool), [`MySqlStore::from_pool`](crate::MySqlStore::from_pool)).
#[derive(Clone, Debug)]
pub struct SqlOptions {
    pub(crate) table: String,
    pub(crate) create: bool,
    pub(crate) pooler: bool,
    pub(crate) clock_margin: Duration,
    pub(crate) op_timeout: Duration,
    pub(crate) purge_after: Option<Duration>,
}

/// How far apart the servers' clocks may be unless told otherwise.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_millis(200);

const MOST_MARGIN: Duration = Duration::from_secs(60 * 60);

/// An idle record stays for this long at the least: no request lives on for as long, whatever client, network and server
/// do, so that none that wants to create the record is still under way when it is purged (rule R3).
pub(crate) const LEAST_IDLE: Duration = Duration::from_secs(60 * 60);

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message.into())
}

impl Default for SqlOptions {
    fn default() -> Self {
        Self {
            table: "dlock_locks".to_owned(),
            create: false,
            pooler: false,
            clock_margin: CLOCK_MARGIN,
            op_timeout: LocksBuilder::OP_TIMEOUT,
            purge_after: None,
        }
    }
}

impl SqlOptions {
    /// The table `dlock_locks`, which must be there; nothing is purged.
    pub fn new() -> Self {
        Self::default()
    }

    /// With another table: letters, digits and underscores, and a schema before a dot.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for any other name.
    pub fn table(mut self, table: &str) -> Result<Self> {
        let is_name = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if table.len() > 120 || table.split('.').count() > 2 || !table.split('.').all(is_name) {
            return Err(wrong(format!(
                "{table:?} is no name of a table; take letters, digits and underscores, as in app.locks"
            )));
        }
        table.clone_into(&mut self.table);
        Ok(self)
    }

    /// Makes the tables if they are missing, and brings them up to date.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The connections of PostgreSQL go through a transaction pooler: do not try `LISTEN`. Without this it is found out, which
    /// takes a second at connect.
    #[must_use]
    pub fn pooler(mut self, pooler: bool) -> Self {
        self.pooler = pooler;
        self
    }

    /// How far apart the servers' clocks may be, over a failover too (200 ms unless given): a lease ends so much later for
    /// others. An hour at the most.
    #[must_use]
    pub fn clock_margin(mut self, clock_margin: Duration) -> Self {
        self.clock_margin = clock_margin.min(MOST_MARGIN);
        self
    }

    /// How long connecting, closing and purging may take (5 s unless given). What a lock's requests may take says
    /// [`LocksBuilder::op_timeout`]. An hour at the most.
    #[must_use]
    pub fn op_timeout(mut self, op_timeout: Duration) -> Self {
        self.op_timeout = op_timeout.min(Duration::from_secs(3600));
        self
    }

    /// Removes the rows of locks that nobody has used for this long, an hour at the least. Never unless given.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for less than an hour.
    pub fn purge_after(mut self, unused_for: Duration) -> Result<Self> {
        if unused_for < LEAST_IDLE {
            return Err(wrong("purge_after must be an hour or more: a late request could bring an old token back"));
        }
        self.purge_after = Some(unused_for);
        Ok(self)
    }

    pub(crate) fn of(url: &StoreUrl) -> Result<Self> {
        let mut this = Self { op_timeout: Config::op_timeout_of(url)?, ..Self::default() };
        if let Some(table) = url.param("table") {
            this = this.table(table)?;
        }
        if let Some(unused_for) = url.duration("purge_after")? {
            this = this.purge_after(unused_for)?;
        }
        let clock_margin = url.duration("clock_margin")?.unwrap_or(CLOCK_MARGIN);
        if clock_margin > MOST_MARGIN {
            return Err(wrong("the parameter clock_margin is out of range; give a duration up to 1h"));
        }
        if url.flag("pooler")? && !url.scheme().starts_with("postgres") {
            return Err(wrong("the parameter pooler is for PostgreSQL; nothing has to be said of a pooler here"));
        }
        Ok(this.create(url.flag("create")?).pooler(url.flag("pooler")?).clock_margin(clock_margin))
    }
}

/// How a connection is made, beyond where to.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) pool: u32,
    pub(crate) tls: Tls,
    /// A file with the authority of the server's certificate.
    pub(crate) tls_ca: Option<String>,
}

/// How the connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    Disable,
    Prefer,
    Require,
    VerifyFull,
}

impl Connection {
    pub(crate) fn of(url: &StoreUrl) -> Result<Self> {
        let pool = url.parsed("pool")?.unwrap_or(5);
        if !(2..=1000).contains(&pool) {
            return Err(wrong(format!("a pool of {pool} connections is out of range; give one from 2 to 1000")));
        }
        let tls = match url.param("tls") {
            Some("disable") => Tls::Disable,
            None | Some("prefer") => Tls::Prefer,
            Some("require") => Tls::Require,
            Some("verify-full") => Tls::VerifyFull,
            Some(_) => return Err(wrong("the parameter tls is disable, prefer, require or verify-full")),
        };
        let tls_ca = url.param("tls_ca").map(str::to_owned);
        if let Some(file) = tls_ca.as_ref().filter(|_| tls != Tls::VerifyFull) {
            return Err(wrong(format!("tls_ca={file} checks nothing without tls=verify-full; add that")));
        }
        if let Some(file) = &tls_ca {
            std::fs::File::open(file)
                .map_err(|error| wrong(format!("tls_ca={file} can't be read: {error}; name a PEM file")))?;
        }
        Ok(Self { pool, tls, tls_ca })
    }
}
