//! The circuit breaker: consecutive failures open it, a probe that gets a response closes it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::policy::{later, seconds};

/// The default number of consecutive failures that opens it, as in the article that this crate is based on. If 30 % of
/// calls fail at random, that happens once in 100,000 calls; five would open it 65 times as often.
pub(crate) const DEFAULT_THRESHOLD: u32 = 10;

/// The minimum time from the first to the last of them, so that eight workers that fail together don't open it.
const MIN_FAILING_TIME: Duration = Duration::from_secs(2);

/// The longest first open period, in seconds: long enough to shed load, short enough to recover soon.
const OPEN_FIRST: f64 = 5.0;

/// The longest open period, in seconds. Up to that, each one is twice as long as the one before.
const OPEN_LONGEST: f64 = 30.0;

/// The random fraction of an open period, so that a thousand clients don't send their probes together.
const OPEN_JITTER: f64 = 0.5;

/// A probe without an outcome for this long is considered lost, and another call may become the probe. A client
/// waits for a response no longer, unless its own timeout is longer. A later response still counts.
const PROBE_TIMEOUT: Duration = Duration::from_secs(600);

/// The time after which a call that is rejected because of a probe may ask again: most answers have arrived by then.
const PROBE_ESTIMATE: Duration = Duration::from_secs(5);

/// The state of a circuit breaker.
///
/// ```no_run
/// use holysheep::{BreakerState, Client};
///
/// let client = Client::from_env()?;
/// if client.handler("gpt-4.1").snapshot().breaker != BreakerState::Closed {
///     eprintln!("the service is down");
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls are admitted.
    Closed,
    /// Calls are rejected until the open period is over.
    Open,
    /// One call, the probe, was admitted to check whether the service is back. Others are rejected.
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
    Open {
        until: Instant,
    },
    /// `first` is the first probe since the breaker opened, `probe` the newest one.
    HalfOpen {
        first: u64,
        probe: u64,
        until: Instant,
    },
}

/// What happened to a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Admitted,
    /// The service responded, even if only with a refusal.
    Answered,
    /// It failed. An outage opens the breaker after fewer than the usual number of failures.
    Failed {
        outage: bool,
        random: f64,
    },
    /// It was dropped without an outcome.
    Dropped,
}

