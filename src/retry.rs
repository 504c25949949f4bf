//! The retry loop: the one place where attempts repeat, for the client's calls and for any other fallible call.

mod function;
mod retrier;

use std::time::{Duration, Instant};

pub use self::function::{Retry, retry, retry_if};
pub(crate) use self::retrier::{CallState, Failure, Retrier, Step};
use crate::adaptive::{
    AcquireRequest, Acquired, AdaptiveHandler, Change, Expected, Permit, StreamPlace, Tries, Wait,
};
use crate::error::{Error, Result};
use crate::limits::RateLimits;
use crate::meta::{Attempt, Meta};
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Immediate};
use crate::policy::outcome::Outcome;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;

/// An operation that the retry loop repeats.
pub(crate) trait Operation {
    type Output;
    type Error;

    /// Makes one attempt, or takes it back from the state's count and sends nothing.
    fn attempt(&mut self, state: &mut CallState) -> Attempt<Self::Output, Self::Error>;

    /// Classifies a failure.
    fn classify(&mut self, error: &Self::Error) -> Classification;

    /// The tokens that a success used, where the answer tells it.
    fn tokens(&self, _output: &Self::Output) -> Option<u64> {
        None
    }

    /// The inactivity timeout of a success whose answer is still arriving.
    fn inactivity_timeout(&self, _output: &Self::Output) -> Option<Duration> {
        None
    }

    /// Takes the place of such a call among those in flight.
    fn hold(&self, _output: &mut Self::Output, _place: StreamPlace) {}

    /// Is called with what happens between attempts.
    fn observe(&mut self, _state: &CallState, _progress: Progress<'_, Self::Error>) {}
}

/// What happens between attempts.
pub(crate) enum Progress<'a, E> {
    /// The next attempt waits for a permit.
    Waiting(Expected),
    /// It waited for one.
    Paced(Wait),
    /// The handler learned something.
    Learned(Change),
    /// There will be another attempt, after this wait.
    Retrying { error: &'a E, wait: Duration },
}

/// The retry loop with its settings and dependencies.
pub(crate) struct RetryLoop<'a> {
    pub(crate) retry: &'a RetryConfig,
    /// Paces the attempts, rejects them while the service is down, and decides how long to wait between them.
    pub(crate) handler: &'a AdaptiveHandler,
    pub(crate) clock: &'a Clock,
    /// Ends the waits of the call.
    pub(crate) cancel: &'a Cancel,
    /// See [`Retrier`].
    pub(crate) background: bool,
}

