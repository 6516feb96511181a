//! [`MySqlBackend`].

use crate::columns::Columns;
use crate::config::{LOOK, answers, place};
use crate::error::{Advice, Asker, no_answer};
use crate::lent::on;
use crate::options::{Connection, LEAST_IDLE, SqlOptions, Tls};
use crate::postgres::TRUSTED;
use crate::purge::{self, Purges};
use crate::schema::{Found, mysql_backfill, mysql_fences, mysql_migration, mysql_schema};
use async_trait::async_trait;
use dlock_core::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, StoreTime, Swap};
use dlock_core::{Capabilities, Clock, HolderId, LockKey, Moment, Result, StoreUrl, Wake};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, MySqlPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Locks in MySQL or MariaDB: [`RecordBackend::new`] of a [`MySqlStore`].
pub type MySqlBackend = RecordBackend<MySqlStore>;

/// Records in a table of MySQL or MariaDB. Clones share the pool.
#[derive(Clone, Debug)]
pub struct MySqlStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: MySqlPool,
    /// The pool is ours to close.
    owns_pool: bool,
    options: SqlOptions,
    clock: Clock,
    watched: purge::Watched,
    purging: Option<AbortHandle>,
    sql: Sql,
}

#[derive(Debug)]
struct Sql {
    create: String,
    read: String,
    update: String,
    insert: String,
    scan: String,
    unused: String,
    purge: String,
}

/// Microseconds since 1970, by the server, whatever the session's time zone.
const MICROS: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";

impl Sql {
    fn new(table: &str) -> Self {
        let expires = "TIMESTAMPADD(MICROSECOND, ?, '1970-01-01')";
        // The server's clock comes back with the answer as its "last insert id": no second trip, and a holder that only
        // renews sees a clock that was set.
        let version = format!("IF(LAST_INSERT_ID({MICROS}) > 0, ?, NULL)");
        Self {
            create: mysql_schema(table),
            read: format!(
                "SELECT {MICROS}, l.version, l.record FROM (SELECT 1) one LEFT JOIN {table} l ON l.`key` = ?"
            ),
            update: format!(
                "UPDATE {table} SET version = {version}, record = ?, holders = ?, expires = {expires}, last_token = ?, \
                 changed = UTC_TIMESTAMP(6) WHERE `key` = ? AND version = ?"
            ),
            insert: format!(
                "INSERT IGNORE INTO {table} (version, record, holders, expires, last_token, `key`, changed) \
                 VALUES ({version}, ?, ?, {expires}, ?, ?, UTC_TIMESTAMP(6))"
            ),
            scan: format!("SELECT {MICROS}, `key`, version, record FROM {table} WHERE LEFT(`key`, LENGTH(?)) = ?"),
            unused: format!(
                "SELECT {MICROS}, `key`, version, record FROM {table} \
                 WHERE `key` > ? AND changed < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND ORDER BY `key` LIMIT ?"
            ),
            purge: format!(
                "DELETE FROM {table} WHERE `key` = ? AND version = ? \
                 AND changed < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND"
            ),
        }
    }
}

fn pool_of(url: &StoreUrl, op_timeout: Duration) -> Result<MySqlPool> {
    let (host, port, database) = place(url)?;
    let connection = Connection::of(url)?;
    let mode = match connection.tls {
        Tls::Disable => MySqlSslMode::Disabled,
        Tls::Prefer => MySqlSslMode::Preferred,
        Tls::Require => MySqlSslMode::Required,
        Tls::VerifyFull => MySqlSslMode::VerifyIdentity,
    };
    let mut options =
        MySqlConnectOptions::new().host(host).port(port.unwrap_or(3306)).database(database).ssl_mode(mode);
    if let Some(file) = connection.tls_ca {
        options = options.ssl_ca(file);
    }
    if let Some(user) = url.username() {
        options = options.username(user);
    }
    if let Some(password) = url.password() {
        options = options.password(password);
    }
    let pool = MySqlPoolOptions::new()
        .max_connections(connection.pool)
        .acquire_timeout(op_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED {
                    answers(connection, op_timeout).await?;
                }
                Ok(true)
            })
        });
    Ok(pool.connect_lazy_with(options))
}

