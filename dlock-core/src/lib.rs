//! The contract of dlock: what a distributed lock is, whatever store keeps it.
//!
//! Applications use the facade crate `dlocks`. A backend author implements [`LockBackend`], or [`record::RecordStore`]
//! for a store without a lock recipe of its own, and proves it with the suite in `dlock-conformance`.

mod acquire;
mod backend;
mod backoff;
mod cancel;
mod capabilities;
mod client;
mod clock;
mod config;
mod error;
pub mod fence;
mod guard;
mod holder;
mod in_place;
mod info;
mod keeper;
mod key;
mod lease;
mod lock;
mod locks;
pub mod memory;
mod mode;
mod observe;
pub mod record;
mod registry;
mod request;
mod standing;
mod ttl;
mod turns;
mod url;

pub use acquire::{Acquire, TryAcquire};
pub use backend::{Attempt, LockBackend};
pub use backoff::backoff;
pub use cancel::Cancel;
pub use capabilities::{Capabilities, Lifetime, Shows, TokenSurvives, TtlRange, Wake};
pub use clock::{Clock, Moment};
pub use config::Config;
pub use error::{Effect, Error, ErrorKind, Result};
pub use fence::FencingToken;
pub use guard::{Held, LockGuard, ReleaseGuard};
pub use holder::HolderId;
pub use info::{HolderInfo, LockInfo, WaiterInfo};
pub use key::LockKey;
pub use lease::{Deadline, Lease, LostCause, Release, drift, valid_until};
pub use lock::Lock;
pub use locks::{BreakLock, Close, Locks, LocksBuilder};
pub use mode::Mode;
pub use registry::{Driver, Registry};
pub use request::Request;
pub use standing::Standing;
pub use ttl::Ttl;
pub use url::{Host, StoreUrl};

/// The future of a named operation, boxed.
pub(crate) type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

#[cfg(doctest)]
#[doc = include_str!("../../docs/BACKENDS.md")]
struct Backends;
