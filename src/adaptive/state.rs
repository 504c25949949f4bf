//! The handler's state behind its lock: the policies, the retry budget and the counters. Reads no clock, takes no lock.

use std::time::{Duration, Instant};

use crate::adaptive::config::{AdaptiveConfig, Mode};
use crate::error::Reason;
use crate::limits::RateLimits;
use crate::policy::backoff::RetryConfig;
use crate::policy::circuit_breaker::{BreakerState, CircuitBreaker, ERRORS};
use crate::policy::header_limits::HeaderLimit;
use crate::policy::outcome::{Kind, Outcome};
use crate::policy::rate_limiter::{MAX_HOLD, RateLimiter};

/// The retry budget: how many retries after errors are possible without a success. Each retry costs one, each success
/// earns one. At 50 % errors it fails one call in 130; an outage sees at most this many retries.
const BUDGET: u32 = 20;

/// The status whose delay cap applies to a throttled outcome without a status.
const TOO_MANY_REQUESTS: u16 = 429;

/// The retries of one call so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    errors: u32,
    throttles: u32,
}

/// The counters and current limits of a handler.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Calls that succeeded.
    pub successes: u64,
    /// Calls that failed: no connection, timeout, 5xx.
    pub failures: u64,
    /// Calls that were throttled (429, 529, 503 with Retry-After).
    pub throttles: u64,
    /// Consecutive failures, since the service last answered.
    pub consecutive_errors: u32,
    /// The current rate limit; `None` for no limit.
    pub rate_per_minute: Option<f64>,
    /// The state of the circuit breaker.
    pub breaker: BreakerState,
    /// How often the breaker has opened.
    pub openings: u64,
    /// What is left of the retry budget.
    pub budget: u32,
    /// Calls that wait for a permit, those of batches among them.
    pub waiting: usize,
    /// The median latency of the last answers; `None` before the first.
    pub median_latency: Option<Duration>,
    /// The 99th percentile of the latencies of the last answers; `None` before the first.
    pub p99_latency: Option<Duration>,
}

/// What an outcome changed, for events.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Change {
    /// The new rate in calls a minute, if the outcome changed it.
    pub(crate) rate_per_minute: Option<f64>,
    /// The breaker's new state, if the outcome changed it.
    pub(crate) breaker: Option<BreakerState>,
}

/// The policies' decision about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Admitted, with this sequence number.
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
    /// The sequence number of the newest call. The first call has number 1.
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

    /// Asks the circuit breaker, the rate limiter and the header limits. Only an admitted call changes their state.
    pub(super) fn admit(&mut self, now: Instant) -> Decision {
        if let Some(left) = self.breaker.refuses(now) {
            return Decision::Open(left);
        }
        let last = self.rate_limiter.last();
        let due = if self.mode == Mode::Off {
            None
        } else {
            let permitted = self
                .requests
                .next_permitted_at(now, self.newest, last)
                .max(self.tokens.next_permitted_at(now, self.newest, last));
            self.rate_limiter.next_permitted_at(now).max(permitted)
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

    /// Learns from the outcome of `call`.
    pub(super) fn record(&mut self, now: Instant, call: u64, sent: Instant, outcome: &Outcome) -> Change {
        let before = (self.rate_limiter.rate(), self.breaker.state());
        let chance = self.random.f64();
        self.latencies.add(now.saturating_duration_since(sent));
        self.update_limits(call, sent, &outcome.limits, chance);
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
                    let retry_after = outcome.retry_after.unwrap_or_default();
                    self.rate_limiter.throttled(now, call, self.newest, retry_after, chance);
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

    /// The outcome of `call`, which was sent at `sent`, stays unknown.
    pub(super) fn dropped(&mut self, call: u64, sent: Instant) {
        self.breaker.dropped(sent, call);
    }

    /// The delay before the next attempt, or the reason for giving up: from the retry limits, the server's Retry-After, the
    /// retry budget and the backoff.
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
                if !retry.allows_retry(tries.errors, tries.throttles, true) {
                    return Err(Reason::RetriesSpent);
                }
                let Some(retry_after) = outcome.retry_after else { return Ok(Duration::ZERO) };
                let status = outcome.status.unwrap_or(TOO_MANY_REQUESTS);
                let wait = retry.wait(0, Some(status), Some(retry_after), self.random.f64());
                // Up to this limit the rate limiter applies the wait.
                let wait = wait.ok_or(Reason::WaitTooLong)?;
                Ok(if retry_after > MAX_HOLD { wait } else { Duration::ZERO })
            }
            (Kind::Throttled | Kind::Failed, mode) => {
                // Without pacing, refusals are spaced by the backoff and counted like errors.
                let attempt = tries.errors;
                tries.errors = tries.errors.saturating_add(1);
                if !retry.allows_retry(tries.errors, tries.throttles, false) {
                    return Err(Reason::RetriesSpent);
                }
                let wait = retry.wait(attempt, outcome.status, outcome.retry_after, self.random.f64());
                let wait = wait.ok_or(Reason::WaitTooLong)?;
                match mode {
                    // In a batch a retry replaces a new call instead of adding load, so it needs no budget. It still
                    // uses it up, so that single calls add no load either.
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

    fn update_limits(&mut self, call: u64, sent: Instant, limits: &RateLimits, chance: f64) {
        if let Some(limit) = limits.requests {
            self.requests.update(limit, call, sent, chance);
        }
        if let Some(limit) = limits.tokens {
            self.tokens.update(limit, call, sent, chance);
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

/// A rate in calls a minute; `None` for no limit.
fn per_minute(rate: f64) -> Option<f64> {
    rate.is_finite().then_some(rate * 60.0)
}

/// The latencies of the last answers, in a ring buffer that is allocated once.
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
