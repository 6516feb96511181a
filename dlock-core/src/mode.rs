//! [`Mode`]: who may hold a lock together.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU32;

/// Who may hold a lock together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One holder alone.
    Exclusive,
    /// Any number of shared holders together, and no exclusive one beside them.
    Shared,
    /// Up to `limit` holders together. All callers must give the same limit, and a key used with permits takes no
    /// other mode while it is in use.
    Permit {
        /// How many may hold at once.
        limit: NonZeroU32,
    },
}

impl Mode {
    /// Whether a holder of this mode and one of `other` may hold together, as far as the two alone decide it.
    pub fn is_compatible_with(self, other: Mode) -> bool {
        matches!((self, other), (Mode::Shared, Mode::Shared) | (Mode::Permit { .. }, Mode::Permit { .. }))
    }

    /// Whether the two can be used on one key: permits mix with nothing else and agree on their limit.
    pub fn agrees_with(self, other: Mode) -> bool {
        match (self, other) {
            (Mode::Permit { limit: a }, Mode::Permit { limit: b }) => a == b,
            (Mode::Permit { .. }, _) | (_, Mode::Permit { .. }) => false,
            _ => true,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Exclusive => f.write_str("exclusive"),
            Mode::Shared => f.write_str("shared"),
            Mode::Permit { limit } => write!(f, "permit of {limit}"),
        }
    }
}
