//! The rate limiter: one learned rate, reduced by refusals and growing without them.
//!
//! A refusal shows that the quota is used up. Since the previous one the server granted `calls` in `seconds`, so the
//! quota is at least about that rate; calls were sent at the current rate, so the quota is below that. Where it lies
//! between the two is unknown, even its order of magnitude, so the new rate is a geometric mean of them. After that the
//! only evidence is the absence of refusals, which means little at first and much later: the logarithm of the rate
//! grows with the sixth power of time. The first estimate may be far off, so it is followed by a search that doubles
//! the rate.

use std::f64::consts::LN_2;
use std::time::{Duration, Instant};

use crate::policy::{later, seconds};

/// The time scale of the rate's growth, in seconds. At one call a second the rate is 1 % higher after 65 s, doubled
/// after 132 s and quadrupled after 148 s: that gives many calls per refusal, and still finds a raised quota.
const GROWTH_SCALE: f64 = 140.0;

/// Of the six powers of time, one is counted in calls and this many in seconds, so that of two processes on one quota
/// the slower one catches up. By calls alone ten processes share unevenly (Jain's index 0.50, not 0.91); by seconds
/// alone a tier of 3 calls a minute sees 29 refusals for 100 successes, not 20.
const GROWTH_POWER: i32 = 5;

/// The granted calls with which the rate doubles after the first cut, unless more were in flight.
const DOUBLING: f64 = 16.0;

/// The weight of the granted rate in the new rate, against the attempted one. With equal weights, calls are refused
/// more often (4.1 % of the calls, not 3.7 %), but a raised quota is found 20 % sooner.
const GRANTED_WEIGHT: f64 = 0.6;

/// This many calls from before the last cut still count as granted: the time between two cuts is often too short for an
/// estimate. Without them ten processes share less evenly (Jain's index 0.89, not 0.91); 50 cause half a percent more
/// refusals.
const MEMORY: f64 = 16.0;

/// Each further cut slows the search by this factor: after three of them only the growth over time is left.
const SEARCH_SLOWDOWN: f64 = 8.0;

/// The same after a bare 503, which may be due to a temporary fault: with 8, a minute of faults slows the calls for
/// three.
const BARE_SLOWDOWN: f64 = 2.0;

/// The longest pause after a refusal without a Retry-After, in seconds: quotas are published per minute, so an exhausted
/// window has been renewed by then.
const MAX_PAUSE: f64 = 60.0;

/// The longest Retry-After or reset that delays calls. A longer one is due to a quota of hours or a wrong clock.
pub(crate) const MAX_HOLD: Duration = Duration::from_secs(120);

/// Before the first refusal a gap between two calls counts as at most this many seconds. A first estimate that is too
/// high costs three refusals; one that is too low costs minutes.
const MAX_IDLE: f64 = 1.0;

/// The minimum and maximum rate, in calls a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A refused call, as the rate limiter sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) call: u64,
    /// The newest call so far, and the number of calls in flight.
    pub(crate) newest: u64,
    pub(crate) in_flight: u32,
    /// How long the refusal took.
    pub(crate) round_trip: Duration,
    /// How long the server wants all calls to wait.
    pub(crate) hold: Duration,
    pub(crate) is_bare: bool,
    /// A random number from 0 to 1.
    pub(crate) random: f64,
}

/// A rate and the evidence since it was set, to be restored after an outage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SavedRate {
    base: f64,
    calls: f64,
    seconds: f64,
}

/// The rate, and the time of the next permitted call.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    bounds: Bounds,
    /// The rate after the last cut, in calls a second; infinite before the first one.
    base: f64,
    /// Calls since the last cut that were delayed by the rate, and the seconds they took.
    calls: f64,
    seconds: f64,
    /// Calls granted since the last cut while the rate delayed calls, and how many of them raise the rate by a factor of e.
    granted: f64,
    search: f64,
    /// Whether the newest call was delayed by the rate. Calls of a program that sends fewer are no evidence that more are
    /// granted.
    delays: bool,
    /// The calls before the last cut that still count as granted, and their seconds.
    earlier: (f64, f64),
    /// The newest call at the last cut. A refusal of it or of an older call is no new evidence.
    cut: u64,
    /// Consecutive round trips with a refusal, and the newest call at the last one.
    refused_rounds: i32,
    newest_of_round: u64,
    /// How long the last refusal took.
    round_trip: f64,
    last: Option<Instant>,
    next: Option<Instant>,
}

