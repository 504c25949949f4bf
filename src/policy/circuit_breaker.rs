//! The circuit breaker: consecutive failures open it, an answered probe closes it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::policy::{later, seconds};

/// The default number of consecutive failures that opens it: the article's ten. If 30 % of calls fail by chance, that
/// happens once in 100,000 calls; five would open it 65 times as often.
pub(crate) const ERRORS: u32 = 10;

/// The minimum time from the first to the last of them, so that eight workers that fail together do not open it.
const LASTING: Duration = Duration::from_secs(2);

/// How long it stays open the first time, in seconds: long enough to shed load, short enough to recover soon.
const OPEN_FIRST: f64 = 5.0;

/// The longest time that it stays open, in seconds. Up to that, each opening lasts twice as long as the one before.
const OPEN_LONGEST: f64 = 30.0;

/// The random part of that time, so that a thousand clients do not send their probes together.
const OPEN_CHANCE: f64 = 0.5;

/// A probe without an answer for this long is considered lost, and another call may become the probe.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls are admitted.
    Closed,
    /// Calls are refused until the opening is over.
    Open,
    /// One call, the probe, was admitted to see whether the service is back. Others are refused.
    HalfOpen,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half open",
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { probe: u64, until: Instant },
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A call was admitted.
    Admitted { call: u64 },
    /// The service answered it, even if only with a refusal.
    Answered { call: u64 },
    /// It failed.
    Failed { call: u64, chance: f64 },
    /// Its outcome stays unknown.
    Dropped { call: u64 },
}

/// The state, and the failures and openings that led to it.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    state: State,
    /// The number of consecutive failures that opens it.
    threshold: u32,
    errors: u32,
    first_error: Option<Instant>,
    /// How often the length of an opening was doubled. Each answer while it is closed takes one doubling back.
    doublings: u32,
    openings: u64,
}

