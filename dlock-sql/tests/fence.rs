//! A holder that was overtaken is refused at the resource, in the same transaction as its write.
#![allow(clippy::unwrap_used, clippy::future_not_send, reason = "each test is a runtime of its own")]

mod common;

use common::connect;
use dlock_core::fence::StaleToken;
use dlock_core::{ErrorKind, FencingToken, Result};
use dlock_fixtures::{MariaDbServer, Overtaken, PostgresServer};
use dlock_sql::fence::{Fenced, admit, admit_in};
use sqlx::{Database, Executor, IntoArguments, MySqlPool, PgPool, Pool};
use std::time::Duration;

/// Writes the balance in a transaction with the fence.
async fn write<DB: Fenced>(pool: &Pool<DB>, token: FencingToken, balance: i64) -> Result<()>
where
    for<'c> &'c mut <DB as Database>::Connection: Executor<'c, Database = DB>,
    <DB as Database>::Arguments: IntoArguments<DB>,
{
    let mut transaction = pool.begin().await.unwrap();
    admit(&mut transaction, "account/7", token).await?;
    let sql = sqlx::AssertSqlSafe(format!("UPDATE account SET balance = {balance} WHERE id = 7"));
    sqlx::raw_sql(sql).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    Ok(())
}

async fn written(url: &str, token: FencingToken, balance: i64) -> Result<()> {
    if url.starts_with("postgres") {
        write(&PgPool::connect(url).await.unwrap(), token, balance).await
    } else {
        write(&MySqlPool::connect(url).await.unwrap(), token, balance).await
    }
}

async fn unfenced(url: &str, balance: i64) {
    let sql = sqlx::AssertSqlSafe(format!("UPDATE account SET balance = {balance} WHERE id = 7"));
    if url.starts_with("postgres") {
        sqlx::raw_sql(sql).execute(&PgPool::connect(url).await.unwrap()).await.unwrap();
    } else {
        sqlx::raw_sql(sql).execute(&MySqlPool::connect(url).await.unwrap()).await.unwrap();
    }
}

/// The process that is stopped: it holds the lock, and writes when it is told to.
async fn holder(url: &str, fenced: bool) {
    let locks = connect(url).await.unwrap();
    let guard = locks.lock("account/7").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    Overtaken::holds();
    if !fenced {
        unfenced(url, 101).await;
        return Overtaken::says("written");
    }
    let error = written(url, guard.token(), 101).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{}", error.chain());
    let stale = std::error::Error::source(&error).unwrap().downcast_ref::<StaleToken>().unwrap();
    assert!(stale.token == guard.token() && stale.highest > guard.token(), "{stale}");
    Overtaken::says("refused");
}

/// With the fence it is refused; without, what it guards against happens.
async fn an_overtaken_holder(url: &str, sql: &dyn Fn(&str) -> String) {
    drop(connect(&format!("{url}?create=true")).await.unwrap());
    sql("CREATE TABLE account (id int PRIMARY KEY, balance int); INSERT INTO account VALUES (7, 100)");
    for (fenced, said, balance) in [(true, "refused", "250"), (false, "written", "101")] {
        let first = Overtaken::stop(url, fenced);
        let guard = connect(url).await.unwrap().lock("account/7").acquire().await.unwrap();
        written(url, guard.token(), 250).await.unwrap();
        assert_eq!(first.wake(), said);
        assert_eq!(sql("SELECT balance FROM account"), balance);
        // The one that holds writes on.
        written(url, guard.token(), 300).await.unwrap();
        assert_eq!(sql("SELECT balance FROM account"), "300");
        guard.release().await.unwrap();
    }
}

/// The fence is locked until the transaction ends; one that is rolled back has raised nothing.
async fn check_and_write_are_one<DB: Fenced>(pool: Pool<DB>) {
    let mut early = pool.begin().await.unwrap();
    admit(&mut early, "r", FencingToken(5)).await.unwrap();
    let later = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut later = pool.begin().await.unwrap();
            admit(&mut later, "r", FencingToken(6)).await.unwrap();
            later.commit().await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!later.is_finished(), "a later holder passed by a write that is under way");
    early.commit().await.unwrap();
    later.await.unwrap();
    let mut undone = pool.begin().await.unwrap();
    admit(&mut undone, "r", FencingToken(9)).await.unwrap();
    undone.rollback().await.unwrap();
    let mut next = pool.begin().await.unwrap();
    admit(&mut next, "r", FencingToken(7)).await.unwrap();
    let stale = admit(&mut next, "r", FencingToken(6)).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::LeaseLost, "{}", stale.chain());
    next.rollback().await.unwrap();
    // Other resources are others, byte by byte.
    let mut others = pool.begin().await.unwrap();
    for resource in ["R", "r ", "ŕ"] {
        admit(&mut others, resource, FencingToken(1)).await.unwrap();
    }
    let missing = admit_in(&mut others, "no_fences", "r", FencingToken(1)).await.unwrap_err();
    assert!(missing.to_string().contains("CREATE TABLE IF NOT EXISTS no_fences"), "{missing}");
}

#[tokio::main]
async fn main() {
    if let Some((url, fenced)) = Overtaken::asked() {
        return holder(&url, fenced).await;
    }
    let postgres = PostgresServer::start();
    an_overtaken_holder(&postgres.url(), &|sql| postgres.sql(sql)).await;
    check_and_write_are_one(PgPool::connect(&postgres.url()).await.unwrap()).await;
    println!("fence: a stale holder is refused on PostgreSQL");
    let maria = MariaDbServer::start();
    an_overtaken_holder(&maria.url(), &|sql| maria.sql(sql)).await;
    check_and_write_are_one(MySqlPool::connect(&maria.url()).await.unwrap()).await;
    println!("fence: a stale holder is refused on MariaDB");
}
