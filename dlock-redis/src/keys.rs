//! Where a lock stands in Redis.

use dlock_core::LockKey;
use std::fmt::Write;

/// The names of one lock's keys, all in one slot of a cluster.
///
/// The lock itself has the name that redis-py and others use. Only braces and the percent sign are escaped in it, so that
/// the names beside it, which put it in braces, can't be any lock's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    lock: String,
}

/// The fence, the holders, the queue and the waiters, in the scripts' order.
const BESIDE: [&str; 4] = ["f", "h", "q", "w"];

impl Keys {
    pub(crate) fn of(key: &LockKey) -> Self {
        Self { lock: escaped(key.as_str()) }
    }

    /// The lock itself, which foreign clients look at.
    pub(crate) fn lock(&self) -> &str {
        &self.lock
    }

    /// Gives the names beside it, one after the other.
    pub(crate) fn each_beside(&self, mut give: impl FnMut(&str)) {
        let mut name = self.beside(BESIDE[0]);
        let stem = name.len() - BESIDE[0].len();
        for part in BESIDE {
            name.truncate(stem);
            name.push_str(part);
            give(&name);
        }
    }

    fn beside(&self, part: &str) -> String {
        ["{", &self.lock, "}:", part].concat()
    }

    /// Where it is remembered that an id was withdrawn.
    pub(crate) fn gone(&self, id: &str) -> String {
        ["{", &self.lock, "}:g:", id].concat()
    }

    /// What the names of all locks begin with whose key begins with `prefix`.
    pub(crate) fn start(prefix: &str) -> String {
        escaped(prefix)
    }

    /// The lock's key, from its own name or that of its fence.
    pub(crate) fn key_of(name: &str) -> Option<LockKey> {
        let lock = match name.strip_prefix('{') {
            Some(beside) => beside.strip_suffix("}:f")?,
            None => name,
        };
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

    fn beside(keys: &Keys) -> Vec<String> {
        let mut names = Vec::new();
        keys.each_beside(|name| names.push(name.to_owned()));
        names
    }

    #[test]
    fn an_ordinary_name_is_its_own_key() {
        let keys = Keys::of(&LockKey::new("invoices/42").unwrap());
        assert_eq!(keys.lock(), "invoices/42");
        assert_eq!(beside(&keys), ["f", "h", "q", "w"].map(|part| format!("{{invoices/42}}:{part}")));
        assert_eq!(keys.gone("id"), "{invoices/42}:g:id");
        assert_eq!(Keys::of(&LockKey::new("{a}:f").unwrap()).lock(), "%7Ba%7D:f");
    }

    proptest! {
        #[test]
        fn two_keys_never_share_a_name(a in "[a{}%:fqhw7BD]{1,6}", b in "[a{}%:fqhw7BD]{1,6}") {
            let names = |key: &str| {
                let keys = Keys::of(&LockKey::new(key).unwrap());
                let mut names = beside(&keys);
                names.push(keys.lock);
                names
            };
            let shared = names(&a).iter().any(|name| names(&b).contains(name));
            prop_assert_eq!(shared, a == b);
            let keys = Keys::of(&LockKey::new(&a).unwrap());
            for name in [keys.lock().to_owned(), keys.beside("f")] {
                let key = Keys::key_of(&name).unwrap();
                prop_assert_eq!(key.as_str(), &a);
            }
        }
    }
}
