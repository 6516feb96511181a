//! The cases, by the part of the contract that they are about.

pub(crate) mod cancellation;
pub(crate) mod exclusion;
pub(crate) mod fencing;
pub(crate) mod lease;
pub(crate) mod looking;
pub(crate) mod shared;
pub(crate) mod waiting;
