//! What the handler's lock guards: the policies, the budget of retries and the counts, joined without lock or clock.

use std::time::{Duration, Instant};

use crate::adaptive::config::{AdaptiveConfig, Mode};
use crate::error::Reason;
use crate::limits::RateLimits;
use crate::policy::backoff::RetryConfig;
use crate::policy::circuit_breaker::{BreakerState, CircuitBreaker, ERRORS};
use crate::policy::header_limits::HeaderLimit;
use crate::policy::outcome::{Kind, Outcome};
use crate::policy::rate_limiter::{FAR, RateLimiter};

/// Retries after errors that may be made without a success. Each one costs one, each success earns one: at 50 % errors
/// one call in 130 is lost by it, and an outage sees no more than this many retries.
const BUDGET: u32 = 20;

/// Of the retries allowed after errors, how many times as many are allowed after 429s: the pacing spaces them, and a
/// 429 is not the call's fault.
const THROTTLE_RETRIES: u32 = 2;

/// The status whose caps hold for a 429 that doesn't say its status.
const TOO_MANY_REQUESTS: u16 = 429;

/// One call's retries so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    errors: u32,
    throttles: u32,
}

/// What a handler has seen and decided so far.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Calls that succeeded.
    pub successes: u64,
    /// Calls that failed: no connection, silence, 5xx.
    pub failures: u64,
    /// Calls that were refused for their rate.
    pub throttles: u64,
    /// Failures since the service last answered.
    pub consecutive_errors: u32,
    /// The rate at which calls may go; none for no limit.
    pub rate_per_minute: Option<f64>,
    /// Whether calls are let go at all.
    pub breaker: BreakerState,
    /// How often the breaker has opened.
    pub openings: u64,
    /// Retries after errors that may still be made without a success.
    pub budget: u32,
    /// Threads that wait for a permit.
    pub waiting: usize,
    /// Half of the last answers took less time than this; none before the first.
    pub median_latency: Option<Duration>,
    /// Of the last answers 99 in 100 took no more time than this; none before the first.
    pub p99_latency: Option<Duration>,
}

/// What an answer changed, for events.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Change {
    /// The new rate, in calls a minute, where the answer cut it.
    pub(crate) rate_per_minute: Option<f64>,
    /// The breaker's new state.
    pub(crate) breaker: Option<BreakerState>,
}

/// What the policies say to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Go, with this number.
    Go(u64),
    Wait(Duration),
    Open(Duration),
}

#[derive(Debug)]
pub(super) struct State {
    mode: Mode,
    rate_limiter: RateLimiter,
    requests: HeaderLimit,
    tokens: HeaderLimit,
    breaker: CircuitBreaker,
    budget: u32,
    /// The number of the newest call. The first one is 1.
    newest: u64,
    random: fastrand::Rng,
    successes: u64,
    failures: u64,
    throttles: u64,
    latencies: Latencies,
}

impl State {
    pub(super) fn new(config: &AdaptiveConfig) -> State {
        State {
            mode: config.mode,
            rate_limiter: RateLimiter::new(config.law(), config.initial_rate / 60.0, config.bounds()),
            requests: HeaderLimit::requests(),
            tokens: HeaderLimit::tokens(),
            breaker: CircuitBreaker::new(config.threshold()),
            budget: BUDGET,
            newest: 0,
            random: config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
            successes: 0,
            failures: 0,
            throttles: 0,
            latencies: Latencies::new(config.window_size),
        }
    }

    /// Asks the breaker, then the pace, then the limits that headers told; only who passes all three moves them.
    pub(super) fn admit(&mut self, now: Instant) -> Decision {
        if let Some(left) = self.breaker.refuses(now) {
            return Decision::Open(left);
        }
        let last = self.rate_limiter.last();
        let due = if self.mode == Mode::Off {
            None
        } else {
            let gates = self
                .requests
                .next_permitted_at(now, self.newest, last)
                .max(self.tokens.next_permitted_at(now, self.newest, last));
            self.rate_limiter.next(now).max(gates)
        };
        match due {
            Some(due) if now < due => Decision::Wait(due - now),
            _ => {
                self.newest += 1;
                self.breaker.admitted(now, self.newest);
                self.rate_limiter.admitted(now, due);
                Decision::Go(self.newest)
            }
        }
    }

    /// Learns from the answer to `call`.
    pub(super) fn record(&mut self, now: Instant, call: u64, sent: Instant, outcome: &Outcome) -> Change {
        let before = (self.rate_limiter.rate(), self.breaker.state());
        let chance = self.random.f64();
        self.latencies.add(now.saturating_duration_since(sent));
        self.read(call, sent, &outcome.limits, chance);
        match outcome.kind {
            Kind::Success | Kind::Refused => {
                self.successes += u64::from(outcome.kind == Kind::Success);
                self.budget = (self.budget + 1).min(BUDGET);
                self.rate_limiter.succeeded(call);
                self.breaker.answered(now, call);
            }
            Kind::Throttled => {
                self.throttles += 1;
                if self.mode != Mode::Off {
                    let asked = outcome.retry_after.unwrap_or_default();
                    self.rate_limiter.throttled(now, call, self.newest, asked, chance);
                }
                match self.mode {
                    Mode::Published => self.breaker.failed(now, call, chance),
                    Mode::Adaptive | Mode::Off => self.breaker.answered(now, call),
                }
            }
            Kind::Failed => {
                self.failures += 1;
                self.rate_limiter.failed();
                self.breaker.failed(now, call, chance);
            }
        }
        self.change(before)
    }

