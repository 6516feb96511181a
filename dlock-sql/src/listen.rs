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

/// A task that hears what is told, if that gets through: then no transaction pooler is in between, and each connection is a
/// session of its own.
pub(crate) async fn listen(pool: &PgPool, op_timeout: Duration, clock: &Clock, wakes: &Wakes) -> Option<AbortHandle> {
    // A connection beside the pool's: it is never given back.
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(op_timeout)
        .connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = None;
    let heard = async {
        let listener = listener.insert(PgListener::connect_with(&own).await.ok()?);
        listener.listen(CHANNEL).await.ok()?;
        // Not as a prepared statement: it is not yet known whether there is a session.
        let word = format!("test {:016x}", rand::random::<u64>());
        sqlx::raw_sql(AssertSqlSafe(format!("SELECT pg_notify('{CHANNEL}', '{word}')"))).execute(pool).await.ok()?;
        while listener.recv().await.ok()?.payload() != word {}
        Some(())
    };
    let heard = clock.timeout_at(clock.now() + SELF_TEST, heard).await.flatten();
    let mut listener = listener?;
    if heard.is_none() {
        // Some server behind the pooler listens now, for nobody.
        let ended = listener.unlisten_all();
        clock.timeout_at(clock.now() + SELF_TEST, ended).await;
        return None;
    }
    Some(tokio::spawn(hear(listener, wakes.clone(), clock.clone())).abort_handle())
}

/// Wakes the waiters that are told of a grant; and all of them when the connection was made anew, since what was told
/// meanwhile is lost.
async fn hear(mut listener: PgListener, wakes: Wakes, clock: Clock) {
    loop {
        match listener.try_recv().await {
            Ok(Some(told)) => {
                if let Some((id, key)) = told.payload().split_once(' ')
                    && let Ok(key) = LockKey::new(key)
                {
                    wakes.wake(&key, &HolderId::from_store(id));
                }
            }
            Ok(None) => {
                tracing::debug!("the connection that listens was lost, and made anew");
                wakes.wake_all();
            }
            Err(_) => {
                wakes.wake_all();
                clock.sleep(LOOK).await;
            }
        }
    }
}
