//! What the backends can do, and which URLs are theirs.

use crate::options::{CLOCK_MARGIN, SqlOptions};
use crate::{MySqlBackend, MySqlStore, PostgresBackend, PostgresStore};
use dlock_core::{
    Capabilities, Driver, Error, ErrorKind, Lifetime, LockBackend, Result, Shows, StoreUrl, TokenSurvives, Ttl,
    TtlRange, Wake,
};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

/// How far apart waiters look where nobody tells them.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

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
    lateness: CLOCK_MARGIN.saturating_add(LATENESS),
    death_seen_within: None,
    token_survives: TokenSurvives { restart: true, data_loss: true },
    leases_survive_restart: true,
    fence_floor: true,
    shows: Shows { label: true, remaining: true, since: true, waiters: true },
};

/// What this backend can do on MySQL and MariaDB, with the parameters' defaults.
pub const MYSQL_CAPABILITIES: Capabilities = Capabilities { wake: Wake::Poll(LOOK), ..POSTGRES_CAPABILITIES };

impl SqlOptions {
    pub(crate) fn capabilities(&self, wake: Wake) -> Capabilities {
        Capabilities { wake, lateness: self.clock_margin.saturating_add(LATENESS), ..POSTGRES_CAPABILITIES }
    }
}

/// Whether a connection that was idle is still there. One that died in silence costs a part of the call, so that the new
/// one in its place may still answer in time (rule K1).
pub(crate) async fn answers<C: sqlx::Connection>(connection: &mut C, op_timeout: Duration) -> sqlx::Result<()> {
    let most = (op_timeout / 5).min(Duration::from_secs(1));
    let answer = tokio::time::timeout(most, connection.ping()).await;
    answer.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

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

/// The driver of `postgres:`, `postgresql:`, `mysql:` and `mariadb:` URLs.
pub fn driver() -> Driver {
    let schemes = &["postgres", "postgresql", "mysql", "mariadb"];
    let parameters = &["table", "create", "pool", "tls", "tls_ca", "clock_margin", "pooler", "purge_after"];
    let is_postgres = |url: &StoreUrl| url.scheme().starts_with("postgres");
    Driver::new("sql", schemes, parameters, move |url| {
        async move {
            let backend: Arc<dyn LockBackend> = if is_postgres(&url) {
                Arc::new(PostgresBackend::new(PostgresStore::connect(&url).await?))
            } else {
                Arc::new(MySqlBackend::new(MySqlStore::connect(&url).await?))
            };
            Ok(backend)
        }
        .boxed()
    })
    .with_init(move |url| {
        async move { if is_postgres(&url) { PostgresStore::init(&url).await } else { MySqlStore::init(&url).await } }
            .boxed()
    })
}
