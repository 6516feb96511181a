//! [`Turns`]: those of one client that want the same key go one after the other.

use crate::clock::locked;
use crate::{Clock, LockKey, Moment};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A turn a key, in order of arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<LockKey, Arc<Line>>>>);

#[derive(Debug)]
struct Line {
    turn: Arc<Semaphore>,
    /// How many have had their turn.
    served: AtomicU64,
}

impl Line {
    fn new() -> Arc<Self> {
        Arc::new(Self { turn: Arc::new(Semaphore::new(1)), served: AtomicU64::new(0) })
    }
}

impl Turns {
    /// Resolves when it is this caller's turn; the turn ends when the answer is dropped.
    ///
    /// # Cancel safety
    /// Cancel-safe: the place in the line is lost.
    pub(crate) async fn turn(&self, key: &LockKey) -> Turn {
        let mut turn = self.line_up(key);
        turn.permit = turn.comes().await;
        turn
    }

    /// The same until `give_up`, and as long as the line moves: whoever has the turn may be a future that nobody polls. `None`
    /// once nobody was served for `patience`.
    ///
    /// # Cancel safety
    /// As [`Turns::turn`].
    pub(crate) async fn turn_if_it_moves(
        &self,
        key: &LockKey,
        clock: &Clock,
        patience: Duration,
        give_up: Moment,
    ) -> Option<Turn> {
        let mut turn = self.line_up(key);
        let mut comes = pin!(turn.comes());
        loop {
            let (before, now) = (turn.served(), clock.now());
            if let Some(permit) = clock.timeout_at(give_up.min(now + patience), comes.as_mut()).await {
                turn.permit = permit;
                return Some(turn);
            }
            if turn.served() == before || clock.now() >= give_up {
                return None;
            }
        }
    }

    fn line_up(&self, key: &LockKey) -> Turn {
        let line = locked(&self.0).entry(key.clone()).or_insert_with(Line::new).clone();
        Turn { turns: self.clone(), key: key.clone(), line: Some(line), permit: None }
    }
}

/// A place in the line, and the turn once it has come.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    key: LockKey,
    line: Option<Arc<Line>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// The permit, once it is this one's turn. It keeps no line in the map.
    fn comes(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let line = self.line.as_ref().map(|line| line.turn.clone());
        // Never closed, so this is never an error.
        async move { line?.acquire_owned().await.ok() }
    }

    fn served(&self) -> u64 {
        self.line.as_ref().map_or(0, |line| line.served.load(Ordering::Relaxed))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let (Some(line), Some(permit)) = (&self.line, self.permit.take()) {
            line.served.fetch_add(1, Ordering::Relaxed);
            drop(permit);
        }
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
    async fn one_waits_in_line_as_long_as_it_moves() {
        let (turns, key, clock) = (Turns::default(), LockKey::new("a").unwrap(), Clock::system());
        let patience = Duration::from_millis(40);
        let crowd = (0..10).map(|_| async {
            let turn = turns.turn_if_it_moves(&key, &clock, patience, Moment::MAX).await;
            clock.sleep(patience / 4).await;
            turn.is_some()
        });
        // In all they take longer than one is patient.
        assert!(futures_util::future::join_all(crowd).await.into_iter().all(|came| came));
        let mut aside = Box::pin(turns.turn(&key));
        let kept = aside.as_mut().now_or_never();
        assert!(kept.is_some() && turns.turn_if_it_moves(&key, &clock, patience, Moment::MAX).await.is_none());
        drop(kept);
        assert!(locked(&turns.0).is_empty(), "who gave up stands in no line");
    }

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