impl RetryLoop<'_> {
    /// Repeats `operation` until it succeeds, a failure isn't worth a retry, or retries or time are used up.
    pub(crate) fn run<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
    ) -> Attempt<O::Output, Box<Failure<O::Error>>> {
        self.run_from(Step::WaitForTurn, call, operation)
    }

    /// Resumes a call after an attempt that succeeded at first and failed later: a stream that broke before its first chunk.
    pub(crate) fn resume<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        error: O::Error,
    ) -> Attempt<O::Output, Box<Failure<O::Error>>> {
        let step = self.after_failure(self.clock.now(), call, operation, None, error, RateLimits::default());
        self.run_from(step, call, operation)
    }

    fn run_from<O: Operation>(
        &self,
        mut step: Step<O::Output, O::Error>,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
    ) -> Attempt<O::Output, Box<Failure<O::Error>>> {
        let mut meta = Meta::default();
        loop {
            step = match step {
                Step::Done(result) => {
                    set_times(self.clock.now(), call, &mut meta);
                    return Attempt { result, meta };
                }
                Step::WaitUntil(at) if !self.wait_until(call, operation, at) => {
                    call.rejected(Error::Shutdown)
                }
                Step::WaitUntil(_) | Step::WaitForTurn => match self.acquire(call, operation) {
                    Err(by) => call.rejected(by),
                    Ok(acquired) => match self.attempt(call, operation, acquired) {
                        (Step::Done(result), meta) => return Attempt { result, meta },
                        (step, failed) => {
                            meta = failed;
                            step
                        }
                    },
                },
            };
        }
    }

    /// Makes one attempt with an acquired permit, and returns the next step. Makes none if the call was ended after the permit
    /// was acquired: the program may do that when it observes the wait for it.
    pub(crate) fn attempt<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        acquired: Acquired,
    ) -> (Step<O::Output, O::Error>, Meta) {
        let Acquired { permit, wait, breaker, is_probe } = acquired;
        let waited = wait.map_or(Duration::ZERO, |wait| wait.time);
        self.announce(call, operation, waited);
        call.granted(waited, is_probe);
        if let Some(wait) = wait.filter(|wait| !wait.time.is_zero()) {
            operation.observe(&call.state, Progress::Paced(wait));
        }
        if breaker.is_some() {
            let change = Change { breaker, ..Change::default() };
            operation.observe(&call.state, Progress::Learned(change));
        }
        if self.cancel.is_cancelled() {
            return (call.withdrawn(Error::Shutdown), Meta::default());
        }
        let Attempt { result, mut meta } = operation.attempt(&mut call.state);
        let now = self.clock.now();
        let step = match result {
            Ok(mut value) => {
                self.record_success(now, call, operation, permit, &mut value, meta.rate_limits);
                Step::Done(Ok(value))
            }
            Err(error) => self.after_failure(now, call, operation, Some(permit), error, meta.rate_limits),
        };
        if let Step::WaitUntil(at) = step {
            self.announce(call, operation, at.saturating_duration_since(now));
        }
        set_times(now, call, &mut meta);
        (step, meta)
    }

    /// Waits for a permit for the next attempt. The wait is reported, as that of the retry if it wasn't announced.
    fn acquire<O: Operation>(&self, call: &mut Retrier<O::Error>, operation: &mut O) -> Result<Acquired> {
        let request = AcquireRequest {
            clock: self.clock,
            cancel: self.cancel,
            deadline: call.state.due.filter(|_| !self.background),
            retry: call.state.attempts > 0,
            background: self.background,
        };
        match self.handler.enter_at_once(&request) {
            Ok(acquired) => return Ok(acquired),
            Err(Some(Expected { time: Some(wait), .. })) if call.state.is_unannounced => {
                self.announce(call, operation, wait);
            }
            Err(Some(wait)) if !call.state.is_unannounced => {
                operation.observe(&call.state, Progress::Waiting(wait));
            }
            Err(_) => {}
        }
        let started = self.clock.now();
        let result = self.handler.enter(&request);
        if result.is_err() {
            call.waited_without_permit(self.clock.now().saturating_duration_since(started));
        }
        result
    }

    /// Announces a retry and waits until this moment. Returns false if the call was ended meanwhile.
    fn wait_until<O: Operation>(&self, call: &mut Retrier<O::Error>, operation: &mut O, at: Instant) -> bool {
        self.announce(call, operation, at.saturating_duration_since(self.clock.now()));
        self.cancel.sleep_until(self.clock, at)
    }

    /// Reports that another attempt follows the last failure after this wait, unless that was reported before.
    fn announce<O: Operation>(&self, call: &mut Retrier<O::Error>, operation: &mut O, wait: Duration) {
        if std::mem::take(&mut call.state.is_unannounced) {
            if let Some(error) = call.last() {
                operation.observe(&call.state, Progress::Retrying { error, wait });
            }
        }
    }

    /// Records a success. The call stays in flight if its answer is still arriving.
    fn record_success<O: Operation>(
        &self,
        now: Instant,
        call: &Retrier<O::Error>,
        operation: &mut O,
        permit: Permit,
        value: &mut O::Output,
        limits: RateLimits,
    ) {
        let outcome = Outcome { limits, tokens: operation.tokens(value), ..Outcome::success() };
        let Some(timeout) = operation.inactivity_timeout(value) else {
            return self.record(now, call, operation, Some(permit), Some(outcome));
        };
        let (change, place) = self.handler.record_stream(now, permit, &outcome, timeout);
        self.observe_change(call, operation, change);
        operation.hold(value, place);
    }

    /// Records the failure of the attempt, and decides on the next step.
    fn after_failure<O: Operation>(
        &self,
        now: Instant,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        permit: Option<Permit>,
        error: O::Error,
        limits: RateLimits,
    ) -> Step<O::Output, O::Error> {
        let failure = operation.classify(&error);
        let learned = failure.learned().map(|outcome| outcome.limits(limits));
        let retry_delay = |tries: &mut Tries| {
            let Classification { outcome, not_sent, .. } = &failure;
            self.handler.next_delay(now, self.retry, tries, outcome, self.background, *not_sent)
        };
        // A stale connection says nothing about the service, so its failure is recorded only if no immediate retry
        // follows.
        if call.immediate_retry(&failure) == Some(Immediate::FreshConnection) {
            let step = call.failed(now, error, &failure, retry_delay);
            if matches!(step, Step::Done(_)) {
                self.record(now, call, operation, permit, learned);
            }
            step
        } else {
            self.record(now, call, operation, permit, learned);
            call.failed(now, error, &failure, retry_delay)
        }
    }

    /// Records an outcome, if there is one; otherwise the permit is released without effect.
    fn record<O: Operation>(
        &self,
        now: Instant,
        call: &Retrier<O::Error>,
        operation: &mut O,
        permit: Option<Permit>,
        outcome: Option<Outcome>,
    ) {
        let (Some(permit), Some(outcome)) = (permit, outcome) else { return };
        let change = self.handler.record_outcome(now, permit, &outcome);
        self.observe_change(call, operation, change);
    }

    fn observe_change<O: Operation>(&self, call: &Retrier<O::Error>, operation: &mut O, change: Change) {
        if change != Change::default() {
            operation.observe(&call.state, Progress::Learned(change));
        }
    }
}

/// Sets the times and the number of attempts of the whole call.
fn set_times<E>(now: Instant, call: &Retrier<E>, meta: &mut Meta) {
    meta.attempts = call.state.attempts;
    meta.waited = call.state.waited(now);
    meta.elapsed = now.saturating_duration_since(call.state.started);
}
