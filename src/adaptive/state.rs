//! The handler's state behind its lock: the policies, the retry budget and the counters. Reads no clock and takes no
//! lock.

use std::time::{Duration, Instant};

use crate::adaptive::change::{Change, Learned};
use crate::adaptive::config::{AdaptiveConfig, Mode};
use crate::adaptive::controller::{Controller, Decision, RefusalCause};
use crate::adaptive::latencies::Latencies;
use crate::adaptive::wait::{Charge, Wait};
use crate::error::{Reason, WaitCause};
use crate::policy::backoff::RetryConfig;
use crate::policy::circuit_breaker::BreakerState;
use crate::policy::concurrency::Reader;
use crate::policy::outcome::{Admitted, Kind, Outcome};
use crate::policy::published::{GIVE_UP_AFTER, PublishedRate};

/// The number of refusals of one call from which they are not considered random. If 15 % of the calls are refused at random,
/// one in 300 is refused three times, which would end each conclusion within seconds at 16 calls a second.
const NOT_RANDOM: u32 = 4;

/// A failure in less time than this is not a timeout but a failed connection.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The retry budget: the maximum number of retries after errors without a success in between. Each retry costs one,
/// each success restores one. With 50 % errors one call in 130 fails for lack of budget; during an outage there are at
/// most this many retries.
const BUDGET: u32 = 20;

/// The status whose delay cap applies to a throttled outcome without a status.
const TOO_MANY_REQUESTS: u16 = 429;

/// The retries of one call so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    errors: u32,
    throttles: u32,
    /// Refusals after which the call backed off as after an error.
    backoffs: u32,
}

/// The counters and current limits of a handler.
///
/// ```
/// use holysheep::{AdaptiveConfig, AdaptiveHandler, BreakerState};
///
/// let snapshot = AdaptiveHandler::new(AdaptiveConfig::default()).snapshot();
/// assert_eq!(snapshot.breaker, BreakerState::Closed);
/// assert_eq!(snapshot.rate_per_minute, None); // no limit before the first refusal
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Calls that succeeded.
    pub successes: u64,
    /// Calls that failed: no connection, timeout, 5xx.
    pub failures: u64,
    /// Calls that were throttled (429, 529, 503 with Retry-After).
    pub throttles: u64,
    /// Consecutive failures since the service last responded.
    pub consecutive_errors: u32,
    /// The current rate limit; `None` for no limit.
    pub rate_per_minute: Option<f64>,
    /// Calls in flight: admitted, and neither recorded nor dropped yet; the streams of a client until their end, or until
    /// they were not read for the client's timeout.
    pub in_flight: u32,
    /// The cap on calls in flight; `None` for no cap.
    pub max_in_flight: Option<u32>,
    /// The assumed cause of the last refusals; `None` before the first.
    pub refused_for: Option<RefusalCause>,
    /// Whether the rate limit headers are trusted: not while calls are granted although the headers left none.
    pub headers_believed: bool,
    /// The state of the circuit breaker.
    pub breaker: BreakerState,
    /// How often the breaker has opened.
    pub openings: u64,
    /// The remaining retry budget.
    pub budget: u32,
    /// Calls that wait for a permit, including those of batches.
    pub waiting: usize,
    /// The median latency of recent calls; `None` before the first.
    pub median_latency: Option<Duration>,
    /// The 99th percentile of the latencies of recent calls; `None` before the first.
    pub p99_latency: Option<Duration>,
}

/// The policy that admits calls.
#[derive(Debug)]
enum Policy {
    Adaptive(Box<Controller>),
    Published(PublishedRate),
    Off,
}

#[derive(Debug)]
pub(super) struct State {
    policy: Policy,
    budget: u32,
    consecutive_errors: u32,
    admitted: u64,
    random: fastrand::Rng,
    successes: u64,
    failures: u64,
    throttles: u64,
    latencies: Latencies,
    /// The base rate and what was learned, as last reported. Admitting a call may also change them, because that may end a
    /// volley; then the change is reported with the next outcome.
    reported: (f64, Learned),
}

impl State {
    pub(super) fn new(config: &AdaptiveConfig) -> State {
        let policy = match config.mode {
            Mode::Adaptive => Policy::Adaptive(Box::new(Controller::new(config))),
            Mode::Published => {
                Policy::Published(PublishedRate::new(config.initial_rate / 60.0, config.bounds()))
            }
            Mode::Off => Policy::Off,
        };
        let reported = (policy.base_rate(), Learned::default());
        State {
            policy,
            budget: BUDGET,
            consecutive_errors: 0,
            admitted: 0,
            random: config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
            successes: 0,
            failures: 0,
            throttles: 0,
            latencies: Latencies::new(config.window_size),
            reported,
        }
    }

