//! Retry delays: exponential backoff with jitter, `Retry-After`, the caps on both, and the limits on retries.

use std::time::Duration;

use crate::error::{Error, Result};

/// The statuses that are retried by default: timeouts and conflicts, rate limits, server and gateway errors (520–524
/// are Cloudflare's, 529 is "overloaded").
const RETRYABLE: [u16; 13] = [408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529];

/// The maximum wait in seconds, for the statuses that have their own.
const STATUS_MAX: [(u16, u64); 5] = [(429, 120), (500, 64), (502, 64), (503, 128), (504, 64)];

/// The longest `Retry-After` that is honoured with any other status.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The maximum jitter on top of a `Retry-After`, as a fraction of it: clients that were all told to wait 60 s come back
/// over 15 s, and none waits much longer than asked.
const SPREAD: f64 = 0.25;

/// Its maximum: it is enough to spread many clients, and a wait of hours isn't extended by hours.
const MAX_SPREAD: Duration = Duration::from_secs(30);

/// The maximum number of retries. At the default cap they take nine hours; beyond that a deadline is the better limit.
const MAX_RETRIES: u32 = 1000;
const MANY_RETRIES: u32 = MAX_RETRIES + 1;

/// The default number of retries after errors and after refusals. A refused call waits for a permit, which costs the
/// service little, so twice as many are allowed.
const DEFAULT_RETRIES: u32 = 5;
const DEFAULT_THROTTLE_RETRIES: u32 = 10;

/// Error statuses, including redirects, which aren't followed.
const ERROR_STATUSES: std::ops::Range<u16> = 300..600;

/// The maximum wait, deadline or timeout: a day, so that time arithmetic never overflows.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// When and how often to retry.
///
/// The wait before retry `n` (from 0) is `min(cap, base_delay · exponential_base^n)`, then the jitter; it never exceeds
/// the cap. The cap is the status's [`status_max_delay`](RetryConfig::status_max_delay) if it has one, otherwise
/// `max_delay`. A server's `Retry-After` is a floor: the wait is never shorter, and jitter only makes it longer.
///
/// ```
/// use holysheep::{Jitter, RetryConfig};
/// use std::time::Duration;
///
/// let retry = RetryConfig::default().jitter(Jitter::None);
/// let waits: Vec<u64> = (0..9).map(|attempt| retry.delay(attempt, 0.5).as_secs()).collect();
/// assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32, 32]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryConfig {
    max_retries: Option<u32>,
    throttle_retries: Option<u32>,
    base_delay: Duration,
    max_delay: Duration,
    exponential_base: f64,
    jitter: Jitter,
    statuses: Vec<u16>,
    status_max: Vec<(u16, Duration)>,
    retry_timeouts: bool,
    timeout_retries: u32,
}

/// How a wait is randomised, so that clients that failed together don't retry together.
///
/// Full and equal jitter are those of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// ```
/// use holysheep::{Jitter, RetryConfig};
/// use std::time::Duration;
///
/// let delay = |jitter, random| RetryConfig::default().jitter(jitter).delay(2, random);
/// assert_eq!(delay(Jitter::None, 0.5), Duration::from_secs(4));
/// assert_eq!(delay(Jitter::Full, 0.5), Duration::from_secs(2));
/// assert_eq!(delay(Jitter::Equal, 0.5), Duration::from_secs(3));
/// assert_eq!(delay(Jitter::Additive(Duration::from_secs(1)), 0.5), Duration::from_millis(4500));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Jitter {
    /// The computed delay itself.
    None,
    /// A uniform draw from 0 to the computed delay.
    #[default]
    Full,
    /// Half of the computed delay, and a uniform draw from 0 to the other half.
    Equal,
    /// The computed delay and a uniform draw from 0 to this much on top, together at most the cap.
    Additive(Duration),
}

impl Default for RetryConfig {
    fn default() -> RetryConfig {
        RetryConfig {
            max_retries: None,
            throttle_retries: None,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(32),
            exponential_base: 2.0,
            jitter: Jitter::Full,
            statuses: RETRYABLE.to_vec(),
            status_max: STATUS_MAX
                .iter()
                .map(|&(status, secs)| (status, Duration::from_secs(secs)))
                .collect(),
            retry_timeouts: true,
            timeout_retries: 2,
        }
    }
}

