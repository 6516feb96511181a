//! Fencing inside your own transaction: a write that comes too late is refused by the database that it goes to.
//!
//! The token of the holder is compared with the largest that the resource has seen, in the transaction that does the write.
//! The row of the resource's fence stays locked until that transaction ends: check and write are one, and a later holder
//! waits for it.
//!
//! ```no_run
//! # async fn withdraw(pool: sqlx::PgPool, guard: &dlock_core::Held) -> Result<(), Box<dyn std::error::Error>> {
//! let mut transaction = pool.begin().await?;
//! dlock_sql::fence::admit(&mut transaction, "account/7", guard.token()).await?;
//! sqlx::query("UPDATE account SET balance = balance - 10 WHERE id = 7").execute(&mut *transaction).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The lock may be kept in another store: the token counts, not where it comes from. But tokens of two stores do not compare:
//! when you move a lock, remove the resource's row. Nothing else removes it: a fence lives as long as what it guards. [`Transaction`] is that of `sqlx` 0.9.

use crate::error::{Advice, Asker};
use crate::schema::{mysql_fences, postgres_fences};
use async_trait::async_trait;
use dlock_core::fence::StaleToken;
use dlock_core::{Error, ErrorKind, FencingToken, LockKey, Result};
use sqlx::{AssertSqlSafe, Database, MySql, Postgres, Transaction};

/// The table that `dlock init` and `create=true` make beside the default table of locks.
const TABLE: &str = "dlock_fences";

/// Admits the write of an exclusive holder to `resource` (1 to 255 bytes) and remembers its token, in the table
/// `dlock_fences`. Do the write in the same transaction, after this.
///
/// # Cancel safety
/// Cancel-safe: it is part of the transaction.
///
/// # Errors
/// [`ErrorKind::LeaseLost`], with a [`StaleToken`] as its source, when a later holder was admitted before: let the
/// transaction go. [`ErrorKind::InvalidConfig`] when the table is missing, with the SQL that makes it; else when the database
/// could not be asked, or (under `REPEATABLE READ` and above) the fence was changed after the transaction began.
pub async fn admit<DB: Fenced>(
    transaction: &mut Transaction<'_, DB>,
    resource: &str,
    token: FencingToken,
) -> Result<()> {
    admit_in(transaction, TABLE, resource, token).await
}

/// As [`admit`], with a table of fences of that name: `app.dlock_fences`.
///
/// # Cancel safety
/// Cancel-safe: it is part of the transaction.
///
/// # Errors
/// As [`admit`].
pub async fn admit_in<DB: Fenced>(
    transaction: &mut Transaction<'_, DB>,
    table: &str,
    resource: &str,
    token: FencingToken,
) -> Result<()> {
    let options = crate::SqlOptions::new().table(table)?;
    let resource = LockKey::new(resource)?;
    let own = i64::try_from(token.0)
        .map_err(|_| Error::new(ErrorKind::InvalidConfig, "a fencing token of 2^63 and above is no dlock token"))?;
    let highest = DB::raise(transaction, &options.table, resource.as_str(), own).await;
    let create = DB::create(&options.table);
    let advice = Advice { table: &options.table, create: &create, asker: Asker::Fence };
    let highest = highest.map_err(|error| advice.error(error).during("fence", None))?;
    if highest > own {
        return Err(StaleToken { token, highest: FencingToken(highest.unsigned_abs()) }.into());
    }
    Ok(())
}

/// A database in which fences can be kept: PostgreSQL, MySQL and MariaDB.
#[async_trait]
pub trait Fenced: Database + sealed::Sealed {
    /// Raises the fence to `token` unless it is higher, keeps its row locked, and answers what it is then.
    #[doc(hidden)]
    async fn raise(
        transaction: &mut Transaction<'_, Self>,
        table: &str,
        resource: &str,
        token: i64,
    ) -> Result<i64, sqlx::Error>;

    /// The SQL that makes the table.
    #[doc(hidden)]
    fn create(table: &str) -> String;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for sqlx::Postgres {}
    impl Sealed for sqlx::MySql {}
}

#[async_trait]
impl Fenced for Postgres {
    async fn raise(
        transaction: &mut Transaction<'_, Self>,
        table: &str,
        resource: &str,
        token: i64,
    ) -> Result<i64, sqlx::Error> {
        let sql = format!(
            "INSERT INTO {table} AS fence (resource, token, changed) VALUES ($1, $2, clock_timestamp()) \
             ON CONFLICT (resource) DO UPDATE SET token = greatest(fence.token, excluded.token), changed = excluded.changed \
             RETURNING token"
        );
        // No named statement: the connection may be behind a pooler.
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(resource).bind(token).persistent(false);
        let (highest,): (i64,) = query.fetch_one(&mut **transaction).await?;
        Ok(highest)
    }

    fn create(table: &str) -> String {
        postgres_fences(table)
    }
}

#[async_trait]
impl Fenced for MySql {
    async fn raise(
        transaction: &mut Transaction<'_, Self>,
        table: &str,
        resource: &str,
        token: i64,
    ) -> Result<i64, sqlx::Error> {
        let sql = format!(
            "INSERT INTO {table} (resource, token, changed) VALUES (?, ?, UTC_TIMESTAMP(6)) \
             ON DUPLICATE KEY UPDATE token = GREATEST(token, ?), changed = UTC_TIMESTAMP(6)"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(resource.as_bytes()).bind(token).bind(token);
        query.execute(&mut **transaction).await?;
        // A locking read sees what is there now, whatever the transaction's snapshot.
        let sql = format!("SELECT token FROM {table} WHERE resource = ? FOR UPDATE");
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(resource.as_bytes());
        let (highest,): (i64,) = query.fetch_one(&mut **transaction).await?;
        Ok(highest)
    }

    fn create(table: &str) -> String {
        mysql_fences(table)
    }
}
