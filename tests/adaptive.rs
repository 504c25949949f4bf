//! Property tests of the handler's invariants over random histories of two million events in total, with clocks that are set
//! back, outcomes in any order, and permits that are dropped or leaked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;
use holysheep::{
    AdaptiveConfig, AdaptiveHandler, Admission, BreakerState, Limit, Outcome, Permit, RateLimits,
    RetryConfig, Snapshot, Tries,
};
use proptest::prelude::*;

/// The number of histories, and of events in each.
const HISTORIES: u32 = 2048;
const EVENTS: usize = 1000;

/// The longest possible wait: a Retry-After of two minutes and a pause of one.
const LONGEST_WAIT: Duration = Duration::from_secs(180);

/// The longest wait for one of the calls in flight to end, after which it is presumed lost.
const LONGEST_FULL: Duration = Duration::from_secs(600);

/// The longest and the shortest time for which the breaker stays open, and the longest wait for a probe's outcome.
const LONGEST_OPEN: Duration = Duration::from_secs(30);
const SHORTEST_OPEN: Duration = Duration::from_millis(2500);
const PROBE_LIFE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Success,
    Refused,
    Throttled,
    Failed,
    /// A 503 without a Retry-After.
    Bare,
}

/// A call in flight.
struct Call {
    permit: Permit,
    number: u64,
}