    /// Nobody will say what became of `call`, which was sent at `sent`.
    pub(super) fn dropped(&mut self, call: u64, sent: Instant) {
        self.breaker.dropped(sent, call);
    }

    /// The wait before the next attempt, or why there is none: limits, the server's wish, the budget and the backoff.
    pub(super) fn retry_delay(
        &mut self,
        retry: &RetryConfig,
        tries: &mut Tries,
        outcome: &Outcome,
        background: bool,
    ) -> Result<Duration, Reason> {
        match (outcome.kind, self.mode) {
            (Kind::Success | Kind::Refused, _) => Err(Reason::NotRetryable),
            (Kind::Throttled, Mode::Adaptive) => {
                tries.throttles = tries.throttles.saturating_add(1);
                if tries.throttles > retry.retries().saturating_mul(THROTTLE_RETRIES) {
                    return Err(Reason::RetriesSpent);
                }
                let Some(asked) = outcome.retry_after else { return Ok(Duration::ZERO) };
                let status = outcome.status.unwrap_or(TOO_MANY_REQUESTS);
                let wait = retry.wait(0, Some(status), Some(asked), self.random.f64());
                // The pacing spaces it, for as long a wait as it believes.
                let wait = wait.ok_or(Reason::WaitTooLong)?;
                Ok(if asked > FAR { wait } else { Duration::ZERO })
            }
            (Kind::Throttled | Kind::Failed, mode) => {
                let attempt = tries.errors;
                tries.errors = tries.errors.saturating_add(1);
                if attempt >= retry.retries() {
                    return Err(Reason::RetriesSpent);
                }
                let wait = retry.wait(attempt, outcome.status, outcome.retry_after, self.random.f64());
                let wait = wait.ok_or(Reason::WaitTooLong)?;
                match mode {
                    // In a batch a retry takes the place of a new call instead of adding to them, so it needs no budget. It
                    // leaves none to single calls, though: the service has enough to bear.
                    Mode::Adaptive if background => self.budget = self.budget.saturating_sub(1),
                    Mode::Adaptive => self.budget = self.budget.checked_sub(1).ok_or(Reason::BudgetSpent)?,
                    Mode::Published if self.breaker.errors() >= ERRORS => return Err(Reason::BudgetSpent),
                    Mode::Published | Mode::Off => {}
                }
                Ok(wait)
            }
        }
    }

    pub(super) fn snapshot(&self, waiting: usize) -> Snapshot {
        let [median_latency, p99_latency] = self.latencies.quantiles([0.5, 0.99]);
        Snapshot {
            successes: self.successes,
            failures: self.failures,
            throttles: self.throttles,
            consecutive_errors: self.breaker.errors(),
            rate_per_minute: per_minute(self.rate_limiter.rate()),
            breaker: self.breaker.state(),
            openings: self.breaker.openings(),
            budget: self.budget,
            waiting,
            median_latency,
            p99_latency,
        }
    }

    pub(super) fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    fn read(&mut self, call: u64, sent: Instant, limits: &RateLimits, chance: f64) {
        if let Some(limit) = limits.requests {
            self.requests.read(limit, call, sent, chance);
        }
        if let Some(limit) = limits.tokens {
            self.tokens.read(limit, call, sent, chance);
        }
    }

    fn change(&self, (rate, breaker): (f64, BreakerState)) -> Change {
        let now = (self.rate_limiter.rate(), self.breaker.state());
        Change {
            rate_per_minute: if now.0 == rate { None } else { per_minute(now.0) },
            breaker: (now.1 != breaker).then_some(now.1),
        }
    }
}

/// A rate in calls a minute, none for no limit.
fn per_minute(rate: f64) -> Option<f64> {
    rate.is_finite().then_some(rate * 60.0)
}

/// The latencies of the last answers, in a ring that is allocated once.
#[derive(Debug)]
struct Latencies {
    ring: Vec<Duration>,
    size: usize,
    next: usize,
}

impl Latencies {
    fn new(size: usize) -> Latencies {
        Latencies { ring: Vec::with_capacity(size), size, next: 0 }
    }

    fn add(&mut self, latency: Duration) {
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = latency,
            None => self.ring.push(latency),
        }
        self.next = (self.next + 1) % self.size;
    }

    fn quantiles<const N: usize>(&self, parts: [f64; N]) -> [Option<Duration>; N] {
        let mut sorted = self.ring.clone();
        sorted.sort_unstable();
        parts.map(|part| sorted.get((sorted.len().saturating_sub(1) as f64 * part).round() as usize).copied())
    }
}
