//! The settings of the adaptive handler, each with its range and the reason for its default.

use crate::error::{Error, Result};
use crate::policy::circuit_breaker::DEFAULT_THRESHOLD;
use crate::policy::rate_limiter::Bounds;
use crate::runtime::clock::Clock;

/// The default minimum rate in calls a minute: quotas are published per minute, so calls never need to be further
/// apart.
const MIN_RATE: f64 = 1.0;

/// The lowest allowed `min_rate` in calls a minute: one call an hour.
const LOWEST_MIN_RATE: f64 = 1.0 / 60.0;

/// The default number of latencies in a snapshot, as in the article that this crate is based on.
const WINDOW: usize = 100;

/// The maximum: at 16 bytes per latency, a handler stays below 200 kB.
const MAX_WINDOW: usize = 10_000;

/// The article's initial, minimum and maximum rate, in calls a minute.
const PUBLISHED_RATES: (f64, f64, f64) = (60.0, 10.0, 120.0);

/// Settings of an [`AdaptiveHandler`](crate::AdaptiveHandler).
///
/// The defaults suit any service: no call is delayed before the first 429, and the circuit breaker opens only after ten
/// consecutive failures.
///
/// ```
/// use holysheep::{AdaptiveConfig, AdaptiveHandler};
///
/// let careful = AdaptiveConfig::default().initial_rate(60.0).max_rate(500.0);
/// assert_eq!(AdaptiveHandler::new(careful).snapshot().rate_per_minute, Some(60.0));
/// ```
#[derive(Debug, Clone)]
pub struct AdaptiveConfig {
    pub(super) mode: Mode,
    pub(super) initial_rate: f64,
    pub(super) min_rate: f64,
    pub(super) max_rate: f64,
    pub(super) window_size: usize,
    pub(super) error_threshold: u32,
    pub(super) wait_when_open: bool,
    pub(super) seed: Option<u64>,
    pub(super) clock: Clock,
}

/// Which parts are active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Adaptive,
    Published,
    Off,
}

impl Default for AdaptiveConfig {
    fn default() -> AdaptiveConfig {
        AdaptiveConfig {
            mode: Mode::Adaptive,
            initial_rate: f64::INFINITY,
            min_rate: MIN_RATE,
            max_rate: f64::INFINITY,
            window_size: WINDOW,
            error_threshold: DEFAULT_THRESHOLD,
            wait_when_open: false,
            seed: None,
            clock: Clock::system(),
        }
    }
}

impl AdaptiveConfig {
    /// No rate limiter, no circuit breaker and no retry budget: the handler only keeps statistics. Each call's own
    /// retry limits still apply; refusals then count and back off like errors, so there are up to 5 retries after 429s.
    pub fn off() -> AdaptiveConfig {
        AdaptiveConfig { mode: Mode::Off, ..AdaptiveConfig::default() }
    }

    /// The settings of the article that this crate is based on, for comparison: 60 calls a minute initially, halved by a
    /// 429 and reduced by a quarter by another error but at least 10, raised by a tenth after 100 successes but at most
    /// 120, and no retries after ten consecutive failures. There is no circuit breaker and no retry budget.
    ///
    /// It is slow if the quota is larger than 120 and wastes requests if it is smaller than 10; the defaults are better
    /// in every respect. The article's backoff is a [`RetryConfig`](crate::RetryConfig) with
    /// [`Jitter::Additive`](crate::Jitter::Additive) of a second and a `max_delay` of a minute; its growth with
    /// consecutive failures is not implemented.
    pub fn as_published() -> AdaptiveConfig {
        let (initial_rate, min_rate, max_rate) = PUBLISHED_RATES;
        AdaptiveConfig {
            mode: Mode::Published,
            initial_rate,
            min_rate,
            max_rate,
            ..AdaptiveConfig::default()
        }
    }

    /// The initial rate in calls a minute, from `min_rate` to `max_rate`. Unlimited by default, until the first 429, so
    /// that a script of ten calls is never delayed needlessly.
    pub fn initial_rate(mut self, per_minute: f64) -> Self {
        self.initial_rate = per_minute;
        self
    }

    /// The minimum rate in calls a minute, below which 429s don't reduce it; 1 by default, at least 1/60 (one an hour).
    pub fn min_rate(mut self, per_minute: f64) -> Self {
        self.min_rate = per_minute;
        self
    }

    /// The maximum rate in calls a minute, at least `min_rate`. Unlimited by default ([`f64::INFINITY`]).
    pub fn max_rate(mut self, per_minute: f64) -> Self {
        self.max_rate = per_minute;
        self
    }

    /// The number of recent calls whose latencies a snapshot summarises: 1 to 10,000, 100 by default.
    pub fn window_size(mut self, calls: usize) -> Self {
        self.window_size = calls;
        self
    }

    /// The number of consecutive failures, over at least two seconds, that opens the circuit breaker: at least 1, 10 by
    /// default.
    pub fn error_threshold(mut self, errors: u32) -> Self {
        self.error_threshold = errors;
        self
    }

    /// Whether calls wait while the breaker is open instead of failing with [`Error::CircuitOpen`], and don't fail for
    /// lack of retry budget. They still fail at their deadlines and after their retries. Off by default; for queues that
    /// are to outlast an outage.
    pub fn wait_when_open(mut self, wait: bool) -> Self {
        self.wait_when_open = wait;
        self
    }

