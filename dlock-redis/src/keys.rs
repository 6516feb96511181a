//! Where a lock stands in Redis.

use dlock_core::{HolderId, LockKey};
use std::fmt::Write;

/// The names of one lock's keys, all in one slot of a cluster.
///
/// The lock itself has the name that redis-py and others use. Only braces and the percent sign are escaped in it, so that
/// the names beside it, which put it in braces, can't be any lock's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) lock: String,
    pub(crate) fence: String,
    pub(crate) holders: String,
    pub(crate) queue: String,
    pub(crate) waiters: String,
}

impl Keys {
    pub(crate) fn of(key: &LockKey) -> Self {
        let lock = escaped(key.as_str());
        let beside = |part: char| format!("{{{lock}}}:{part}");
        Self { fence: beside('f'), holders: beside('h'), queue: beside('q'), waiters: beside('w'), lock }
    }

    /// Where it is remembered that an id was withdrawn.
    pub(crate) fn gone(&self, id: &HolderId) -> String {
        format!("{{{}}}:g:{id}", self.lock)
    }

    /// The pattern of the fences and queues of all locks whose key begins with `prefix`.
    pub(crate) fn pattern(prefix: &str) -> String {
        let mut pattern = String::from("{");
        for c in escaped(prefix).chars() {
            if "*?[]\\^".contains(c) {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push_str("*}:[fq]");
        pattern
    }

    /// The lock's key, from the name of its fence or queue.
    pub(crate) fn key_of(beside: &str) -> Option<LockKey> {
        let lock =
            beside.strip_prefix('{')?.strip_suffix(":f").or_else(|| beside.strip_prefix('{')?.strip_suffix(":q"))?;
        let lock = lock.strip_suffix('}')?;
        let key = percent_encoding::percent_decode_str(lock).decode_utf8().ok()?;
        LockKey::new(key).ok()
    }
}

fn escaped(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for c in key.chars() {
        if "{}%".contains(c) {
            // Writing to a String can't fail.
            let _ = write!(name, "%{:02X}", u32::from(c));
        } else {
            name.push(c);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ordinary_name_is_its_own_key() {
        let keys = Keys::of(&LockKey::new("invoices/42").unwrap());
        assert_eq!((keys.lock.as_str(), keys.fence.as_str()), ("invoices/42", "{invoices/42}:f"));
        assert_eq!(Keys::of(&LockKey::new("{a}:f").unwrap()).lock, "%7Ba%7D:f");
        assert_eq!(Keys::pattern("a*[b"), "{a\\*\\[b*}:[fq]");
    }

    proptest! {
        #[test]
        fn two_keys_never_share_a_name(a in "[a{}%:fqhw7BD]{1,6}", b in "[a{}%:fqhw7BD]{1,6}") {
            let names = |key: &str| {
                let keys = Keys::of(&LockKey::new(key).unwrap());
                [keys.lock, keys.fence, keys.holders, keys.queue, keys.waiters]
            };
            let shared = names(&a).iter().any(|name| names(&b).contains(name));
            prop_assert_eq!(shared, a == b);
            let keys = Keys::of(&LockKey::new(&a).unwrap());
            let key = Keys::key_of(&keys.fence).unwrap();
            prop_assert_eq!(key.as_str(), &a);
        }
    }
}
