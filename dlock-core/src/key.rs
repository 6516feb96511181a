//! [`LockKey`]: the name of a lock.

use crate::{Error, ErrorKind};
use std::fmt;
use std::sync::Arc;

/// The name of a lock: 1 to 255 bytes of UTF-8 without control characters.
///
/// Two keys that differ in any byte are different locks. Every backend maps keys injectively to names in its store,
/// so `a`, `A`, `a/b` and `a%2Fb` never meet.
///
/// ```
/// use dlock_core::LockKey;
/// assert!(LockKey::new("invoices/42").is_ok());
/// assert!(LockKey::new("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockKey(Arc<str>);

impl LockKey {
    /// The longest key, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks a key.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] when it is empty, longer than [`LockKey::MAX_BYTES`] bytes or has a control character.
    pub fn new(key: impl AsRef<str>) -> Result<Self, Error> {
        let key = key.as_ref();
        let wrong = if key.is_empty() {
            "a lock key is empty; give it at least one byte".to_owned()
        } else if key.len() > Self::MAX_BYTES {
            format!("a lock key has {} bytes; {} are the most (with the prefix)", key.len(), Self::MAX_BYTES)
        } else if let Some(at) = key.find(char::is_control) {
            format!("a lock key has a control character at byte {at}; take it out")
        } else {
            return Ok(Self(key.into()));
        };
        Err(Error::new(ErrorKind::InvalidKey, wrong))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for LockKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_1_to_255_bytes_without_control_characters() {
        for good in ["a", "a b", "ä/ü:*?#%\\{}", "🔒", &"x".repeat(255)] {
            assert_eq!(LockKey::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "a\0", "\u{85}", &"x".repeat(256)] {
            assert_eq!(LockKey::new(bad).unwrap_err().kind(), ErrorKind::InvalidKey);
        }
    }
}
