//! Local time and the store's, by ticks.

use dlock_core::Moment;
use dlock_core::record::{StoreReading, StoreTime};
use std::time::Duration;

/// The local moment of a tick: one a second.
pub(crate) fn moment(tick: u8) -> Moment {
    Moment::from_nanos((1_000 + u64::from(tick)) * 1_000_000_000)
}

/// What the store's clock shows at a tick.
pub(crate) fn shown(tick: u8, offset_ms: i64) -> StoreTime {
    StoreTime((1_000_000 + u64::from(tick) * 1_000).saturating_add_signed(offset_ms) * 1_000)
}

pub(crate) fn reading(at: StoreTime, sent: Moment, received: Moment) -> StoreReading {
    StoreReading { at, granularity: Duration::from_micros(1), unix_micros: at.0, sent, received }
}
