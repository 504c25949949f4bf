//! A request for a permit, and the permit it got.

use std::time::{Duration, Instant};

use crate::adaptive::Permit;
use crate::error::Error;
use crate::policy::circuit_breaker::BreakerState;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;

/// A request for a permit.
pub(crate) struct AcquireRequest<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) stop: &'a Cancel,
    pub(crate) deadline: Option<Instant>,
    /// The attempt is a retry, which is admitted before all first attempts.
    pub(crate) retry: bool,
    /// Waits while the breaker is open, regardless of the configuration.
    pub(crate) background: bool,
}

/// A permit, and what happened while it was acquired.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) permit: Permit,
    pub(crate) waited: Duration,
    /// The breaker's new state, if admitting this call changed it (to half open, with this call as the probe).
    pub(crate) breaker: Option<BreakerState>,
    /// The call is the breaker's probe.
    pub(crate) is_probe: bool,
}

impl AcquireRequest<'_> {
    /// The time until the deadline.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|end| end.saturating_duration_since(now))
    }

    /// Whether the deadline passes before this wait is over.
    pub(super) fn exceeds_deadline(&self, now: Instant, wait: Duration) -> bool {
        self.left(now).is_some_and(|left| left <= wait)
    }

    pub(super) fn deadline_error(&self, started: Instant) -> Error {
        let after = self.deadline.map(|end| end.saturating_duration_since(started));
        Error::Deadline { after: after.unwrap_or_default() }
    }
}
