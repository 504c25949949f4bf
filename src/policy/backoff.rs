//! How long to wait before trying again: exponential backoff with jitter, the server's wish, and the caps on both.

use std::time::Duration;

use crate::error::{Error, Result};

/// The statuses that are worth another attempt: timeouts and conflicts, rate limits, a server or a gateway in trouble
/// (520–524 are Cloudflare's, 529 is "overloaded").
const RETRYABLE: [u16; 13] = [408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529];

/// The longest wait by status, for the statuses that have their own.
const STATUS_MAX: [(u16, u64); 5] = [(429, 120), (500, 64), (502, 64), (503, 128), (504, 64)];

/// The longest wait a server may ask for with any other status.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// Of a wait the server asked for, the share by which clients that were all told the same are at least spread: a
/// quarter, so that a herd told "60" comes back over 15 s, and nobody waits much longer than asked.
const SPREAD: f64 = 0.25;

/// More retries than this is "for ever" by another name: at the default cap they take nine hours.
const MOST_RETRIES: u32 = 1000;

/// A day: no wait is longer, whatever is configured, so that arithmetic with time never overflows.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When and how often to try again.
///
/// The wait before retry `n` (from 0) is `min(cap, base_delay · exponential_base^n)`, then the jitter; it never exceeds
/// the cap. For a status with a [`status_max_delay`](RetryConfig::status_max_delay) that is the cap, otherwise
/// `max_delay`. What a server asks for in `Retry-After` is a floor: the wait is never shorter, only spread later.
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
    max_retries: u32,
    base_delay: Duration,
    max_delay: Duration,
    exponential_base: f64,
    jitter: Jitter,
    statuses: Vec<u16>,
    status_max: Vec<(u16, Duration)>,
    retry_timeouts: bool,
}

/// How chance is mixed into a wait, so that clients that failed together don't come back together.
///
/// Full and equal jitter are those of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
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
            max_retries: 5,
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
        }
    }
}

impl RetryConfig {
    /// How many times to try again after the first attempt: 0 to 1000.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// The delay before the first retry, before jitter: 0 s to `max_delay`.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.base_delay = delay;
        self
    }

    /// The cap of every delay whose status has no cap of its own: at most a day.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// By how much the delay grows with each retry: a number from 1.
    pub fn exponential_base(mut self, base: f64) -> Self {
        self.exponential_base = base;
        self
    }

    /// How chance is mixed in.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The statuses that are worth another attempt, instead of the default ones.
    pub fn retryable_statuses(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// The cap of the delays after one status, and the longest wait that a server may ask for with it.
    pub fn status_max_delay(mut self, status: u16, delay: Duration) -> Self {
        self.status_max.retain(|(other, _)| *other != status);
        self.status_max.push((status, delay));
        self
    }

    /// Whether to try again after the server was silent for too long. It may have processed, and billed, the request.
    pub fn retry_timeouts(mut self, retry: bool) -> Self {
        self.retry_timeouts = retry;
        self
    }

    /// The delay before retry number `attempt` (from 0) at the point `jitter` (in [0, 1)) of chance, where the
    /// server asked for nothing and the status has no cap of its own.
    ///
    /// Pure, and total: numbers outside their range are taken as the nearest one inside.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        self.jittered(attempt, self.max_delay, jitter)
    }

    /// The wait before retry number `attempt` after an answer with this status that asked for this wait, or `None`
    /// where the server asks for more than is allowed.
    pub(crate) fn wait(
        &self,
        attempt: u32,
        status: Option<u16>,
        asked: Option<Duration>,
        chance: f64,
    ) -> Option<Duration> {
        let own = self.status_max.iter().find(|(other, _)| Some(*other) == status).map(|(_, max)| *max);
        let cap = own.unwrap_or(self.max_delay);
        let longest = own.unwrap_or(ASKED_MAX);
        let backoff = self.jittered(attempt, cap, chance);
        let Some(asked) = asked else { return Some(backoff) };
        if asked > longest {
            return None;
        }
        let later = match self.jitter {
            Jitter::None => Duration::ZERO,
            _ => self.grown(attempt, cap).max(asked.mul_f64(SPREAD)).mul_f64(within_one(chance)),
        };
        Some((asked + later).max(backoff).min(longest.max(cap)))
    }

    /// The delay before jitter: exponential growth under the cap.
    fn grown(&self, attempt: u32, cap: Duration) -> Duration {
        let cap = cap.min(LONGEST);
        let factor = self.exponential_base.max(1.0).powi(attempt.min(i32::MAX as u32) as i32);
        let seconds = self.base_delay.as_secs_f64() * factor.min(f64::MAX);
        Duration::from_secs_f64(seconds.min(cap.as_secs_f64())).min(cap)
    }

    fn jittered(&self, attempt: u32, cap: Duration, chance: f64) -> Duration {
        let (grown, chance) = (self.grown(attempt, cap), within_one(chance));
        match self.jitter {
            Jitter::None => grown,
            Jitter::Full => grown.mul_f64(chance),
            Jitter::Equal => grown / 2 + (grown / 2).mul_f64(chance),
            Jitter::Additive(most) => grown + most.min(LONGEST).mul_f64(chance),
        }
        .min(cap)
    }

    pub(crate) fn retries(&self) -> u32 {
        self.max_retries
    }

    pub(crate) fn retries_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    pub(crate) fn retries_timeouts(&self) -> bool {
        self.retry_timeouts
    }

    /// Says which setting can't work and what to change.
    pub(crate) fn check(&self) -> Result<()> {
        let (base, max) = (self.base_delay, self.max_delay);
        if self.max_retries > MOST_RETRIES {
            let message = format!("{} is more than {MOST_RETRIES}; set a deadline instead", self.max_retries);
            return Err(Error::config("max_retries", message));
        }
        if max > LONGEST || self.status_max.iter().any(|(_, max)| *max > LONGEST) {
            return Err(Error::config("max_delay", "a delay of more than a day can't be meant; lower it"));
        }
        if base > max {
            let message = format!("{base:?} is above max_delay, {max:?}; lower one or raise the other");
            return Err(Error::config("base_delay", message));
        }
        if !(self.exponential_base.is_finite() && self.exponential_base >= 1.0) {
            let message = format!("{} is not a number from 1, such as 2.0", self.exponential_base);
            return Err(Error::config("exponential_base", message));
        }
        if let Jitter::Additive(most) = self.jitter {
            if most > LONGEST {
                return Err(Error::config("jitter", "more than a day can't be meant; lower it"));
            }
        }
        let statuses = self.statuses.iter().chain(self.status_max.iter().map(|(status, _)| status));
        match statuses.copied().find(|status| !(300..600).contains(status)) {
            Some(status) => Err(Error::config(
                "retryable_statuses",
                format!("{status} is no status of an error (300 to 599)"),
            )),
            None => Ok(()),
        }
    }
}

