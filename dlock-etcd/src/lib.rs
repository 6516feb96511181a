//! Locks in etcd: a queue of keys under one session lease.
//!
//! `etcd://[user:password@]host[:port][,host[:port]…][/prefix]`, or `etcds://` for TLS; port 2379 unless set. etcd 3.4 or
//! newer. To build it, `protoc` and its well-known types are needed: Debian packages `protobuf-compiler` and
//! `libprotobuf-dev`.
//!
//! | parameter | |
//! |---|---|
//! | `ca` | the file with the PEM certificate of the authority that signed the servers'; needed with `etcds` |
//! | `domain` | the name that the servers' certificates bear, if it is not the host's |
//! | `cert`, `key` | the files with this client's own PEM certificate and its private key |
//!
//! A user needs to read and write all keys under the prefix, and nothing else.
//!
//! # How a lock looks
//!
//! Under the prefix (the URL's path with a slash behind it; `dlock/` unless set) each lock is a folder, named by its key with
//! `/`, `%`, spaces, a leading dot and what is not ASCII percent-escaped. Each acquisition is one key in it, named by mode and
//! holder id; they hold and wait in order of their create revisions, which are the fencing tokens:
//!
//! ```text
//! dlock/invoices%2F42/x-0f9d…    exclusive
//! dlock/catalogue/s-77b1…        shared
//! dlock/smtp/p5-c09e…            a permit of five
//! dlock/.withdrawn/694d…         what one session has withdrawn after a reply was lost
//! ```
//!
//! The values (label, mode, since) are for people; nothing depends on them. *Since* is when the acquisition began to wait.
//!
//! All keys of one client and TTL stand under one lease, its session, which is kept alive by one message every third of
//! the TTL, however many locks there are. TTLs are raised to 1, 2, 3, 5, 10, 15 or 30 s, 1, 2, 5, 10 or 30 min, 1, 6 or 24 h;
//! and the server raises those below one and a half of its election timeouts (2 s as etcd comes).
//!
//! # What survives what
//!
//! - A dead client's locks are free after their TTL and up to half a second. [`EtcdBackend`] dropped without
//!   [`close`](dlock_core::LockBackend::close) is a dead client.
//! - A restart of servers loses neither locks nor places in the queue nor tokens, and prolongs the leases.
//! - A member that is cut off from the others serves nobody. Give all members in the URL.
//! - Tokens do not survive the loss of all data, or a restore from a backup: locks held before it are lost then, and the
//!   resource's fence has to be moved.
//! - A lost session (`etcdctl lease revoke`, or no answer for a TTL) loses all its locks at once, and only its locks. A waiter
//!   queues again, at the end.
//!
//! # With others
//!
//! `etcdctl lock dlock/invoices%2F42` and Go's `concurrency.NewMutex(session, "dlock/invoices%2F42")` take part in the same
//! queue: any key in the folder whose name is not one of the above counts as exclusive. Such a holder has no label and no
//! token here, and can be broken by its key's name. A permit lock that meets one is told that it is in use in another way.
//! They wait behind readers and permits one by one, as behind anybody.

mod acquire;
mod backend;
mod config;
mod connection;
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
