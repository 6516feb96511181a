//! Locks in etcd: a queue of keys under one session lease.

mod acquire;
mod backend;
mod config;
mod error;
mod keep_alive;
mod lease;
mod line;
mod names;
mod queue;
mod session;
mod sessions;
mod store;
mod watches;

pub use backend::{EtcdBackend, driver};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock on plain data, usable after a panic elsewhere: no update here leaves the data half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
