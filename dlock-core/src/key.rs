//! [`LockKey`]: the name of a lock.

use crate::{Error, ErrorKind};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
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

    /// The key as one segment of a path, for stores whose names are paths: percent-encoded where it has a slash, a
    /// percent sign, a space, a leading dot or anything beyond ASCII. Two keys never share a segment, and no segment is
    /// `.` or `..` or has a slash (rule Q1).
    ///
    /// ```
    /// # use dlock_core::LockKey;
    /// assert_eq!(LockKey::new("a/b")?.to_segment(), "a%2Fb");
    /// # Ok::<(), dlock_core::Error>(())
    /// ```
    pub fn to_segment(&self) -> String {
        segment(&self.0)
    }

    /// The key of a segment; `None` for one that no key has.
    pub fn from_segment(segment: &str) -> Option<Self> {
        let key = Self::new(percent_decode_str(segment).decode_utf8().ok()?).ok()?;
        (key.to_segment() == segment).then_some(key)
    }
}

/// What is escaped in a segment beyond control characters and what is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%').add(b' ');

/// The segment of a text; that of a key's beginning is the beginning of the key's segment.
fn segment(text: &str) -> String {
    let escaped = utf8_percent_encode(text, ESCAPED);
    match text.strip_prefix('.') {
        Some(_) => escaped.to_string().replacen('.', "%2E", 1),
        None => escaped.to_string(),
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

    #[test]
    fn a_segment_is_no_path_and_leads_back_to_its_key() {
        for (key, segment) in [
            ("invoices", "invoices"),
            ("a/b", "a%2Fb"),
            ("a%2Fb", "a%252Fb"),
            (".", "%2E"),
            ("..", "%2E."),
            ("a.b", "a.b"),
            ("ä b", "%C3%A4%20b"),
        ] {
            assert_eq!(LockKey::new(key).unwrap().to_segment(), segment);
            assert_eq!(LockKey::from_segment(segment).unwrap().as_str(), key);
        }
        for strange in ["", "a/b", "%2f", "%61", "a b", "%FF"] {
            assert_eq!(LockKey::from_segment(strange), None, "{strange}");
        }
    }
}
