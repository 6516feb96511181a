//! [`StoreClock`]: what the local clock tells of the store's.

use super::{StoreReading, StoreTime};
use crate::Moment;
use std::time::Duration;

/// What the local clock tells of the store's: an interval in which the store's clock lies, from the readings so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StoreClock {
    estimate: Option<Estimate>,
    jumped: Option<Moment>,
}

/// Bounds of the store's clock minus the local one, in microseconds, at a local moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Estimate {
    low: i128,
    high: i128,
    /// Microseconds since 1970 minus the store's clock.
    unix: i128,
    at: Moment,
}

/// Two clocks drift apart by at most this many parts of a million.
const DRIFT_PPM: i128 = 500;

fn micros(moment: Moment) -> i128 {
    i128::from(moment.as_nanos() / 1000)
}

fn store_time(micros: i128) -> StoreTime {
    StoreTime(u64::try_from(micros.max(0)).unwrap_or(u64::MAX))
}

/// How far two clocks drift apart in that time, in microseconds. Rounded up: readings that come close on one another would
/// else never widen an estimate.
fn drift(from: Moment, to: Moment) -> i128 {
    ((micros(to) - micros(from)).max(0) * DRIFT_PPM + 999_999) / 1_000_000
}

impl Estimate {
    fn widened_to(self, now: Moment) -> Self {
        let drift = drift(self.at, now);
        Self { low: self.low - drift, high: self.high + drift, at: self.at.max(now), ..self }
    }
}

/// The store's time at a local moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreNow {
    /// It is at least this.
    pub earliest: StoreTime,
    /// It is at most this.
    pub latest: StoreTime,
    /// The latest in microseconds since 1970.
    pub unix_micros: u64,
}

impl StoreClock {
    /// Takes a reading in (rule C1). One that does not agree with those before means that the clock jumped, or that
    /// another server answered: the estimate begins anew (rule C2).
    pub fn observe(&mut self, reading: &StoreReading) {
        let shown = i128::from(reading.at.0);
        let granularity = i128::try_from(reading.granularity.as_micros()).unwrap_or(i128::MAX);
        // A microsecond more on each side makes up for the division. Read as soon as it was sent, it has drifted since.
        let flown = drift(reading.sent, reading.received);
        let (low, high) =
            (shown - micros(reading.received) - 1, shown + granularity - micros(reading.sent) + flown + 1);
        let unix = i128::from(reading.unix_micros) - shown;
        let fresh = Estimate { low, high, unix, at: reading.received };
        self.estimate = Some(match self.estimate.map(|known| known.widened_to(reading.received)) {
            None => fresh,
            Some(known) if known.low <= high && low <= known.high => {
                Estimate { low: known.low.max(low), high: known.high.min(high), unix, at: known.at }
            }
            Some(_) => {
                self.jumped = Some(reading.received);
                fresh
            }
        });
    }

    /// The store's time now; `None` before the first reading.
    pub fn now(&self, now: Moment) -> Option<StoreNow> {
        let estimate = self.estimate?.widened_to(now);
        let (earliest, latest) = (micros(now) + estimate.low, micros(now) + estimate.high + 1);
        let unix_micros = store_time(latest + estimate.unix).0;
        Some(StoreNow { earliest: store_time(earliest), latest: store_time(latest), unix_micros })
    }

    /// Whether the clock jumped less than `within` before `now`.
    pub fn jumped_within(&self, within: Duration, now: Moment) -> bool {
        self.jumped.is_some_and(|jump| now.since(jump) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    fn reading(shown_ms: u64, granularity_ms: u64, sent: u64, received: u64) -> StoreReading {
        StoreReading {
            at: StoreTime(shown_ms * 1000),
            granularity: Duration::from_millis(granularity_ms),
            unix_micros: shown_ms * 1000,
            sent: at(sent),
            received: at(received),
        }
    }

    #[test]
    fn readings_close_on_one_another_do_not_keep_it_from_widening() {
        let mut clock = StoreClock::default();
        clock.observe(&reading(1_000, 0, 0, 0));
        // Readings that say little, a millisecond apart, for ten seconds of drift.
        for millis in 1..=10_000 {
            clock.observe(&reading(1_000 + millis, 0, millis - 1, millis + 100));
        }
        let now = clock.now(at(10_100)).unwrap();
        assert!(now.latest.since(now.earliest) >= Duration::from_millis(10), "{now:?}");
    }

    #[test]
    fn readings_narrow_the_interval_and_time_widens_it() {
        let mut clock = StoreClock::default();
        assert_eq!(clock.now(at(0)), None);
        clock.observe(&reading(5_000, 1_000, 1_000, 1_100));
        let coarse = clock.now(at(1_100)).unwrap();
        assert!(coarse.earliest <= StoreTime(5_000_000) && coarse.latest >= StoreTime(6_100_000));
        clock.observe(&reading(5_000, 1_000, 1_900, 1_901));
        let finer = clock.now(at(1_901)).unwrap();
        assert!(finer.latest.since(finer.earliest) < Duration::from_millis(310), "{finer:?}");
        let later = clock.now(at(101_901)).unwrap();
        assert!(later.latest.since(later.earliest) >= finer.latest.since(finer.earliest) + Duration::from_millis(100));
        assert!(!clock.jumped_within(Duration::MAX, at(1_901)));
    }

    #[test]
    fn a_reading_that_does_not_agree_is_a_jump() {
        for shown in [1_000, 300_000] {
            let mut clock = StoreClock::default();
            clock.observe(&reading(100_000, 1, 1_000, 1_001));
            clock.observe(&reading(shown, 1, 2_000, 2_001));
            assert!(clock.jumped_within(Duration::from_secs(1), at(2_500)));
            assert!(!clock.jumped_within(Duration::from_secs(1), at(3_500)));
            let now = clock.now(at(2_001)).unwrap();
            assert!(now.earliest <= StoreTime(shown * 1000 + 1_000) && now.latest >= StoreTime(shown * 1000));
        }
    }
}
