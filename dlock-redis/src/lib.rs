//! Locks in one Redis server: one script an operation, or for many at once; waiters are told by push.
//!
//! `redis://[user[:password]@]host[:port][/database]`. Redis 7 or newer (RESP3), one server: neither Sentinel nor a cluster is
//! asked where it is. With the cargo feature `tls` also `rediss://…[?ca=FILE][&cert=FILE&key=FILE]`: the authorities of the
//! server if they are not those of this machine, and the client's own certificate and key, all in PEM. If the program has installed no
//! default `CryptoProvider` of rustls by then, `ring` becomes it.
//!
//! - The key of an exclusive lock is a plain string with a TTL, `id|token|since|label` of its holder: it excludes, and is excluded
//!   by, redis-py's `Lock` and `SET key value NX PX` on the same key. For shared and permit locks it is a marker. Braces and `%`
//!   in a lock's name are percent-escaped.
//! - Beside it stand, where they are needed, `{key}:f` (fence: the last token), `{key}:h` (holders), `{key}:q` and `{key}:w`
//!   (queue), `{key}:g:<id>` (an acquisition that was withdrawn), all with a TTL. A lock of more than five seconds that nobody waits for is one key.
//! - Tokens are microseconds of the server's clock, or the last token and one: they grow over `FLUSHALL` and over a restart
//!   without persistence, as long as that clock does not go back. Set back by less than five seconds in all it turns no token back, unless
//!   somebody else deletes a lock's keys.
//! - A server that has no more memory (`maxmemory` with `noeviction`) grants nothing new; what is held is renewed, passed on and released.
//! - A user needs the keys of its locks and what stands beside them (`~billing/* ~{billing/*` with the prefix `billing`), the
//!   channels `&dlock:*`, and the commands `+@scripting +@read +@write +@fast +@pubsub +@connection +scan`.
//! - Without a prefix the lock `user:42` is the key `user:42`, where an application may have data: then it is refused as
//!   [`Corrupt`](dlock_core::ErrorKind::Corrupt), or looks held. Give locks a prefix: `redis://host?prefix=locks`.
//! - A foreign client's release wakes nobody: while a foreign client holds, waiters look once a second.
//! - A failover to a replica that has not got a lock yet lets two hold it; fencing is the remedy. Do not evict keys.

mod backend;
mod batch;
mod connection;
mod error;
pub mod fence;
mod keys;
mod lease;
mod reply;
mod scripts;
mod tls;

pub use backend::{RedisBackend, driver};
