//! The rate limiter: one learned rate, reduced by a 429 and growing in its absence.
//!
//! A 429 shows that the quota is used up. Since the previous 429 the server granted `calls` in `seconds`, so the quota is
//! at least about that rate; calls were sent at the current rate, so the quota is below that. Its position between the
//! two is unknown, also its scale, so the new rate is their geometric mean. From then on the only information is that no
//! 429 has come, which means little at first and much later: the logarithm of the rate grows with the sixth power of time.

use std::time::{Duration, Instant};

use crate::policy::random_refusals::{RandomRefusals, RateCut};
use crate::policy::{later, seconds};

/// The time scale of the rate's growth, in seconds. At one call a second the rate is 1 % higher after 74 s, 10 % after
/// 108 s, doubled after 150 s and quadrupled after 169 s: many calls for each 429, and yet a raised quota is found.
const GROWTH_SCALE: f64 = 160.0;

/// Of the six factors of time, one is counted in calls and this many in seconds, so that of two processes on one quota
/// the slower one grows faster. By calls alone ten processes share unevenly (Jain's index 0.50, not 0.91); by seconds
/// alone a tier of 3 calls a minute sees 29 refusals for 100 successes, not 20.
const GROWTH_POWER: i32 = 5;

/// The longest pause after a 429 without a Retry-After, in seconds: quotas are published per minute, so an exhausted
/// window has been renewed by then.
const MAX_PAUSE: f64 = 60.0;

/// The longest Retry-After or reset that delays calls. A longer one belongs to a quota of hours or to a wrong clock.
pub(crate) const MAX_HOLD: Duration = Duration::from_secs(120);

/// Before the first 429 a gap between two calls counts as at most this many seconds. A first estimate that is too high
/// costs three 429s; one that is too low costs minutes.
const MAX_IDLE: f64 = 1.0;

/// The published handler's factors of the rate, after a 429 and after an error.
const PUBLISHED_CUTS: (f64, f64) = (0.5, 0.75);

/// The published handler's factor of increase, and the number of successes before it.
const PUBLISHED_RISE: (f64, u32) = (1.1, 100);

/// How the rate changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// Learned from 429s and their absence.
    Learned,
    /// By the fixed factors of the article that this crate started from.
    Published,
}

/// The minimum and maximum rate, in calls a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The rate, and the time of the next permitted call.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    law: Law,
    bounds: Bounds,
    /// The rate after the last cut, in calls a second; infinite before the first one.
    base: f64,
    /// Calls since the last cut that were delayed by the rate, and the seconds they took.
    calls: f64,
    seconds: f64,
    /// The newest call at the last cut. A 429 for it or an older call is no new information.
    cut: u64,
    /// Consecutive 429s.
    streak: i32,
    /// Whether 429s are unrelated to the rate.
    random_refusals: RandomRefusals,
    /// Successes since the last rate change, for the published law.
    successes: u32,
    last: Option<Instant>,
    next: Option<Instant>,
}

impl RateLimiter {
    pub(crate) fn new(law: Law, initial: f64, bounds: Bounds) -> RateLimiter {
        RateLimiter {
            law,
            bounds,
            base: initial.max(bounds.min),
            calls: 0.0,
            seconds: MAX_IDLE,
            cut: 0,
            streak: 0,
            random_refusals: RandomRefusals::default(),
            successes: 0,
            last: None,
            next: None,
        }
    }

    /// The rate in calls a second; infinite for no limit.
    pub(crate) fn rate(&self) -> f64 {
        let growth = match self.law {
            Law::Learned => {
                (self.calls / GROWTH_SCALE * (self.seconds / GROWTH_SCALE).powi(GROWTH_POWER)).exp()
            }
            Law::Published => 1.0,
        };
        (self.base * growth).min(self.bounds.max)
    }

    /// When the last call was admitted.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// When the next call may go. A clock that was set back cannot delay it beyond the longest regular wait.
    pub(crate) fn next_permitted_at(&mut self, now: Instant) -> Option<Instant> {
        let longest = MAX_HOLD + seconds(MAX_PAUSE.max(1.0 / self.bounds.min));
        self.next = self.next.min(Some(later(now, longest)));
        self.next
    }

