//! [`Turns`]: those of one client that want the same record go one after the other.

use crate::LockKey;
use crate::clock::locked;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

/// A turn a key, in order of arrival. A crowd of one client would else spoil its own swaps: of a hundred that read the
/// same version one can write.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<LockKey, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Resolves when it is this one's turn, until the value is dropped. Cancel-safe.
    pub(super) async fn turn(&self, key: &LockKey) -> Turn<'_> {
        let mut turn = Turn { turns: self, key: key.clone(), turn: None };
        let queue = locked(&self.0).entry(key.clone()).or_default().clone();
        turn.turn = Some(queue.lock_owned().await);
        turn
    }
}

#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: LockKey,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = locked(&self.turns.0);
        self.turn = None;
        // Nobody of them waits any more: only the map has it.
        if turns.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(flavor = "multi_thread")]
    async fn one_goes_at_a_time_and_nothing_stays() {
        let (turns, inside) = (Arc::new(Turns::default()), Arc::new(AtomicUsize::new(0)));
        let key = LockKey::new("k").unwrap();
        let tasks: Vec<_> = (0..50)
            .map(|turn| {
                let (turns, inside, key) = (turns.clone(), inside.clone(), key.clone());
                tokio::spawn(async move {
                    if turn % 5 == 0 {
                        // One that gives up while it waits.
                        let _ = tokio::time::timeout(std::time::Duration::from_micros(50), turns.turn(&key)).await;
                        return;
                    }
                    let _turn = turns.turn(&key).await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(locked(&turns.0).is_empty());
    }
}
