//! [`PostgresBackend`].

use crate::columns::Columns;
use crate::config::{LOOK, answers, place};
use crate::error::{Advice, Asker, no_answer};
use crate::listen::{CHANNEL, listen};
use crate::options::{Connection, LEAST_IDLE, SqlOptions, Tls};
use crate::purge::{self, Purges};
use crate::schema::{Found, postgres_schema};
use crate::statement::{Arg, rows};
use async_trait::async_trait;
use dlock_core::record::{Change, Record, RecordBackend, RecordStore, Snapshot, StoreReading, StoreTime, Swap, Wakes};
use dlock_core::{Capabilities, Clock, HolderId, LockKey, Moment, Result, StoreUrl, Wake};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, FromRow, PgPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Locks in PostgreSQL: [`RecordBackend::new`] of a [`PostgresStore`].
pub type PostgresBackend = RecordBackend<PostgresStore>;

/// Records in a table of PostgreSQL. Clones share the pool.
#[derive(Clone, Debug)]
pub struct PostgresStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    /// The pool is ours to close.
    owns_pool: bool,
    /// No session is kept from one statement to the next.
    pooled: bool,
    options: SqlOptions,
    clock: Clock,
    watched: purge::Watched,
    wakes: Wakes,
    tasks: Vec<AbortHandle>,
    sql: Sql,
}

#[derive(Debug)]
struct Sql {
    create: String,
    read: String,
    /// Makes a row, or shows the one that is there.
    make: String,
    /// Nothing but the change: a conflict costs a read more, but a change that also asks what is there takes the server up to
    /// a half longer.
    swap: String,
    /// The same, and tells waiters.
    tell: String,
    scan: String,
    unused: String,
    purge: String,
}

/// Microseconds since 1970, by the server.
const MICROS: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
/// Two clients that make the tables at once take turns: any number of our own.
const INIT_LOCK: i64 = 0x646c_6f63_6b00;
/// A connection that was idle for longer is tested before it is used.
pub(crate) const TRUSTED: Duration = Duration::from_secs(1);

impl Sql {
    fn new(table: &str) -> Self {
        let expires = "timestamptz 'epoch' + $5 * interval '1 microsecond'";
        let swap = format!(
            "UPDATE {table} SET version = $2, record = $3, holders = $4, expires = {expires}, last_token = $6, \
             changed = clock_timestamp() WHERE key = $1 AND version = $7 RETURNING {MICROS} AS micros"
        );
        Self {
            create: postgres_schema(table),
            read: format!(
                "SELECT {MICROS}, l.version, l.record FROM (VALUES (1)) one LEFT JOIN {table} l ON l.key = $1"
            ),
            make: format!(
                "WITH made AS (INSERT INTO {table} (key, version, record, holders, expires, last_token, changed) \
                 VALUES ($1, $2, $3, $4, {expires}, $6, clock_timestamp()) ON CONFLICT (key) DO NOTHING RETURNING 1) \
                 SELECT {MICROS}, EXISTS (SELECT FROM made), l.version, l.record \
                 FROM (VALUES (1)) one LEFT JOIN {table} l ON l.key = $1"
            ),
            tell: format!(
                "WITH changed AS ({swap}), told AS (SELECT pg_notify('{CHANNEL}', id || ' ' || $1) \
                 FROM changed, unnest($8::text[]) id) SELECT micros, (SELECT count(*) FROM told) FROM changed"
            ),
            swap,
            scan: format!("SELECT {MICROS}, key, version, record FROM {table} WHERE starts_with(key, $1)"),
            unused: format!(
                "SELECT {MICROS}, key, version, record FROM {table} \
                 WHERE key > $1 AND changed < clock_timestamp() - $2 * interval '1 microsecond' ORDER BY key LIMIT $3"
            ),
            purge: format!(
                "DELETE FROM {table} WHERE key = $1 AND version = $2 \
                 AND changed < clock_timestamp() - $3 * interval '1 microsecond' RETURNING 1"
            ),
        }
    }
}

