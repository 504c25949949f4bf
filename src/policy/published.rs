//! The rate limiter of the article that this crate is based on, with its fixed factors, for comparison.

use std::time::{Duration, Instant};

use crate::policy::rate_limiter::Bounds;
use crate::policy::{later, seconds};

/// The factors of the rate after a 429 and after an error.
const CUT_BY_THROTTLE: f64 = 0.5;
const CUT_BY_FAILURE: f64 = 0.75;

/// The factor of the rate, and the number of successes after which it is applied.
const RAISE: f64 = 1.1;
const RAISE_AFTER: u32 = 100;

/// No call is retried after this many consecutive failures.
pub(crate) const GIVE_UP_AFTER: u32 = 10;

/// The rate, and the time of the next permitted call.
#[derive(Debug)]
pub(crate) struct PublishedRate {
    bounds: Bounds,
    rate: f64,
    successes: u32,
    next: Option<Instant>,
}

impl PublishedRate {
    pub(crate) fn new(rate: f64, bounds: Bounds) -> PublishedRate {
        PublishedRate { bounds, rate, successes: 0, next: None }
    }

    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// Admits a call, or returns how long it has to wait. A clock that was set back delays it by one slot at most.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<Duration> {
        let slot = seconds(1.0 / self.rate);
        let next = self.next.unwrap_or(now).min(later(now, slot));
        if now < next {
            return Some(next - now);
        }
        self.next = Some(later(now, slot));
        None
    }

    pub(crate) fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= RAISE_AFTER {
            self.scale(RAISE);
        }
    }

    pub(crate) fn throttled(&mut self) {
        self.scale(CUT_BY_THROTTLE);
    }

    pub(crate) fn failed(&mut self) {
        self.scale(CUT_BY_FAILURE);
    }

    fn scale(&mut self, factor: f64) {
        self.rate = (self.rate * factor).min(self.bounds.max).max(self.bounds.min);
        self.successes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_spaced_evenly_at_the_rate() {
        let (mut rate, now) = (PublishedRate::new(4.0, Bounds { min: 1.0, max: 10.0 }), Instant::now());
        assert_eq!(rate.admit(now), None);
        assert_eq!(rate.admit(now), Some(seconds(0.25)));
        assert_eq!(rate.admit(now + seconds(0.25)), None);
    }
}
