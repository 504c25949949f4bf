//! Distinguishes random refusals from those of a rate limiter by a volley of calls right after a refusal.
//!
//! A limiter that has just refused a call can't grant a whole volley a moment later; a server that refuses at random
//! can, and slowing down for it would only waste its capacity. So if refusals don't depend on the rate, a few calls are
//! sent at once in addition to the paced ones. If nearly all are granted, the next refusals are ignored.
//!
//! If fewer calls are waiting, often only the retry of the refused call, the volley is made up of those that follow several
//! refusals.

use std::time::{Duration, Instant};

/// The number of calls in a volley. With three, ten clients that share a quota mistake each other for chance (5.2 %
/// refused, not 3.6 %); six exceed the burst that small quotas allow.
const SIZE: u32 = 4;

/// The number of refused calls that proves a limit. A single one of four may be chance.
const MIN_REFUSED: u32 = 2;

/// The time in which the calls of a volley must be sent. If calls are missing after it, no thread is waiting to send
/// them.
const SENDING_TIME: Duration = Duration::from_millis(50);

/// A call of the volley counts as granted if it isn't refused within this many times the duration of a refusal, and at
/// least this time: refusals are fast, but a response may take a minute.
const ROUND_TRIPS: u32 = 4;
const MIN_SETTLING_TIME: Duration = Duration::from_millis(500);

/// The result of a single call is evidence only if at the current rate at most this fraction of a call is regained while a
/// refusal takes its time. Otherwise a limiter may grant it: with a quota of 5 calls a second that takes 0.3 s to refuse,
/// 30 % of the calls would be refused, not 0.5 %.
const MAX_REGAINED: f64 = 0.15;

/// The longest duration of a refusal that is taken as an estimate for the next one.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(5);

/// The minimum logarithmic growth of the rate since the last cut that explains a refusal.
const MIN_GROWTH: f64 = 0.02;

/// Consecutive refusals without such growth before a volley is sent: a cut can be too shallow twice.
const MIN_DOUBTFUL: u32 = 3;

/// The maximum number of refusals ignored between two volleys.
const MAX_TRUST: u32 = 8;

/// Consecutive successful volleys that prove chance. A single one is often wrong if twenty fast clients share a quota
/// that refills within the network's jitter: with two, 5.3 % of their calls are refused, not 3 %.
const MIN_PASSED: u32 = 3;

/// After each failed volley the number of refusals to skip before the next one grows by this factor, up to the maximum.
/// A failed volley costs up to four refusals: with a factor of 2 up to 32, 0.2 % more of the calls in the simulated scenarios
/// are refused.
const SKIP_FACTOR: u32 = 3;
const MAX_SKIPPED: u32 = 81;

/// The maximum for bare 503s, whose cause may change from a limiter to an outage within a minute.
const MAX_BARE_SKIPPED: u32 = 2;

/// A bare 503 or 529 is more likely to be chance: each granted call lets this many of them be ignored, up to the
/// maximum, until a volley shows that a limiter sends them.
const SPARE_EARNED: f64 = 0.2;
const MAX_SPARE: f64 = 10.0;

/// The result of a volley.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum VolleyResult {
    /// The server refuses at random. The rate may return to its value when the refusals began.
    Chance { rate: f64 },
    /// A limit was exceeded. All calls wait for `hold`.
    Limit { hold: Duration, bare: bool },
    /// Inconclusive.
    Unknown,
}

#[derive(Debug)]
struct Volley {
    /// Calls still to be sent. Those after `first` up to `last` have been sent.
    left: u32,
    first: u64,
    last: u64,
    refused: u32,
    granted: u32,
    began: Instant,
    hold: Duration,
    bare: bool,
    /// The call that was refused had been refused repeatedly.
    was_refused_before: bool,
}

