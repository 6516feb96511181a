//! [`Node`]: an entry of a lock's queue, as its name tells it.

use dlock_core::{HolderId, LockKey, Mode};
use std::num::NonZeroU32;

/// An entry of a lock's queue, as its name tells it.
///
/// Ours are named as Curator's are, `_c_<guid>-lock-N`, with the mode before `lock-`: `r-` for shared and `p<limit>-` for
/// permits (rule Q4). Whatever else has a sequence number is a foreign client's and counts as exclusive, but for the
/// readers of Curator's and kazoo's read-write locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) sequence: i64,
    pub(crate) mode: Mode,
    /// The acquisition, or for a foreign name the name itself.
    pub(crate) id: HolderId,
}

/// What stands before the sequence number in the names of other recipes, and how it holds.
const FOREIGN: [(&str, Mode); 5] = [
    ("__lock__", Mode::Exclusive),
    ("__rlock__", Mode::Shared),
    ("__READ__", Mode::Shared),
    ("__WRIT__", Mode::Exclusive),
    ("lock-", Mode::Exclusive),
];

impl Node {
    /// Reads a name; `None` if it has no sequence number, and so is no entry.
    pub(crate) fn read(name: &str) -> Option<Self> {
        if let Some((id, mode, sequence)) = ours(name) {
            return Some(Self { name: name.to_owned(), sequence, mode, id });
        }
        let known = FOREIGN.iter().find_map(|(marker, mode)| {
            let sequence = name.rsplit_once(marker)?.1.parse().ok()?;
            Some((*mode, sequence))
        });
        let (mode, sequence) = known.or_else(|| Some((Mode::Exclusive, sequence_behind(name)?)))?;
        Some(Self { name: name.to_owned(), sequence, mode, id: HolderId::from_store(name) })
    }

    /// The name of one of ours.
    pub(crate) fn name(id: &HolderId, mode: Mode, sequence: i64) -> String {
        let digits = if i32::try_from(sequence).is_ok() { 10 } else { 19 };
        format!("{}{sequence:0digits$}", Self::prefix(id, mode))
    }

    /// Our name up to the sequence number.
    pub(crate) fn prefix(id: &HolderId, mode: Mode) -> String {
        let mode = match mode {
            Mode::Exclusive => String::new(),
            Mode::Shared => "r-".to_owned(),
            Mode::Permit { limit } => format!("p{limit}-"),
        };
        format!("_c_{}-{mode}lock-", guid(id))
    }
}

/// The sequence number at the end of a name of which nothing else is known. The store pads it to ten characters, its sign
/// included; behind a separator of the recipe the sign doubles it.
fn sequence_behind(name: &str) -> Option<i64> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    // Digits are a byte each.
    let (before, number) = name.split_at(name.len() - digits.min(10));
    let number: i64 = number.parse().ok()?;
    match digits {
        9 if before.ends_with('-') => Some(-number),
        10 if before.ends_with("--") => Some(-number),
        10.. => Some(number),
        _ => None,
    }
}

/// A holder's id in the form of a GUID, by which Curator knows its own.
fn guid(id: &HolderId) -> String {
    let id = id.as_str();
    match (id.get(..8), id.get(8..12), id.get(12..16), id.get(16..20), id.get(20..)) {
        (Some(a), Some(b), Some(c), Some(d), Some(e)) if e.len() == 12 => format!("{a}-{b}-{c}-{d}-{e}"),
        // Not reached: ids are 32 digits.
        _ => id.to_owned(),
    }
}

fn ours(name: &str) -> Option<(HolderId, Mode, i64)> {
    let rest = name.strip_prefix("_c_")?;
    let (guid, rest) = (rest.get(..36)?, rest.get(36..)?.strip_prefix('-')?);
    let id: String = guid.chars().filter(|c| *c != '-').collect();
    if id.len() != 32 || !id.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let (mode, sequence) = rest.split_once("lock-")?;
    let mode = match mode {
        "" => Mode::Exclusive,
        "r-" => Mode::Shared,
        limit => {
            let limit = limit.strip_prefix('p')?.strip_suffix('-')?.parse::<NonZeroU32>().ok()?;
            Mode::Permit { limit }
        }
    };
    Some((HolderId::from_store(id), mode, sequence.parse().ok()?))
}

