//! Joins the policies: asks all of them before a call, and attributes each outcome to the one that it concerns.

use std::fmt;
use std::time::{Duration, Instant};

use crate::adaptive::config::AdaptiveConfig;
use crate::adaptive::wait::Wait;
use crate::error::WaitCause;
use crate::policy::circuit_breaker::{BreakerState, CircuitBreaker, Event};
use crate::policy::concurrency::{Concurrency, Reader};
use crate::policy::header_limits::HeaderLimit;
use crate::policy::outcome::{Admitted, Kind, Outcome};
use crate::policy::rate_limiter::{MAX_HOLD, RateLimiter, Refusal, SavedRate};
use crate::policy::volley::{VolleyResult, VolleyTest};

/// This many consecutive failures with bare 503s are not attributed to chance: if 15 % of calls fail at random, they
/// occur once in 10,000 calls.
const MAY_BE_DOWN: u32 = 5;

/// The smallest Retry-After in whole seconds, which may be a fraction rounded up.
const ROUNDED_UP: Duration = Duration::from_secs(1);

/// Consecutive round trips of bare 503s that are taken for an outage. The pause doubles with each; at usual rates they
/// last 2 s.
const OUTAGE: i32 = 5;

/// The cause to which a handler attributes the last refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCause {
    /// The rate was too high: it is reduced.
    Rate,
    /// Too many calls were in flight: their number is capped.
    Concurrency,
    /// The server refuses some calls at random: nothing is slowed down.
    Chance,
    /// The service is down.
    Outage,
}

impl fmt::Display for RefusalCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalCause::Rate => "a rate limit",
            RefusalCause::Concurrency => "a limit on calls in flight",
            RefusalCause::Chance => "chance",
            RefusalCause::Outage => "an outage",
        })
    }
}

/// The policies' decision about a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decision {
    Go(Admitted),
    Wait(Wait),
}

/// The adaptive policies and their shared state.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) rate: RateLimiter,
    pub(super) concurrency: Concurrency,
    pub(super) requests: HeaderLimit,
    pub(super) tokens: HeaderLimit,
    pub(super) breaker: CircuitBreaker,
    volley: VolleyTest,
    /// The sequence number of the newest call. The first call has number 1.
    newest: u64,
    /// How long the last refusal took.
    round_trip: Duration,
    /// The rate before the first bare 503 since the last success.
    saved: Option<SavedRate>,
    pub(super) cause: Option<RefusalCause>,
    random: f64,
}

impl Controller {
    pub(super) fn new(config: &AdaptiveConfig) -> Controller {
        Controller {
            rate: RateLimiter::new(config.initial_rate / 60.0, config.bounds()),
            concurrency: Concurrency::new(),
            requests: HeaderLimit::requests(),
            tokens: HeaderLimit::tokens(),
            breaker: CircuitBreaker::new(config.error_threshold),
            volley: VolleyTest::new(),
            newest: 0,
            round_trip: Duration::ZERO,
            saved: None,
            cause: None,
            random: 0.5,
        }
    }

    /// Asks each policy in turn whether a call may be sent.
    pub(super) fn admit(&mut self, now: Instant) -> Decision {
        if let Some(left) = self.breaker.refuses(now) {
            return Decision::Wait(Wait { time: left, cause: WaitCause::CircuitOpen });
        }
        if let Some(left) = self.concurrency.wait(now) {
            return Decision::Wait(Wait { time: left, cause: WaitCause::Concurrency });
        }
        self.judge(now);
        let is_extra = self.breaker.state() == BreakerState::Closed && self.volley.takes(self.newest + 1);
        if is_extra {
            return Decision::Go(self.admitted(now));
        }
        let (due, cause) = self.next_permitted_at(now);
        match due {
            Some(due) if now < due => Decision::Wait(Wait { time: due - now, cause }),
            _ => {
                self.rate.admitted(now, due);
                Decision::Go(self.admitted(now))
            }
        }
    }

    /// The least that the next call has to wait; `None` if nothing is certain.
    pub(super) fn expected_wait(&mut self, now: Instant) -> Option<Wait> {
        match (self.breaker.state(), self.breaker.refuses(now)) {
            (BreakerState::Open, Some(time)) => return Some(Wait { time, cause: WaitCause::CircuitOpen }),
            (BreakerState::Closed, _) if !self.volley.is_running() => {}
            _ => return None,
        }
        let (due, cause) = self.next_permitted_at(now);
        due.map(|due| Wait { time: due.saturating_duration_since(now), cause })
    }

    /// When the rate limiter and the headers permit the next call, and which of them decides it.
    fn next_permitted_at(&mut self, now: Instant) -> (Option<Instant>, WaitCause) {
        let last = self.rate.last();
        let requests = self.requests.next_permitted_at(now, self.newest, last);
        let tokens = self.tokens.next_permitted_at(now, self.newest, last);
        let announced = requests.max(tokens);
        let due = self.rate.next_permitted_at(now).max(announced);
        let cause = if announced == due { WaitCause::Headers } else { WaitCause::Rate };
        (due, cause)
    }

    fn admitted(&mut self, now: Instant) -> Admitted {
        self.newest += 1;
        let others = self.concurrency.in_flight();
        self.breaker.step(now, self.newest, Event::Admitted);
        self.concurrency.admitted(now);
        Admitted { number: self.newest, at: now, others }
    }

