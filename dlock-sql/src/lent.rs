//! [`Lent`] and [`on`]: a connection of the pool, for one statement.

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool, Result};
use std::time::Duration;

/// A connection of the pool, for one statement. It goes back when the statement has ended, and is closed if it is dropped
/// before.
///
/// The pool would take it back all the same, and ask it for a sign of life without a limit of time: on a connection that
/// died in silence that never ends, and its place in the pool is lost for good. So it has a limit here.
#[derive(Debug)]
pub(crate) struct Lent<DB: Database>(Option<PoolConnection<DB>>);

/// How long a connection that goes back has to answer.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

impl<DB: Database> Lent<DB> {
    pub(crate) async fn of(pool: &Pool<DB>) -> Result<Self> {
        pool.acquire().await.map(|connection| Self(Some(connection)))
    }

    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        self.0.as_mut().expect("it is there until the statement has ended")
    }

    /// The answer of the statement, which so has ended.
    pub(crate) fn ended<T>(mut self, answer: Result<T>) -> Result<T> {
        if let Some(mut connection) = self.0.take() {
            tokio::spawn(tokio::time::timeout(SIGN_OF_LIFE, connection.return_to_pool()));
        }
        answer
    }
}

impl<DB: Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Runs a statement on a lent connection: `on!(pool, query.fetch_one)` in place of `query.fetch_one(pool)`.
macro_rules! on {
    ($pool:expr, $query:ident.$run:ident) => {
        async {
            let mut lent = $crate::lent::Lent::of($pool).await?;
            let answer = $query.$run(lent.connection()).await;
            lent.ended(answer)
        }
    };
}
pub(crate) use on;
