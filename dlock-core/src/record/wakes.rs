//! [`Wakes`]: tells waiters of one process that their place in a record has changed.

use super::Record;
use crate::clock::locked;
use crate::{HolderId, LockKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Wakes waiters of one process, each by itself: a crowd in a queue does not stir when its head is granted.
#[derive(Clone, Debug, Default)]
pub struct Wakes(Arc<Mutex<HashMap<Name, Arc<Notify>>>>);

type Name = (LockKey, HolderId);

impl Wakes {
    /// From here on a wake-up for this waiter is not missed.
    pub fn watch(&self, key: &LockKey, waiter: &HolderId) -> Watch {
        let name = (key.clone(), waiter.clone());
        let notify = locked(&self.0).entry(name.clone()).or_default().clone();
        Watch { wakes: self.clone(), name, notify }
    }

    /// Wakes one waiter, if it is one of this process.
    pub fn wake(&self, key: &LockKey, waiter: &HolderId) {
        if let Some(notify) = locked(&self.0).get(&(key.clone(), waiter.clone())) {
            notify.notify_one();
        }
    }

    /// Wakes all waiters: what was told meanwhile may be lost.
    pub fn wake_all(&self) {
        for notify in locked(&self.0).values() {
            notify.notify_one();
        }
    }

    /// To be called with the record before and after each change: wakes those who no longer wait.
    pub fn changed(&self, key: &LockKey, before: Option<&Record>, after: &Record) {
        for waiter in before.map_or(&[][..], |record| &record.queue) {
            if !after.queue.iter().any(|still| still.entry.id == waiter.entry.id) {
                self.wake(key, &waiter.entry.id);
            }
        }
    }
}

/// A waiter that listens, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    wakes: Wakes,
    name: Name,
    notify: Arc<Notify>,
}

impl Watch {
    /// Resolves when the waiter is woken. Cancel-safe.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        locked(&self.wakes.0).remove(&self.name);
    }
}