    /// Learns from the outcome of `call`. A failure without a status is a timeout if it `is_slow`. A success with a `reader`
    /// is a stream, which stays in flight.
    pub(super) fn record(
        &mut self,
        now: Instant,
        call: &Admitted,
        outcome: &Outcome,
        reader: Option<Reader>,
        is_slow: bool,
        random: f64,
    ) {
        self.random = random;
        let others = match reader {
            None => self.concurrency.ended(now, call),
            Some(reader) => self.concurrency.began_stream(now, call.number, reader),
        };
        let is_bare = outcome.is_bare_503();
        self.read_headers(call, outcome);
        match outcome.kind {
            Kind::Success | Kind::Refused => {
                self.saved = None;
                self.volley.granted(call.number);
                self.judge(now);
                self.rate.granted(call.number);
                let took = now.saturating_duration_since(call.at);
                self.concurrency.granted(self.newest, others, took);
                self.breaker.step(now, call.number, Event::Answered);
            }
            Kind::Throttled if !is_bare => {
                self.breaker.step(now, call.number, Event::Answered);
                self.refused(now, call, outcome, others);
            }
            Kind::Throttled | Kind::Failed => {
                if is_bare && self.takes_bare_503s() {
                    self.saved.get_or_insert(self.rate.saved());
                    self.refused(now, call, outcome, others);
                }
                if is_slow && outcome.status.is_none() {
                    self.concurrency.timed_out(now, call, self.newest, others);
                }
                let failures = self.breaker.errors() + 1;
                let outage = is_bare && self.rate.refused_rounds() >= OUTAGE && failures >= OUTAGE as u32;
                let before = self.breaker.openings();
                self.breaker.step(now, call.number, Event::Failed { outage, random });
                if self.breaker.openings() > before {
                    self.opened();
                }
            }
        }
    }

    /// Releases `call` without an outcome.
    pub(super) fn dropped(&mut self, call: &Admitted) {
        self.concurrency.dropped();
        self.breaker.step(call.at, call.number, Event::Dropped);
    }

    /// Whether a bare 503 may be the refusal of a rate limiter. While the breaker isn't closed, it is a failure.
    pub(super) fn takes_bare_503s(&self) -> bool {
        self.breaker.state() == BreakerState::Closed
    }

    /// Whether enough consecutive calls failed to suspect an outage.
    pub(super) fn may_be_down(&self) -> bool {
        self.breaker.errors() >= MAY_BE_DOWN
    }

    /// The same call was refused repeatedly, which isn't chance: it may be too large.
    pub(super) fn refused_again(&mut self) {
        self.volley.distrust();
    }

    fn read_headers(&mut self, call: &Admitted, outcome: &Outcome) {
        if let Some(tokens) = outcome.tokens {
            self.tokens.used(tokens);
        }
        let limits = [outcome.limits.requests, outcome.limits.tokens];
        for (limit, headers) in limits.into_iter().zip([&mut self.requests, &mut self.tokens]) {
            match (outcome.kind, limit) {
                (Kind::Success, Some(limit)) => headers.granted(limit),
                (Kind::Throttled, _) => headers.refused(),
                _ => {}
            }
            if let Some(limit) = limit {
                headers.update(limit, call.number, call.at, self.random);
            }
        }
    }

    /// Attributes a refusal to the calls in flight, to chance, or to the rate.
    fn refused(&mut self, now: Instant, call: &Admitted, outcome: &Outcome, others: u32) {
        self.round_trip = now.saturating_duration_since(call.at);
        // One second may be a fraction rounded up: only the refused call waits for it. Nor do others wait for hours, because
        // they would then be refused all the same.
        let holds = |asked: &Duration| *asked != ROUNDED_UP && *asked <= MAX_HOLD;
        let hold = outcome.retry_after.filter(holds).unwrap_or_default();
        let is_bare = outcome.is_bare_503();
        if self.volley.is_running() {
            self.volley.refused(call.number, hold);
            self.judge(now);
            return;
        }
        if self.concurrency.refused(call, self.newest, others) {
            self.rate.hold(now, hold);
            self.cause = Some(RefusalCause::Concurrency);
            return;
        }
        let is_news = self.rate.is_current(call.number) && self.rate.refused_rounds() == 0;
        if is_news && (!is_bare || !self.may_be_down()) && self.volley.forgives(is_bare) {
            self.cause = Some(RefusalCause::Chance);
            return;
        }
        let may_test = is_news && hold.is_zero() && self.rate.is_unbounded();
        if may_test && self.volley.doubts(self.rate.rate(), self.rate.growth(), is_bare) {
            self.volley.start(now, self.newest, hold, is_bare);
            return;
        }
        self.too_fast(now, call.number, hold, is_bare);
    }

    fn too_fast(&mut self, now: Instant, call: u64, hold: Duration, is_bare: bool) {
        self.cause = Some(RefusalCause::Rate);
        let refusal = Refusal {
            call,
            newest: self.newest,
            in_flight: self.concurrency.in_flight(),
            round_trip: self.round_trip,
            hold,
            is_bare,
            random: self.random,
        };
        self.rate.refused(now, &refusal);
    }

    /// Ends the running volley if it has a result, and acts on it.
    fn judge(&mut self, now: Instant) {
        match self.volley.result(now, self.round_trip, self.rate.base()) {
            Some(VolleyResult::Limit { hold, bare }) => self.too_fast(now, self.newest, hold, bare),
            Some(VolleyResult::Chance { rate }) => {
                self.cause = Some(RefusalCause::Chance);
                self.rate.raise(rate, self.newest);
            }
            Some(VolleyResult::Unknown) | None => {}
        }
    }

    /// Handles the opening of the breaker: refusals during an outage say nothing about the rate.
    fn opened(&mut self) {
        self.cause = Some(RefusalCause::Outage);
        self.volley.cancel();
        if let Some(saved) = self.saved.take() {
            self.rate.restore(saved, self.newest);
        }
    }
}
