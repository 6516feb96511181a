//! [`PostgresBackend`].

use crate::config::{LOOK, Settings, Tls, holders, place, postgres_table};
use crate::error::{from_sql, no_answer};
use crate::lent::on;
use async_trait::async_trait;
use dlock_core::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, StoreTime, Swap, Wakes};
use dlock_core::{Capabilities, Clock, HolderId, LockKey, Moment, Result, StoreUrl, Wake};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, PgPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Locks in PostgreSQL.
pub type PostgresBackend = RecordBackend<PostgresStore>;

/// Records in a table of PostgreSQL. Clones share the pool.
#[derive(Clone, Debug)]
pub struct PostgresStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    settings: Settings,
    clock: Clock,
    wakes: Wakes,
    /// Ends the listening task.
    listening: Option<AbortHandle>,
    sql: Sql,
}

#[derive(Debug)]
struct Sql {
    read: String,
    swap: String,
    scan: String,
    purge: String,
}

/// Microseconds since 1970, by the server.
const MICROS: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
/// Where grants are told.
const CHANNEL: &str = "dlock_grants";
/// How long the test of that may take.
const SELF_TEST: Duration = Duration::from_secs(1);

impl Sql {
    fn new(table: &str) -> Self {
        Self {
            read: format!(
                "SELECT {MICROS}, l.version, l.record FROM (VALUES (1)) one LEFT JOIN {table} l ON l.key = $1"
            ),
            // What is there is answered as it was when the statement began.
            swap: format!(
                "WITH changed AS (UPDATE {table} SET version = $3, record = $4, holders = $5, changed = clock_timestamp() \
                 WHERE key = $1 AND version = $2 RETURNING 1), \
                 made AS (INSERT INTO {table} (key, version, record, holders, changed) \
                 SELECT $1, $3, $4, $5, clock_timestamp() WHERE $2::bigint IS NULL ON CONFLICT (key) DO NOTHING RETURNING 1), \
                 done AS (SELECT 1 FROM changed UNION ALL SELECT 1 FROM made), \
                 told AS (SELECT pg_notify('{CHANNEL}', id || ' ' || $1) FROM unnest($6::text[]) id WHERE EXISTS (SELECT 1 FROM done)) \
                 SELECT {MICROS}, EXISTS (SELECT 1 FROM done), l.version, l.record, (SELECT count(*) FROM told) \
                 FROM (VALUES (1)) one LEFT JOIN {table} l ON l.key = $1"
            ),
            scan: format!("SELECT {MICROS}, key, version, record FROM {table} WHERE starts_with(key, $1)"),
            purge: format!("DELETE FROM {table} WHERE key = $1 AND version = $2"),
        }
    }
}

impl PostgresStore {
    /// Connects to the database of a `postgres://` URL.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the URL is wrong, the database does not answer within `op_timeout`, or the table is missing.
    pub async fn connect(url: &StoreUrl) -> Result<Self> {
        let settings = Settings::of(url)?;
        let (host, port, database) = place(url)?;
        let mode = match settings.tls {
            Tls::Disable => PgSslMode::Disable,
            Tls::Prefer => PgSslMode::Prefer,
            Tls::Require => PgSslMode::Require,
            Tls::VerifyFull => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass().host(host).database(database).ssl_mode(mode);
        options = options.port(port.unwrap_or(5432)).application_name("dlock");
        if let Some(user) = url.username() {
            options = options.username(user);
        }
        if let Some(password) = url.password() {
            options = options.password(password);
        }
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool)
            .acquire_timeout(settings.op_timeout)
            .connect_lazy_with(options);
        Self::with_pool(pool, settings).await
    }

    async fn with_pool(pool: PgPool, settings: Settings) -> Result<Self> {
        let (clock, wakes, create) = (Clock::system(), Wakes::default(), postgres_table(&settings.table));
        let sql = Sql::new(&settings.table);
        let give_up = clock.now() + settings.op_timeout;
        let prepared = async {
            if settings.create {
                sqlx::query(AssertSqlSafe(create.clone())).execute(&pool).await?;
            }
            sqlx::query(AssertSqlSafe(sql.read.clone())).bind("").fetch_one(&pool).await.map(drop)
        };
        let prepared = clock.timeout_at(give_up, prepared).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        prepared.map_err(|error| from_sql(error, &create))?;
        let listening = match listen(&pool, &clock).await {
            Some(listener) => Some(tokio::spawn(hear(listener, wakes.clone())).abort_handle()),
            None => {
                tracing::warn!("LISTEN does not get through to this database (a pooler?): waiters look every {LOOK:?}");
                None
            }
        };
        Ok(Self(Arc::new(Shared { pool, settings, clock, wakes, listening, sql })))
    }

    fn failed(&self, error: sqlx::Error) -> dlock_core::Error {
        from_sql(error, &postgres_table(&self.0.settings.table))
    }

