//! Locks in ZooKeeper: Curator's recipe on one session.

mod attempt;
mod backend;
mod config;
mod error;
mod heart;
mod lease;
mod node;
mod place;
mod queue;
mod session;
mod sessions;
mod vigil;
mod wait;

pub use backend::{ZkBackend, driver};
