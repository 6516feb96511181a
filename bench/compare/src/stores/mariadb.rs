//! MariaDB and MySQL: the raw statements, and `GET_LOCK`.

use crate::setup::Setup;
use crate::simple::contender;
use async_trait::async_trait;
use dlock_bench::{Contender, Counting, Meter, Result, Role};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{MySqlPool, Row};
use std::sync::Arc;
use std::time::Duration;

/// As dlock's own pool.
const POOL: u32 = 5;
/// Room for the largest crowd: who waits in `GET_LOCK` blocks its connection.
const CROWD: u32 = 300;

async fn pool(url: &str, connections: u32) -> Result<MySqlPool> {
    let options = MySqlPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(60));
    Ok(options.connect(url).await?)
}

pub(crate) fn fill(setup: &mut Setup) -> Result<()> {
    let url = setup.plain_url().to_owned();
    let note = "5 connections; two updates of one row, each its own transaction";
    setup.add_pairs("raw update + update", note, || pairs(url.clone()));
    blocking(setup);
    setup.meter = Some(Arc::new(Questions(setup.plain_url().to_owned())));
    Ok(())
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS bench_raw (name varbinary(255) PRIMARY KEY, holder varbinary(64), \
    until datetime(6), token bigint NOT NULL) ENGINE = InnoDB";
const MAKE: &str = "INSERT IGNORE INTO bench_raw VALUES (?, NULL, NULL, 0)";
const ACQUIRE: &str = "UPDATE bench_raw SET holder = ?, until = UTC_TIMESTAMP(6) + INTERVAL 30 SECOND, token = token + 1 \
    WHERE name = ? AND (holder IS NULL OR until < UTC_TIMESTAMP(6))";
const RELEASE: &str = "UPDATE bench_raw SET holder = NULL WHERE name = ? AND holder = ?";

/// A row with a holder, a TTL and a token: one statement to acquire, one to release.
fn pairs(url: String) -> impl Contender {
    contender(move || {
        let url = url.clone();
        async move {
            let pool = pool(&url, POOL).await?;
            sqlx::query(TABLE).execute(&pool).await?;
            Ok(move |key: String| {
                let pool = pool.clone();
                async move {
                    let id = uuid::Uuid::new_v4().simple().to_string();
                    let acquire = || sqlx::query(ACQUIRE).bind(&id).bind(&key).execute(&pool);
                    if acquire().await?.rows_affected() == 0 {
                        // Once for each key.
                        sqlx::query(MAKE).bind(&key).execute(&pool).await?;
                        if acquire().await?.rows_affected() == 0 {
                            return Err("held by another".into());
                        }
                    }
                    Ok(async move {
                        let done = sqlx::query(RELEASE).bind(&key).bind(&id).execute(&pool).await?;
                        if done.rows_affected() == 1 { Ok(()) } else { Err("it was lost".into()) }
                    })
                }
            })
        }
    })
}

fn blocking(setup: &mut Setup) {
    let url = setup.plain_url().to_owned();
    let peer = contender(move || {
        let url = url.clone();
        async move {
            let pool = pool(&url, CROWD).await?;
            Ok(move |key: String| {
                let pool = pool.clone();
                async move {
                    let mut connection = pool.acquire().await?;
                    let lock = sqlx::query("SELECT GET_LOCK(?, 60)").bind(&key).fetch_one(&mut *connection).await?;
                    if lock.get::<Option<i64>, _>(0) != Some(1) {
                        return Err("GET_LOCK gave up".into());
                    }
                    Ok(async move {
                        sqlx::query("DO RELEASE_LOCK(?)").bind(&key).execute(&mut *connection).await?;
                        Ok(())
                    })
                }
            })
        }
    });
    let note =
        "a connection for each task, blocked while it waits; no disk write, no TTL, no token; not behind a pooler";
    setup.add("GET_LOCK, blocking", Role::Peer, note, peer);
}

/// Counts statements.
struct Questions(String);
struct Since(MySqlPool, u64);

async fn count(pool: &MySqlPool) -> Result<u64> {
    let row = sqlx::query("SHOW GLOBAL STATUS LIKE 'Questions'").fetch_one(pool).await?;
    Ok(row.get::<String, _>(1).parse()?)
}

#[async_trait]
impl Meter for Questions {
    async fn start(&self) -> Result<Box<dyn Counting>> {
        let pool = pool(&self.0, 1).await?;
        let before = count(&pool).await?;
        Ok(Box::new(Since(pool, before)))
    }
}

#[async_trait]
impl Counting for Since {
    async fn stop(self: Box<Self>) -> Result<u64> {
        Ok((count(&self.0).await? - self.1).saturating_sub(1))
    }
}