impl MySqlStore {
    /// Connects to the database of a `mysql://` URL.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the URL is wrong, the database does not answer within `op_timeout`, or the table is missing or of another
    /// schema.
    pub async fn connect(url: &StoreUrl) -> Result<Self> {
        let options = SqlOptions::of(url)?;
        Self::over(pool_of(url, options.op_timeout)?, options, true).await
    }

    /// Locks on a pool that the program has already: `sqlx` 0.9, the version that this crate is built with.
    ///
    /// A pool is shared with what else the program does: while all its connections are busy no lock is renewed. Give the
    /// locks a pool of their own where that may be so. [`close`](RecordStore::close) leaves the pool open.
    ///
    /// ```no_run
    /// use dlock_core::Locks;
    /// use dlock_sql::{MySqlBackend, MySqlStore, SqlOptions};
    /// # async fn connected(pool: sqlx::MySqlPool) -> dlock_core::Result<Locks> {
    /// let store = MySqlStore::from_pool(pool, SqlOptions::new().table("app.locks")?).await?;
    /// Locks::new(MySqlBackend::new(store))
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`MySqlStore::connect`].
    pub async fn from_pool(pool: MySqlPool, options: SqlOptions) -> Result<Self> {
        Self::over(pool, options, false).await
    }

    /// Makes the tables of a `mysql://` URL or brings them up to date, and says what it did: what `dlock init` does.
    ///
    /// # Cancel safety
    /// Dropped halfway it may have made a part; done again it makes the rest.
    ///
    /// # Errors
    /// When the database does not answer within `op_timeout`, or the user may not make tables.
    pub async fn init(url: &StoreUrl) -> Result<String> {
        let options = SqlOptions::of(url)?;
        let (pool, clock) = (pool_of(url, options.op_timeout)?, Clock::system());
        let (table, create) = (options.table.as_str(), mysql_schema(&options.table));
        let found = clock.timeout_at(clock.now() + options.op_timeout, init(&pool, table, &create)).await;
        let found = found.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let found = found.map_err(|error| Advice { table, create: &create, asker: Asker::Init }.error(error))?;
        clock.timeout_at(clock.now() + options.op_timeout, pool.close()).await;
        found.made(table)
    }

    async fn over(pool: MySqlPool, options: SqlOptions, owns_pool: bool) -> Result<Self> {
        let (clock, sql) = (Clock::system(), Sql::new(&options.table));
        let give_up = clock.now() + options.op_timeout;
        // Whether it is the making that fails, or the use.
        let (made, asked) = (|error| (Asker::Init, error), |error| (Asker::Locks, error));
        let prepared = async {
            let found = match found(&pool, &options.table).await.map_err(asked)? {
                old if options.create && old.is_to_be_made() => {
                    init(&pool, &options.table, &sql.create).await.map_err(made)?;
                    found(&pool, &options.table).await.map_err(asked)?
                }
                found => found,
            };
            // A table on which this user has no right looks as if it were missing; this tells them apart.
            sqlx::query(AssertSqlSafe(sql.read.clone())).bind("").fetch_all(&pool).await.map(|_| found).map_err(asked)
        };
        let found = clock.timeout_at(give_up, prepared).await.unwrap_or(Err((Asker::Locks, sqlx::Error::PoolTimedOut)));
        let found = found
            .map_err(|(asker, error)| Advice { table: &options.table, create: &sql.create, asker }.error(error))?;
        found.check(&options.table, &sql.create)?;
        let purge_after = options.purge_after;
        let store = Arc::new_cyclic(|weak| {
            let weak = weak.clone();
            let purging = purge_after.map(|unused_for| {
                let store = move || weak.upgrade().map(Self);
                tokio::spawn(purge::keep_purging(store, unused_for, Clock::system())).abort_handle()
            });
            let watched = purge::Watched::default();
            Shared { pool, owns_pool, options, clock, watched, purging, sql }
        });
        Ok(Self(store))
    }

    /// Removes the rows of locks that nobody has used for `unused_for` (an hour at the least), and answers how many: one pass
    /// of what [`SqlOptions::purge_after`] does from time to time. The tokens of a key go on growing. What a crashed client left
    /// in a row goes with a later pass, when this client has watched it for a TTL.
    ///
    /// # Cancel safety
    /// Cancel-safe: each row goes by itself.
    ///
    /// # Errors
    /// When the database could not be asked, or this user may not delete rows.
    pub async fn purge_unused(&self, unused_for: Duration) -> Result<u64> {
        purge::pass(self, unused_for.max(LEAST_IDLE)).await
    }

    fn failed(&self, error: sqlx::Error) -> dlock_core::Error {
        Advice { table: &self.0.options.table, create: &self.0.sql.create, asker: Asker::Locks }.error(error)
    }

    fn reading(&self, micros: u64, sent: Moment) -> StoreReading {
        StoreReading {
            at: StoreTime(micros),
            granularity: Duration::from_micros(1),
            unix_micros: micros,
            sent,
            received: self.0.clock.now(),
        }
    }

    fn listed(&self, rows: Vec<(i64, Vec<u8>, i64, String)>, sent: Moment) -> Vec<purge::Row> {
        let read = |(micros, key, version, record): (i64, Vec<u8>, i64, String)| {
            let reading = self.reading(micros.unsigned_abs(), sent);
            let found = Record::decode(record.as_bytes());
            let found = found.map(|record| Snapshot::new(Some(record), Some(version), Some(reading)));
            let lock = std::str::from_utf8(&key).ok().and_then(|key| LockKey::new(key).ok());
            (key, lock.map(|lock| (lock, found)))
        };
        rows.into_iter().map(read).collect()
    }
}