fn pool_of(url: &StoreUrl, op_timeout: Duration) -> Result<PgPool> {
    let (host, port, database) = place(url)?;
    let connection = Connection::of(url)?;
    let mode = match connection.tls {
        Tls::Disable => PgSslMode::Disable,
        Tls::Prefer => PgSslMode::Prefer,
        Tls::Require => PgSslMode::Require,
        Tls::VerifyFull => PgSslMode::VerifyFull,
    };
    // A pooler refuses start-up parameters that it does not know, and we read no floating point numbers.
    let mut options = PgConnectOptions::new_without_pgpass().extra_float_digits(None).application_name("dlock");
    options = options.host(host).port(port.unwrap_or(5432)).database(database).ssl_mode(mode);
    if let Some(file) = connection.tls_ca {
        options = options.ssl_root_cert(file);
    }
    if let Some(user) = url.username() {
        options = options.username(user);
    }
    if let Some(password) = url.password() {
        options = options.password(password);
    }
    let pool = PgPoolOptions::new()
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

impl PostgresStore {
    /// Connects to the database of a `postgres://` URL.
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

    /// Locks on a pool that the program has already: `sqlx` 0.9, the version that this crate is built with. One connection
    /// more, with the pool's own options, listens for grants.
    ///
    /// A pool is shared with what else the program does: while all its connections are busy no lock is renewed. Give the
    /// locks a pool of their own where that may be so. [`close`](RecordStore::close) leaves the pool open.
    ///
    /// ```no_run
    /// use dlock_core::Locks;
    /// use dlock_sql::{PostgresBackend, PostgresStore, SqlOptions};
    /// # async fn connected(pool: sqlx::PgPool) -> dlock_core::Result<Locks> {
    /// let store = PostgresStore::from_pool(pool, SqlOptions::new().create(true)).await?;
    /// Locks::new(PostgresBackend::new(store))
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn from_pool(pool: PgPool, options: SqlOptions) -> Result<Self> {
        Self::over(pool, options, false).await
    }

    /// Makes the tables of a `postgres://` URL or brings them up to date, and says what it did: what `dlock init` does.
    ///
    /// # Cancel safety
    /// Cancel-safe: one transaction.
    ///
    /// # Errors
    /// When the database does not answer within `op_timeout`, or the user may not make tables.
    pub async fn init(url: &StoreUrl) -> Result<String> {
        let options = SqlOptions::of(url)?;
        let (pool, clock) = (pool_of(url, options.op_timeout)?, Clock::system());
        let (table, create) = (options.table.as_str(), postgres_schema(&options.table));
        let found = clock.timeout_at(clock.now() + options.op_timeout, init(&pool, table, &create)).await;
        let found = found.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let found = found.map_err(|error| Advice { table, create: &create, asker: Asker::Init }.error(error))?;
        clock.timeout_at(clock.now() + options.op_timeout, pool.close()).await;
        found.made(table)
    }

    async fn over(pool: PgPool, options: SqlOptions, owns_pool: bool) -> Result<Self> {
        let (clock, wakes, sql) = (Clock::system(), Wakes::default(), Sql::new(&options.table));
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
            if found.is_current() {
                rows(&pool, true, &sql.read, &[Arg::Text("")]).await.map_err(asked)?;
            }
            Ok(found)
        };
        let found = clock.timeout_at(give_up, prepared).await.unwrap_or(Err((Asker::Locks, sqlx::Error::PoolTimedOut)));
        let found = found
            .map_err(|(asker, error)| Advice { table: &options.table, create: &sql.create, asker }.error(error))?;
        found.check(&options.table, &sql.create)?;
        let listening = match options.pooler {
            true => None,
            false => listen(&pool, options.op_timeout, &clock, &wakes).await,
        };
        if listening.is_none() {
            tracing::info!(
                table = options.table,
                "waiters look every {LOOK:?}: LISTEN does not get through a transaction pooler; pooler=true in the URL saves the \
                 test of that"
            );
        }
        let (pooled, purge_after) = (listening.is_none(), options.purge_after);
        let store = Arc::new_cyclic(|weak| {
            let weak = weak.clone();
            let purging = purge_after.map(|unused_for| {
                let store = move || weak.upgrade().map(Self);
                tokio::spawn(purge::keep_purging(store, unused_for, Clock::system())).abort_handle()
            });
            let tasks = listening.into_iter().chain(purging).collect();
            let watched = purge::Watched::default();
            Shared { pool, owns_pool, pooled, options, clock, watched, wakes, tasks, sql }
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

    async fn rows(&self, statement: &str, args: &[Arg<'_>]) -> Result<Vec<PgRow>> {
        let advice = Advice { table: &self.0.options.table, create: &self.0.sql.create, asker: Asker::Locks };
        rows(&self.0.pool, self.0.pooled, statement, args).await.map_err(|error| advice.error(error))
    }

    fn read_as<T: for<'r> FromRow<'r, PgRow>>(&self, row: &PgRow) -> Result<T> {
        let advice = Advice { table: &self.0.options.table, create: &self.0.sql.create, asker: Asker::Locks };
        T::from_row(row).map_err(|error| advice.error(error))
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

    /// Rows of key, version and record, with the server's time.
    async fn listed(&self, statement: &str, args: &[Arg<'_>]) -> Result<Vec<purge::Row>> {
        let sent = self.0.clock.now();
        let rows = self.rows(statement, args).await?;
        let read = |row: &PgRow| {
            let (micros, key, version, record): (i64, String, i64, String) = self.read_as(row)?;
            let found = snapshot(Some((version, record)), self.reading(micros, sent));
            let lock = LockKey::new(&key).ok();
            Ok((key.into_bytes(), lock.map(|lock| (lock, found))))
        };
        rows.iter().map(read).collect()
    }
}

/// What there is of the table.
async fn found(pool: &PgPool, table: &str) -> Result<Found, sqlx::Error> {
    let sql = "SELECT to_regclass($1) IS NOT NULL, obj_description(to_regclass($1), 'pg_class')";
    let rows = rows(pool, true, sql, &[Arg::Text(table)]).await?;
    let (is_there, comment): (bool, Option<String>) = rows.first().map_or(Ok((false, None)), FromRow::from_row)?;
    Ok(if is_there { Found::by_comment(comment.as_deref()) } else { Found::Missing })
}

/// Makes the tables or brings them up to date, in one transaction; answers what there was. It waits for no long transaction
/// of others: all users of the locks would wait behind it.
async fn init(pool: &PgPool, table: &str, create: &str) -> Result<Found, sqlx::Error> {
    let before = found(pool, table).await?;
    if before.is_to_be_made() {
        let script = format!(
            "SELECT set_config('lock_timeout', '3s', true); SELECT pg_advisory_xact_lock({INIT_LOCK}); {create}"
        );
        sqlx::raw_sql(AssertSqlSafe(script)).execute(pool).await?;
    }
    Ok(before)
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn snapshot(row: Option<(i64, String)>, reading: StoreReading) -> Result<Snapshot<i64>> {
    let (version, text) = row.unzip();
    let record = text.map(|text| Record::decode(text.as_bytes())).transpose()?;
    Ok(Snapshot::new(record, version, Some(reading)))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[async_trait]
impl RecordStore for PostgresStore {
    type Version = i64;

    fn name(&self) -> &'static str {
        "postgres"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.options.capabilities(if self.0.pooled { Wake::Poll(LOOK) } else { Wake::Event })
    }

    fn clock_margin(&self) -> Duration {
        self.0.options.clock_margin
    }

    async fn read(&self, key: &LockKey, _give_up: Moment) -> Result<Snapshot<i64>> {
        let sent = self.0.clock.now();
        let rows = self.rows(&self.0.sql.read, &[Arg::Text(key.as_str())]).await?;
        let row = rows.first().ok_or_else(no_answer)?;
        let (micros, version, record): (i64, Option<i64>, Option<String>) = self.read_as(row)?;
        snapshot(version.zip(record), self.reading(micros, sent))
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, i64>) -> Result<Swap<i64>> {
        let (sent, version, sql) = (self.0.clock.now(), rand::random::<i64>(), &self.0.sql);
        let granted: Vec<&str> = change.granted.iter().map(HolderId::as_str).collect();
        let (record, columns) = (change.next.encode(), Columns::of(change.next));
        let mut args = vec![
            Arg::Text(key.as_str()),
            Arg::Int(Some(version)),
            Arg::Text(&record),
            Arg::Text(&columns.holders),
            Arg::Int(columns.expires),
            Arg::Int(Some(columns.last_token)),
        ];
        let statement = match change.expected {
            // Nobody waits in a record that is not there.
            None => &sql.make,
            Some(expected) => {
                args.push(Arg::Int(Some(*expected)));
                if granted.is_empty() {
                    &sql.swap
                } else {
                    args.push(Arg::Texts(&granted));
                    &sql.tell
                }
            }
        };
        let answer = self.0.clock.timeout_at(change.give_up, self.rows(statement, &args)).await;
        let rows = answer.ok_or_else(no_answer)??;
        let Some(row) = rows.first() else { return Ok(Swap::Conflict(None)) };
        let (micros,): (i64,) = self.read_as(row)?;
        let reading = self.reading(micros, sent);
        if change.expected.is_none() {
            let (_, made, present, record): (i64, bool, Option<i64>, Option<String>) = self.read_as(row)?;
            if !made {
                // With no row to be seen it was made by another just now.
                let present = present.zip(record).map(|present| snapshot(Some(present), reading));
                return Ok(Swap::Conflict(present.transpose()?));
            }
        }
        Ok(Swap::Done { version: Some(version), reading: Some(reading) })
    }

    fn wakes(&self) -> Wakes {
        self.0.wakes.clone()
    }

    async fn changed(&self, _key: &LockKey, _waiter: &HolderId, _since: Option<&i64>, at_most: Duration) -> Result<()> {
        let look = if self.0.pooled { LOOK.mul_f64(rand::random_range(0.5..1.0)) } else { Duration::MAX };
        self.0.clock.sleep(at_most.min(look)).await;
        Ok(())
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<i64>)>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let rows = async move {
            let rows = this.listed(&this.0.sql.scan, &[Arg::Text(&prefix)]).await?;
            Ok::<_, dlock_core::Error>(futures_util::stream::iter(purge::locks(rows)))
        };
        futures_util::stream::once(rows).try_flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &i64) -> Result<bool> {
        let args = [Arg::Text(key.as_str()), Arg::Int(Some(*expected)), Arg::Int(Some(micros(LEAST_IDLE)))];
        let done = self.rows(&self.0.sql.purge, &args);
        let done = self.0.clock.timeout_at(self.0.clock.now() + self.0.options.op_timeout, done).await;
        Ok(!done.ok_or_else(no_answer)??.is_empty())
    }

    async fn close(&self) -> Result<()> {
        self.0.tasks.iter().for_each(AbortHandle::abort);
        if self.0.owns_pool {
            // Connections in use are closed when they come back.
            self.0.clock.timeout_at(self.0.clock.now() + self.0.options.op_timeout, self.0.pool.close()).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Purges for PostgresStore {
    fn watched(&self) -> &purge::Watched {
        &self.0.watched
    }

    async fn unused(&self, unused_for: Duration, after: &[u8], at_most: u16) -> Result<Vec<purge::Row>> {
        let after = String::from_utf8_lossy(after);
        let args = [Arg::Text(&after), Arg::Int(Some(micros(unused_for))), Arg::Int(Some(i64::from(at_most)))];
        let found = self.listed(&self.0.sql.unused, &args);
        let found = self.0.clock.timeout_at(self.0.clock.now() + self.0.options.op_timeout, found).await;
        found.ok_or_else(no_answer)?
    }
}