    /// Asks the policy to admit a call now.
    pub(super) fn admit(&mut self, now: Instant) -> Decision {
        let wait = match &mut self.policy {
            Policy::Adaptive(controller) => return controller.admit(now),
            Policy::Published(rate) => rate.admit(now),
            Policy::Off => None,
        };
        if let Some(wait) = wait {
            return Decision::Wait(Wait { time: wait, cause: WaitCause::Rate });
        }
        self.admitted += 1;
        Decision::Go(Admitted { number: self.admitted, at: now, others: 0 })
    }

    /// Learns from the outcome of `call`, which stays in flight if there is a `reader`.
    pub(super) fn record(
        &mut self,
        now: Instant,
        call: &Admitted,
        outcome: &Outcome,
        reader: Option<Reader>,
    ) -> Change {
        let before = self.breaker();
        let took = now.saturating_duration_since(call.at);
        let is_slow = outcome.kind == Kind::Failed
            && took > SHORTEST_TIMEOUT.max(self.latencies.longest().mul_f64(0.9));
        self.latencies.add(took);
        // The article counts a 429 as an error.
        let is_error = outcome.kind == Kind::Failed
            || outcome.kind == Kind::Throttled && matches!(self.policy, Policy::Published(_));
        self.consecutive_errors = if is_error { self.consecutive_errors.saturating_add(1) } else { 0 };
        match outcome.kind {
            Kind::Success | Kind::Refused => {
                self.successes += u64::from(outcome.kind == Kind::Success);
                self.budget = (self.budget + 1).min(BUDGET);
            }
            Kind::Throttled => self.throttles += 1,
            Kind::Failed => self.failures += 1,
        }
        match (&mut self.policy, outcome.kind) {
            (Policy::Adaptive(controller), _) => {
                controller.record(now, call, outcome, reader, is_slow, self.random.f64());
            }
            (Policy::Published(rate), Kind::Success) => rate.succeeded(),
            (Policy::Published(rate), Kind::Throttled) => rate.throttled(),
            (Policy::Published(rate), Kind::Failed) => rate.failed(),
            (Policy::Published(_), Kind::Refused) | (Policy::Off, _) => {}
        }
        self.change(before)
    }

    /// Releases `call` without an outcome.
    pub(super) fn dropped(&mut self, call: &Admitted) {
        if let Some(controller) = self.controller() {
            controller.dropped(call);
        }
    }

    /// The limit on calls in flight, and what else streams need to tell; `None` where nothing is limited by them.
    pub(super) fn controller(&mut self) -> Option<&mut Controller> {
        match &mut self.policy {
            Policy::Adaptive(controller) => Some(controller),
            Policy::Published(_) | Policy::Off => None,
        }
    }

    /// The delay before the next attempt, or the reason for giving up: from the retry limits, the server's Retry-After, the
    /// retry budget and the backoff.
    pub(super) fn retry_delay(
        &mut self,
        retry: &RetryConfig,
        tries: &mut Tries,
        outcome: &Outcome,
        charge: Charge,
    ) -> Result<Duration, Reason> {
        match (outcome.kind, &mut self.policy) {
            (Kind::Success | Kind::Refused, _) => Err(Reason::NotRetryable),
            (_, Policy::Adaptive(controller))
                if outcome.kind == Kind::Throttled && !outcome.is_bare_503()
                    || outcome.is_bare_503() && controller.takes_bare_503s() =>
            {
                tries.throttles = tries.throttles.saturating_add(1);
                if tries.throttles >= NOT_RANDOM {
                    controller.refused_again();
                }
                if !retry.allows_retry(tries.errors, tries.throttles, true) {
                    return Err(Reason::RetriesSpent);
                }
                // The rate limiter spaces the retries, and the call also waits for the Retry-After. If the service may
                // be down, the call backs off as after an error.
                let backs_off = outcome.retry_after.is_none();
                if backs_off && !controller.may_be_down() {
                    return Ok(Duration::ZERO);
                }
                let attempt = if backs_off { tries.backoffs } else { 0 };
                tries.backoffs = tries.backoffs.saturating_add(u32::from(backs_off));
                let status = outcome.status.unwrap_or(TOO_MANY_REQUESTS);
                let wait = retry.wait(attempt, Some(status), outcome.retry_after, self.random.f64());
                wait.ok_or(Reason::WaitTooLong)
            }
            (Kind::Throttled | Kind::Failed, policy) => {
                // Without a rate limiter, refusals are spaced by the backoff and counted like errors.
                let attempt = tries.errors;
                tries.errors = tries.errors.saturating_add(1);
                if !retry.allows_retry(tries.errors, tries.throttles, false) {
                    return Err(Reason::RetriesSpent);
                }
                let wait = retry.wait(attempt, outcome.status, outcome.retry_after, self.random.f64());
                let wait = wait.ok_or(Reason::WaitTooLong)?;
                match policy {
                    Policy::Adaptive(_) => match charge {
                        Charge::Needed => {
                            self.budget = self.budget.checked_sub(1).ok_or(Reason::BudgetSpent)?;
                        }
                        Charge::Optional => self.budget = self.budget.saturating_sub(1),
                        Charge::Free => {}
                    },
                    Policy::Published(_) if self.consecutive_errors >= GIVE_UP_AFTER => {
                        return Err(Reason::BudgetSpent);
                    }
                    Policy::Published(_) | Policy::Off => {}
                }
                Ok(wait)
            }
        }
    }

