//! [`Ttl`]: how long a lease lasts unless it is renewed.

use crate::{Error, ErrorKind};
use std::fmt;
use std::time::Duration;

/// How long a lease lasts unless it is renewed: 10 ms to 24 h, in whole milliseconds (rounded up).
///
/// A backend may round further up to what its store keeps; [`Capabilities::ttl`](crate::Capabilities::ttl) says so and
/// the lease tells what was granted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(Duration);

impl Ttl {
    /// The shortest TTL.
    pub const MIN: Ttl = Ttl(Duration::from_millis(10));
    /// The longest TTL.
    pub const MAX: Ttl = Ttl(Self::MAX_DURATION);
    /// The longest TTL, as a duration.
    pub const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);
    /// What a client uses unless told otherwise: 30 seconds.
    pub const DEFAULT: Ttl = Ttl(Duration::from_secs(30));

    /// Checks a TTL and rounds it up to whole milliseconds.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] outside of [`Ttl::MIN`] to [`Ttl::MAX`].
    pub fn new(ttl: Duration) -> Result<Self, Error> {
        if ttl < Self::MIN.0 || ttl > Self::MAX.0 {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "a TTL of {} is out of range; give one from {} to {}",
                    humantime::format_duration(ttl),
                    Self::MIN,
                    Self::MAX
                ),
            ));
        }
        Ok(Self(round_up(ttl, Duration::from_millis(1))))
    }

    /// The TTL as a duration.
    pub fn get(self) -> Duration {
        self.0
    }

    /// The TTL in milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// This TTL raised to a whole multiple of `step`.
    #[must_use]
    pub fn rounded_up_to(self, step: Duration) -> Self {
        Self(round_up(self.0, step))
    }
}

fn round_up(value: Duration, step: Duration) -> Duration {
    let (value, step) = (value.as_nanos(), step.as_nanos().max(1));
    Duration::from_nanos(u64::try_from(value.div_ceil(step) * step).unwrap_or(u64::MAX))
}

impl Default for Ttl {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Debug for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_checked_and_rounded_up() {
        assert!(Ttl::new(Duration::ZERO).is_err());
        assert!(Ttl::new(Duration::from_secs(90_000)).is_err());
        let ttl = Ttl::new(Duration::from_micros(10_001)).unwrap();
        assert_eq!(ttl.get(), Duration::from_millis(11));
        assert_eq!(ttl.rounded_up_to(Duration::from_secs(1)).get(), Duration::from_secs(1));
    }
}
