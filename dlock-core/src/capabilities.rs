//! [`Capabilities`]: what a backend can do, as data.

use serde::Serialize;
use std::time::Duration;

/// What a backend can do and what it promises beyond the contract. What is missing answers
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), and the conformance suite asserts that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Shared locks.
    pub shared: bool,
    /// Permit locks.
    pub permits: bool,
    /// Waiters are granted in order of arrival.
    pub fifo: bool,
    /// How a waiter learns that it was granted.
    pub wake: Wake,
    /// Which TTLs the store keeps.
    pub ttl: TtlRange,
    /// Whether a lease lives by its own TTL or by its client's session.
    pub lifetime: Lifetime,
    /// How much later than its TTL an unrenewed lease may end, at the most, on a healthy store.
    pub lateness: Duration,
    /// How soon the lock of a killed process is free, if the store sees its death before the TTL.
    pub death_seen_within: Option<Duration>,
    /// What the fencing token survives beyond release and expiry.
    pub token_survives: TokenSurvives,
    /// Whether a restarted server still has the leases it gave.
    pub leases_survive_restart: bool,
    /// Whether shared and permit leases carry a `fence_floor`.
    pub fence_floor: bool,
    /// What `inspect` can show.
    pub shows: Shows,
}

/// How a waiter learns that it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Wake {
    /// The store tells it.
    Event,
    /// It looks, at most this far apart.
    Poll(Duration),
}

/// Which TTLs a store keeps: anything from `min` to `max`, rounded up to a multiple of `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TtlRange {
    /// The shortest; a shorter request is raised to it.
    pub min: Duration,
    /// The granularity.
    pub step: Duration,
    /// The longest; a longer request is refused.
    pub max: Duration,
}

/// What ends a lease that nobody releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Lifetime {
    /// Its own TTL.
    Lease,
    /// The end of its client's session; the locks of one client and TTL live and die together.
    Session,
}

/// What the growth of a key's fencing tokens survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TokenSurvives {
    /// The server's restart.
    pub restart: bool,
    /// The loss of all its data, as long as the new server's clock is not behind the last token.
    pub data_loss: bool,
}

/// What `inspect` and `list` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shows {
    /// The holder's label.
    pub label: bool,
    /// How long the holder's lease still lasts.
    pub remaining: bool,
    /// Since when it holds.
    pub since: bool,
    /// Who waits.
    pub waiters: bool,
}
