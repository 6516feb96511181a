//! [`Locks`]: a client.

use crate::client::{Client, Settings};
use crate::in_place::{InPlace, named_future};
use crate::lock::Lock;
use crate::{Capabilities, Clock, Error, ErrorKind, HolderId, LockBackend, LockInfo, Request, Result, Ttl};
use futures_core::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A client of one store: it makes [`Lock`]s and looks after those that are held. Cheap to clone; clones are the same
/// client.
///
/// It belongs to the tokio runtime in which it was made: renewal and what is left to do after a dropped future run there.
/// When that runtime ends, held locks are lost at their deadline, [`Held::lost`](crate::Held::lost) still tells it, and
/// new ones are refused. Dropping things of this crate anywhere never panics.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), dlock_core::Error> {
/// use dlock_core::{Locks, memory::Memory};
/// let locks = Locks::new(Memory::new())?;
/// let guard = locks.lock("invoices/42").acquire().await?;
/// assert!(locks.lock("invoices/42").try_acquire().await?.is_none());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Locks(Arc<Client>);

impl Locks {
    /// A client with the default settings.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] outside of a tokio runtime.
    pub fn new(backend: impl LockBackend) -> Result<Self> {
        Self::builder(Arc::new(backend)).build()
    }

    /// A client with settings of its own.
    pub fn builder(backend: Arc<dyn LockBackend>) -> LocksBuilder {
        LocksBuilder {
            backend,
            ttl: Ttl::DEFAULT.get(),
            op_timeout: LocksBuilder::OP_TIMEOUT,
            label: None,
            prefix: String::new(),
            outage: None,
            local_queue: false,
        }
    }

    /// One key, to be set up and acquired. A key is 1 to 255 bytes of UTF-8 without control characters, the client's
    /// prefix and its slash included; a bad one is reported when it is used.
    pub fn lock(&self, key: impl Into<String>) -> Lock {
        Lock::new(self.0.clone(), key.into())
    }

    /// Who holds a lock and who waits for it.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable), [`Corrupt`](ErrorKind::Corrupt), [`InvalidKey`](ErrorKind::InvalidKey),
    /// [`Closed`](ErrorKind::Closed).
    pub async fn inspect(&self, key: &str) -> Result<LockInfo> {
        self.0.check_open()?;
        let key = self.0.key(key)?;
        let client = self.0.clone();
        let look = async move {
            let info = client.bounded("inspect", Some(&key), client.backend().inspect(&key)).await?;
            Ok(client.strip(info))
        };
        InPlace::new(self.0.runtime().clone(), None, self.0.begun(look)).await
    }

    /// All locks that are held or waited for and whose key begins with `prefix` (within the client's own prefix), in no
    /// order. A lock that is held throughout appears exactly once.
    ///
    /// # Cancel safety
    /// Dropping the stream ends it.
    ///
    /// # Errors
    /// As [`Locks::inspect`]. One that is about a single lock, whose record can't be read or was written by a newer version, is
    /// followed by the other locks.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<LockInfo>> {
        self.0.list(prefix)
    }

    /// Takes the lock from a holder, or its place from a waiter, which then queues again at the end. `false` if that id is
    /// not there: then nothing changes. Its holder learns it at its next renewal at the latest, and may work under the lock
    /// until then: look at [`Locks::inspect`] first.
    ///
    /// # Cancel safety
    /// Cancel-safe: once begun, it ends in the background.
    ///
    /// # Errors
    /// As [`Locks::inspect`].
    pub fn break_lock(&self, key: &str, holder: &HolderId) -> BreakLock {
        let (client, key, holder) = (self.0.clone(), self.0.key(key), holder.clone());
        let work = {
            let client = client.clone();
            async move {
                client.check_open()?;
                let key = key?;
                let broken = client.backend().break_lock(&key, &holder).await;
                broken.map_err(|error| client.in_context(error, "break", &key))
            }
        };
        BreakLock(InPlace::new(client.runtime().clone(), None, client.begun(work)))
    }

    /// Closes the client: it refuses new work, what waits gives up with [`ErrorKind::Closed`], what is held is released,
    /// and connections and sessions end. Idempotent.
    ///
    /// It takes the locks from bodies that still run: [`Held::lost`](crate::Held::lost) tells them
    /// [`Released`](crate::LostCause::Released), and a body of [`Lock::run`] is dropped. So it comes after the work has drained.
    ///
    /// It waits for calls that are under way, for one `op_timeout` at the most. An [`Acquire`](crate::Acquire) that was begun
    /// must be polled on or dropped: one that is kept aside costs that time, and what it asked for is left to its TTL.
    ///
    /// # Cancel safety
    /// Cancel-safe: once begun, it ends in the background.
    ///
    /// # Errors
    /// When a release failed or a session could not be ended: then a TTL ends what is left.
    pub fn close(&self) -> Close {
        let runtime = self.0.runtime().clone();
        Close(InPlace::new(runtime, None, Box::pin(self.0.clone().close())))
    }

    /// What the backend can do.
    pub fn capabilities(&self) -> Capabilities {
        *self.0.capabilities()
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn LockBackend> {
        self.0.backend()
    }

    /// The clock of this client's moments.
    pub fn clock(&self) -> &Clock {
        self.0.clock()
    }
}