/// A random history, its handler, and the model that the handler must agree with.
struct World {
    random: Rng,
    handler: AdaptiveHandler,
    start: Instant,
    now: Instant,
    /// The clock may be set back. This relaxes some bounds, but panics and endless waits are still failures.
    unsteady: bool,
    with_limits: bool,
    /// Of ten outcomes, the number of successes, rejections and 429s; the rest are failures.
    mix: [u8; 3],
    min_rate: f64,
    max_rate: f64,
    flight: Vec<Call>,
    sent: u64,
    probe: Option<(u64, Instant)>,
    /// The first call that was admitted after the breaker became half open.
    first_probe: Option<u64>,
    opened: Option<Instant>,
    errors: u32,
    first_error: Instant,
    throttled: bool,
    answered: u64,
    retries: u64,
    goes: VecDeque<Instant>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Rng::with_seed(seed);
        let mixes = [[10, 0, 0], [7, 1, 2], [5, 0, 5], [2, 1, 1], [0, 0, 5], [1, 0, 0], [8, 0, 1]];
        let mix = random.choice(mixes).unwrap();
        let max_rate = if random.u8(..4) == 0 { random.f64() * 1000.0 + 60.0 } else { f64::INFINITY };
        let min_rate = if random.u8(..4) == 0 { random.f64() * 59.0 + 1.0 } else { 1.0 };
        let initial = if random.u8(..4) == 0 { random.f64() * 59.0 + 1.0 } else { f64::INFINITY };
        let config = AdaptiveConfig::default()
            .seed(seed)
            .max_rate(max_rate)
            .initial_rate(initial)
            .window_size(2)
            .min_rate(min_rate);
        let start = Instant::now() + Duration::from_secs(1_000_000);
        World {
            handler: AdaptiveHandler::new(config),
            start,
            now: start,
            unsteady: random.u8(..4) == 0,
            with_limits: random.u8(..3) == 0,
            mix,
            min_rate,
            max_rate,
            flight: Vec::new(),
            sent: 0,
            probe: None,
            first_probe: None,
            opened: None,
            errors: 0,
            first_error: start,
            throttled: initial.is_finite() || max_rate.is_finite(),
            answered: 0,
            retries: 0,
            goes: VecDeque::new(),
            random,
        }
    }

    /// One random event, and the invariants across it.
    fn step(&mut self) {
        let before = self.handler.snapshot();
        match self.random.u8(..20) {
            0..=5 => self.pass(&before),
            6..=11 => self.admit(&before),
            12..=17 => self.record(&before),
            18 => self.lose(&before),
            _ => self.retry(),
        }
        let after = self.handler.snapshot();
        let rate = rate(&after);
        assert!(rate >= self.min_rate * 0.999_999 && rate <= self.max_rate * 1.000_001, "{rate} a minute");
        assert!(after.budget <= 20);
        if !matches!(after.breaker, BreakerState::Open) {
            self.opened = None;
        }
    }

    fn pass(&mut self, before: &Snapshot) {
        if self.unsteady && self.random.u8(..10) == 0 {
            self.now -= Duration::from_millis(self.random.u64(..600_000));
        } else {
            let longest = self.random.choice([0, 20, 1000, 10_000, 100_000]).unwrap();
            self.now += Duration::from_millis(self.random.u64(..=longest));
        }
        assert_eq!(&self.handler.snapshot(), before, "the passing of time alone must not change the state");
    }

    fn admit(&mut self, before: &Snapshot) {
        match self.handler.admit(self.now) {
            Admission::Go(permit) => {
                self.sent += 1;
                self.went(before);
                self.flight.push(Call { permit, number: self.sent });
            }
            Admission::Wait(wait) => {
                assert!(wait > Duration::ZERO && wait <= LONGEST_WAIT, "{wait:?}");
                assert!(
                    self.throttled || self.with_limits || before.max_in_flight.is_some(),
                    "a wait without any throttling"
                );
                // The handler may detect here that a volley of calls has ended, which changes only the rate.
                let Snapshot { rate_per_minute, refused_for, .. } = self.handler.snapshot();
                let mut expected = before.clone();
                (expected.rate_per_minute, expected.refused_for) = (rate_per_minute, refused_for);
                assert_eq!(
                    self.handler.snapshot(),
                    expected,
                    "a refused admission must not change the state"
                );
                assert!(!self.max_rate.is_finite() || rate_per_minute == before.rate_per_minute);
            }
            Admission::Open { retry_in } => {
                let longest = match before.breaker {
                    BreakerState::Closed => panic!("a closed breaker refused a call"),
                    BreakerState::Open => LONGEST_OPEN,
                    BreakerState::HalfOpen => PROBE_LIFE,
                };
                assert!(retry_in > Duration::ZERO && retry_in <= longest, "{retry_in:?}");
                let over = self.opened.is_some_and(|opened| self.now >= opened + LONGEST_OPEN);
                assert!(!over || self.unsteady, "open for more than {LONGEST_OPEN:?}");
                let lost = self.probe.is_some_and(|(_, sent)| self.now >= sent + PROBE_LIFE);
                assert!(before.breaker == BreakerState::Open || !lost || self.unsteady, "no new probe");
            }
        }
    }

    fn went(&mut self, before: &Snapshot) {
        let after = self.handler.snapshot();
        // Without a maximum rate, the handler may detect here that a volley of calls has ended, and lower the rate.
        let is_lower = rate(&after) < rate(before) && self.max_rate.is_finite();
        assert!(!is_lower, "an admission must not lower the rate");
        match before.breaker {
            BreakerState::Closed => assert_eq!(after.breaker, BreakerState::Closed),
            BreakerState::Open => {
                let early = self.opened.is_some_and(|opened| self.now < opened + SHORTEST_OPEN);
                assert!(!early || self.unsteady, "open for less than {SHORTEST_OPEN:?}");
                self.first_probe = Some(self.sent);
                self.probe = Some((self.sent, self.now));
                assert_eq!(after.breaker, BreakerState::HalfOpen);
            }
            BreakerState::HalfOpen => {
                let alive = self.probe.is_some_and(|(_, sent)| self.now < sent + PROBE_LIFE);
                assert!(!alive || self.unsteady, "two probes");
                self.probe = Some((self.sent, self.now));
                assert_eq!(after.breaker, BreakerState::HalfOpen);
            }
        }
        if self.max_rate.is_finite() && !self.unsteady {
            for (nth, earlier) in self.goes.iter().rev().enumerate() {
                let most = (self.now - *earlier).as_secs_f64() * self.max_rate / 60.0 + 2.0;
                assert!(nth as f64 + 2.0 <= most + 1e-6, "{} calls in {:?}", nth + 2, self.now - *earlier);
            }
            self.goes.push_back(self.now);
            if self.goes.len() > 20 {
                self.goes.pop_front();
            }
        }
    }

    fn record(&mut self, before: &Snapshot) {
        let Some(call) = self.take() else { return };
        let kind = match self.random.u8(..10) {
            n if n < self.mix[0] => Kind::Success,
            n if n < self.mix[0] + self.mix[1] => Kind::Refused,
            n if n < self.mix[0] + self.mix[1] + self.mix[2] => Kind::Throttled,
            _ if self.random.u8(..3) == 0 => Kind::Bare,
            _ => Kind::Failed,
        };
        let outcome = self.outcome(kind);
        let is_probe = self.first_probe.is_some_and(|first| call.number >= first);
        self.handler.record(self.now, call.permit, outcome);
        let after = self.handler.snapshot();
        match kind {
            Kind::Throttled => {
                self.throttled = true;
            }
            Kind::Bare => self.throttled = true,
            Kind::Failed => {
                // When an outage opens the breaker, the rate from before the outage is restored.
                let is_same = after.rate_per_minute == before.rate_per_minute;
                assert!(is_same || after.openings > before.openings, "a failure must not change the rate");
            }
            // Without a maximum rate, a success may end a volley of calls, whose refusals may then lower the rate.
            Kind::Success | Kind::Refused if self.max_rate.is_finite() => {
                assert!(rate(&after) >= rate(before) * 0.999_999, "a success must not lower the rate");
            }
            Kind::Success | Kind::Refused => {}
        }
        if let (Some(cap), Some(was)) = (after.max_in_flight, before.max_in_flight) {
            assert!(cap >= 1 && cap <= was + 1, "the cap went from {was} to {cap}");
        }
        let done = matches!(kind, Kind::Success | Kind::Refused);
        self.answered += u64::from(done);
        let is_failure = matches!(kind, Kind::Failed | Kind::Bare);
        if is_failure {
            self.first_error = if self.errors == 0 { self.now } else { self.first_error };
            self.errors += 1;
        } else {
            self.errors = 0;
        }
        assert_eq!(after.consecutive_errors, self.errors);
        let lasting = self.now.saturating_duration_since(self.first_error) >= Duration::from_secs(2);
        let expected = match (before.breaker, kind) {
            (BreakerState::Closed, _) if is_failure && self.errors >= 10 && lasting => BreakerState::Open,
            // Five consecutive pauses for 503s without a Retry-After may open the breaker.
            (BreakerState::Closed, Kind::Bare) if self.errors >= 5 && lasting => after.breaker,
            (BreakerState::HalfOpen, _) if is_failure && is_probe => BreakerState::Open,
            (BreakerState::HalfOpen, _) if is_probe => BreakerState::Closed,
            (unchanged, _) => unchanged,
        };
        assert_eq!(after.breaker, expected, "after {kind:?} in {:?}", before.breaker);
        assert_eq!(
            after.openings > before.openings,
            expected != before.breaker && expected == BreakerState::Open
        );
        if after.openings > before.openings {
            self.opened = Some(self.now);
        }
    }

    /// Drops or leaks a permit.
    fn lose(&mut self, before: &Snapshot) {
        let Some(call) = self.take() else { return };
        if self.random.bool() {
            std::mem::forget(call.permit);
            return;
        }
        drop(call.permit);
        let after = self.handler.snapshot();
        assert_eq!(after.rate_per_minute, before.rate_per_minute);
        assert_eq!(after.consecutive_errors, before.consecutive_errors);
        let is_probe = self.probe.is_some_and(|(probe, _)| probe == call.number);
        if before.breaker == BreakerState::HalfOpen && is_probe && !self.unsteady {
            self.opened = None;
            let admission = self.handler.admit(self.now);
            assert!(!matches!(admission, Admission::Open { .. }), "the dropped probe was not replaced");
            if let Admission::Go(permit) = admission {
                self.sent += 1;
                self.probe = Some((self.sent, self.now));
                self.first_probe = Some(self.sent);
                self.goes.push_back(self.now);
                self.flight.push(Call { permit, number: self.sent });
            }
        } else if !is_probe {
            assert_eq!(after.breaker, before.breaker);
        }
    }

    fn retry(&mut self) {
        let retry = RetryConfig::default();
        let kind = if self.random.bool() { Kind::Failed } else { Kind::Throttled };
        let asked = self.random.choice([None, Some(0), Some(7), Some(60), Some(61), Some(121)]).unwrap();
        let asked = asked.map(Duration::from_secs);
        let outcome = match kind {
            Kind::Failed => Outcome::failed(),
            _ => Outcome::throttled(),
        };
        let outcome = asked.map_or(outcome, |asked| outcome.retry_after(asked));
        let (mut tries, mut delays) = (Tries::default(), Vec::new());
        while let Some(delay) = self.handler.retry_delay(&retry, &mut tries, &outcome) {
            delays.push(delay);
        }
        match kind {
            Kind::Failed => {
                self.retries += delays.len() as u64;
                assert!(self.retries <= self.answered + 20, "more retries than the budget");
                assert!(delays.len() <= 5);
                let longest = Duration::from_secs(if asked.is_some() { 60 } else { 32 });
                assert!(delays.iter().all(|delay| Some(*delay) >= asked && *delay <= longest));
                assert!(asked <= Some(Duration::from_secs(60)) || delays.is_empty());
            }
            _ => {
                let allowed = if asked > Some(Duration::from_secs(120)) { 0 } else { 10 };
                assert_eq!(delays.len(), allowed);
                let (floor, longest) = (asked.unwrap_or_default(), Duration::from_secs(120));
                assert!(delays.iter().all(|delay| *delay >= floor && *delay <= longest), "{delays:?}");
            }
        }
    }

    fn take(&mut self) -> Option<Call> {
        let count = self.flight.len();
        (count > 0).then(|| self.flight.swap_remove(self.random.usize(..count)))
    }

    fn outcome(&mut self, kind: Kind) -> Outcome {
        let outcome = match kind {
            Kind::Success => Outcome::success(),
            Kind::Refused => Outcome::refused(),
            Kind::Throttled => Outcome::throttled(),
            Kind::Failed => Outcome::failed(),
            Kind::Bare => return Outcome::failed().status(503),
        };
        let asked = match self.random.u8(..10) {
            0 => Some(Duration::MAX),
            1 => Some(Duration::ZERO),
            2 => Some(Duration::from_millis(self.random.u64(..200_000))),
            _ => None,
        };
        let outcome = asked.map_or(outcome, |asked| outcome.retry_after(asked));
        if !self.with_limits || self.random.bool() {
            return outcome;
        }
        let requests = Some(self.limit());
        let tokens = self.random.bool().then(|| self.limit());
        outcome.limits(RateLimits { requests, tokens })
    }

    fn limit(&mut self) -> Limit {
        let limit = self.random.choice([0, 1, 2, 60, 100_000, u64::MAX]).unwrap();
        let remaining = match self.random.u8(..4) {
            0 => 0,
            1 => u64::MAX,
            _ => self.random.u64(..=limit.min(1000)),
        };
        let reset = match self.random.u8(..8) {
            0 => Duration::MAX,
            1 => Duration::ZERO,
            _ => Duration::from_millis(self.random.u64(..130_000)),
        };
        Limit { limit, remaining, reset }
    }

    /// Once the service has recovered, a call is admitted after at most one open period, one lost probe and one wait, and
    /// closes the breaker.
    fn recover(mut self) {
        self.flight.clear();
        let mut waited = Duration::ZERO;
        for _ in 0..10_000 {
            match self.handler.admit(self.now) {
                Admission::Go(permit) => {
                    self.handler.record(self.now, permit, Outcome::success());
                    assert_eq!(self.handler.snapshot().breaker, BreakerState::Closed);
                    // After the clock was set back, a reset that was too far away can delay calls once more.
                    let waits = if self.unsteady { 2 } else { 1 };
                    assert!(
                        waited <= LONGEST_OPEN + PROBE_LIFE + LONGEST_FULL + LONGEST_WAIT * waits,
                        "{waited:?}"
                    );
                    return;
                }
                Admission::Wait(wait) | Admission::Open { retry_in: wait } => {
                    waited += wait;
                    self.now += wait;
                }
            }
        }
        panic!(
            "no call is admitted; the clock is {:?} after its start",
            self.now.checked_duration_since(self.start)
        );
    }
}

