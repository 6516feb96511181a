//! Properties of what is written and read: records, keys, URLs, and the arithmetic on a store's clock.
#![allow(clippy::unwrap_used)]

use dlock_core::record::{Entry, Holder, Record, StoreClock, StoreReading, StoreTime, Waiter};
use dlock_core::{ErrorKind, HolderId, LockKey, Mode, Moment, StoreUrl};
use proptest::prelude::*;
use std::num::NonZeroU32;
use std::time::Duration;

fn mode() -> impl Strategy<Value = Mode> {
    let permit = any::<NonZeroU32>().prop_map(|limit| Mode::Permit { limit });
    prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared), permit]
}

fn entry() -> impl Strategy<Value = Entry> {
    (any::<String>(), mode(), any::<u64>(), any::<String>(), any::<u64>(), any::<Option<String>>()).prop_map(
        |(id, mode, ttl_ms, label, since, origin)| {
            let id = HolderId::from_store(id);
            Entry { id, mode, ttl_ms, label, since, origin }
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let holder = (entry(), any::<(u64, u64, u64)>()).prop_map(|(entry, (token, floor, expires))| Holder {
        entry,
        token,
        floor,
        expires: StoreTime(expires),
    });
    let waiter = (entry(), any::<u64>()).prop_map(|(entry, until)| Waiter { entry, alive_until: StoreTime(until) });
    let lists = (prop::collection::vec(holder, 0..4), prop::collection::vec(waiter, 0..4));
    (any::<(u64, u64)>(), lists).prop_map(|((last_token, last_exclusive), (holders, queue))| Record {
        last_token,
        last_exclusive,
        holders,
        queue,
    })
}

/// Scheme, user and password, hosts and ports, path.
type Parts = (String, Option<(String, String)>, Vec<(String, Option<u16>)>, String);

/// A URL's parts as a person writes them, escaped where they must be.
fn url() -> impl Strategy<Value = Parts> {
    let login = prop::option::of(("[a-z]{1,8}", "[ -~äß]{1,12}"));
    let host = ("[a-z][a-z0-9.-]{0,12}", prop::option::of(1..u16::MAX));
    ("[a-z][a-z0-9+.-]{0,8}", login, prop::collection::vec(host, 1..4), "[ -~äß]{0,12}")
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(record in record()) {
        let text = record.encode();
        prop_assert!(!text.contains('\n'));
        prop_assert_eq!(Record::decode(text.as_bytes()).unwrap(), record);
    }

    #[test]
    fn a_record_with_a_byte_changed_is_refused_or_another_record(record in record(), at: prop::sample::Index, byte: u8) {
        let mut bytes = record.encode().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        match Record::decode(&bytes) {
            Ok(read) => prop_assert_eq!(Record::decode(read.encode().as_bytes()).unwrap(), read),
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)),
        }
    }

    #[test]
    fn bytes_that_are_no_record_are_corrupt(bytes: Vec<u8>) {
        let error = Record::decode(&bytes).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn two_keys_share_no_segment(one in "[ -~ä🔒]{1,40}", other in "[ -~ä🔒]{1,40}") {
        let (one, other) = (LockKey::new(one).unwrap(), LockKey::new(other).unwrap());
        prop_assert_eq!(LockKey::from_segment(&one.to_segment()).unwrap(), one.clone());
        prop_assert_eq!(one.to_segment() == other.to_segment(), one == other);
        prop_assert!(!one.to_segment().contains('/') && !one.to_segment().starts_with('.'));
    }

    #[test]
    fn a_url_is_read_as_its_parts((scheme, login, hosts, path) in url()) {
        let userinfo = login.as_ref().map_or(String::new(), |(user, password)| format!("{user}:{}@", escaped(password)));
        let port = |port: &Option<u16>| port.map_or(String::new(), |port| format!(":{port}"));
        let authority: Vec<_> = hosts.iter().map(|(name, number)| format!("{name}{}", port(number))).collect();
        let text = format!("{scheme}://{userinfo}{}/{}?x=1", authority.join(","), escaped(&path));
        let url: StoreUrl = text.parse().unwrap();
        prop_assert_eq!(url.scheme(), scheme.as_str());
        prop_assert_eq!(url.username(), login.as_ref().map(|(user, _)| user.as_str()));
        prop_assert_eq!(url.password(), login.as_ref().map(|(_, password)| password.as_str()));
        let read: Vec<_> = url.hosts().iter().map(|host| (host.name.clone(), host.port)).collect();
        prop_assert_eq!(&read, &hosts);
        prop_assert_eq!(url.path(), format!("/{path}"));
        // What is shown has the same parts, but for the password and the escapes of the path.
        let login = login.map_or(String::new(), |(user, _)| format!("{user}:***@"));
        prop_assert_eq!(url.to_string(), format!("{scheme}://{login}{}/{path}?x=1", authority.join(",")));
    }

    /// The true time is never excluded, however far the clocks drift apart within what is allowed, and however long
    /// requests take; and what never jumped is never taken for having jumped.
    #[test]
    fn the_interval_has_the_true_time(
        start in 1_000_000..1_000_000_000_u64,
        drift_ppm in -500..=500_i64,
        granularity in prop_oneof![Just(0_u64), Just(1_000), Just(1_000_000)],
        steps in prop::collection::vec((0..100_000_000_u64, 0..2_000_000_u64, 0..2_000_000_u64), 1..30),
    ) {
        // Local microseconds to the store's: it ticks faster or slower by up to 500 parts of a million.
        let store_at = |local: u64| {
            let by = i128::from(local) * i128::from(drift_ppm) / 1_000_000;
            u64::try_from(i128::from(start) + i128::from(local) + by).unwrap()
        };
        let at = |micros: u64| Moment::from_nanos(micros * 1_000);
        let (mut clock, mut local) = (StoreClock::default(), 0);
        for (pause, there, back) in steps {
            let sent = local + pause;
            let (read, received) = (sent + there, sent + there + back);
            let shown = store_at(read);
            let shown = shown - shown.checked_rem(granularity).unwrap_or(0);
            clock.observe(&StoreReading {
                at: StoreTime(shown),
                granularity: Duration::from_micros(granularity),
                unix_micros: shown,
                sent: at(sent),
                received: at(received),
            });
            prop_assert!(!clock.jumped_within(Duration::MAX, at(received)));
            for later in [received, received + 1, received + 50_000_000] {
                let (now, truth) = (clock.now(at(later)).unwrap(), StoreTime(store_at(later)));
                prop_assert!(now.earliest <= truth && truth <= now.latest, "{:?} has not {:?}", now, truth);
                prop_assert!(now.unix_micros >= truth.0);
            }
            local = received;
        }
    }
}