/// What there is of the table, as far as this user may know.
async fn found(pool: &MySqlPool, table: &str) -> Result<Found, sqlx::Error> {
    let (schema, name) = table.rsplit_once('.').map_or((None, table), |(schema, name)| (Some(schema), name));
    let sql = "SELECT CAST(table_comment AS CHAR) FROM information_schema.tables \
               WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?";
    let rows: Vec<(String,)> = sqlx::query_as(sql).bind(schema).bind(name).fetch_all(pool).await?;
    Ok(rows.first().map_or(Found::Missing, |(comment,)| Found::by_comment(Some(comment))))
}

/// Makes the tables or brings them up to date; answers what there was. The version is written last: what was cut short is
/// done again.
async fn init(pool: &MySqlPool, table: &str, create: &str) -> Result<Found, sqlx::Error> {
    let before = found(pool, table).await?;
    match before {
        Found::Missing => sqlx::raw_sql(AssertSqlSafe(create.to_owned())).execute(pool).await.map(drop)?,
        old if old.is_to_be_made() => match migrate(pool, table).await {
            // Another made it meanwhile.
            Err(_) if found(pool, table).await?.is_current() => {}
            done => done?,
        },
        _ => {}
    }
    Ok(before)
}

async fn migrate(pool: &MySqlPool, table: &str) -> Result<(), sqlx::Error> {
    let (schema, name) = table.rsplit_once('.').map_or((None, table), |(schema, name)| (Some(schema), name));
    let sql = "SELECT CAST(column_name AS CHAR) FROM information_schema.columns \
               WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?";
    let has: Vec<(String,)> = sqlx::query_as(sql).bind(schema).bind(name).fetch_all(pool).await?;
    let has: Vec<String> = has.into_iter().map(|(column,)| column).collect();
    let fences = mysql_fences(&crate::schema::fences_beside(table));
    sqlx::raw_sql(AssertSqlSafe(fences)).execute(pool).await?;
    sqlx::raw_sql(AssertSqlSafe(mysql_migration(table, &has))).execute(pool).await?;
    sqlx::raw_sql(AssertSqlSafe(mysql_backfill(table))).execute(pool).await.map(drop)
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.purging.iter().for_each(AbortHandle::abort);
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[async_trait]
impl RecordStore for MySqlStore {
    type Version = i64;

    fn name(&self) -> &'static str {
        "mysql"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.options.capabilities(Wake::Poll(LOOK))
    }

    fn clock_margin(&self) -> Duration {
        self.0.options.clock_margin
    }

    async fn read(&self, key: &LockKey, _give_up: Moment) -> Result<Snapshot<i64>> {
        let sent = self.0.clock.now();
        let query = sqlx::query_as(AssertSqlSafe(self.0.sql.read.clone())).bind(key.as_str().as_bytes());
        let (micros, version, record): (i64, Option<i64>, Option<String>) =
            on!(&self.0.pool, query.fetch_one).await.map_err(|error| self.failed(error))?;
        let record = record.map(|text| Record::decode(text.as_bytes())).transpose()?;
        Ok(Snapshot::new(record, version, Some(self.reading(micros.unsigned_abs(), sent))))
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, i64>) -> Result<Swap<i64>> {
        let (sent, version, sql) = (self.0.clock.now(), rand::random::<i64>(), &self.0.sql);
        let statement = if change.expected.is_some() { &sql.update } else { &sql.insert };
        let columns = Columns::of(change.next);
        let mut query = sqlx::query(AssertSqlSafe(statement.clone()))
            .bind(version)
            .bind(change.next.encode())
            .bind(columns.holders)
            .bind(columns.expires)
            .bind(columns.last_token)
            .bind(key.as_str().as_bytes());
        if let Some(expected) = change.expected {
            query = query.bind(expected);
        }
        let answer =
            self.0.clock.timeout_at(change.give_up, on!(&self.0.pool, query.execute)).await.ok_or_else(no_answer)?;
        let answer = answer.map_err(|error| self.failed(error))?;
        if answer.rows_affected() == 0 {
            return Ok(Swap::Conflict(None));
        }
        let micros = Some(answer.last_insert_id()).filter(|micros| *micros > 0);
        Ok(Swap::Done { version: Some(version), reading: micros.map(|micros| self.reading(micros, sent)) })
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
            let rows = on!(&this.0.pool, query.fetch_all).await.map_err(|error| this.failed(error))?;
            let rows = this.listed(rows, sent);
            Ok::<_, dlock_core::Error>(futures_util::stream::iter(purge::locks(rows)))
        };
        futures_util::stream::once(rows).try_flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &i64) -> Result<bool> {
        let query = sqlx::query(AssertSqlSafe(self.0.sql.purge.clone()))
            .bind(key.as_str().as_bytes())
            .bind(expected)
            .bind(micros(LEAST_IDLE));
        let give_up = self.0.clock.now() + self.0.options.op_timeout;
        let done = self.0.clock.timeout_at(give_up, on!(&self.0.pool, query.execute)).await.ok_or_else(no_answer)?;
        Ok(done.map_err(|error| self.failed(error))?.rows_affected() > 0)
    }

    async fn close(&self) -> Result<()> {
        self.0.purging.iter().for_each(AbortHandle::abort);
        if self.0.owns_pool {
            self.0.clock.timeout_at(self.0.clock.now() + self.0.options.op_timeout, self.0.pool.close()).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Purges for MySqlStore {
    fn watched(&self) -> &purge::Watched {
        &self.0.watched
    }

    async fn unused(&self, unused_for: Duration, after: &[u8], at_most: u16) -> Result<Vec<purge::Row>> {
        let sent = self.0.clock.now();
        let query =
            sqlx::query_as(AssertSqlSafe(self.0.sql.unused.clone())).bind(after).bind(micros(unused_for)).bind(at_most);
        let give_up = sent + self.0.options.op_timeout;
        let rows = self.0.clock.timeout_at(give_up, on!(&self.0.pool, query.fetch_all)).await.ok_or_else(no_answer)?;
        Ok(self.listed(rows.map_err(|error| self.failed(error))?, sent))
    }
}
