//! Pure policies: decisions from values, time and randomness. No clock, no lock, no I/O.

use std::time::{Duration, Instant};

pub(crate) mod backoff;
pub(crate) mod circuit_breaker;
pub(crate) mod classify;
pub(crate) mod concurrency;
pub(crate) mod header_limits;
pub(crate) mod outcome;
pub(crate) mod published;
pub(crate) mod rate_limiter;
pub(crate) mod volley;

/// `at + wait`, or `at` on overflow.
pub(crate) fn later(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait).unwrap_or(at)
}

/// A duration in seconds: zero for a negative number or NaN, [`Duration::MAX`] on overflow.
pub(crate) fn seconds(count: f64) -> Duration {
    Duration::try_from_secs_f64(count.max(0.0)).unwrap_or(Duration::MAX)
}
