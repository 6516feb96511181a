//! What a person reads in the table with plain SQL. Nothing here decides: the record does.

use dlock_core::record::Record;

/// The readable columns of a record.
#[derive(Debug)]
pub(crate) struct Columns {
    /// The holders' labels; empty if nobody holds.
    pub(crate) holders: String,
    /// When the last of them ends, in microseconds since 1970 by the server.
    pub(crate) expires: Option<i64>,
    pub(crate) last_token: i64,
}

/// How long the list of holders may be, in bytes.
const LONGEST: usize = 1_000;
/// The last moment of the year 9999: neither database writes a later one.
const LATEST: i64 = 253_402_300_799_999_999;

impl Columns {
    pub(crate) fn of(record: &Record) -> Self {
        let mut holders = String::new();
        for (place, holder) in record.holders.iter().enumerate() {
            if holders.len() + holder.entry.label.len() > LONGEST {
                holders.push_str(&format!(" and {} more", record.holders.len() - place));
                break;
            }
            if place > 0 {
                holders.push_str("; ");
            }
            // PostgreSQL has no zero in text, and a line is easier to read.
            holders.extend(holder.entry.label.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        let expires = record.holders.iter().map(|holder| holder.expires.0).max();
        Self {
            holders,
            expires: expires.map(|micros| i64::try_from(micros).unwrap_or(LATEST).min(LATEST)),
            last_token: i64::try_from(record.last_token).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::record::{Entry, Holder, StoreTime};
    use dlock_core::{HolderId, Mode};

    #[test]
    fn many_holders_make_one_short_line() {
        let holder = |label: String, expires: u64| Holder {
            entry: Entry { id: HolderId::random(), mode: Mode::Shared, ttl_ms: 1000, label, since: 0, origin: None },
            token: 1,
            floor: 0,
            expires: StoreTime(expires),
        };
        let mut record = Record { last_token: 7, ..Record::default() };
        assert_eq!(Columns::of(&record).expires, None);
        record.holders = vec![holder("a\0b".into(), 5), holder("c".into(), 9), holder("d".into(), 3)];
        let columns = Columns::of(&record);
        assert_eq!((columns.holders.as_str(), columns.expires, columns.last_token), ("a b; c; d", Some(9), 7));
        record.holders = (0..500).map(|_| holder("x".repeat(128), u64::MAX)).collect();
        let columns = Columns::of(&record);
        assert!(columns.holders.len() < 1_200 && columns.holders.ends_with(" more"), "{}", columns.holders);
        assert_eq!(columns.expires, Some(LATEST));
    }
}
