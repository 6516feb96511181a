//! Locks for the processes of one machine, in a SQLite file: no server, and the lock of a killed process is free at once.
//!
//! `local:/path/to/locks.db`, or `local:relative.db`; the file is made if it is missing, its folder is not. The parameter
//! `sync=full` makes each change wait for the disk; without it a power cut may lose the last changes, which does no harm:
//! no lease outlives a reboot, and tokens grow by the wall clock.
//!
//! - A lease ends at its TTL as everywhere, on a clock that counts suspend. It ends earlier when its process is seen to be
//!   dead: each process holds a file lock in the folder `<file>-alive` as its sign of life.
//! - Waiters look every 10 ms; those of the holder's own process are told.
//! - All processes must see the same file on the same machine. Network file systems are refused. Containers may share
//!   its folder, not the file alone; where their time namespaces differ, a dead holder's lock waits for its TTL.
//! - Several users may share the file if each may write it and its folder (a common group, `umask 002`).

mod alive;
mod backend;
mod error;
mod filesystem;
mod schema;
mod store;
mod worker;

pub use backend::{LocalBackend, driver};
