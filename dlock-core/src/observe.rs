//! What a client tells `metrics`; nothing without that feature.
//!
//! `dlock_held` and `dlock_waiting` are gauges; `dlock_wait_seconds` and `dlock_hold_seconds` histograms;
//! `dlock_contended_total`, `dlock_renew_failed_total` and `dlock_lost_total{cause}` counters. All carry `backend`.

use crate::LostCause;
use std::time::Duration;

/// The metrics of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer {
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))]
    backend: &'static str,
}

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self)]
impl Observer {
    pub(crate) fn new(backend: &'static str) -> Self {
        Self { backend }
    }
    pub(crate) fn waiting(self) -> Waiting {
        Waiting
    }
    pub(crate) fn acquired(self, _waited: Duration) {}
    pub(crate) fn contended(self) {}
    pub(crate) fn renew_failed(self) {}
    pub(crate) fn ended(self, _held: Duration) {}
    pub(crate) fn lost(self, _cause: LostCause) {}
}

/// Counts one waiting call until it is dropped.
#[cfg(not(feature = "metrics"))]
pub(crate) struct Waiting;

#[cfg(feature = "metrics")]
impl Observer {
    pub(crate) fn new(backend: &'static str) -> Self {
        metrics::describe_gauge!("dlock_held", "Locks that this process holds");
        metrics::describe_gauge!("dlock_waiting", "Calls that wait for a lock");
        metrics::describe_histogram!("dlock_wait_seconds", metrics::Unit::Seconds, "From asking to holding");
        metrics::describe_histogram!(
            "dlock_hold_seconds",
            metrics::Unit::Seconds,
            "From holding to giving up or losing"
        );
        metrics::describe_counter!("dlock_contended_total", "Attempts that found the lock held by another");
        metrics::describe_counter!("dlock_renew_failed_total", "Renewals that failed and are tried again");
        metrics::describe_counter!("dlock_lost_total", "Leases lost, by cause");
        Self { backend }
    }

    pub(crate) fn waiting(self) -> Waiting {
        metrics::gauge!("dlock_waiting", "backend" => self.backend).increment(1);
        Waiting(self)
    }

    pub(crate) fn acquired(self, waited: Duration) {
        metrics::gauge!("dlock_held", "backend" => self.backend).increment(1);
        metrics::histogram!("dlock_wait_seconds", "backend" => self.backend).record(waited);
    }

    pub(crate) fn contended(self) {
        metrics::counter!("dlock_contended_total", "backend" => self.backend).increment(1);
    }

    pub(crate) fn renew_failed(self) {
        metrics::counter!("dlock_renew_failed_total", "backend" => self.backend).increment(1);
    }

    pub(crate) fn ended(self, held: Duration) {
        metrics::gauge!("dlock_held", "backend" => self.backend).decrement(1);
        metrics::histogram!("dlock_hold_seconds", "backend" => self.backend).record(held);
    }

    pub(crate) fn lost(self, cause: LostCause) {
        metrics::counter!("dlock_lost_total", "backend" => self.backend, "cause" => cause.as_str()).increment(1);
    }
}

/// Counts one waiting call until it is dropped.
#[cfg(feature = "metrics")]
pub(crate) struct Waiting(Observer);

#[cfg(feature = "metrics")]
impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::gauge!("dlock_waiting", "backend" => self.0.backend).decrement(1);
    }
}
