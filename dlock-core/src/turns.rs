//! [`Turns`]: those of one client that want the same key go one after the other.

use crate::LockKey;
use crate::clock::locked;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A turn a key, in order of arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<LockKey, Arc<Semaphore>>>>);

impl Turns {
    /// Resolves when it is this caller's turn; the turn ends when the answer is dropped.
    ///
    /// # Cancel safety
    /// Cancel-safe: the place in the line is lost.
    pub(crate) async fn turn(&self, key: &LockKey) -> Turn {
        let line = locked(&self.0).entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        let mut turn = Turn { turns: self.clone(), key: key.clone(), line: Some(line.clone()), permit: None };
        // Never closed, so this is never an error.
        turn.permit = line.acquire_owned().await.ok();
        turn
    }
}

/// A place in the line, and the turn once it has come.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    key: LockKey,
    line: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut lines = locked(&self.turns.0);
        self.line = None;
        // New places are only made under this lock: the map's is the last reference.
        if lines.get(&self.key).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn turns_come_in_order_and_a_dropped_place_holds_nobody_up() {
        let (turns, key, other) = (Turns::default(), LockKey::new("a").unwrap(), LockKey::new("b").unwrap());
        let first = turns.turn(&key).await;
        drop(turns.turn(&other).now_or_never().expect("another key's turn comes at once"));
        let mut second = Box::pin(turns.turn(&key));
        let mut third = Box::pin(turns.turn(&key));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        drop(third.await);
        assert!(locked(&turns.0).is_empty(), "a line that nobody stands in is forgotten");
    }
}