impl CircuitBreaker {
    pub(crate) fn new(threshold: u32) -> CircuitBreaker {
        CircuitBreaker {
            state: State::Closed,
            threshold,
            errors: 0,
            first_error: None,
            doublings: 0,
            openings: 0,
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Consecutive failures: since the last answer.
    pub(crate) fn errors(&self) -> u32 {
        self.errors
    }

    /// How often it has opened.
    pub(crate) fn openings(&self) -> u64 {
        self.openings
    }

    /// How long it refuses calls, or `None` if it admits one. A clock that was set back cannot extend that beyond the
    /// longest regular time.
    pub(crate) fn refuses(&mut self, now: Instant) -> Option<Duration> {
        let (until, longest) = match &mut self.state {
            State::Closed => return None,
            State::Open { until } => (until, seconds(OPEN_LONGEST)),
            State::HalfOpen { until, .. } => (until, PROBE_LIFE),
        };
        *until = (*until).min(later(now, longest));
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    pub(crate) fn admitted(&mut self, now: Instant, call: u64) {
        self.step(now, Event::Admitted { call });
    }

    pub(crate) fn answered(&mut self, now: Instant, call: u64) {
        self.errors = 0;
        self.step(now, Event::Answered { call });
    }

    pub(crate) fn failed(&mut self, now: Instant, call: u64, chance: f64) {
        if self.errors == 0 {
            self.first_error = Some(now);
        }
        self.errors = self.errors.saturating_add(1);
        self.step(now, Event::Failed { call, chance });
    }

    pub(crate) fn dropped(&mut self, now: Instant, call: u64) {
        self.step(now, Event::Dropped { call });
    }

    /// ```text
    ///       consecutive failures
    ///   Closed ---------------------> Open
    ///     ^                           ^  |
    ///     |         the probe failed, |  | the opening is over,
    ///     |         or was dropped    |  | a call is admitted as the probe
    ///     |                           |  v
    ///     '------------------------- HalfOpen --.
    ///        the probe was answered     ^       | the probe is lost,
    ///                                   '-------' another call is admitted
    /// ```
    fn step(&mut self, now: Instant, event: Event) {
        use {Event::*, State::*};
        self.state = match (self.state, event) {
            (Closed, Failed { chance, .. }) if self.trips(now) => self.open(now, chance),
            (Closed, Failed { .. } | Admitted { .. } | Dropped { .. }) => Closed,
            (Closed, Answered { .. }) => {
                self.doublings = self.doublings.saturating_sub(1);
                Closed
            }

            (Open { .. }, Admitted { call }) => HalfOpen { probe: call, until: later(now, PROBE_LIFE) },
            (Open { until }, Answered { .. } | Failed { .. } | Dropped { .. }) => Open { until },

            (HalfOpen { .. }, Admitted { call }) => HalfOpen { probe: call, until: later(now, PROBE_LIFE) },
            (HalfOpen { probe, .. }, Answered { call }) if call == probe => Closed,
            (HalfOpen { probe, .. }, Failed { call, chance }) if call == probe => self.open(now, chance),
            (HalfOpen { probe, .. }, Dropped { call }) if call == probe => Open { until: now },
            (HalfOpen { probe, until }, Answered { .. } | Failed { .. } | Dropped { .. }) => {
                HalfOpen { probe, until }
            }
        };
    }

    fn trips(&self, now: Instant) -> bool {
        let lasting = self.first_error.map(|first| now.saturating_duration_since(first));
        self.errors >= self.threshold && lasting >= Some(LASTING)
    }

    fn open(&mut self, now: Instant, chance: f64) -> State {
        let longest = (OPEN_FIRST * f64::from(self.doublings).exp2()).min(OPEN_LONGEST);
        self.doublings = self.doublings.saturating_add(1);
        self.openings += 1;
        State::Open { until: later(now, seconds(longest * (1.0 - OPEN_CHANCE * (1.0 - chance)))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A breaker that was opened at the returned moment, with calls 1 to 10.
    fn opened(chance: f64) -> (CircuitBreaker, Instant) {
        let (mut breaker, start) = (CircuitBreaker::new(ERRORS), Instant::now());
        for call in 1..=10 {
            breaker.admitted(start, call);
        }
        for call in 1..=10_u32 {
            assert_eq!(breaker.state(), BreakerState::Closed);
            breaker.failed(start + secs(2.0) * (call - 1) / 9, u64::from(call), chance);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        (breaker, start + secs(2.0))
    }

    #[test]
    fn ten_failures_within_two_seconds_or_nine_in_an_hour_leave_it_closed() {
        let start = Instant::now();
        let mut quick = CircuitBreaker::new(ERRORS);
        (0..1000_u32).for_each(|n| quick.failed(start + secs(1.9) * n / 1000, 1, 0.5));
        let mut nine = CircuitBreaker::new(ERRORS);
        (0..9_u32).for_each(|n| nine.failed(start + secs(400.0) * n, 1, 0.5));
        for breaker in [&mut quick, &mut nine] {
            assert_eq!((breaker.state(), breaker.refuses(start)), (BreakerState::Closed, None));
        }
        nine.answered(start + secs(3601.0), 1);
        nine.failed(start + secs(3602.0), 1, 0.5);
        assert_eq!((nine.state(), nine.errors()), (BreakerState::Closed, 1));
    }

    #[test]
    fn each_opening_is_longer_up_to_half_a_minute() {
        let (mut breaker, mut now) = opened(1.0);
        for (nth, longest) in [5.0, 10.0, 20.0, 30.0, 30.0].into_iter().enumerate() {
            assert_eq!(breaker.refuses(now), Some(secs(longest)), "opening {nth}");
            now += secs(longest);
            assert_eq!(breaker.refuses(now), None);
            let probe = 100 + nth as u64;
            breaker.admitted(now, probe);
            breaker.failed(now, probe, 1.0);
        }
        assert_eq!(breaker.openings(), 6);
        let (mut shortest, now) = opened(0.0);
        assert_eq!(shortest.refuses(now), Some(secs(2.5)));
    }

    #[test]
    fn only_the_probe_closes_or_reopens_it() {
        let (mut breaker, now) = opened(1.0);
        let later = now + secs(5.0);
        breaker.answered(later, 3);
        assert_eq!(breaker.state(), BreakerState::Open, "an answer to an old call");
        breaker.admitted(later, 11);
        breaker.answered(later, 4);
        breaker.failed(later, 5, 1.0);
        breaker.dropped(later, 6);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.refuses(later), Some(PROBE_LIFE), "a second call");
        breaker.answered(later, 11);
        assert_eq!((breaker.state(), breaker.refuses(later)), (BreakerState::Closed, None));
    }

    #[test]
    fn a_dropped_probe_is_replaced_at_once_and_a_leaked_one_after_a_minute() {
        let (mut breaker, now) = opened(1.0);
        let later = now + secs(5.0);
        breaker.admitted(later, 11);
        breaker.dropped(later, 11);
        assert_eq!(breaker.refuses(later), None);
        breaker.admitted(later, 12);
        assert_eq!(breaker.refuses(later + secs(59.0)), Some(secs(1.0)));
        assert_eq!(breaker.refuses(later + PROBE_LIFE), None);
        breaker.admitted(later + PROBE_LIFE, 13);
        breaker.failed(later + PROBE_LIFE, 12, 1.0);
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "the old probe no longer counts");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_it_open_longer() {
        let (mut breaker, now) = opened(1.0);
        let Some(back) = now.checked_sub(secs(10.0)) else { return };
        assert_eq!(breaker.refuses(back), Some(secs(15.0)));
        let Some(back) = now.checked_sub(secs(100.0)) else { return };
        assert_eq!(breaker.refuses(back), Some(secs(30.0)));
    }
}
