//! The cases, by the part of the contract that they are about.

pub(crate) mod cancellation;
pub(crate) mod exclusion;
pub(crate) mod faults;
pub(crate) mod fencing;
pub(crate) mod lease;
pub(crate) mod looking;
pub(crate) mod refused;
pub(crate) mod replies;
pub(crate) mod rounds;
pub(crate) mod shared;
#[cfg(unix)]
pub(crate) mod stopped;
pub(crate) mod waiting;
