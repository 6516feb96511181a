//! Records: bytes that are none are refused, and what is read is written the same, also after it was moved.
#![no_main]

use dlock_core::record::decide::look;
use dlock_core::record::machine::{Asks, Sight};
use dlock_core::record::{Entry, Judge, Record, StoreReading, StoreTime};
use dlock_core::{HolderId, LockKey, Mode, Moment};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = Record::decode(bytes) else { return };
    let again = Record::decode(record.encode().as_bytes()).expect("what is written can be read");
    assert_eq!(again, record);
    assert_eq!(again.encode(), record.encode());
    // A record of whatever numbers moves without a panic.
    let (key, local) = (LockKey::new("k").expect("a key"), Moment::from_nanos(1_000_000_000));
    let mut judge = Judge::new(Duration::ZERO);
    let at = StoreTime(record.last_token);
    judge.observe(&StoreReading { at, granularity: Duration::ZERO, unix_micros: at.0, sent: local, received: local });
    let sight: Sight = judge.sight(&key, Some(&record), &[], &[], local).expect("the time is known");
    let id = HolderId::from_store("me");
    let entry =
        Entry { id: id.clone(), mode: Mode::Shared, ttl_ms: u64::MAX, label: String::new(), since: 0, origin: None };
    let mut moved = record.clone();
    moved.acquire(entry, Duration::MAX, Asks::ToQueue, &sight);
    look(&moved, &id, &sight);
    moved.renew(&id, &sight);
    for other in record.holders.iter().map(|holder| &holder.entry.id) {
        moved.withdraw(other, &sight);
    }
    moved.withdraw(&id, &sight);
    assert_eq!(Record::decode(moved.encode().as_bytes()).expect("what is written can be read"), moved);
});