impl RetryConfig {
    /// The maximum number of retries: 0 to 1000. If [`throttle_retries`](RetryConfig::throttle_retries) is set too, in
    /// any order, this limits only the retries after errors, otherwise all retries.
    ///
    /// If neither is set, up to 5 retries follow errors and up to 10 follow refusals.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// The maximum number of retries after refusals for the rate or the load (429, 529, and a 503 that is taken for
    /// one): 0 to 1000. They are counted separately, because a refusal costs little and is not the call's fault.
    pub fn throttle_retries(mut self, retries: u32) -> Self {
        self.throttle_retries = Some(retries);
        self
    }

    /// The delay before the first retry, before jitter: 0 s to `max_delay`.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.base_delay = delay;
        self
    }

    /// The cap on delays after statuses without a cap of their own: at most 24 hours. By default 429, 500, 502, 503 and
    /// 504 have caps of their own, which this doesn't change: see [`status_max_delay`](RetryConfig::status_max_delay).
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// The factor by which the delay grows with each retry: 1 or more.
    pub fn exponential_base(mut self, base: f64) -> Self {
        self.exponential_base = base;
        self
    }

    /// How the delay is randomised.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The statuses that are retried, instead of the default ones: 300 to 599.
    pub fn retryable_statuses(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// The cap on delays after this status, in place of `max_delay`, and the longest `Retry-After` that is honoured
    /// with it: at most 24 hours.
    pub fn status_max_delay(mut self, status: u16, delay: Duration) -> Self {
        self.status_max.retain(|(other, _)| *other != status);
        self.status_max.push((status, delay));
        self
    }

    /// Whether to retry after a timeout while waiting for or reading a response. The service may have processed, and
    /// billed, the request.
    pub fn retry_timeouts(mut self, retry: bool) -> Self {
        self.retry_timeouts = retry;
        self
    }

    /// How many of the retries may follow timeouts while waiting for or reading a response. Each such timeout doubles
    /// the inactivity timeout of the next attempt, up to 10 minutes, so that a model that reasons for three minutes can
    /// respond, and a hung server costs few requests.
    pub fn timeout_retries(mut self, retries: u32) -> Self {
        self.timeout_retries = retries;
        self
    }

    /// The delay before retry number `attempt` (from 0) for the random number `jitter` (in [0, 1)), if the server sent
    /// no `Retry-After` and the status has no cap of its own.
    ///
    /// Pure and total: numbers out of range are clamped.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        self.jittered(attempt, self.max_delay, jitter)
    }

    /// The wait before retry number `attempt` after a response with this status and `Retry-After`, or `None` if the
    /// server asks for a longer wait than is allowed.
    pub(crate) fn wait(
        &self,
        attempt: u32,
        status: Option<u16>,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        let own = self.status_max.iter().find(|(other, _)| Some(*other) == status).map(|(_, max)| *max);
        let cap = own.unwrap_or(self.max_delay);
        let longest = own.unwrap_or(RETRY_AFTER_MAX);
        let backoff = self.jittered(attempt, cap, random);
        let Some(retry_after) = retry_after else { return Some(backoff) };
        if retry_after > longest {
            return None;
        }
        let later = match self.jitter {
            Jitter::None => Duration::ZERO,
            _ => retry_after.mul_f64(SPREAD).min(MAX_SPREAD).mul_f64(unit(random)),
        };
        Some(retry_after.saturating_add(later).max(backoff).min(longest.max(cap)))
    }

    /// The delay before jitter: exponential growth under the cap.
    fn grown(&self, attempt: u32, cap: Duration) -> Duration {
        let cap = cap.min(MAX_TIME);
        let factor = self.exponential_base.max(1.0).powi(attempt.min(i32::MAX as u32) as i32);
        let seconds = self.base_delay.as_secs_f64() * factor.min(f64::MAX);
        Duration::from_secs_f64(seconds.min(cap.as_secs_f64())).min(cap)
    }

    fn jittered(&self, attempt: u32, cap: Duration, random: f64) -> Duration {
        let (grown, random) = (self.grown(attempt, cap), unit(random));
        match self.jitter {
            Jitter::None => grown,
            Jitter::Full => grown.mul_f64(random),
            Jitter::Equal => grown / 2 + (grown / 2).mul_f64(random),
            Jitter::Additive(most) => grown + most.min(MAX_TIME).mul_f64(random),
        }
        .min(cap)
    }

    /// Whether another retry is allowed after this many errors and refusals in a call. `throttled`: the last attempt
    /// was refused.
    pub(crate) fn allows_retry(&self, errors: u32, throttles: u32, throttled: bool) -> bool {
        match (self.max_retries, self.throttle_retries) {
            (Some(max), None) => errors.saturating_add(throttles) <= max,
            (_, max) if throttled => throttles <= max.unwrap_or(DEFAULT_THROTTLE_RETRIES),
            (max, _) => errors <= max.unwrap_or(DEFAULT_RETRIES),
        }
    }

    pub(crate) fn retries_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    /// The maximum number of retries after timeouts while waiting for or reading a response.
    pub(crate) fn max_timeout_retries(&self) -> u32 {
        if self.retry_timeouts { self.timeout_retries } else { 0 }
    }

    pub(crate) fn retries_timeouts(&self) -> bool {
        self.retry_timeouts
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] that names the invalid setting and says what to change.
    pub(crate) fn check(&self) -> Result<()> {
        let (base, max) = (self.base_delay, self.max_delay);
        let counts = [
            ("max_retries", self.max_retries),
            ("throttle_retries", self.throttle_retries),
            ("timeout_retries", Some(self.timeout_retries)),
        ];
        for (setting, count) in counts {
            if let Some(count @ MANY_RETRIES..) = count {
                let message = format!("{count} exceeds the maximum of {MAX_RETRIES}; set a deadline instead");
                return Err(Error::config(setting, message));
            }
        }
        let own = self.status_max.iter().map(|(_, max)| ("status_max_delay", *max));
        if let Some((setting, _)) = own.chain([("max_delay", max)]).find(|(_, max)| *max > MAX_TIME) {
            return Err(Error::config(setting, "exceeds the maximum of 24 hours; lower it"));
        }
        if base > max {
            let message = format!("{base:?} exceeds max_delay, {max:?}; lower it or raise max_delay");
            return Err(Error::config("base_delay", message));
        }
        if !(self.exponential_base.is_finite() && self.exponential_base >= 1.0) {
            let message =
                format!("{} is not a finite number of at least 1, such as 2.0", self.exponential_base);
            return Err(Error::config("exponential_base", message));
        }
        if let Jitter::Additive(most) = self.jitter {
            if most > MAX_TIME {
                return Err(Error::config("jitter", "exceeds the maximum of 24 hours; lower it"));
            }
        }
        let retried = self.statuses.iter().map(|status| ("retryable_statuses", *status));
        let capped = self.status_max.iter().map(|(status, _)| ("status_max_delay", *status));
        match retried.chain(capped).find(|(_, status)| !ERROR_STATUSES.contains(status)) {
            Some((setting, status)) => {
                Err(Error::config(setting, format!("{status} is not an error status (300 to 599)")))
            }
            None => Ok(()),
        }
    }

    /// These settings, with each invalid one replaced by the nearest valid one.
    pub(crate) fn clamped(mut self) -> RetryConfig {
        self.max_retries = self.max_retries.map(|count| count.min(MAX_RETRIES));
        self.throttle_retries = self.throttle_retries.map(|count| count.min(MAX_RETRIES));
        self.timeout_retries = self.timeout_retries.min(MAX_RETRIES);
        self.max_delay = self.max_delay.min(MAX_TIME);
        self.base_delay = self.base_delay.min(self.max_delay);
        // Comparisons with NaN are false, so NaN becomes 1.
        let base = self.exponential_base;
        self.exponential_base = if base >= 1.0 { base.min(f64::MAX) } else { 1.0 };
        if let Jitter::Additive(most) = self.jitter {
            self.jitter = Jitter::Additive(most.min(MAX_TIME));
        }
        self.statuses.retain(|status| ERROR_STATUSES.contains(status));
        self.status_max.retain(|(status, _)| ERROR_STATUSES.contains(status));
        self.status_max.iter_mut().for_each(|(_, max)| *max = (*max).min(MAX_TIME));
        self
    }
}