/// `chance` as a number from 0 to 1; what is no number counts as 0.
fn within_one(chance: f64) -> f64 {
    if chance.is_nan() { 0.0 } else { chance.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn any_number_gives_a_delay() {
        let odd = RetryConfig::default()
            .exponential_base(f64::NAN)
            .base_delay(Duration::MAX)
            .max_delay(Duration::MAX);
        for attempt in [0, 1, u32::MAX] {
            for chance in [f64::NAN, f64::INFINITY, -1.0, 2.0] {
                assert!(odd.delay(attempt, chance) <= LONGEST);
                let wait = RetryConfig::default().wait(attempt, Some(429), Some(secs(120)), chance);
                assert_eq!(wait, Some(secs(120)));
            }
        }
        let zero = RetryConfig::default().base_delay(Duration::ZERO);
        assert_eq!(zero.delay(u32::MAX, 0.5), Duration::ZERO);
    }

    #[test]
    fn what_the_server_asks_is_a_floor_with_spread_on_top_and_a_limit_by_status() {
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
    fn a_status_can_have_its_own_cap() {
        let retry = RetryConfig::default().jitter(Jitter::None).status_max_delay(503, secs(3));
        assert_eq!(retry.wait(9, Some(503), None, 0.0), Some(secs(3)));
        assert_eq!(retry.wait(9, Some(429), None, 0.0), Some(secs(120)));
        assert_eq!(retry.wait(9, Some(520), None, 0.0), Some(secs(32)));
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_remedy() {
        let default = RetryConfig::default;
        assert!(default().check().is_ok());
        let cases = [
            (
                default().base_delay(secs(40)),
                "base_delay: 40s is above max_delay, 32s; lower one or raise the other",
            ),
            (
                default().exponential_base(f64::NAN),
                "exponential_base: NaN is not a number from 1, such as 2.0",
            ),
            (default().exponential_base(0.5), "exponential_base: 0.5 is not a number from 1, such as 2.0"),
            (
                default().max_delay(Duration::MAX),
                "max_delay: a delay of more than a day can't be meant; lower it",
            ),
            (
                default().jitter(Jitter::Additive(Duration::MAX)),
                "jitter: more than a day can't be meant; lower it",
            ),
            (default().max_retries(1001), "max_retries: 1001 is more than 1000; set a deadline instead"),
            (
                default().retryable_statuses([200]),
                "retryable_statuses: 200 is no status of an error (300 to 599)",
            ),
        ];
        for (retry, message) in cases {
            assert_eq!(retry.check().unwrap_err().to_string(), message);
        }
    }
}
