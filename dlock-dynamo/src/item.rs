//! The item of a lock.

use crate::error::corrupt;
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use aws_sdk_dynamodb::types::AttributeValue;
use dlock_core::record::{Record, Snapshot, StoreReading};
use dlock_core::{LockKey, Result};
use std::collections::HashMap;

/// An item as the client has it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The partition key: the lock's key. Strings of DynamoDB are compared by their bytes.
pub(crate) const KEY: &str = "lock_key";
/// 64 random bits that each write draws anew (rule E2), in hexadecimal.
pub(crate) const VERSION: &str = "version";
/// The lock record, as JSON.
pub(crate) const RECORD: &str = "record";
/// For people: who holds.
const HOLDERS: &str = "holders";
/// For people: the last token.
const TOKEN: &str = "token";
/// For people: when the last holder's lease ends, unless it is renewed. Text, so that it can't be taken for the
/// attribute of a table's TTL.
const EXPIRES: &str = "expires";
/// So much of the labels is shown: each kilobyte of an item costs.
const SHOWN_BYTES: usize = 200;

/// What names a version in a condition.
pub(crate) fn version_value(version: u64) -> AttributeValue {
    AttributeValue::S(format!("{version:016x}"))
}

/// The item of a record.
pub(crate) fn to_item(key: &LockKey, version: u64, record: &Record) -> Item {
    let mut item = HashMap::from([
        (KEY.to_owned(), AttributeValue::S(key.as_str().to_owned())),
        (VERSION.to_owned(), version_value(version)),
        (RECORD.to_owned(), AttributeValue::S(record.encode())),
        (TOKEN.to_owned(), AttributeValue::N(record.last_token.to_string())),
    ]);
    if let Some(expires) = record.holders.iter().map(|holder| holder.expires).max() {
        item.insert(HOLDERS.to_owned(), AttributeValue::S(holders(record)));
        let seconds = i64::try_from(expires.0 / 1_000_000).unwrap_or(i64::MAX);
        if let Ok(text) = DateTime::from_secs(seconds).fmt(DateTimeFormat::DateTime) {
            item.insert(EXPIRES.to_owned(), AttributeValue::S(text));
        }
    }
    item
}

/// The holders' labels, as many as fit.
fn holders(record: &Record) -> String {
    let mut shown = String::new();
    for (at, holder) in record.holders.iter().enumerate() {
        let label = &holder.entry.label;
        if at > 0 && shown.len() + label.len() > SHOWN_BYTES {
            return format!("{shown} and {} more", record.holders.len() - at);
        }
        if at > 0 {
            shown.push_str("; ");
        }
        shown.push_str(label);
    }
    shown
}

fn text<'a>(item: &'a Item, name: &str) -> Result<&'a str> {
    match item.get(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        Some(_) => Err(corrupt(&format!("its attribute {name} is no string"))),
        None => Err(corrupt(&format!("it has no attribute {name}"))),
    }
}

/// The record and version of an item, or of none.
pub(crate) fn from_item(item: Option<&Item>, reading: Option<StoreReading>) -> Result<Snapshot<u64>> {
    let Some(item) = item else { return Ok(Snapshot::new(None, None, reading)) };
    let version = text(item, VERSION)?;
    let digits =
        Some(version).filter(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let version = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let version = version.ok_or_else(|| corrupt("its version is not 16 hexadecimal digits"))?;
    let record = Record::decode(text(item, RECORD)?.as_bytes())?;
    Ok(Snapshot::new(Some(record), Some(version), reading))
}

/// The key of an item.
pub(crate) fn key_of(item: &Item) -> Result<LockKey> {
    LockKey::new(text(item, KEY)?).map_err(|error| corrupt("its key is no lock's key").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::ErrorKind;

    #[test]
    fn an_item_leads_back_to_its_record() {
        let (key, record) = (LockKey::new("a/ä 🔒").unwrap(), Record { last_token: 7, ..Record::default() });
        let item = to_item(&key, 0xab, &record);
        assert_eq!(item[VERSION], AttributeValue::S("00000000000000ab".into()));
        let snapshot = from_item(Some(&item), None).unwrap();
        assert_eq!((snapshot.record, snapshot.version), (Some(record), Some(0xab)));
        assert_eq!(key_of(&item).unwrap(), key);
        assert!(from_item(None, None).unwrap().version.is_none());
    }

    #[test]
    fn what_is_no_lock_is_corrupt() {
        let (key, record) = (LockKey::new("a").unwrap(), Record::default());
        for (name, value) in [
            (VERSION, None),
            (VERSION, Some(AttributeValue::N("7".into()))),
            (VERSION, Some(AttributeValue::S("+0000000000000ab".into()))),
            (VERSION, Some(AttributeValue::S("AB".into()))),
            (RECORD, None),
            (RECORD, Some(AttributeValue::S("{ no record".into()))),
        ] {
            let mut item = to_item(&key, 1, &record);
            item.remove(name);
            item.extend(value.map(|value| (name.to_owned(), value)));
            assert_eq!(from_item(Some(&item), None).unwrap_err().kind(), ErrorKind::Corrupt, "{item:?}");
        }
    }
}
