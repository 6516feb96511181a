//! Fencing tokens, and [`Gate`], which refuses stale ones at the resource.

use crate::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number larger than that of every earlier lease of the same key.
///
/// Hand it to the resource with each write, and let the resource refuse a token smaller than the largest it has seen:
/// then a holder that was paused past its lease can't overwrite its successor's work. Tokens of two keys, or of two
/// stores, do not compare: when you move a lock to another store, reset the resource's fence as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The check at the resource, for one that lives in this process: admits a token unless a larger one was seen.
///
/// A resource in a database does the same in its own statement: `UPDATE … SET fence = :token … WHERE fence <= :token`.
///
/// ```
/// use dlock_core::fence::{FencingToken, Gate};
/// let gate = Gate::new();
/// assert!(gate.admit(FencingToken(7)).is_ok());
/// assert!(gate.admit(FencingToken(7)).is_ok()); // the same holder writes again
/// assert_eq!(gate.admit(FencingToken(6)).unwrap_err().highest, FencingToken(7));
/// ```
#[derive(Debug, Default)]
pub struct Gate(AtomicU64);

impl Gate {
    /// A gate that has seen no token.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A gate that has seen `highest`, as the resource remembers it.
    pub const fn resume(highest: FencingToken) -> Self {
        Self(AtomicU64::new(highest.0))
    }

    /// The highest token seen.
    pub fn highest(&self) -> FencingToken {
        FencingToken(self.0.load(Ordering::Acquire))
    }

    /// Admits the write of an exclusive holder, and remembers its token.
    ///
    /// The gate orders the checks, not the writes behind them: do the write under the same lock or transaction.
    ///
    /// # Errors
    /// [`StaleToken`] when a larger token was admitted before.
    pub fn admit(&self, token: FencingToken) -> Result<(), StaleToken> {
        let highest = self.0.fetch_max(token.0, Ordering::AcqRel);
        if highest > token.0 { Err(StaleToken { token, highest: FencingToken(highest) }) } else { Ok(()) }
    }

    /// Admits a shared or permit holder, by the `fence_floor` of its lease: refused only if a holder that came after
    /// it was exclusive. Remembers nothing, since shared tokens do not order writers among themselves.
    ///
    /// # Errors
    /// [`StaleToken`] when a larger exclusive token than `floor` was admitted before.
    pub fn admit_shared(&self, floor: FencingToken) -> Result<(), StaleToken> {
        let highest = self.highest();
        if highest > floor { Err(StaleToken { token: floor, highest }) } else { Ok(()) }
    }
}

/// A token was refused: a later holder has been at the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleToken {
    /// The token that was refused.
    pub token: FencingToken,
    /// The highest token seen.
    pub highest: FencingToken,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fencing token {} is stale: {} was seen", self.token, self.highest)
    }
}

impl std::error::Error for StaleToken {}

/// The lock was lost, and the resource says so: [`ErrorKind::LeaseLost`], with the [`StaleToken`] as its source.
impl From<StaleToken> for Error {
    fn from(stale: StaleToken) -> Self {
        let message = "a later holder has been at this resource: change nothing, and acquire the lock anew";
        Error::new(ErrorKind::LeaseLost, message).with_source(stale)
    }
}
