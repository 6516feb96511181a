//! The contract of dlock: what a distributed lock is, whatever store keeps it.
//!
//! Applications use the facade crate `dlocks`. A backend author implements [`LockBackend`], or [`record::RecordStore`]
//! for a store without a lock recipe of its own, and proves it with the suite in `dlock-conformance`.

mod backend;
mod cancel;
mod capabilities;
mod clock;
mod error;
pub mod fence;
mod holder;
mod info;
mod key;
mod lease;
mod mode;
pub mod record;
mod request;
mod ttl;

pub use backend::{Attempt, LockBackend};
pub use cancel::Cancel;
pub use capabilities::{Capabilities, Lifetime, Shows, TokenSurvives, TtlRange, Wake};
pub use clock::{Clock, Moment};
pub use error::{Effect, Error, ErrorKind, Result};
pub use fence::FencingToken;
pub use holder::HolderId;
pub use info::{HolderInfo, LockInfo, WaiterInfo};
pub use key::LockKey;
pub use lease::{Deadline, Lease, LostCause, Release, drift, valid_until};
pub use mode::Mode;
pub use request::Request;
pub use ttl::Ttl;

/// The future of a named operation, boxed.
pub(crate) type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;
