//! [`Harness`]: how the suite gets at a backend.

use crate::Proxy;
use async_trait::async_trait;
use dlock_core::{Error, ErrorKind, LockBackend, LockKey, Result};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// What a harness can do to its store beyond connecting to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`Harness::restart`].
    Restart,
    /// [`Harness::lose_data`].
    LoseData,
    /// [`Harness::purge`].
    Purge,
    /// [`Harness::put_garbage`] and [`Harness::raw`].
    Garbage,
    /// [`Harness::leftovers`].
    Leftovers,
    /// [`Harness::requests`].
    Requests,
    /// [`Harness::worker_environment`].
    Processes,
    /// [`Harness::end_session`].
    EndSession,
    /// [`Harness::crash`] is seen by the store as a dead client, in the time that the capabilities declare.
    Death,
    /// [`Harness::proxy`] and [`Harness::proxied_client`].
    Proxy,
    /// The proxy's framing can repeat a request: [`Framing::can_repeat`](crate::proxy::Framing::can_repeat).
    Twice,
    /// [`Harness::client_with_password`].
    Password,
    /// [`Harness::client_by_tls`].
    Tls,
}

/// How the suite gets at a backend. Only [`Harness::client`] must be written; what else a harness offers it names in
/// [`Harness::faults`].
#[async_trait]
pub trait Harness: Debug + Send + Sync + 'static {
    /// A fresh client of the store: one with a connection or session of its own.
    ///
    /// # Errors
    /// When it can't be connected: then every case fails.
    async fn client(&self) -> Result<Arc<dyn LockBackend>>;

    /// What this harness can do.
    fn faults(&self) -> &'static [Fault] {
        &[]
    }

    /// Ends a client as a crash of its process would: without releasing anything.
    async fn crash(&self, client: Arc<dyn LockBackend>) {
        drop(client);
    }

    /// Kills the store's server and starts it again.
    ///
    /// # Errors
    /// When that failed.
    async fn restart(&self) -> Result<()> {
        Err(missing("restart"))
    }

    /// Makes the store forget all that it has.
    ///
    /// # Errors
    /// When that failed.
    async fn lose_data(&self) -> Result<()> {
        Err(missing("lose_data"))
    }

    /// Removes what the store keeps of a key that nobody holds or waits for, as its clean-up would.
    ///
    /// # Errors
    /// When that failed.
    async fn purge(&self, _key: &LockKey) -> Result<()> {
        Err(missing("purge"))
    }

    /// Puts bytes in the place of a key's lock that no backend can read.
    ///
    /// # Errors
    /// When that failed.
    async fn put_garbage(&self, _key: &LockKey) -> Result<()> {
        Err(missing("put_garbage"))
    }

    /// What stands in the place of a key's lock.
    ///
    /// # Errors
    /// When that failed.
    async fn raw(&self, _key: &LockKey) -> Result<Vec<u8>> {
        Err(missing("raw"))
    }

    /// How many keys, rows, nodes and queue entries the store has of locks whose key begins with `prefix`; what goes by
    /// itself within ten seconds need not be counted.
    ///
    /// # Errors
    /// When that failed.
    async fn leftovers(&self, _prefix: &str) -> Result<usize> {
        Err(missing("leftovers"))
    }

    /// How many requests the store has answered so far.
    ///
    /// # Errors
    /// When that failed.
    async fn requests(&self) -> Result<u64> {
        Err(missing("requests"))
    }

    /// The environment with which another process, run from this executable, makes a harness of the same store.
    fn worker_environment(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Ends the session of a client at the store, behind its back.
    ///
    /// # Errors
    /// When that failed.
    async fn end_session(&self, _client: &Arc<dyn LockBackend>) -> Result<()> {
        Err(missing("end_session"))
    }

    /// A new line to the store's server: [`Proxy::tcp`] with the server's framing and address.
    ///
    /// # Errors
    /// When there is no port for it.
    async fn proxy(&self) -> Result<Proxy> {
        Err(missing("proxy"))
    }

    /// A fresh client whose requests all go over the line, without TLS, and which is connected within `op_timeout` or not
    /// at all.
    ///
    /// # Errors
    /// When it can't be connected: [`ErrorKind::Unavailable`] where the line is cut or frozen.
    async fn proxied_client(&self, _proxy: &Proxy, _op_timeout: Duration) -> Result<Arc<dyn LockBackend>> {
        Err(missing("proxied_client"))
    }

    /// A client that logs in with this password, where another one is right.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`].
    async fn client_with_password(&self, _password: &str) -> Result<Arc<dyn LockBackend>> {
        Err(missing("client_with_password"))
    }

    /// A client with this password, which is right, of a server whose certificate nobody vouches for, by TLS that looks at
    /// certificates.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`] or [`ErrorKind::Unavailable`].
    async fn client_by_tls(&self, _password: &str) -> Result<Arc<dyn LockBackend>> {
        Err(missing("client_by_tls"))
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this harness names a fault whose method {what} it has not written"))
}