fn rate(snapshot: &Snapshot) -> f64 {
    let rate = snapshot.rate_per_minute.unwrap_or(f64::INFINITY);
    assert!(!rate.is_nan());
    rate
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

proptest! {
    #![proptest_config(cases(HISTORIES))]

    #[test]
    fn the_invariants_hold_in_every_history(seed: u64) {
        let mut world = World::new(seed);
        for _ in 0..EVENTS {
            world.step();
        }
        world.recover();
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn the_same_events_and_seed_give_the_same_decisions(seed: u64) {
        let run = || {
            let mut world = World::new(seed);
            let start = world.now;
            let decisions: Vec<String> = (0..300)
                .map(|_| {
                    world.step();
                    format!("{:?} {:?}", world.now - start, world.handler.snapshot())
                })
                .collect();
            decisions
        };
        // With a clock that may be set back, `now` can be before `start`, and their difference would be zero.
        if !World::new(seed).unsteady {
            prop_assert_eq!(run(), run());
        }
    }
}

#[test]
fn the_latest_representable_time_is_handled() {
    let now = Instant::now();
    let mut step = Duration::from_secs(u64::MAX);
    let mut end = now;
    while step > Duration::ZERO {
        match end.checked_add(step) {
            Some(later) => end = later,
            None => step /= 2,
        }
    }
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
    for time in [end, now, end, end, now] {
        for outcome in
            [Outcome::throttled().retry_after(Duration::MAX), Outcome::failed(), Outcome::success()]
        {
            if let Admission::Go(permit) = handler.admit(time) {
                let reset = Some(Limit { limit: 9, remaining: 0, reset: Duration::from_secs(120) });
                handler.record(end, permit, outcome.limits(RateLimits { requests: reset, tokens: reset }));
            }
        }
    }
}