impl RateLimiter {
    pub(crate) fn new(initial: f64, bounds: Bounds) -> RateLimiter {
        RateLimiter {
            bounds,
            base: initial.max(bounds.min),
            calls: 0.0,
            seconds: MAX_IDLE,
            granted: 0.0,
            search: f64::INFINITY,
            delays: true,
            earlier: (0.0, 0.0),
            cut: 0,
            refused_rounds: 0,
            newest_of_round: 0,
            round_trip: 0.0,
            last: None,
            next: None,
        }
    }

    /// The rate in calls a second; infinite for no limit.
    pub(crate) fn rate(&self) -> f64 {
        (self.base * self.growth().exp()).min(self.bounds.max)
    }

    /// The rate without its growth since it was set.
    pub(crate) fn base(&self) -> f64 {
        self.base
    }

    /// The logarithm of the rate's growth since the last cut.
    pub(crate) fn growth(&self) -> f64 {
        self.calls / GROWTH_SCALE * (self.seconds / GROWTH_SCALE).powi(GROWTH_POWER)
            + self.granted / self.search
    }

    /// The number of consecutive round trips with refusals and no granted call.
    pub(crate) fn refused_rounds(&self) -> i32 {
        self.refused_rounds
    }

    /// Whether `call` was sent after the last cut.
    pub(crate) fn is_current(&self, call: u64) -> bool {
        call > self.cut
    }

    /// Whether a volley may exceed the rate: not if the user has set a maximum.
    pub(crate) fn is_unbounded(&self) -> bool {
        self.bounds.max.is_infinite()
    }

    /// When the last call was admitted.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// When the next call may be sent. A clock that was set back cannot delay it beyond the longest regular wait.
    pub(crate) fn next_permitted_at(&mut self, now: Instant) -> Option<Instant> {
        let longest = MAX_HOLD + seconds(MAX_PAUSE.max(1.0 / self.bounds.min));
        self.next = self.next.min(Some(later(now, longest)));
        self.next
    }