    fn reading(&self, micros: i64, sent: Moment) -> StoreReading {
        let at = u64::try_from(micros).unwrap_or_default();
        StoreReading {
            at: StoreTime(at),
            granularity: Duration::from_micros(1),
            unix_micros: at,
            sent,
            received: self.0.clock.now(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

/// A connection that hears what is told, if that gets through.
async fn listen(pool: &PgPool, clock: &Clock) -> Option<PgListener> {
    let heard = async {
        let mut listener = PgListener::connect_with(pool).await.ok()?;
        listener.listen(CHANNEL).await.ok()?;
        let word = format!("test {:016x}", rand::random::<u64>());
        sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(&word).execute(pool).await.ok()?;
        while listener.recv().await.ok()?.payload() != word {}
        Some(listener)
    };
    clock.timeout_at(clock.now() + SELF_TEST, heard).await.flatten()
}

/// Wakes the waiters that are told of a grant; and all of them when the connection was made anew, since what was told
/// meanwhile is lost.
async fn hear(mut listener: PgListener, wakes: Wakes) {
    loop {
        match listener.try_recv().await {
            Ok(Some(told)) => {
                if let Some((id, key)) = told.payload().split_once(' ')
                    && let Ok(key) = LockKey::new(key)
                {
                    wakes.wake(&key, &HolderId::from_store(id));
                }
            }
            Ok(None) => wakes.wake_all(),
            Err(_) => {
                wakes.wake_all();
                Clock::system().sleep(LOOK).await;
            }
        }
    }
}

fn snapshot(row: Option<(i64, String)>, reading: StoreReading) -> Result<Snapshot<i64>> {
    let (version, text) = row.unzip();
    let record = text.map(|text| Record::decode(text.as_bytes())).transpose()?;
    Ok(Snapshot::new(record, version, Some(reading)))
}

#[async_trait]
impl RecordStore for PostgresStore {
    type Version = i64;

    fn name(&self) -> &'static str {
        "postgres"
    }

    fn capabilities(&self) -> Capabilities {
        let wake = if self.0.listening.is_some() { Wake::Event } else { Wake::Poll(LOOK) };
        self.0.settings.capabilities(wake)
    }

    fn clock_margin(&self) -> Duration {
        self.0.settings.clock_margin
    }

    async fn read(&self, key: &LockKey) -> Result<Snapshot<i64>> {
        let sent = self.0.clock.now();
        let query = sqlx::query_as(AssertSqlSafe(self.0.sql.read.clone())).bind(key.as_str());
        let (micros, version, record): (i64, Option<i64>, Option<String>) =
            on!(&self.0.pool, query.fetch_one).await.map_err(|error| self.failed(error))?;
        snapshot(version.zip(record), self.reading(micros, sent))
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, i64>) -> Result<Swap<i64>> {
        let (sent, version) = (self.0.clock.now(), rand::random::<i64>());
        let granted: Vec<&str> = change.granted.iter().map(HolderId::as_str).collect();
        let query = sqlx::query_as(AssertSqlSafe(self.0.sql.swap.clone()))
            .bind(key.as_str())
            .bind(change.expected)
            .bind(version)
            .bind(change.next.encode())
            .bind(holders(change.next))
            .bind(granted);
        let answer = self.0.clock.timeout_at(change.give_up, on!(&self.0.pool, query.fetch_one)).await;
        let answer: Result<(i64, bool, Option<i64>, Option<String>, i64), _> = answer.ok_or_else(no_answer)?;
        let (micros, done, present, record, _) = answer.map_err(|error| self.failed(error))?;
        let reading = self.reading(micros, sent);
        if done {
            return Ok(Swap::Done { version: Some(version), reading: Some(reading) });
        }
        // Changed while the statement waited for it: what it saw is old.
        if present.as_ref() == change.expected {
            return Ok(Swap::Conflict(None));
        }
        Ok(Swap::Conflict(Some(snapshot(present.zip(record), reading)?)))
    }

    async fn changed(&self, key: &LockKey, waiter: &HolderId, since: Option<&i64>, at_most: Duration) -> Result<()> {
        if self.0.listening.is_none() {
            self.0.clock.sleep(at_most.min(LOOK.mul_f64(rand::random_range(0.5..1.0)))).await;
            return Ok(());
        }
        let watch = self.0.wakes.watch(key, waiter);
        // A grant that was told before we listened.
        if self.read(key).await?.version.as_ref() == since {
            self.0.clock.timeout_at(self.0.clock.now() + at_most, watch.woken()).await;
        }
        Ok(())
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<i64>)>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let rows = async move {
            let sent = this.0.clock.now();
            let query = sqlx::query_as(AssertSqlSafe(this.0.sql.scan.clone())).bind(prefix);
            let rows: Vec<(i64, String, i64, String)> =
                on!(&this.0.pool, query.fetch_all).await.map_err(|error| this.failed(error))?;
            let read = move |(micros, key, version, record): (i64, String, i64, String)| {
                let key = LockKey::new(key)?;
                let found = snapshot(Some((version, record)), this.reading(micros, sent));
                found.map_err(|error| error.during("list", Some(&key))).map(|found| (key, found))
            };
            Ok::<_, dlock_core::Error>(futures_util::stream::iter(rows.into_iter().map(read)))
        };
        futures_util::stream::once(rows).try_flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &i64) -> Result<bool> {
        let query = sqlx::query(AssertSqlSafe(self.0.sql.purge.clone())).bind(key.as_str()).bind(expected);
        let done = on!(&self.0.pool, query.execute).await.map_err(|error| self.failed(error))?;
        Ok(done.rows_affected() > 0)
    }

    async fn close(&self) -> Result<()> {
        if let Some(listening) = &self.0.listening {
            listening.abort();
        }
        // Connections in use are closed when they come back.
        self.0.clock.timeout_at(self.0.clock.now() + self.0.settings.op_timeout, self.0.pool.close()).await;
        Ok(())
    }
}
