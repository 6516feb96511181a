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

impl FencingToken {
    /// The token as a database binds it: a `bigint`. Every token of this crate's backends is below 2^63; a larger one is
    /// [`i64::MAX`].
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

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
///
/// Readers close it behind them: once a shared holder was admitted, no exclusive holder from before it is any more. Else what
/// such a one still has in hand would change under the reader's eyes.
#[derive(Debug, Default)]
pub struct Gate {
    /// The highest exclusive token.
    highest: AtomicU64,
    /// The least exclusive token that no shared holder has come after.
    least: AtomicU64,
}

impl Gate {
    /// A gate that has seen no token.
    pub const fn new() -> Self {
        Self::resume(FencingToken(0))
    }

    /// A gate that has seen `highest`, as the resource remembers it. It knows of no shared holders.
    pub const fn resume(highest: FencingToken) -> Self {
        Self { highest: AtomicU64::new(highest.0), least: AtomicU64::new(0) }
    }

    /// The highest exclusive token seen.
    pub fn highest(&self) -> FencingToken {
        FencingToken(self.highest.load(Ordering::SeqCst))
    }

    /// Admits the write of an exclusive holder, and remembers its token.
    ///
    /// The gate orders the checks, not the writes behind them: do the write under the same lock or transaction.
    ///
    /// # Errors
    /// [`StaleToken`] when a larger token was admitted before, or a shared holder that came after this one.
    pub fn admit(&self, token: FencingToken) -> Result<(), StaleToken> {
        // Each side writes before it reads: of two at once, one sees the other.
        let highest = self.highest.fetch_max(token.0, Ordering::SeqCst);
        let highest = highest.max(self.least.load(Ordering::SeqCst));
        if highest > token.0 { Err(StaleToken { token, highest: FencingToken(highest) }) } else { Ok(()) }
    }

    /// Admits a shared or permit holder, by the `fence_floor` of its lease: refused only if a holder that came after it
    /// was exclusive. Shared tokens do not order their holders among themselves: what is remembered is that the exclusive
    /// holders up to `floor` are over.
    ///
    /// # Errors
    /// [`StaleToken`] when a larger exclusive token than `floor` was admitted before.
    pub fn admit_shared(&self, floor: FencingToken) -> Result<(), StaleToken> {
        // Its own token, which is not given here, is at least this.
        self.least.fetch_max(floor.0.saturating_add(1), Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_close_the_gate_behind_the_writers_before_them_and_behind_nobody_else() {
        let (gate, token) = (Gate::new(), FencingToken);
        gate.admit(token(5)).unwrap();
        // Readers with the tokens 6 and 9, and one whose floor is all that is left of a purged record.
        for floor in [5, 5, 9] {
            gate.admit_shared(token(floor)).unwrap();
            gate.admit_shared(token(5)).unwrap();
            assert_eq!(gate.admit(token(5)).unwrap_err().token, token(5));
        }
        gate.admit(token(11)).unwrap();
        assert_eq!(gate.admit_shared(token(9)).unwrap_err().highest, token(11));
        gate.admit_shared(token(11)).unwrap();
    }
}