    /// Records that a call was admitted that was permitted from `due` on.
    pub(crate) fn admitted(&mut self, now: Instant, due: Option<Instant>) {
        let gap = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last)).as_secs_f64();
        let slot = (1.0 / self.rate()).max(if self.refused_rounds > 0 { self.round_trip } else { 0.0 });
        let next = later(due.unwrap_or(now), seconds(slot));
        self.delays = now < next;
        if self.base.is_infinite() {
            self.calls += 1.0;
            self.seconds += gap.min(MAX_IDLE);
        } else if self.delays {
            self.calls += 1.0;
            self.seconds += gap;
        }
        if slot > 0.0 {
            // A thread that wakes late may catch up at most one slot.
            self.next = Some(next.max(now));
        }
        self.last = Some(now);
    }

    /// Records that `call` was granted.
    pub(crate) fn granted(&mut self, call: u64) {
        if call > self.cut {
            self.refused_rounds = 0;
            self.granted += f64::from(u8::from(self.delays));
        }
    }

    /// Delays all calls by this long.
    pub(crate) fn hold(&mut self, now: Instant, wait: Duration) {
        self.next = self.next.max(Some(later(now, wait)));
    }

    /// Records a refusal due to the rate: cuts the rate at the first refusal since a granted call, and pauses, twice as
    /// long with each further round trip of refusals.
    pub(crate) fn refused(&mut self, now: Instant, refusal: &Refusal) {
        let mut doublings = 0;
        if refusal.call > self.cut {
            self.calls = (self.calls - 1.0).max(0.0);
            if self.refused_rounds == 0 {
                self.cut(refusal);
            }
            if refusal.call > self.newest_of_round {
                self.refused_rounds = self.refused_rounds.saturating_add(1);
                self.newest_of_round = refusal.newest;
            }
            doublings = self.refused_rounds - 1;
        }
        self.round_trip = refusal.round_trip.as_secs_f64();
        // One to two slots: a server that charges for refusals needs one empty slot to recover, unless it says itself when
        // it has, and the random part desynchronises processes. At high rates at least a round trip, so that a response
        // can end the row.
        let slots = f64::from(doublings).exp2() / self.base;
        let empty = if refusal.hold.is_zero() || doublings > 0 { 1.0 } else { 0.0 };
        let pause = (empty + refusal.random) * if doublings > 0 { slots.max(self.round_trip) } else { slots };
        self.hold(now, refusal.hold.min(MAX_HOLD) + seconds(pause.min(MAX_PAUSE)));
    }

    /// Returns to this rate if it is higher, because the refusals weren't due to the rate.
    pub(crate) fn raise(&mut self, rate: f64, newest: u64) {
        let search = DOUBLING / LN_2;
        if self.base.is_finite() && self.search > search {
            self.set(self.rate(), newest);
            (self.search, self.refused_rounds) = (search, 0);
        }
        if rate > self.rate() {
            self.set(rate, newest);
            self.refused_rounds = 0;
            let next = self.last.map(|last| later(last, seconds(1.0 / self.base)));
            self.next = self.next.min(next);
        }
    }

    /// The rate, to be restored after an outage.
    pub(crate) fn saved(&self) -> SavedRate {
        SavedRate { base: self.base, calls: self.calls, seconds: self.seconds }
    }

    pub(crate) fn restore(&mut self, saved: SavedRate, newest: u64) {
        self.set(saved.base, newest);
        (self.calls, self.seconds) = (saved.calls, saved.seconds);
        (self.refused_rounds, self.next) = (0, None);
    }

    fn cut(&mut self, refusal: &Refusal) {
        let sending = self.rate();
        // Laplace's rule of succession: `calls` of `seconds · sending` slots were granted. It keeps the cut finite if
        // there were none.
        let granted_rate =
            (self.calls + self.earlier.0 + 1.0) / (self.seconds + self.earlier.1 + 2.0 / sending);
        let mean = if sending.is_finite() {
            granted_rate.powf(GRANTED_WEIGHT) * sending.powf(1.0 - GRANTED_WEIGHT)
        } else {
            granted_rate
        };
        self.search = if sending.is_finite() {
            self.search * if refusal.is_bare { BARE_SLOWDOWN } else { SEARCH_SLOWDOWN }
        } else {
            DOUBLING.max(f64::from(refusal.in_flight)) / LN_2
        };
        if sending.is_finite() {
            let (calls, seconds) = (self.calls + self.earlier.0, self.seconds + self.earlier.1);
            let kept = (MEMORY / calls.max(1.0)).min(1.0);
            self.earlier = (kept * calls, kept * seconds);
        }
        self.set(mean.min(sending), refusal.newest);
    }

    fn set(&mut self, rate: f64, newest: u64) {
        self.base = rate.min(self.bounds.max).max(self.bounds.min);
        (self.calls, self.seconds, self.granted) = (0.0, 0.0, 0.0);
        self.cut = newest;
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
        let mut limiter = RateLimiter::new(rate, WIDE);
        limiter.seconds = 0.0;
        limiter
    }

    fn refusal(call: u64, newest: u64) -> Refusal {
        let (hold, round_trip) = (Duration::ZERO, Duration::from_millis(50));
        Refusal { call, newest, in_flight: 1, round_trip, hold, is_bare: false, random: 0.0 }
    }

    #[test]
    fn the_rate_grows_as_documented() {
        for (seconds, factor) in [(65.0, 1.01), (131.7, 2.0), (147.8, 4.0)] {
            let mut limiter = paced(1.0);
            (limiter.calls, limiter.seconds) = (seconds, seconds);
            assert!((limiter.rate() - factor).abs() < factor * 0.01, "{} after {seconds} s", limiter.rate());
        }
    }

    #[test]
    fn calls_that_the_rate_does_not_delay_do_not_raise_it() {
        let (mut limiter, mut now) = (paced(1.0), Instant::now());
        limiter.search = DOUBLING / LN_2;
        let mut send = |limiter: &mut RateLimiter, gap: f64, call: u64| {
            now += secs(gap);
            let due = limiter.next_permitted_at(now);
            now = due.map_or(now, |due| due.max(now));
            limiter.admitted(now, due);
            limiter.granted(call);
        };
        (1..=100).for_each(|call| send(&mut limiter, 10.0, call));
        assert!(limiter.rate() < 1.2, "{}", limiter.rate());
        (101..=117).for_each(|call| send(&mut limiter, 0.0, call));
        assert!(limiter.rate() > 1.8, "{}", limiter.rate());
    }

    #[test]
    fn before_the_first_refusal_every_call_goes_at_once() {
        let (mut limiter, now) = (RateLimiter::new(f64::INFINITY, WIDE), Instant::now());
        for call in 1..=100 {
            assert!(limiter.next_permitted_at(now) <= Some(now));
            limiter.admitted(now, None);
            limiter.granted(call);
        }
        assert_eq!(limiter.rate(), f64::INFINITY);
    }

    /// The pause begins after the Retry-After. It leaves an empty slot only if that was too short before.
    #[test]
    fn after_a_retry_after_only_repeated_refusals_leave_an_empty_slot() {
        let (mut limiter, now) = (paced(1.0), Instant::now());
        let hold = secs(5.0);
        limiter.refused(now, &Refusal { hold, ..refusal(1, 1) });
        assert_eq!(limiter.next, Some(now + hold));
        let slot = secs(2.0 / limiter.base);
        limiter.refused(now, &Refusal { hold, ..refusal(2, 2) });
        assert_eq!(limiter.next, Some(now + hold + slot));
    }

    #[test]
    fn the_first_cut_is_to_the_granted_rate_and_the_next_to_the_mean() {
        let (mut limiter, start) = (RateLimiter::new(f64::INFINITY, WIDE), Instant::now());
        for call in 0..20_u32 {
            limiter.admitted(start + secs(0.5) * call, None);
        }
        limiter.refused(start + secs(10.0), &refusal(20, 20));
        assert!((limiter.rate() - 20.0 / 10.5).abs() < 1e-9, "{}", limiter.rate());
        let mut limiter = paced(4.0);
        (limiter.calls, limiter.seconds) = (26.0, 12.5);
        let sending = limiter.rate();
        limiter.refused(start, &refusal(1, 1));
        limiter.refused_rounds = 0;
        // The refused call doesn't count, and so doesn't contribute to growth.
        let granted_rate: f64 = 26.0 / (12.5 + 2.0 / sending);
        let mean = granted_rate.powf(GRANTED_WEIGHT) * sending.powf(1.0 - GRANTED_WEIGHT);
        assert!((limiter.rate() - mean).abs() < 1e-6, "{} {mean}", limiter.rate());
    }

    #[test]
    fn after_the_first_cut_the_rate_doubles_with_sixteen_granted_calls() {
        let mut limiter = RateLimiter::new(f64::INFINITY, WIDE);
        limiter.refused(Instant::now(), &refusal(1, 1));
        let first = limiter.rate();
        (2..18).for_each(|call| limiter.granted(call));
        assert!((limiter.rate() / first - 2.0).abs() < 1e-9);
        limiter.refused(Instant::now(), &refusal(18, 18));
        let second = limiter.rate();
        (19..147).for_each(|call| limiter.granted(call));
        assert!((limiter.rate() / second - 2.0).abs() < 1e-9, "eight times slower");
    }

    #[test]
    fn refusals_that_were_not_due_to_the_rate_restore_its_growth_once() {
        let (mut limiter, now) = (RateLimiter::new(f64::INFINITY, WIDE), Instant::now());
        limiter.refused(now, &refusal(1, 1));
        limiter.refused_rounds = 0;
        limiter.refused(now, &refusal(2, 2));
        let cut = limiter.rate();
        limiter.raise(0.0, 3);
        assert_eq!((limiter.rate(), limiter.refused_rounds(), limiter.is_current(3)), (cut, 0, false));
        (4..20).for_each(|call| limiter.granted(call));
        assert!((limiter.rate() / cut - 2.0).abs() < 1e-9, "as fast as after the first cut");
        let grown = limiter.rate();
        limiter.raise(0.0, 20);
        assert!(limiter.growth() > 0.0 && limiter.is_current(4), "the growth since the cut continues");
        limiter.raise(grown, 20);
        assert!(limiter.growth() > 0.0, "the same rate is no raise");
        limiter.raise(2.0 * grown, 21);
        assert_eq!((limiter.rate(), limiter.growth(), limiter.is_current(21)), (2.0 * grown, 0.0, false));
        limiter.admitted(now, None);
        limiter.raise(4.0, 22);
        assert_eq!(limiter.next_permitted_at(now), Some(now + secs(0.25)), "a slot of the new rate");
    }

    #[test]
    fn a_pause_is_one_to_two_slots_and_doubles_with_each_round_trip() {
        for random in [0.0, 1.0] {
            let (mut limiter, now) = (paced(2.0), Instant::now());
            let mut wait = |call| {
                limiter.refused(now, &Refusal { random, ..refusal(call, call + 1) });
                (limiter.next.unwrap() - now).as_secs_f64() * limiter.base / (1.0 + random)
            };
            let slots = [wait(1), wait(3), wait(5)];
            assert!(slots.iter().zip([1.0, 2.0, 4.0]).all(|(is, due)| (is - due).abs() < 1e-6), "{slots:?}");
            limiter.granted(7);
            assert_eq!(limiter.refused_rounds(), 0);
        }
    }

    #[test]
    fn a_hold_is_obeyed_up_to_two_minutes() {
        let (mut limiter, now) = (paced(10.0), Instant::now());
        limiter.refused(now, &Refusal { hold: secs(20.0), ..refusal(1, 1) });
        assert_eq!(limiter.next, Some(now + secs(20.0)), "the server has said when, so no further pause");
        limiter.refused(now, &Refusal { hold: secs(30.0), random: 0.5, ..refusal(1, 1) });
        assert!(limiter.next > Some(now + secs(30.0)) && limiter.next < Some(now + secs(30.2)));
        limiter.refused(now, &Refusal { hold: Duration::MAX, ..refusal(1, 1) });
        assert!(limiter.next_permitted_at(now) <= Some(now + MAX_HOLD + secs(MAX_PAUSE)));
    }

    #[test]
    fn a_late_thread_catches_up_at_most_one_slot() {
        let (mut limiter, now) = (paced(1.0), Instant::now());
        limiter.admitted(now, None);
        limiter.admitted(now + secs(1.01), limiter.next);
        assert!(limiter.next < Some(now + secs(2.001)), "the next one is due as if it had been on time");
        limiter.admitted(now + secs(9.0), limiter.next);
        assert_eq!(limiter.next, Some(now + secs(9.0)), "one at once");
        limiter.admitted(now + secs(9.0), limiter.next);
        assert!(limiter.next > Some(now + secs(9.9)), "and then one a slot");
    }

    #[test]
    fn restoring_undoes_the_cuts_of_an_outage() {
        let (mut limiter, now) = (paced(5.0), Instant::now());
        let saved = limiter.saved();
        (1..9).for_each(|call| limiter.refused(now, &refusal(call, call)));
        assert!(limiter.rate() < 4.0 && limiter.next_permitted_at(now) > Some(now));
        limiter.restore(saved, 9);
        assert_eq!((limiter.rate(), limiter.next_permitted_at(now)), (5.0, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Any number of refusals in one round trip change the pause by one step at most, and those of calls from before
        /// the last cut only delay the next call.
        #[test]
        fn refusals_in_one_round_trip_count_once(
            rate in 0.01..100.0_f64,
            calls in 1_u64..200,
            stale in proptest::collection::vec((0.0..1.0_f64, 0_u64..400), 1..20),
        ) {
            let (mut limiter, now) = (paced(rate), Instant::now());
            for call in 0..calls {
                limiter.admitted(now + secs(call as f64 / rate), limiter.next);
            }
            let now = now + secs(calls as f64 / rate);
            limiter.refused(now, &refusal(calls, calls));
            prop_assert_eq!(limiter.refused_rounds(), 1);
            for (part, hold) in stale {
                let before = (limiter.base, limiter.calls, limiter.seconds, limiter.refused_rounds, limiter.next);
                let hold = Duration::from_secs(hold);
                let call = (calls as f64 * part) as u64;
                limiter.refused(now, &Refusal { hold, random: part, ..refusal(call, calls) });
                prop_assert!(before.4 <= limiter.next);
                let after = (limiter.base, limiter.calls, limiter.seconds, limiter.refused_rounds);
                prop_assert_eq!((before.0, before.1, before.2, before.3), after);
            }
        }
    }
}
