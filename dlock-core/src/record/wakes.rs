//! [`Wakes`]: tells waiters of one process that their place in a record has changed.

use super::{Holder, Record};
use crate::clock::locked;
use crate::{HolderId, LockKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Wakes waiters of one process, each by itself: a crowd in a queue does not stir when its head is granted.
#[derive(Clone, Debug, Default)]
pub struct Wakes(Arc<Mutex<HashMap<Name, Arc<Slot>>>>);

type Name = (LockKey, HolderId);

#[derive(Debug, Default)]
struct Slot {
    wake: Notify,
    granted: Mutex<Option<Holder>>,
}

impl Wakes {
    /// Wakes one waiter, if it is one of this process: it looks.
    pub fn wake(&self, key: &LockKey, waiter: &HolderId) {
        if let Some(slot) = self.slot(key, waiter) {
            slot.wake.notify_one();
        }
    }

    /// Wakes all waiters: what was told meanwhile may be lost.
    pub fn wake_all(&self) {
        for slot in locked(&self.0).values() {
            slot.wake.notify_one();
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

    /// From here on nothing that is told to this waiter is missed.
    pub(super) fn watch(&self, key: &LockKey, waiter: &HolderId) -> Watch {
        let name = (key.clone(), waiter.clone());
        let slot = locked(&self.0).entry(name.clone()).or_default().clone();
        Watch { wakes: self.clone(), name, slot }
    }

    /// Whether this waiter is one of this process.
    pub(super) fn knows(&self, key: &LockKey, waiter: &HolderId) -> bool {
        self.slot(key, waiter).is_some()
    }

    /// Tells a waiter of this process that it holds: it need not look.
    pub(super) fn grant(&self, key: &LockKey, holder: &Holder) {
        if let Some(slot) = self.slot(key, &holder.entry.id) {
            *locked(&slot.granted) = Some(holder.clone());
            slot.wake.notify_one();
        }
    }

    fn slot(&self, key: &LockKey, waiter: &HolderId) -> Option<Arc<Slot>> {
        locked(&self.0).get(&(key.clone(), waiter.clone())).cloned()
    }
}

/// A waiter that listens, until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    wakes: Wakes,
    name: Name,
    slot: Arc<Slot>,
}

impl Watch {
    /// Resolves when the waiter is told that it holds, or to look. Cancel-safe.
    pub(super) async fn woken(&self) -> Option<Holder> {
        self.slot.wake.notified().await;
        locked(&self.slot.granted).take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        locked(&self.wakes.0).remove(&self.name);
    }
}