    /// A call was admitted that was permitted from `due` on.
    pub(crate) fn admitted(&mut self, now: Instant, due: Option<Instant>) {
        let gap = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last)).as_secs_f64();
        let rate = self.rate();
        let next = later(due.unwrap_or(now), seconds(1.0 / rate));
        if self.base.is_infinite() {
            self.calls += 1.0;
            self.seconds += gap.min(MAX_IDLE);
        } else if now < next {
            // A later call was not delayed by the rate, so it tells nothing about it.
            self.calls += 1.0;
            self.seconds += gap;
        }
        if rate.is_finite() {
            // A thread that wakes late may catch up at most one slot.
            self.next = Some(next.max(now));
        }
        self.last = Some(now);
    }

    /// `call` succeeded.
    pub(crate) fn succeeded(&mut self, call: u64) {
        if call > self.cut {
            self.streak = 0;
            self.random_refusals.succeeded();
        }
        if self.law == Law::Published {
            self.successes += 1;
            if self.successes >= PUBLISHED_RISE.1 {
                self.set(self.base * PUBLISHED_RISE.0);
            }
        }
    }

    /// The service throttled `call` and asked for a wait of `retry_after`; `newest` is the newest call.
    pub(crate) fn throttled(
        &mut self,
        now: Instant,
        call: u64,
        newest: u64,
        retry_after: Duration,
        chance: f64,
    ) {
        let forgiven = self.law == Law::Learned && call > self.cut && self.random_refusals.forgive();
        let pause = match self.law {
            Law::Learned if forgiven => 0.0,
            Law::Learned => {
                self.learn(call, newest);
                // One to two slots: a server that charges for refusals needs one empty slot to recover, and the
                // random part separates processes. Doubled with each consecutive 429, for an exhausted window.
                (1.0 + chance) * 2f64.powi(self.streak - 1) / self.base
            }
            Law::Published => {
                self.set(self.base * PUBLISHED_CUTS.0);
                0.0
            }
        };
        let wait = retry_after.min(MAX_HOLD) + seconds(pause.min(MAX_PAUSE));
        self.next = self.next.max(Some(later(now, wait)));
    }

    /// A call failed in another way. Only the published law reacts to it.
    pub(crate) fn failed(&mut self) {
        if self.law == Law::Published {
            self.set(self.base * PUBLISHED_CUTS.1);
        }
    }

    /// Cuts the rate, at most once for all calls in flight and once between two successes.
    fn learn(&mut self, call: u64, newest: u64) {
        if call <= self.cut {
            return;
        }
        self.calls = (self.calls - 1.0).max(0.0);
        if self.streak == 0 {
            let sending = self.rate();
            // Laplace's rule of succession: `calls` of `seconds · sending` slots were granted. It keeps the cut finite
            // where there were none.
            let delivered = (self.calls + 1.0) / (self.seconds + 2.0 / sending);
            let mean = if sending.is_finite() { delivered.sqrt() * sending.sqrt() } else { delivered };
            let (granted, seconds) = (self.calls, self.seconds);
            self.set(mean.min(sending));
            self.random_refusals.cut(RateCut { from: sending, to: self.base, granted, seconds });
            self.cut = newest;
        }
        self.streak = self.streak.saturating_add(1);
    }

    fn set(&mut self, rate: f64) {
        self.base = rate.min(self.bounds.max).max(self.bounds.min);
        self.calls = 0.0;
        self.seconds = 0.0;
        self.successes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDE: Bounds = Bounds { min: 1.0 / 60.0, max: f64::INFINITY };

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A rate limiter at this rate, as if just after a cut.
    fn paced(rate: f64) -> RateLimiter {
        let mut rate_limiter = RateLimiter::new(Law::Learned, rate, WIDE);
        rate_limiter.seconds = 0.0;
        rate_limiter
    }

    #[test]
    fn the_rate_grows_as_its_constant_says() {
        for (seconds, factor) in [(74.0, 1.01), (108.0, 1.1), (150.5, 2.0), (169.0, 4.0)] {
            let mut rate_limiter = paced(1.0);
            (rate_limiter.calls, rate_limiter.seconds) = (seconds, seconds);
            assert!(
                (rate_limiter.rate() - factor).abs() < factor * 0.01,
                "{} after {seconds} s",
                rate_limiter.rate()
            );
        }
    }

    #[test]
    fn before_the_first_refusal_every_call_goes_at_once() {
        let (mut rate_limiter, now) = (RateLimiter::new(Law::Learned, f64::INFINITY, WIDE), Instant::now());
        for call in 1..=100 {
            assert!(rate_limiter.next_permitted_at(now) <= Some(now));
            rate_limiter.admitted(now, None);
            rate_limiter.succeeded(call);
        }
        assert_eq!(rate_limiter.rate(), f64::INFINITY);
    }

    #[test]
    fn the_first_cut_is_to_what_was_delivered_and_the_next_to_the_mean() {
        let (mut rate_limiter, start) = (RateLimiter::new(Law::Learned, f64::INFINITY, WIDE), Instant::now());
        for call in 0..20_u32 {
            rate_limiter.admitted(start + secs(0.5) * call, None);
        }
        rate_limiter.throttled(start + secs(10.0), 20, 20, Duration::ZERO, 0.0);
        let delivered = 20.0 / 10.5;
        assert!((rate_limiter.rate() - delivered).abs() < 1e-9, "{}", rate_limiter.rate());
        let mut rate_limiter = paced(4.0);
        (rate_limiter.calls, rate_limiter.seconds) = (25.0, 12.5);
        let sending = rate_limiter.rate();
        rate_limiter.calls += 1.0; // the one that is refused
        rate_limiter.throttled(start, 1, 1, Duration::ZERO, 0.0);
        let delivered = 26.0 / (12.5 + 2.0 / sending);
        assert!((rate_limiter.rate() - (delivered * sending).sqrt()).abs() < 1e-9, "{}", rate_limiter.rate());
    }

    #[test]
    fn a_pause_is_one_to_two_slots_and_doubles_until_a_success() {
        for chance in [0.0, 1.0] {
            let (mut rate_limiter, now) = (paced(2.0), Instant::now());
            rate_limiter.throttled(now, 1, 1, Duration::ZERO, chance);
            let slot = 1.0 / rate_limiter.rate();
            for (nth, slots) in [1.0, 2.0, 4.0].into_iter().enumerate() {
                let pause = rate_limiter.next.map(|next| (next - now).as_secs_f64());
                assert!(
                    (pause.unwrap() - (1.0 + chance) * slots * slot).abs() < 1e-6,
                    "pause {nth}: {pause:?}"
                );
                rate_limiter.throttled(now, 2, 2, Duration::ZERO, chance);
            }
            rate_limiter.succeeded(2);
            assert_eq!(rate_limiter.streak, 0);
        }
    }

    #[test]
    fn a_retry_after_is_obeyed_up_to_two_minutes() {
        let (mut rate_limiter, now) = (paced(10.0), Instant::now());
        rate_limiter.throttled(now, 1, 1, secs(20.0), 0.0);
        assert!(rate_limiter.next > Some(now + secs(20.0)) && rate_limiter.next < Some(now + secs(20.2)));
        rate_limiter.throttled(now, 1, 1, Duration::MAX, 0.0);
        assert!(rate_limiter.next_permitted_at(now) <= Some(now + MAX_HOLD + secs(MAX_PAUSE)));
    }

    #[test]
    fn a_late_thread_catches_up_at_most_one_slot() {
        let (mut rate_limiter, now) = (paced(1.0), Instant::now());
        rate_limiter.admitted(now, None);
        rate_limiter.admitted(now + secs(1.01), rate_limiter.next);
        assert!(rate_limiter.next < Some(now + secs(2.001)), "the next one is due as if it had been on time");
        rate_limiter.admitted(now + secs(9.0), rate_limiter.next);
        assert_eq!(rate_limiter.next, Some(now + secs(9.0)), "one at once");
        rate_limiter.admitted(now + secs(9.0), rate_limiter.next);
        assert!(rate_limiter.next > Some(now + secs(9.9)), "and then one a slot");
    }

    #[test]
    fn the_published_law_has_the_articles_factors() {
        let bounds = Bounds { min: 10.0, max: 120.0 };
        let (mut rate_limiter, now) = (RateLimiter::new(Law::Published, 60.0, bounds), Instant::now());
        rate_limiter.throttled(now, 1, 1, Duration::ZERO, 0.5);
        assert!((rate_limiter.rate() - 30.0).abs() < 1e-9);
        rate_limiter.failed();
        assert!((rate_limiter.rate() - 22.5).abs() < 1e-9);
        (0..100).for_each(|call| rate_limiter.succeeded(call));
        assert!((rate_limiter.rate() - 24.75).abs() < 1e-9);
        (0..10).for_each(|_| rate_limiter.failed());
        assert!((rate_limiter.rate() - 10.0).abs() < 1e-9);
        (0..10_000).for_each(|call| rate_limiter.succeeded(call));
        assert!((rate_limiter.rate() - 120.0).abs() < 1e-9);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Any number of 429s for calls from before the last cut only delay the next call.
        #[test]
        fn stale_refusals_only_delay_the_next_call(
            rate in 0.01..100.0_f64,
            calls in 1_u64..200,
            stale in proptest::collection::vec((0.0..1.0_f64, 0_u64..400), 1..20),
        ) {
            let (mut rate_limiter, now) = (paced(rate), Instant::now());
            for call in 0..calls {
                rate_limiter.admitted(now + secs(call as f64 / rate), rate_limiter.next);
            }
            let now = now + secs(calls as f64 / rate);
            rate_limiter.throttled(now, calls, calls, Duration::ZERO, 0.5);
            for (part, asked) in stale {
                let before = (rate_limiter.base, rate_limiter.calls, rate_limiter.seconds, rate_limiter.streak, rate_limiter.next);
                let call = (calls as f64 * part) as u64;
                rate_limiter.throttled(now, call, calls, Duration::from_secs(asked), part);
                let after = (rate_limiter.base, rate_limiter.calls, rate_limiter.seconds, rate_limiter.streak, rate_limiter.next);
                prop_assert!(before.4 <= after.4);
                prop_assert_eq!((before.0, before.1, before.2, before.3), (after.0, after.1, after.2, after.3));
            }
        }
    }
}
