//! PostgreSQL: the raw statements, and sqlx's lock, an advisory one.

use crate::setup::Setup;
use crate::simple::contender;
use async_trait::async_trait;
use dlock_bench::{Contender, Counting, Meter, Result, Role};
use sqlx::postgres::{PgAdvisoryLock, PgPoolOptions};
use sqlx::{PgPool, Row};
use std::sync::Arc;
use std::time::Duration;

/// As dlock's own pool; one of its connections listens.
const POOL: u32 = 4;
/// Room for the largest crowd: who waits for an advisory lock blocks its connection.
const CROWD: u32 = 300;

async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(60));
    Ok(options.connect(url).await?)
}

pub(crate) fn fill(setup: &mut Setup) -> Result<()> {
    let url = setup.plain_url().to_owned();
    let note = "4 connections; an upsert and an update of one row, each its own transaction";
    setup.add_pairs("raw upsert + update", note, || pairs(url.clone()));
    sqlx_lock(setup);
    setup.meter = Some(Arc::new(Statements(setup.plain_url().to_owned())));
    Ok(())
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS bench_raw \
    (key text PRIMARY KEY, holder text, until timestamptz, token bigint NOT NULL) WITH (fillfactor = 50)";
const ACQUIRE: &str = "INSERT INTO bench_raw AS l (key, holder, until, token) \
    VALUES ($1, $2, clock_timestamp() + interval '30 s', 1) \
    ON CONFLICT (key) DO UPDATE SET holder = $2, until = clock_timestamp() + interval '30 s', token = l.token + 1 \
    WHERE l.holder IS NULL OR l.until < clock_timestamp() RETURNING token";
const RELEASE: &str = "UPDATE bench_raw SET holder = NULL WHERE key = $1 AND holder = $2";

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
                    let row = sqlx::query(ACQUIRE).bind(&key).bind(&id).fetch_optional(&pool).await?;
                    let _token: i64 = row.ok_or("held by another")?.get(0);
                    Ok(async move {
                        let done = sqlx::query(RELEASE).bind(&key).bind(&id).execute(&pool).await?;
                        if done.rows_affected() == 1 { Ok(()) } else { Err("it was lost".into()) }
                    })
                }
            })
        }
    })
}

fn sqlx_lock(setup: &mut Setup) {
    let url = setup.plain_url().to_owned();
    let peer = contender(move || {
        let url = url.clone();
        async move {
            let pool = pool(&url, CROWD).await?;
            Ok(move |key: String| {
                let pool = pool.clone();
                async move {
                    let guard = PgAdvisoryLock::new(&key).acquire(pool.acquire().await?).await?;
                    Ok(async move {
                        guard.release_now().await?;
                        Ok(())
                    })
                }
            })
        }
    });
    let note =
        "a connection for each task, blocked while it waits; no disk write, no TTL, no token; not behind a pooler";
    setup.add("sqlx PgAdvisoryLock", Role::Peer, note, peer);
}

/// Counts statements, by the extension pg_stat_statements.
struct Statements(String);
struct Since(PgPool, i64);

async fn count(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query("SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements").fetch_one(pool).await?.get(0))
}

#[async_trait]
impl Meter for Statements {
    async fn start(&self) -> Result<Box<dyn Counting>> {
        let pool = pool(&self.0, 1).await?;
        sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").execute(&pool).await?;
        let before = count(&pool).await?;
        Ok(Box::new(Since(pool, before)))
    }
}

#[async_trait]
impl Counting for Since {
    async fn stop(self: Box<Self>) -> Result<u64> {
        Ok(u64::try_from(count(&self.0).await? - self.1)?.saturating_sub(1))
    }
}