    pub(super) fn snapshot(&self, waiting: usize) -> Snapshot {
        let controller = match &self.policy {
            Policy::Adaptive(controller) => Some(controller),
            Policy::Published(_) | Policy::Off => None,
        };
        let learned = self.learned();
        let [median_latency, p99_latency] = self.latencies.quantiles([0.5, 0.99]);
        Snapshot {
            successes: self.successes,
            failures: self.failures,
            throttles: self.throttles,
            consecutive_errors: controller
                .map_or(self.consecutive_errors, |controller| controller.breaker.errors()),
            rate_per_minute: per_minute(self.policy.rate()),
            in_flight: controller.map_or(0, |controller| controller.concurrency.in_flight()),
            max_in_flight: learned.max_in_flight,
            refused_for: learned.refused_for,
            headers_believed: learned.headers_believed,
            breaker: self.breaker(),
            openings: controller.map_or(0, |controller| controller.breaker.openings()),
            budget: self.budget,
            waiting,
            median_latency,
            p99_latency,
        }
    }

    pub(super) fn breaker(&self) -> BreakerState {
        match &self.policy {
            Policy::Adaptive(controller) => controller.breaker.state(),
            Policy::Published(_) | Policy::Off => BreakerState::Closed,
        }
    }

    /// Whether a wait for this can't become shorter: no other call's outcome decides it.
    pub(super) fn is_certain(&self, cause: WaitCause) -> bool {
        match cause {
            WaitCause::Rate | WaitCause::Headers => true,
            WaitCause::Concurrency => false,
            WaitCause::CircuitOpen => self.breaker() == BreakerState::Open,
        }
    }

    /// What was learned apart from the rate.
    fn learned(&self) -> Learned {
        match &self.policy {
            Policy::Adaptive(controller) => Learned {
                refused_for: controller.cause,
                rate_per_minute: None,
                max_in_flight: controller.concurrency.cap(),
                headers_believed: controller.requests.is_believed() && controller.tokens.is_believed(),
            },
            Policy::Published(_) | Policy::Off => Learned::default(),
        }
    }

    /// The difference from what was reported, and from the breaker's state before. Growth of the rate over time is not a
    /// change.
    fn change(&mut self, before: BreakerState) -> Change {
        let (breaker, now) = (self.breaker(), (self.policy.base_rate(), self.learned()));
        let mut change = Change { breaker: (breaker != before).then_some(breaker), ..Change::default() };
        if now != self.reported {
            let reported = std::mem::replace(&mut self.reported, now);
            let (is_new_rate, rate_per_minute) = (now.0 != reported.0, per_minute(self.policy.rate()));
            change.rate_per_minute = rate_per_minute.filter(|_| is_new_rate);
            // That there is no limit any longer can't be reported as a rate.
            let is_lifted = is_new_rate && rate_per_minute.is_none();
            change.learned =
                (now.1 != reported.1 || is_lifted).then_some(Learned { rate_per_minute, ..now.1 });
        }
        change
    }
}

impl Policy {
    fn rate(&self) -> f64 {
        match self {
            Policy::Adaptive(controller) => controller.rate.rate(),
            Policy::Published(rate) => rate.rate(),
            Policy::Off => f64::INFINITY,
        }
    }

    /// The rate without its growth since it was last set.
    fn base_rate(&self) -> f64 {
        match self {
            Policy::Adaptive(controller) => controller.rate.base(),
            Policy::Published(_) | Policy::Off => self.rate(),
        }
    }
}

/// Converts calls a second to calls a minute; `None` if unlimited, or faster than any client.
fn per_minute(rate: f64) -> Option<f64> {
    (rate < 1e9).then_some(rate * 60.0)
}