/// Clamps a random number to [0, 1]; NaN becomes 0.
fn unit(random: f64) -> f64 {
    if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_the_server_asks_for_is_extended_by_a_quarter_at_most_or_by_half_a_minute() {
        let retry = RetryConfig::default().status_max_delay(429, secs(3600));
        for (asked, extended) in [(1.0, 1.25), (60.0, 75.0), (1000.0, 1030.0)] {
            let wait = |random| {
                let asked = Duration::from_secs_f64(asked);
                retry.wait(0, Some(429), Some(asked), random).unwrap().as_secs_f64()
            };
            assert_eq!((wait(0.0), wait(1.0)), (asked, extended));
            assert!((wait(0.5) - (asked + extended) / 2.0).abs() < 1e-9);
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_jitter_the_defaults_double_up_to_the_cap() {
        let retry = RetryConfig::default().jitter(Jitter::None);
        let waits: Vec<u64> = (0..9).map(|attempt| retry.delay(attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32, 32]);
    }

    #[test]
    fn a_hundred_thousand_jittered_delays_stay_under_the_cap_with_the_right_mean() {
        let mut chance = fastrand::Rng::with_seed(7);
        let cases = [
            (Jitter::Full, 0.5),
            (Jitter::Equal, 0.75),
            (Jitter::None, 1.0),
            (Jitter::Additive(secs(40)), 1.0),
        ];
        for (jitter, mean) in cases {
            let retry = RetryConfig::default().jitter(jitter);
            let delays: Vec<f64> =
                (0..100_000).map(|n| retry.delay(5 + n % 40, chance.f64()).as_secs_f64()).collect();
            assert!(delays.iter().all(|delay| (0.0..=32.0).contains(delay)), "{jitter:?}");
            let measured = delays.iter().sum::<f64>() / delays.len() as f64 / 32.0;
            assert!((measured - mean).abs() < 0.005, "{jitter:?}: mean {measured} of the cap");
        }
    }

    #[test]
    fn additive_jitter_is_the_articles_formula() {
        let retry = RetryConfig::default().jitter(Jitter::Additive(secs(1)));
        assert_eq!(retry.delay(2, 0.25), Duration::from_millis(4250));
        assert_eq!(retry.delay(9, 0.25), secs(32), "capped after jitter");
    }

    #[test]
    fn numbers_out_of_range_give_a_delay() {
        let odd = RetryConfig::default()
            .exponential_base(f64::NAN)
            .base_delay(Duration::MAX)
            .max_delay(Duration::MAX);
        for attempt in [0, 1, u32::MAX] {
            for chance in [f64::NAN, f64::INFINITY, -1.0, 2.0] {
                assert!(odd.delay(attempt, chance) <= MAX_TIME);
                let wait = RetryConfig::default().wait(attempt, Some(429), Some(secs(120)), chance);
                assert_eq!(wait, Some(secs(120)));
            }
        }
        let zero = RetryConfig::default().base_delay(Duration::ZERO);
        assert_eq!(zero.delay(u32::MAX, 0.5), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_a_floor_with_jitter_on_top_and_a_maximum_by_status() {
        let retry = RetryConfig::default();
        for n in 0..=1000 {
            let chance = f64::from(n) / 1000.0;
            let wait = retry.wait(0, Some(429), Some(secs(20)), chance);
            assert!(wait >= Some(secs(20)) && wait <= Some(secs(25)), "{wait:?}");
        }
        assert_eq!(retry.wait(0, Some(429), Some(secs(120)), 0.9), Some(secs(120)));
        assert_eq!(retry.wait(0, Some(429), Some(secs(121)), 0.0), None);
        assert_eq!(retry.wait(0, Some(503), Some(secs(128)), 0.0), Some(secs(128)));
        assert_eq!(retry.wait(0, Some(409), Some(secs(61)), 0.0), None);
        assert_eq!(retry.wait(0, None, Some(secs(60)), 0.0), Some(secs(60)));
        let exact = retry.jitter(Jitter::None);
        assert_eq!(exact.wait(0, Some(429), Some(secs(20)), 0.9), Some(secs(20)));
        assert_eq!(exact.wait(5, Some(429), Some(secs(20)), 0.9), Some(secs(32)), "the longer of the two");
    }

    #[test]
    fn a_long_retry_after_is_spread_by_thirty_seconds_at_most() {
        let day = RetryConfig::default().status_max_delay(429, MAX_TIME);
        for (attempt, asked, most) in [
            (0, 20, 25),
            (0, 100, 125),
            (0, 120, 150),
            (0, 200, 230),
            (0, 30_000, 30_030),
            (10, 30_000, 30_030),
        ] {
            let wait = |random| day.wait(attempt, Some(429), Some(secs(asked)), random);
            assert_eq!((wait(0.0), wait(1.0)), (Some(secs(asked)), Some(secs(most))), "{asked} s");
            assert_eq!(wait(0.5), Some((secs(asked) + secs(most)) / 2), "{asked} s");
        }
        assert_eq!(
            day.wait(0, Some(429), Some(secs(86_390)), 1.0),
            Some(MAX_TIME),
            "the longest wait allowed"
        );
    }

    #[test]
    fn the_order_of_the_retry_settings_does_not_matter() {
        let default = RetryConfig::default;
        // The allowed retries after errors only, after refusals only, and after both alternately.
        let counts = |retry: RetryConfig| {
            let most = |errors: fn(u32) -> u32, throttled: fn(u32) -> bool| {
                let tries = |n: u32| (errors(n), n - errors(n), throttled(n));
                let allowed = |n: &u32| {
                    let (errors, throttles, throttled) = tries(*n);
                    retry.allows_retry(errors, throttles, throttled)
                };
                (1..100).take_while(allowed).count()
            };
            (most(|n| n, |_| false), most(|_| 0, |_| true), most(|n| n / 2, |n| n % 2 == 1))
        };
        assert_eq!(counts(default()), (5, 10, 11));
        for max in [0, 1, 2, 5] {
            let all = max as usize;
            assert_eq!(counts(default().max_retries(max)), (all, all, all), "alone it bounds all");
        }
        assert_eq!(counts(default().throttle_retries(3)), (5, 3, 6));
        assert_eq!(counts(default().max_retries(2).throttle_retries(3)), (2, 3, 5));
        assert_eq!(counts(default().throttle_retries(3).max_retries(2)), (2, 3, 5));
    }

    #[test]
    fn a_status_can_have_its_own_cap() {
        let retry = RetryConfig::default().jitter(Jitter::None).status_max_delay(503, secs(3));
        assert_eq!(retry.wait(9, Some(503), None, 0.0), Some(secs(3)));
        assert_eq!(retry.wait(9, Some(429), None, 0.0), Some(secs(120)));
        assert_eq!(retry.wait(9, Some(520), None, 0.0), Some(secs(32)));
    }

    #[test]
    fn invalid_settings_are_refused_with_the_remedy() {
        let default = RetryConfig::default;
        assert!(default().check().is_ok());
        let cases = [
            (
                default().base_delay(secs(40)),
                "base_delay: 40s exceeds max_delay, 32s; lower it or raise max_delay",
            ),
            (
                default().exponential_base(f64::NAN),
                "exponential_base: NaN is not a finite number of at least 1, such as 2.0",
            ),
            (
                default().exponential_base(0.5),
                "exponential_base: 0.5 is not a finite number of at least 1, such as 2.0",
            ),
            (default().max_delay(Duration::MAX), "max_delay: exceeds the maximum of 24 hours; lower it"),
            (
                default().jitter(Jitter::Additive(Duration::MAX)),
                "jitter: exceeds the maximum of 24 hours; lower it",
            ),
            (
                default().max_retries(1001),
                "max_retries: 1001 exceeds the maximum of 1000; set a deadline instead",
            ),
            (
                default().retryable_statuses([200]),
                "retryable_statuses: 200 is not an error status (300 to 599)",
            ),
            (
                default().status_max_delay(200, secs(1)),
                "status_max_delay: 200 is not an error status (300 to 599)",
            ),
            (
                default().status_max_delay(503, Duration::MAX),
                "status_max_delay: exceeds the maximum of 24 hours; lower it",
            ),
        ];
        for (retry, message) in cases {
            assert_eq!(retry.check().unwrap_err().to_string(), message);
        }
    }
}