    /// Fixes the seed of the handler's random numbers, so that runs are repeatable.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The clock that [`acquire`](crate::AdaptiveHandler::acquire) reads and sleeps on. A client's own handlers use the
    /// client's clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Names the first invalid setting and what to change.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |setting, message: String| Err(Error::config(setting, message));
        let AdaptiveConfig { initial_rate: initial, min_rate: min, max_rate: max, .. } = *self;
        if !(min.is_finite() && min >= LOWEST_MIN_RATE) {
            return refuse(
                "min_rate",
                format!("{min} is not a finite rate of at least 1/60, one call an hour"),
            );
        }
        if max.is_nan() || max < min {
            return refuse(
                "max_rate",
                format!("{max} is not a rate of at least min_rate, {min}; raise it or lower min_rate"),
            );
        }
        if initial.is_nan() || initial < min || (initial > max && initial.is_finite()) {
            return refuse(
                "initial_rate",
                format!("{initial} is not a rate between min_rate, {min}, and max_rate, {max}"),
            );
        }
        if !(1..=MAX_WINDOW).contains(&self.window_size) {
            return refuse(
                "window_size",
                format!("{} is not a number from 1 to {MAX_WINDOW}", self.window_size),
            );
        }
        if self.error_threshold == 0 {
            return refuse("error_threshold", "must be at least 1; 10 is usual".to_owned());
        }
        Ok(())
    }

    /// These settings, with each invalid one replaced by the nearest valid one.
    pub(super) fn clamped(mut self) -> AdaptiveConfig {
        let or_default = |rate: f64, default| if rate.is_nan() { default } else { rate };
        self.min_rate = or_default(self.min_rate, MIN_RATE).clamp(LOWEST_MIN_RATE, f64::MAX);
        self.max_rate = or_default(self.max_rate, f64::INFINITY).max(self.min_rate);
        self.initial_rate = or_default(self.initial_rate, f64::INFINITY);
        if self.initial_rate.is_finite() || self.initial_rate < 0.0 {
            self.initial_rate = self.initial_rate.clamp(self.min_rate, self.max_rate);
        }
        self.window_size = self.window_size.clamp(1, MAX_WINDOW);
        self.error_threshold = self.error_threshold.max(1);
        if self.mode == Mode::Off {
            (self.initial_rate, self.max_rate) = (f64::INFINITY, f64::INFINITY);
        }
        self
    }

    /// The bounds of the rate, in calls a second.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { min: self.min_rate / 60.0, max: self.max_rate / 60.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_refused_with_the_remedy() {
        let default = AdaptiveConfig::default;
        for config in [default(), AdaptiveConfig::off(), AdaptiveConfig::as_published()] {
            assert!(config.check().is_ok(), "{config:?}");
        }
        let cases = [
            (default().min_rate(0.0), "min_rate: 0 is not a finite rate of at least 1/60, one call an hour"),
            (
                default().max_rate(0.5),
                "max_rate: 0.5 is not a rate of at least min_rate, 1; raise it or lower min_rate",
            ),
            (
                default().initial_rate(f64::NAN),
                "initial_rate: NaN is not a rate between min_rate, 1, and max_rate, inf",
            ),
            (
                default().max_rate(60.0).initial_rate(61.0),
                "initial_rate: 61 is not a rate between min_rate, 1, and max_rate, 60",
            ),
            (default().window_size(0), "window_size: 0 is not a number from 1 to 10000"),
            (default().error_threshold(0), "error_threshold: must be at least 1; 10 is usual"),
        ];
        for (config, message) in cases {
            assert_eq!(config.check().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn invalid_settings_become_the_nearest_valid_ones() {
        let odd =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, f64::MAX, -0.0, 0.0, 1e-300];
        for min in odd {
            for (max, initial) in odd.iter().flat_map(|max| odd.map(|initial| (*max, initial))) {
                let config = AdaptiveConfig::default().min_rate(min).max_rate(max).initial_rate(initial);
                let config = config.window_size(usize::MAX).error_threshold(0).clamped();
                let Bounds { min, max } = config.bounds();
                assert!(
                    min.is_finite() && min > 0.0 && max >= min && config.initial_rate >= min,
                    "{config:?}"
                );
                assert_eq!((config.window_size, config.error_threshold), (MAX_WINDOW, 1));
            }
        }
        let rates = |config: AdaptiveConfig| {
            let config = config.clamped();
            (config.min_rate, config.max_rate, config.initial_rate)
        };
        let default = AdaptiveConfig::default;
        assert_eq!(rates(default().max_rate(0.0).initial_rate(0.0)), (1.0, 1.0, 1.0));
        assert_eq!(rates(default().max_rate(-5.0)), (1.0, 1.0, f64::INFINITY), "not unlimited");
        assert_eq!(rates(default().min_rate(0.0)), (LOWEST_MIN_RATE, f64::INFINITY, f64::INFINITY));
        assert_eq!(rates(AdaptiveConfig::as_published().max_rate(30.0)).2, 30.0);
        let unknown = default().min_rate(f64::NAN).max_rate(f64::NAN).initial_rate(f64::NAN);
        assert_eq!(rates(unknown), rates(default()));
        let kept = AdaptiveConfig::as_published().clamped();
        assert_eq!((kept.initial_rate, kept.min_rate, kept.max_rate), PUBLISHED_RATES);
    }
}
