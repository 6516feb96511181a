//! The floors and peers of each store.

#[cfg(feature = "redis")]
pub(crate) mod redis;
