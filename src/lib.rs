//! Distributed locks: one API over every store that a team already runs, chosen by a cargo feature and a URL.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dlocks::Error> {
//! let locks = dlocks::connect("memory:").await?; // or redis://127.0.0.1:6379, local:/var/lib/app/locks.db, …
//! let guard = locks.lock("invoices/42").acquire().await?; // waits; the lease is renewed by itself
//! charge_card(guard.token()).await; // the resource refuses a stale token
//! guard.release().await?; // tells if the lock was lost meanwhile
//! # Ok(())
//! # }
//! # async fn charge_card(_: dlocks::FencingToken) {}
//! ```
//!
//! A lock here is a *lease*: the store takes it back when its holder has not renewed it for a TTL. So a holder that was
//! paused may be overtaken; [`LockGuard::lost`](Held::lost) tells it in time, and the [fencing token](FencingToken) lets
//! the resource refuse what comes too late ([`fence`]).
//!
//! | feature | scheme | store |
//! |---|---|---|
//! | always | `memory:` | one process |
#![cfg_attr(feature = "local", doc = "| `local` | `local:` | [one machine](local): a SQLite file, many processes |")]
#![cfg_attr(not(feature = "local"), doc = "| `local` | `local:` | one machine: a SQLite file, many processes |")]
#![cfg_attr(feature = "redis", doc = "| `redis` (`redis-tls`) | `redis://` (`rediss://`) | [Redis](redis) |")]
#![cfg_attr(not(feature = "redis"), doc = "| `redis` (`redis-tls`) | `redis://` (`rediss://`) | Redis |")]
#![cfg_attr(feature = "etcd", doc = "| `etcd` | `etcd://`, `etcds://` | [etcd](etcd) |")]
#![cfg_attr(not(feature = "etcd"), doc = "| `etcd` | `etcd://`, `etcds://` | etcd |")]
#![cfg_attr(feature = "zk", doc = "| `zk` (`zk-tls`) | `zk://` (`zks://`) | [ZooKeeper](zk) |")]
#![cfg_attr(not(feature = "zk"), doc = "| `zk` (`zk-tls`) | `zk://` (`zks://`) | ZooKeeper |")]
#![cfg_attr(feature = "dynamo", doc = "| `dynamo` | `dynamodb://` | [DynamoDB](dynamo) |")]
#![cfg_attr(not(feature = "dynamo"), doc = "| `dynamo` | `dynamodb://` | DynamoDB |")]
#![cfg_attr(
    feature = "sql",
    doc = "| `sql` | `postgres://`, `postgresql://`, `mysql://`, `mariadb://` | [PostgreSQL, MySQL, MariaDB](sql) |"
)]
#![cfg_attr(
    not(feature = "sql"),
    doc = "| `sql` | `postgres://`, `postgresql://`, `mysql://`, `mariadb://` | PostgreSQL, MySQL, MariaDB |"
)]
//!
//! # Shutting down
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dlocks::Error> {
//! let locks = dlocks::connect("memory:").await?;
//! serve(locks.clone()).await; // axum::serve(…).with_graceful_shutdown(signal).await?
//! locks.close().await?;
//! # Ok(())
//! # }
//! # async fn serve(_: dlocks::Locks) {}
//! ```
//!
//! [`close`](Locks::close) comes after the server has drained, since it takes the locks from bodies that still run. A handler whose
//! future is dropped (its connection is gone, a timeout has struck) gives its guard up. Tasks that it spawned go on without the
//! lock: give them a [`Held`], and let them end when it is [`lost`](Held::lost).
//!
//! # Observing
//!
//! With the feature `metrics` a client tells the [`metrics`](https://docs.rs/metrics) facade what follows, with the label `backend`
//! (`redis`, `postgres`, …). Install a recorder before the first client is made.
//!
//! | metric | kind | what |
//! |---|---|---|
//! | `dlock_held` | gauge | locks that this process holds |
//! | `dlock_waiting` | gauge | calls of [`acquire`](Lock::acquire) and [`run`](Lock::run) that have no lock yet |
//! | `dlock_wait_seconds` | histogram | from asking to holding |
//! | `dlock_hold_seconds` | histogram | from holding to giving up or losing |
//! | `dlock_contended_total` | counter | attempts that found the lock held by another |
//! | `dlock_renew_failed_total` | counter | renewals that failed, and are tried again; none on etcd and ZooKeeper, which keep sessions |
//! | `dlock_lost_total` | counter | leases lost; the label `cause` is `expired`, `revoked`, `session_ended` or `max_hold` |
//!
//! Through [`tracing`](https://docs.rs/tracing) it warns of each lost lock (with `key`, `token` and `cause`), and of each renewal that
//! `dlock_renew_failed_total` counts (with `key` and `error`). Calls that acquire have a span on the level `DEBUG`, with `key` and `mode`.

#[doc(inline)]
pub use dlock_core::*;

#[cfg(feature = "dynamo")]
pub use dlock_dynamo as dynamo;
#[cfg(feature = "etcd")]
pub use dlock_etcd as etcd;
#[cfg(feature = "local")]
pub use dlock_local as local;
#[cfg(feature = "redis")]
pub use dlock_redis as redis;
#[cfg(feature = "sql")]
pub use dlock_sql as sql;
#[cfg(feature = "zk")]
pub use dlock_zk as zk;

/// A client of the store that a URL names, with all backends whose features are on.
///
/// Every URL may have the parameters `ttl`, `op_timeout`, `outage`, `local_queue`, `prefix` and `label`; the page of a backend says
/// which ones it adds.
///
/// # Cancel safety
/// Cancel-safe: nothing is held yet.
///
/// # Errors
/// As [`Registry::connect_with`].
pub async fn connect(url: &str) -> Result<Locks> {
    registry().connect(url).await
}

/// All backends whose features are on; add your own by [`Registry::with`].
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "local")]
    let registry = registry.with(dlock_local::driver());
    #[cfg(not(feature = "local"))]
    let registry = registry.with_missing(&["local"], "local");
    #[cfg(feature = "redis")]
    let registry = registry.with(dlock_redis::driver());
    #[cfg(not(feature = "redis"))]
    let registry = registry.with_missing(&["redis"], "redis");
    #[cfg(not(feature = "redis-tls"))]
    let registry = registry.with_missing(&["rediss"], "redis-tls");
    #[cfg(feature = "etcd")]
    let registry = registry.with(dlock_etcd::driver());
    #[cfg(not(feature = "etcd"))]
    let registry = registry.with_missing(&["etcd", "etcds"], "etcd");
    #[cfg(feature = "zk")]
    let registry = registry.with(dlock_zk::driver());
    #[cfg(not(feature = "zk"))]
    let registry = registry.with_missing(&["zk"], "zk");
    #[cfg(not(feature = "zk-tls"))]
    let registry = registry.with_missing(&["zks"], "zk-tls");
    #[cfg(feature = "dynamo")]
    let registry = registry.with(dlock_dynamo::driver());
    #[cfg(not(feature = "dynamo"))]
    let registry = registry.with_missing(&["dynamodb"], "dynamo");
    #[cfg(feature = "sql")]
    let registry = registry.with(dlock_sql::driver());
    #[cfg(not(feature = "sql"))]
    let registry = registry.with_missing(&["postgres", "postgresql", "mysql", "mariadb"], "sql");
    registry
}

#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
