//! The connection on which PostgreSQL tells waiters that they were granted.

use crate::config::LOOK;
use dlock_core::record::Wakes;
use dlock_core::{Clock, HolderId, LockKey};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Where grants are told.
pub(crate) const CHANNEL: &str = "dlock_grants";
/// How long the test of that may take.
const SELF_TEST: Duration = Duration::from_secs(1);

/// How long nothing may be heard before the connection is asked whether it is there: one that died in silence looks the same.
const QUIET: Duration = Duration::from_secs(10);

/// A connection beside the pool's: it is never given back.
async fn listener(pool: &PgPool, op_timeout: Duration) -> Result<PgListener, sqlx::Error> {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(op_timeout)
        .connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&own).await?;
    // That is done here, where it is known since when nobody listened.
    listener.eager_reconnect(false);
    Ok(listener)
}

/// A task that hears what is told, if that gets through: then no transaction pooler is in between, and each connection is a
/// session of its own.
pub(crate) async fn listen(pool: &PgPool, op_timeout: Duration, clock: &Clock, wakes: &Wakes) -> Option<AbortHandle> {
    let mut made = None;
    let heard = async {
        let listener = made.insert(listener(pool, op_timeout).await.ok()?);
        listener.listen(CHANNEL).await.ok()?;
        // Not as a prepared statement: it is not yet known whether there is a session.
        let word = format!("test {:016x}", rand::random::<u64>());
        sqlx::raw_sql(AssertSqlSafe(format!("SELECT pg_notify('{CHANNEL}', '{word}')"))).execute(pool).await.ok()?;
        while listener.recv().await.ok()?.payload() != word {}
        Some(())
    };
    let heard = clock.timeout_at(clock.now() + SELF_TEST, heard).await.flatten();
    let mut listener = made?;
    if heard.is_none() {
        // Some server behind the pooler listens now, for nobody.
        let ended = listener.unlisten_all();
        clock.timeout_at(clock.now() + SELF_TEST, ended).await;
        return None;
    }
    let ear = Ear { pool: pool.clone(), op_timeout, clock: clock.clone(), wakes: wakes.clone() };
    Some(tokio::spawn(ear.hear(listener)).abort_handle())
}

/// Wakes the waiters that are told of a grant; and all of them when the connection was made anew, since what was told
/// meanwhile is lost.
struct Ear {
    pool: PgPool,
    op_timeout: Duration,
    clock: Clock,
    wakes: Wakes,
}

impl Ear {
    async fn hear(self, mut listener: PgListener) {
        loop {
            match self.clock.timeout_at(self.clock.now() + QUIET, listener.try_recv()).await {
                Some(Ok(Some(told))) => {
                    if let Some((id, key)) = told.payload().split_once(' ')
                        && let Ok(key) = LockKey::new(key)
                    {
                        self.wakes.wake(&key, &HolderId::from_store(id));
                    }
                    continue;
                }
                None if self.is_there(&mut listener).await => continue,
                Some(Ok(None) | Err(_)) | None => listener = self.listen_anew().await,
            }
            tracing::debug!("the connection that listens was lost, and made anew");
            self.wakes.wake_all();
        }
    }

    async fn is_there(&self, listener: &mut PgListener) -> bool {
        let asked = sqlx::raw_sql("SELECT 1").execute(listener);
        self.clock.timeout_at(self.clock.now() + self.op_timeout, asked).await.is_some_and(|answer| answer.is_ok())
    }

    /// Until somebody listens again, all look as often as where nobody does.
    async fn listen_anew(&self) -> PgListener {
        loop {
            self.wakes.wake_all();
            self.clock.sleep(LOOK).await;
            let anew = async {
                let mut anew = listener(&self.pool, self.op_timeout).await?;
                anew.listen(CHANNEL).await?;
                Ok::<_, sqlx::Error>(anew)
            };
            if let Some(Ok(anew)) = self.clock.timeout_at(self.clock.now() + self.op_timeout, anew).await {
                return anew;
            }
        }
    }
}
