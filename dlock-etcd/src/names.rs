//! [`Names`]: where a lock stands in etcd.

use dlock_core::{HolderId, LockKey, Mode};
use std::num::NonZeroU32;

/// The names of keys in etcd.
///
/// A lock is the folder `<prefix><segment>/`; each acquisition is one key in it, named by mode and holder id: `x-<id>`
/// exclusive, `s-<id>` shared, `p<limit>-<id>` a permit. Any other name there is a foreign client's, which
/// counts as exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    prefix: String,
}

/// Keys from `start` to before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl Span {
    /// All keys that begin with `prefix`, which does not end with the byte 255.
    pub(crate) fn prefixed(prefix: &str) -> Self {
        let start = prefix.as_bytes().to_vec();
        let mut end = start.clone();
        match end.last_mut() {
            Some(last) => *last += 1,
            // As etcd writes "without end".
            None => return Self { start: vec![0], end: vec![0] },
        }
        Self { start, end }
    }

    /// This key alone.
    pub(crate) fn key(key: &[u8]) -> Self {
        Self { start: key.to_vec(), end: Vec::new() }
    }
}

impl Names {
    /// Names under a prefix that ends with a slash.
    pub(crate) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// All that is under the prefix.
    pub(crate) fn all(&self) -> Span {
        Span::prefixed(&self.prefix)
    }

    /// The folder of a lock, its slash included.
    pub(crate) fn folder(&self, key: &LockKey) -> String {
        format!("{}{}/", self.prefix, key.to_segment())
    }

    /// The key of an acquisition.
    pub(crate) fn entry(&self, key: &LockKey, id: &HolderId, mode: Mode) -> Vec<u8> {
        let folder = self.folder(key);
        match mode {
            Mode::Exclusive => format!("{folder}x-{id}"),
            Mode::Shared => format!("{folder}s-{id}"),
            Mode::Permit { limit } => format!("{folder}p{limit}-{id}"),
        }
        .into_bytes()
    }

    /// What a folder has besides shared entries: the two spans round them.
    pub(crate) fn not_shared(&self, key: &LockKey) -> [Span; 2] {
        let folder = self.folder(key);
        let (whole, shared) = (Span::prefixed(&folder), Span::prefixed(&format!("{folder}s-")));
        [Span { start: whole.start, end: shared.start }, Span { start: shared.end, end: whole.end }]
    }

    /// Where a session remembers that it has withdrawn something. No lock's folder begins with a dot.
    pub(crate) fn withdrawn(&self, lease: i64) -> Vec<u8> {
        format!("{}.withdrawn/{lease:x}", self.prefix).into_bytes()
    }

    /// Whether a key is such a mark.
    pub(crate) fn is_mark(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest.starts_with(b"."))
    }

    /// The folders of all locks whose key begins with `prefix`; `None` if no key can.
    pub(crate) fn beginning(&self, prefix: &str) -> Option<Span> {
        if prefix.is_empty() {
            return Some(self.all());
        }
        let segment = LockKey::new(prefix).ok()?.to_segment();
        Some(Span::prefixed(&format!("{}{segment}", self.prefix)))
    }

    /// The lock in whose folder a key is.
    pub(crate) fn lock_of(&self, key: &[u8]) -> Option<LockKey> {
        let rest = std::str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?).ok()?;
        LockKey::from_segment(rest.split_once('/')?.0)
    }
}

/// Holder id and mode of an entry by its name within its folder; the mode is `None` for a foreign client's.
pub(crate) fn read_entry(name: &[u8]) -> (HolderId, Option<Mode>) {
    let name = String::from_utf8_lossy(name);
    let ours = name.split_once('-').filter(|(_, id)| !id.is_empty()).and_then(|(mode, id)| {
        let mode = match mode {
            "x" => Mode::Exclusive,
            "s" => Mode::Shared,
            _ => Mode::Permit { limit: mode.strip_prefix('p')?.parse::<NonZeroU32>().ok()? },
        };
        Some((HolderId::from_store(id), Some(mode)))
    });
    ours.unwrap_or_else(|| (HolderId::from_store(name), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> LockKey {
        LockKey::new(key).unwrap()
    }

    #[test]
    fn an_entry_is_named_by_mode_and_holder() {
        let names = Names::new("dlock/".into());
        let (id, limit) = (HolderId::random(), NonZeroU32::new(12).unwrap());
        for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { limit }] {
            let entry = names.entry(&key("a/b"), &id, mode);
            let name = entry.strip_prefix(b"dlock/a%2Fb/").unwrap();
            assert_eq!(read_entry(name), (id.clone(), Some(mode)));
            assert_eq!(names.lock_of(&entry), Some(key("a/b")));
        }
        for foreign in ["694d81417acd4754", "p0-1", "p-1", "x", "x-", "y-1", ""] {
            assert_eq!(read_entry(foreign.as_bytes()), (HolderId::from_store(foreign), None));
        }
    }

    #[test]
    fn spans_hold_what_they_should() {
        let names = Names::new("dlock/".into());
        let within = |span: &Span, key: &[u8]| span.start.as_slice() <= key && key < span.end.as_slice();
        let [before, after] = names.not_shared(&key("a"));
        let outside = |name: &[u8]| within(&before, name) || within(&after, name);
        assert!(outside(b"dlock/a/694d81417acd4754") && outside(b"dlock/a/x-1") && outside(b"dlock/a/p3-1"));
        assert!(!outside(b"dlock/a/s-1") && !outside(b"dlock/b/x-1") && !outside(b"dlock/a%2Fb/x-1"));
        assert!(outside(b"dlock/a/s") && outside(b"dlock/a/s.") && outside("dlock/a/ä".as_bytes()));
        let mark = names.withdrawn(255);
        assert!(names.is_mark(&mark) && names.lock_of(&mark).is_none());
        assert!(!names.is_mark(&names.entry(&key("."), &HolderId::random(), Mode::Shared)));
        let held = names.beginning("he").unwrap();
        assert!(within(&held, b"dlock/held/x-1") && !within(&held, b"dlock/h/x-1"));
        assert_eq!(names.beginning("a\n"), None);
    }
}
