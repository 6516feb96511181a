//! Locks in ZooKeeper: Curator's recipe on one session per client.
//!
//! `zk://[user:password@]host[:port][,host[:port]…][/folder]`. The folder, `/dlock` unless the URL names one, is made if
//! it is missing. ZooKeeper 3.6 or newer. With the cargo feature `tls` also `zks://…?ca=FILE[&cert=FILE&key=FILE]`: the
//! authorities of the servers, and the client's own certificate and key, all in PEM.
//!
//! # How a lock looks
//! Each lock has a folder `<folder>/<key>`, a container, which the server removes when it has long been empty. The key is
//! percent-encoded where it has a slash, a percent sign, a space, a leading dot or anything beyond ASCII:
//! `invoices%2F42`. In it each holder and waiter has an ephemeral sequential node:
//!
//! - `_c_<guid>-lock-N` exclusive, as Curator's `InterProcessMutex` names it; the guid is the holder's id,
//! - `_c_<guid>-r-lock-N` shared, `_c_<guid>-p<limit>-lock-N` a permit,
//!
//! with a small JSON object for people: `{"label":…,"mode":…,"since":…}`. `N` gives the order, and the node's `czxid` is
//! the fencing token. Every other node with a sequence number is a foreign client's and excludes all of ours, but that
//! readers of Curator's and kazoo's read-write locks get along with shared ones.
//!
//! With a user and password (scheme `digest`) everything is made for this user alone (`auth::cdrwa`), and all clients of
//! a lock need the same; without, for everybody.
//!
//! # What a lock lives by
//! A client has one session for each step of TTLs that it uses (1, 2, 3, 5, 10, 15, 20, 30 s, 1 min, … 24 h; a TTL is
//! raised to the next step), and its locks live and die with it. The server's `minSessionTimeout` may raise a TTL further
//! and its `maxSessionTimeout` is the longest: 2 and 20 of its ticks of 2 s, unless it says otherwise. The granted TTL
//! is told by the lease. The backend asks the leader three times in a TTL and counts validity from the sending of the
//! last request that was answered; a held node is watched, so that breaking it is known at once.
//!
//! - A killed process frees its locks after the TTL and at most one tick of the server.
//! - A server that restarts keeps locks and queue, if it is back within the TTL; else they are lost, which holders are
//!   told in time, and waiters queue again at the end.
//! - Tokens grow over restarts and over the removal of a lock's folder. They do not survive the loss of the servers' data
//!   or a restored backup: raise the resource's fence then, or change it with the folder.
//! - In an ensemble the leader learns from the other servers at every half tick which sessions are alive. When the server
//!   of a client fails within that time of its last answer, and the client finds no other one, its session may end
//!   earlier than the client counts, by at most the third of a TTL and half a tick; a leader that lost its followers may
//!   answer until it notices. Fencing is the remedy.
//!
//! # Other clients
//! - Curator: `new InterProcessMutex(client, "/dlock/invoices%2F42")`.
//! - kazoo: `client.Lock("/dlock/invoices%2F42", extra_lock_patterns=["-lock-"])`. It makes the folder once for each such object, and
//!   fails with `NoNodeError` if the server has removed it since: make the folder yourself, as a persistent node.
//! - They take all of our nodes for exclusive ones. Curator's read-write lock does not see ours, but ours sees it.

mod attempt;
mod backend;
mod config;
mod contend;
mod error;
mod heart;
mod lease;
mod node;
mod place;
mod queue;
mod session;
mod sessions;
mod turn;
mod vigil;
mod wait;

pub use backend::{ZkBackend, driver};