/// The state, and the failures and openings that led to it.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    state: State,
    /// The number of consecutive failures that opens it.
    threshold: u32,
    errors: u32,
    first_error: Option<Instant>,
    /// How often the open period was doubled. Each response while closed takes one doubling back.
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

    /// Consecutive failures since the last response.
    pub(crate) fn errors(&self) -> u32 {
        self.errors
    }

    /// How often it has opened.
    pub(crate) fn openings(&self) -> u64 {
        self.openings
    }

    /// How long it rejects calls, or `None` if it admits one. While a probe is in flight, whose outcome decides that, this
    /// is an estimate. A clock that was set back cannot extend it beyond the longest regular time.
    pub(crate) fn refuses(&mut self, now: Instant) -> Option<Duration> {
        let (until, longest, estimate) = match &mut self.state {
            State::Closed => return None,
            State::Open { until } => (until, seconds(OPEN_LONGEST), Duration::MAX),
            State::HalfOpen { until, .. } => (until, PROBE_TIMEOUT, PROBE_ESTIMATE),
        };
        *until = (*until).min(later(now, longest));
        let left = until.saturating_duration_since(now);
        Some(left.min(estimate)).filter(|left| !left.is_zero())
    }

    /// ```text
    ///       consecutive failures
    ///   Closed ---------------------> Open
    ///     ^                           ^  |
    ///     |        a probe failed,    |  | the open period is over,
    ///     |     or the newest one     |  | a call is admitted as the probe
    ///     |            was dropped    |  v
    ///     '------------------------- HalfOpen --.
    ///        a probe was answered       ^       | the probe is lost,
    ///                                   '-------' another call is admitted
    /// ```
    pub(crate) fn step(&mut self, now: Instant, call: u64, event: Event) {
        use {Event::*, State::*};
        let renewed = later(now, PROBE_TIMEOUT);
        self.state = match (self.state, event) {
            (Closed, Admitted | Dropped) => Closed,
            (Closed, Answered) => {
                (self.errors, self.doublings) = (0, self.doublings.saturating_sub(1));
                Closed
            }
            (Closed, Failed { outage, random }) => {
                let failing_for = self.count(now);
                let fails = self.errors >= self.threshold || outage;
                if fails && failing_for >= MIN_FAILING_TIME { self.open(now, random) } else { Closed }
            }

            (Open { .. }, Admitted) => HalfOpen { first: call, probe: call, until: renewed },
            (Open { until }, Answered) => {
                self.errors = 0;
                Open { until }
            }
            (Open { until }, Failed { .. }) => {
                self.count(now);
                Open { until }
            }
            (Open { until }, Dropped) => Open { until },

            (HalfOpen { first, .. }, Admitted) => HalfOpen { first, probe: call, until: renewed },
            (HalfOpen { first, probe, until }, Answered) => {
                self.errors = 0;
                if call >= first { Closed } else { HalfOpen { first, probe, until } }
            }
            (HalfOpen { first, probe, until }, Failed { random, .. }) => {
                self.count(now);
                if call >= first { self.open(now, random) } else { HalfOpen { first, probe, until } }
            }
            (HalfOpen { probe, .. }, Dropped) if call == probe => Open { until: now },
            (HalfOpen { first, probe, until }, Dropped) => HalfOpen { first, probe, until },
        };
    }

    /// Counts a failure. Returns how long calls have been failing.
    fn count(&mut self, now: Instant) -> Duration {
        if self.errors == 0 {
            self.first_error = Some(now);
        }
        self.errors = self.errors.saturating_add(1);
        self.first_error.map_or(Duration::ZERO, |first| now.saturating_duration_since(first))
    }

    fn open(&mut self, now: Instant, random: f64) -> State {
        let longest = (OPEN_FIRST * f64::from(self.doublings).exp2()).min(OPEN_LONGEST);
        self.doublings = self.doublings.saturating_add(1);
        self.openings += 1;
        State::Open { until: later(now, seconds(longest * (1.0 - OPEN_JITTER * (1.0 - random)))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn failed(random: f64) -> Event {
        Event::Failed { outage: false, random }
    }

    /// A breaker that was opened at the returned moment, with calls 1 to 10.
    fn opened(random: f64) -> (CircuitBreaker, Instant) {
        let (mut breaker, start) = (CircuitBreaker::new(DEFAULT_THRESHOLD), Instant::now());
        for call in 1..=10 {
            breaker.step(start, call, Event::Admitted);
        }
        for call in 1..=10_u32 {
            assert_eq!(breaker.state(), BreakerState::Closed);
            breaker.step(start + secs(2.0) * (call - 1) / 9, u64::from(call), failed(random));
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        (breaker, start + secs(2.0))
    }

    #[test]
    fn states_are_printed_as_words() {
        let words =
            [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen].map(|it| it.to_string());
        assert_eq!(words, ["closed", "open", "half open"]);
    }

    #[test]
    fn ten_failures_within_two_seconds_or_nine_in_an_hour_leave_it_closed() {
        let start = Instant::now();
        let mut quick = CircuitBreaker::new(DEFAULT_THRESHOLD);
        (0..1000_u32).for_each(|n| quick.step(start + secs(1.9) * n / 1000, 1, failed(0.5)));
        let mut nine = CircuitBreaker::new(DEFAULT_THRESHOLD);
        (0..9_u32).for_each(|n| nine.step(start + secs(400.0) * n, 1, failed(0.5)));
        for breaker in [&mut quick, &mut nine] {
            assert_eq!((breaker.state(), breaker.refuses(start)), (BreakerState::Closed, None));
        }
        nine.step(start + secs(3601.0), 1, Event::Answered);
        nine.step(start + secs(3602.0), 1, failed(0.5));
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
            breaker.step(now, probe, Event::Admitted);
            breaker.step(now, probe, failed(1.0));
        }
        assert_eq!(breaker.openings(), 6);
        let (mut shortest, now) = opened(0.0);
        assert_eq!(shortest.refuses(now), Some(secs(2.5)));
    }

    #[test]
    fn only_the_probe_closes_or_reopens_it() {
        let (mut breaker, now) = opened(1.0);
        let later = now + secs(5.0);
        breaker.step(later, 3, Event::Answered);
        assert_eq!(breaker.state(), BreakerState::Open, "an answer to an old call");
        breaker.step(later, 11, Event::Admitted);
        breaker.step(later, 4, Event::Answered);
        breaker.step(later, 5, failed(1.0));
        breaker.step(later, 6, Event::Dropped);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.refuses(later), Some(PROBE_ESTIMATE), "a second call");
        breaker.step(later, 11, Event::Answered);
        assert_eq!((breaker.state(), breaker.refuses(later)), (BreakerState::Closed, None));
    }

    #[test]
    fn a_dropped_probe_is_replaced_at_once_and_a_leaked_one_after_ten_minutes() {
        let (mut breaker, now) = opened(1.0);
        let later = now + secs(5.0);
        breaker.step(later, 11, Event::Admitted);
        breaker.step(later, 11, Event::Dropped);
        assert_eq!(breaker.refuses(later), None);
        breaker.step(later, 12, Event::Admitted);
        assert_eq!(breaker.refuses(later + secs(599.0)), Some(secs(1.0)));
        assert_eq!(breaker.refuses(later + PROBE_TIMEOUT), None);
        breaker.step(later + PROBE_TIMEOUT, 13, Event::Admitted);
        breaker.step(later + PROBE_TIMEOUT, 12, Event::Dropped);
        assert_eq!(
            breaker.refuses(later + PROBE_TIMEOUT),
            Some(PROBE_ESTIMATE),
            "an older probe was dropped"
        );
        breaker.step(later + PROBE_TIMEOUT, 12, Event::Answered);
        assert_eq!(breaker.state(), BreakerState::Closed, "a late answer of an older probe counts");
    }

    #[test]
    fn an_outage_opens_it_after_two_seconds_with_few_failures() {
        let (mut breaker, start) = (CircuitBreaker::new(DEFAULT_THRESHOLD), Instant::now());
        breaker.step(start, 1, failed(1.0));
        breaker.step(start + secs(1.9), 2, Event::Failed { outage: true, random: 1.0 });
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.step(start + secs(2.0), 3, Event::Failed { outage: true, random: 1.0 });
        assert_eq!(
            (breaker.state(), breaker.refuses(start + secs(2.0))),
            (BreakerState::Open, Some(secs(5.0)))
        );
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
