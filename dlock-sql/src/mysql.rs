//! [`MySqlBackend`].

use crate::config::{LOOK, Settings, Tls, holders, mysql_table, place};
use crate::error::{from_sql, no_answer};
use crate::lent::on;
use async_trait::async_trait;
use dlock_core::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, StoreTime, Swap};
use dlock_core::{Capabilities, Clock, HolderId, LockKey, Moment, Result, StoreUrl, Wake};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, MySqlPool};
use std::sync::Arc;
use std::time::Duration;

/// Locks in MySQL or MariaDB.
pub type MySqlBackend = RecordBackend<MySqlStore>;

/// Records in a table of MySQL or MariaDB. Clones share the pool.
#[derive(Clone, Debug)]
pub struct MySqlStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: MySqlPool,
    settings: Settings,
    clock: Clock,
    sql: Sql,
}

#[derive(Debug)]
struct Sql {
    read: String,
    update: String,
    insert: String,
    scan: String,
    purge: String,
}

/// Microseconds since 1970, by the server, whatever the session's time zone.
const MICROS: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";

impl Sql {
    fn new(table: &str) -> Self {
        Self {
            read: format!(
                "SELECT {MICROS}, l.version, l.record FROM (SELECT 1) one LEFT JOIN {table} l ON l.`key` = ?"
            ),
            update: format!(
                "UPDATE {table} SET version = ?, record = ?, holders = ?, changed = UTC_TIMESTAMP(6) WHERE `key` = ? AND version = ?"
            ),
            insert: format!(
                "INSERT IGNORE INTO {table} (version, record, holders, `key`, changed) VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6))"
            ),
            scan: format!("SELECT {MICROS}, `key`, version, record FROM {table} WHERE LEFT(`key`, LENGTH(?)) = ?"),
            purge: format!("DELETE FROM {table} WHERE `key` = ? AND version = ?"),
        }
    }
}

impl MySqlStore {
    /// Connects to the database of a `mysql://` URL.
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
            Tls::Disable => MySqlSslMode::Disabled,
            Tls::Prefer => MySqlSslMode::Preferred,
            Tls::Require => MySqlSslMode::Required,
            Tls::VerifyFull => MySqlSslMode::VerifyIdentity,
        };
        let mut options =
            MySqlConnectOptions::new().host(host).port(port.unwrap_or(3306)).database(database).ssl_mode(mode);
        if let Some(user) = url.username() {
            options = options.username(user);
        }
        if let Some(password) = url.password() {
            options = options.password(password);
        }
        let pool = MySqlPoolOptions::new()
            .max_connections(settings.pool)
            .acquire_timeout(settings.op_timeout)
            .connect_lazy_with(options);
        let (clock, sql, create) = (Clock::system(), Sql::new(&settings.table), mysql_table(&settings.table));
        let prepared = async {
            if settings.create {
                sqlx::query(AssertSqlSafe(create.clone())).execute(&pool).await?;
            }
            sqlx::query(AssertSqlSafe(sql.read.clone())).bind("").fetch_one(&pool).await.map(drop)
        };
        let give_up = clock.now() + settings.op_timeout;
        let prepared = clock.timeout_at(give_up, prepared).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        prepared.map_err(|error| from_sql(error, &create))?;
        Ok(Self(Arc::new(Shared { pool, settings, clock, sql })))
    }

    fn failed(&self, error: sqlx::Error) -> dlock_core::Error {
        from_sql(error, &mysql_table(&self.0.settings.table))
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

#[async_trait]
impl RecordStore for MySqlStore {
    type Version = i64;

    fn name(&self) -> &'static str {
        "mysql"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.settings.capabilities(Wake::Poll(LOOK))
    }

    fn clock_margin(&self) -> Duration {
        self.0.settings.clock_margin
    }

    async fn read(&self, key: &LockKey) -> Result<Snapshot<i64>> {
        let sent = self.0.clock.now();
        let query = sqlx::query_as(AssertSqlSafe(self.0.sql.read.clone())).bind(key.as_str().as_bytes());
        let (micros, version, record): (i64, Option<i64>, Option<String>) =
            on!(&self.0.pool, query.fetch_one).await.map_err(|error| self.failed(error))?;
        let record = record.map(|text| Record::decode(text.as_bytes())).transpose()?;
        Ok(Snapshot::new(record, version, Some(self.reading(micros, sent))))
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, i64>) -> Result<Swap<i64>> {
        let (version, sql) = (rand::random::<i64>(), &self.0.sql);
        let statement = if change.expected.is_some() { &sql.update } else { &sql.insert };
        let mut query = sqlx::query(AssertSqlSafe(statement.clone()))
            .bind(version)
            .bind(change.next.encode())
            .bind(holders(change.next))
            .bind(key.as_str().as_bytes());
        if let Some(expected) = change.expected {
            query = query.bind(expected);
        }
        let answer =
            self.0.clock.timeout_at(change.give_up, on!(&self.0.pool, query.execute)).await.ok_or_else(no_answer)?;
        let done = answer.map_err(|error| self.failed(error))?.rows_affected() > 0;
        Ok(if done { Swap::Done { version: Some(version), reading: None } } else { Swap::Conflict(None) })
    }

    async fn changed(&self, _key: &LockKey, _waiter: &HolderId, _since: Option<&i64>, at_most: Duration) -> Result<()> {
        self.0.clock.sleep(at_most.min(LOOK.mul_f64(rand::random_range(0.5..1.0)))).await;
        Ok(())
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<i64>)>> {
        let (this, prefix) = (self.clone(), prefix.as_bytes().to_vec());
        let rows = async move {
            let sent = this.0.clock.now();
            let query = sqlx::query_as(AssertSqlSafe(this.0.sql.scan.clone())).bind(prefix.clone()).bind(prefix);
            let rows: Vec<(i64, Vec<u8>, i64, String)> =
                on!(&this.0.pool, query.fetch_all).await.map_err(|error| this.failed(error))?;
            let read = move |(micros, key, version, record): (i64, Vec<u8>, i64, String)| {
                let key = LockKey::new(String::from_utf8_lossy(&key))?;
                let record = Record::decode(record.as_bytes()).map_err(|error| error.during("list", Some(&key)))?;
                Ok((key, Snapshot::new(Some(record), Some(version), Some(this.reading(micros, sent)))))
            };
            Ok::<_, dlock_core::Error>(futures_util::stream::iter(rows.into_iter().map(read)))
        };
        futures_util::stream::once(rows).try_flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &i64) -> Result<bool> {
        let query = sqlx::query(AssertSqlSafe(self.0.sql.purge.clone())).bind(key.as_str().as_bytes()).bind(expected);
        let done = on!(&self.0.pool, query.execute).await.map_err(|error| self.failed(error))?;
        Ok(done.rows_affected() > 0)
    }

    async fn close(&self) -> Result<()> {
        self.0.clock.timeout_at(self.0.clock.now() + self.0.settings.op_timeout, self.0.pool.close()).await;
        Ok(())
    }
}