/// The running volley, and the results of the earlier ones.
#[derive(Debug)]
pub(crate) struct VolleyTest {
    running: Option<Volley>,
    /// Consecutive refusals without growth of the rate, and the rate at the first of them.
    doubtful: u32,
    began_at: f64,
    /// Whether a limiter that sends bare 503s was detected.
    bare_limited: bool,
    /// Consecutive successful volleys, and the refusals that may be ignored until the next one.
    passed: u32,
    trust: u32,
    spare: f64,
    /// Doubtful refusals to skip before the next volley, and after the next failed one.
    skip: u32,
    interval: u32,
    /// Calls since the last result that were sent right after a refusal, but fewer than a volley; and how many of them were
    /// refused.
    sent: u32,
    refused: u32,
}

impl VolleyTest {
    pub(crate) fn new() -> VolleyTest {
        VolleyTest {
            running: None,
            doubtful: 0,
            began_at: f64::INFINITY,
            bare_limited: false,
            passed: 0,
            trust: 0,
            spare: MAX_SPARE,
            skip: 0,
            interval: 1,
            sent: 0,
            refused: 0,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether this call is part of the volley and may be sent at once.
    pub(crate) fn takes(&mut self, call: u64) -> bool {
        match &mut self.running {
            Some(volley) if volley.left > 0 => {
                volley.left -= 1;
                volley.last = call;
                true
            }
            _ => false,
        }
    }

    /// Records that a call was granted.
    pub(crate) fn granted(&mut self, call: u64) {
        if let Some(volley) = self.running.as_mut().filter(|volley| volley.contains(call)) {
            volley.granted += 1;
        }
        if !self.bare_limited {
            self.spare = (self.spare + SPARE_EARNED).min(MAX_SPARE);
        }
    }

    /// Records that a call was refused while a volley is running.
    pub(crate) fn refused(&mut self, call: u64, hold: Duration) {
        if let Some(volley) = self.running.as_mut().filter(|volley| volley.contains(call)) {
            volley.refused += 1;
            volley.hold = volley.hold.max(hold);
        }
    }

    /// Whether a refusal is attributed to chance without a test.
    pub(crate) fn forgives(&mut self, bare: bool) -> bool {
        if bare && self.spare >= 1.0 {
            self.spare -= 1.0;
            return true;
        }
        let forgiven = self.trust > 0;
        self.trust = self.trust.saturating_sub(1);
        forgiven
    }

    /// Whether a refusal at this rate, which has grown by `growth` since the last cut, calls for a volley.
    pub(crate) fn doubts(&mut self, rate: f64, growth: f64, bare: bool) -> bool {
        if self.passed > 0 {
            return true;
        }
        if growth >= MIN_GROWTH && !bare {
            self.doubtful = 0;
            return false;
        }
        if self.doubtful == 0 {
            self.began_at = rate;
        }
        self.doubtful += 1;
        if self.doubtful < MIN_DOUBTFUL && !bare {
            return false;
        }
        let skip = if bare { self.skip.min(MAX_BARE_SKIPPED) } else { self.skip };
        self.skip = skip.saturating_sub(1);
        skip == 0
    }

    /// Starts a volley of the calls after `newest`.
    pub(crate) fn start(&mut self, now: Instant, newest: u64, hold: Duration, bare: bool) {
        let (first, last, began) = (newest, newest, now);
        let (left, refused, granted, was_refused_before) = (SIZE, 0, 0, false);
        self.running =
            Some(Volley { left, first, last, refused, granted, began, hold, bare, was_refused_before });
    }

    /// The result of the running volley, if it is over. A limiter would refuse calls beyond `rate`.
    pub(crate) fn result(&mut self, now: Instant, round_trip: Duration, rate: f64) -> Option<VolleyResult> {
        let volley = self.running.as_mut()?;
        let is_limit = volley.is_limit(now, round_trip, self.refused)?;
        let (sent, refused, hold, bare) = (volley.sent(), volley.refused, volley.hold, volley.bare);
        self.running = None;
        if is_limit {
            self.bare_limited |= bare;
            self.spare = if self.bare_limited { 0.0 } else { self.spare };
            (self.sent, self.refused) = (0, 0);
            (self.passed, self.trust, self.skip) = (0, 0, self.interval);
            self.interval = (SKIP_FACTOR * self.interval).min(MAX_SKIPPED);
            return Some(VolleyResult::Limit { hold, bare });
        }
        if bare {
            (self.spare, self.bare_limited) = (MAX_SPARE, false);
        }
        let is_evidence = match sent {
            0 => false,
            1 => !bare && round_trip.as_secs_f64() * rate <= MAX_REGAINED,
            _ => true,
        };
        if !is_evidence {
            self.skip = self.interval;
            return Some(VolleyResult::Unknown);
        }
        (self.sent, self.refused) = (self.sent + sent, self.refused + refused);
        if self.sent < SIZE && !bare {
            return Some(VolleyResult::Unknown);
        }
        (self.sent, self.refused) = (0, 0);
        (self.passed, self.skip, self.interval) = (self.passed + 1, 0, 1);
        if self.passed >= MIN_PASSED {
            self.trust = (SIZE * (self.passed - MIN_PASSED + 1)).min(MAX_TRUST);
        } else if !bare {
            return Some(VolleyResult::Unknown);
        }
        let rate = match self.doubtful {
            0 => 0.0,
            _ => self.began_at,
        };
        self.doubtful = 0;
        Some(VolleyResult::Chance { rate })
    }

    /// Ends the volley without a result.
    pub(crate) fn cancel(&mut self) {
        self.running = None;
    }

    /// Resets all trust: the same call was refused repeatedly, which isn't chance.
    pub(crate) fn distrust(&mut self) {
        if let Some(volley) = &mut self.running {
            volley.was_refused_before = true;
        }
        (self.passed, self.trust) = (0, 0);
    }
}

impl Volley {
    fn contains(&self, call: u64) -> bool {
        call > self.first && call <= self.last
    }

    fn sent(&self) -> u32 {
        (self.last - self.first) as u32
    }

    /// Whether the volley exceeded a limit, once that is known: two of its calls were refused, with those of incomplete
    /// volleys before; or more than half with bare 503s, which may hit half of all calls at random.
    fn is_limit(&mut self, now: Instant, round_trip: Duration, refused_before: u32) -> Option<bool> {
        let age = now.saturating_duration_since(self.began);
        if age > SENDING_TIME {
            self.left = 0;
        }
        let sent = self.sent();
        let exceeded = match self.bare {
            true => self.left == 0 && self.refused > sent / 2,
            false => self.refused > 0 && self.refused + refused_before >= MIN_REFUSED,
        };
        let latest = MIN_SETTLING_TIME.max(round_trip.min(MAX_ROUND_TRIP) * ROUND_TRIPS);
        let is_over = self.left == 0 && (self.refused + self.granted >= sent || age > latest);
        (exceeded || is_over).then_some(exceeded || self.was_refused_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a volley after call `newest`, of which these many are refused, and returns its result.
    fn volley(test: &mut VolleyTest, newest: u64, refused: u64) -> Option<VolleyResult> {
        let now = Instant::now();
        test.start(now, newest, Duration::from_secs(1), false);
        for call in newest + 1..=newest + 4 {
            assert!(test.takes(call), "{call}");
        }
        assert!(!test.takes(newest + 5), "four calls are sent at once");
        for call in newest + 1..=newest + 4 {
            if call <= newest + refused {
                test.refused(call, Duration::from_secs(7));
            } else {
                test.granted(call);
            }
        }
        test.result(now, Duration::from_millis(100), 1.0)
    }

    /// Sends only the retry of the refused call after call `newest`. Returns the result.
    fn lone(test: &mut VolleyTest, newest: u64, is_refused: bool, rate: f64) -> Option<VolleyResult> {
        let (now, round_trip) = (Instant::now(), Duration::from_millis(100));
        test.start(now, newest, Duration::ZERO, false);
        assert!(test.takes(newest + 1));
        if is_refused {
            test.refused(newest + 1, Duration::ZERO);
        } else {
            test.granted(newest + 1);
        }
        test.result(now, round_trip, rate)
            .or_else(|| test.result(now + MIN_SETTLING_TIME * 2, round_trip, rate))
    }

    #[test]
    fn retries_that_follow_several_refusals_make_up_a_volley() {
        let mut test = VolleyTest::new();
        for call in 1..MIN_PASSED * SIZE {
            let is_refused = call % SIZE == 0;
            assert_eq!(lone(&mut test, u64::from(call) * 10, is_refused, 1.0), Some(VolleyResult::Unknown));
        }
        assert!(matches!(lone(&mut test, 1000, false, 1.0), Some(VolleyResult::Chance { .. })));
        assert_eq!(lone(&mut test, 2000, true, 1.0), Some(VolleyResult::Unknown));
        assert!(matches!(lone(&mut test, 3000, true, 1.0), Some(VolleyResult::Limit { .. })));
    }

    #[test]
    fn calls_sent_before_or_after_a_volley_are_no_part_of_it() {
        let (mut test, now) = (VolleyTest::new(), Instant::now());
        test.start(now, 10, Duration::ZERO, false);
        assert!((11..=14).all(|call| test.takes(call)));
        for call in [9, 10, 15, 16] {
            test.refused(call, Duration::ZERO);
            test.granted(call);
        }
        assert_eq!(test.result(now, Duration::ZERO, 1.0), None);
        test.refused(11, Duration::ZERO);
        test.refused(14, Duration::ZERO);
        assert!(matches!(test.result(now, Duration::ZERO, 1.0), Some(VolleyResult::Limit { .. })));
    }

    #[test]
    fn a_retry_that_a_limiter_could_grant_proves_nothing() {
        let mut test = VolleyTest::new();
        for call in 1..100 {
            assert_eq!(lone(&mut test, call * 10, false, 2.0), Some(VolleyResult::Unknown));
        }
        assert_eq!(test.passed, 0);
    }

    fn ignored(test: &mut VolleyTest) -> usize {
        (0..100).take_while(|_| test.forgives(false)).count()
    }

    #[test]
    fn the_third_successful_volley_in_a_row_proves_chance() {
        let mut test = VolleyTest::new();
        assert_eq!(volley(&mut test, 10, 0), Some(VolleyResult::Unknown));
        assert_eq!(volley(&mut test, 20, 1), Some(VolleyResult::Unknown), "a quarter may be refused");
        assert_eq!(ignored(&mut test), 0);
        assert!(test.doubts(1.0, 1.0, false), "after a successful volley every refusal calls for another");
        for (newest, trust) in [(30, 4), (40, 8), (50, 8)] {
            assert!(matches!(volley(&mut test, newest, 0), Some(VolleyResult::Chance { .. })));
            assert_eq!(ignored(&mut test), trust, "refusals ignored after the volley from {newest}");
        }
        test.distrust();
        assert_eq!(volley(&mut test, 60, 0), Some(VolleyResult::Unknown));
    }

    #[test]
    fn each_failed_volley_delays_the_next_one() {
        let mut test = VolleyTest::new();
        let hold = Duration::from_secs(7);
        for (newest, expected) in [(10, 1), (20, 3), (30, 9), (40, 27), (50, 81), (60, 81)] {
            assert_eq!(volley(&mut test, newest, 2), Some(VolleyResult::Limit { hold, bare: false }));
            assert!(!test.is_running());
            test.doubtful = MIN_DOUBTFUL;
            let skipped = (0..200).take_while(|_| !test.doubts(1.0, 0.0, false)).count();
            assert_eq!(skipped, expected, "after the volley from {newest}");
        }
    }

    #[test]
    fn three_refusals_without_growth_of_the_rate_are_doubtful() {
        let mut test = VolleyTest::new();
        let doubts = [0.0, 0.019, 0.02, 0.0, 0.0, 0.0].map(|growth| test.doubts(1.0, growth, false));
        assert_eq!(doubts, [false, false, false, false, false, true]);
        assert!(VolleyTest::new().doubts(1.0, 1.0, true), "a bare 503 is doubtful at once");
    }
}