/// How far `sequence` is behind `base`. The number is signed, has 32 bits and wraps.
pub(crate) fn distance(sequence: i64, base: i64) -> i64 {
    match (i32::try_from(sequence), i32::try_from(base)) {
        (Ok(sequence), Ok(base)) => sequence.wrapping_sub(base).into(),
        _ => sequence.wrapping_sub(base),
    }
}

/// The path of a lock's folder.
pub(crate) fn folder(root: &str, key: &LockKey) -> String {
    format!("{root}/{}", key.to_segment())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_at_the_end_of_any_name_is_read_as_the_store_wrote_it() {
        for (name, sequence) in [
            ("x-0000000007", Some(7)),
            ("x-7205-0000000007", Some(7)),
            ("20240000000012", Some(12)),
            ("x-7205--000000001", Some(-1)),
            ("x--000000001", Some(-1)),
            ("n-999999999", Some(-999_999_999)),
            ("x-7205--2147483648", Some(-2_147_483_648)),
            ("\u{9501}0000000007", Some(7)),
            ("caf\u{e9}", None),
            ("\u{9501}", None),
            ("", None),
            ("12345", None),
            ("config-2024", None),
        ] {
            assert_eq!(Node::read(name).map(|node| node.sequence), sequence, "{name}");
        }
    }

    #[test]
    fn our_names_lead_back_to_what_they_were_made_of() {
        let limit = NonZeroU32::new(7).unwrap();
        for (mode, shape) in
            [(Mode::Exclusive, "-lock-"), (Mode::Shared, "-r-lock-"), (Mode::Permit { limit }, "-p7-lock-")]
        {
            let id = HolderId::random();
            let prefix = Node::prefix(&id, mode);
            assert!(prefix.ends_with(shape), "{prefix}");
            for (digits, sequence) in [("0000000012", 12), ("-000000012", -12), ("-2147483648", -2_147_483_648)] {
                let name = format!("{prefix}{digits}");
                assert_eq!(Node::name(&id, mode, sequence), name);
                assert_eq!(Node::read(&name), Some(Node { name: name.clone(), sequence, mode, id: id.clone() }));
            }
        }
    }

    #[test]
    fn foreign_names_with_a_number_are_entries_and_others_are_not() {
        let guid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (name, mode, sequence) in [
            ("2c6f7e7cbd0f4e9f8a4a__lock__0000000003".to_owned(), Mode::Exclusive, 3),
            ("2c6f7e7cbd0f4e9f8a4a__rlock__0000000004".to_owned(), Mode::Shared, 4),
            (format!("_c_{guid}-__READ__0000000005"), Mode::Shared, 5),
            (format!("_c_{guid}-__WRIT__0000000006"), Mode::Exclusive, 6),
            (format!("_c_{guid}-p0-lock-0000000007"), Mode::Exclusive, 7),
            ("lock-0000000008".to_owned(), Mode::Exclusive, 8),
            ("n_0000000009".to_owned(), Mode::Exclusive, 9),
            ("__lock__-000000009".to_owned(), Mode::Exclusive, -9),
        ] {
            let node = Node::read(&name).unwrap();
            assert_eq!((node.mode, node.sequence, node.id.as_str()), (mode, sequence, &*name), "{name}");
        }
        for other in ["leases", "locks", "a1", "lock-", "lock-x", ""] {
            assert_eq!(Node::read(other), None, "{other}");
        }
    }

    #[test]
    fn the_sequence_number_wraps() {
        assert_eq!(distance(5, 3), 2);
        assert_eq!(distance(i32::MIN.into(), i32::MAX.into()), 1);
        assert_eq!(distance(i32::MAX.into(), i32::MIN.into()), -1);
        assert_eq!(distance(1 << 31, i32::MAX.into()), 1);
    }
}