named_future! {
    /// The future of [`Locks::break_lock`].
    BreakLock -> Result<bool>
}

named_future! {
    /// The future of [`Locks::close`].
    Close -> Result<()>
}

/// Settings of a client.
#[derive(Clone, Debug)]
#[must_use = "build() makes the client"]
pub struct LocksBuilder {
    backend: Arc<dyn LockBackend>,
    ttl: Duration,
    op_timeout: Duration,
    label: Option<String>,
    prefix: String,
    outage: Option<Duration>,
    local_queue: bool,
}

impl LocksBuilder {
    /// How long a single request may take unless set: 5 seconds.
    pub const OP_TIMEOUT: Duration = Duration::from_secs(5);
    /// The longest prefix, in bytes.
    pub const MAX_PREFIX_BYTES: usize = 64;

    /// The TTL of locks that set none of their own; 30 s unless set here.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long a single request to the store may take, 10 ms to 10 min; 5 s unless set here.
    pub fn op_timeout(mut self, op_timeout: Duration) -> Self {
        self.op_timeout = op_timeout;
        self
    }

    /// Who this client is, for the people who look at its locks; host, pid and program unless set here.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// A prefix of all keys of this client, at most 64 bytes without `/` and control characters; in the store a slash
    /// divides it from the key. Clients with different prefixes never meet; a client without one sees the whole store.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// For how long a call that waits in the store's queue, without a limit of its own, puts up with a store that does
    /// not answer; one TTL unless set here.
    pub fn outage(mut self, outage: Duration) -> Self {
        self.outage = Some(outage);
        self
    }

    /// Lets calls of this client that wait for one key queue in this process, so that the store sees one waiter a client
    /// instead of one a call: for crowds of tasks on one key, or a store that charges for waiting. Clients then take turns,
    /// not calls: the order of arrival is kept within a client only, and [`Locks::capabilities`] says so. Off unless set.
    ///
    /// While the store does not answer, each call fails only when its turn has come.
    pub fn local_queue(mut self, local_queue: bool) -> Self {
        self.local_queue = local_queue;
        self
    }

    pub(crate) fn checked_op_timeout(op_timeout: Duration) -> Result<Duration> {
        if (Duration::from_millis(10)..=Duration::from_secs(600)).contains(&op_timeout) {
            return Ok(op_timeout);
        }
        let given = humantime::format_duration(op_timeout);
        let message = format!("an op_timeout of {given} is out of range; give one from 10ms to 10m");
        Err(Error::new(ErrorKind::InvalidConfig, message))
    }

    /// Makes the client, on the current tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a setting out of its range, [`ErrorKind::Closed`] outside of a tokio runtime.
    pub fn build(self) -> Result<Locks> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Closed, "a client is made inside of a tokio runtime").with_source(error)
        })?;
        Ttl::new(self.ttl)?;
        Self::checked_op_timeout(self.op_timeout)?;
        if self.prefix.len() > Self::MAX_PREFIX_BYTES || self.prefix.contains(|c: char| c == '/' || c.is_control()) {
            let message =
                format!("the prefix {:?} is more than 64 bytes, or has a slash or control character", self.prefix);
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let settings = Settings {
            ttl: self.ttl,
            op_timeout: self.op_timeout,
            label: Request::short_label(&self.label.unwrap_or_else(default_label)),
            prefix: self.prefix.into(),
            outage: self.outage,
            local_queue: self.local_queue,
        };
        Ok(Locks(Arc::new(Client::new(self.backend, runtime, settings))))
    }
}

/// Host, pid and program.
fn default_label() -> String {
    let program = std::env::args_os().next().map(std::path::PathBuf::from);
    let program = program.as_deref().and_then(|path| path.file_name()).unwrap_or_default();
    let host = rustix::system::uname();
    format!("{} pid {} {}", host.nodename().to_string_lossy(), std::process::id(), program.to_string_lossy())
}
