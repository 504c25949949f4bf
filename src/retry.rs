//! The retry loop: the one place where attempts repeat, for the client's calls and for any other fallible call.

mod function;
mod retrier;

use std::time::{Duration, Instant};

pub use self::function::{Retry, retry, retry_if};
pub(crate) use self::retrier::{CallState, Failure, Retrier, Step};
use crate::adaptive::{AcquireRequest, Acquired, AdaptiveHandler, Change, Permit, Tries};
use crate::error::{Error, Result};
use crate::limits::RateLimits;
use crate::meta::{Attempt, Meta};
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Immediate};
use crate::policy::outcome::Outcome;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;

/// What the retry loop repeats.
pub(crate) trait Operation {
    type Output;
    type Error;

    /// Makes one attempt.
    fn attempt(&mut self, state: &CallState) -> Attempt<Self::Output, Self::Error>;

    /// Says what a failure means.
    fn classify(&mut self, error: &Self::Error) -> Classification;

    /// Observes what happens between attempts.
    fn observe(&mut self, _state: &CallState, _progress: Progress<'_, Self::Error>) {}
}

/// What happens between attempts.
pub(crate) enum Progress<'a, E> {
    /// The attempt that is about to be made waited this long for its turn.
    Paced(Duration),
    /// The handler learned something.
    Learned(Change),
    /// There will be another attempt, after this wait.
    Retrying { error: &'a E, wait: Duration },
}

/// What the retry loop works with.
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
    ) -> Attempt<O::Output, Failure<O::Error>> {
        self.run_from(Step::WaitForTurn, call, operation)
    }

    /// Continues a call whose last attempt failed after it had succeeded at first.
    pub(crate) fn resume<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        error: O::Error,
    ) -> Attempt<O::Output, Failure<O::Error>> {
        let step = self.after_failure(call, operation, None, error, RateLimits::default());
        self.run_from(step, call, operation)
    }

    fn run_from<O: Operation>(
        &self,
        mut step: Step<O::Output, O::Error>,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
    ) -> Attempt<O::Output, Failure<O::Error>> {
        let (mut permit, mut meta) = (None, Meta::default());
        loop {
            step = match step {
                Step::WaitForTurn => match self.acquire(call, operation) {
                    // At once, because to go round the loop moves a step, which is as large as an answer.
                    Ok(acquired) => match self.granted(call, operation, acquired, &mut permit) {
                        Step::Send => match self.send(call, operation, permit.take(), &mut meta) {
                            Step::Done(result) => return self.done(call, result, meta),
                            step => step,
                        },
                        step => step,
                    },
                    Err(by) => call.rejected(by),
                },
                Step::WaitUntil(at) if self.wait_until(call, operation, at) => Step::WaitForTurn,
                Step::WaitUntil(_) => call.rejected(Error::Shutdown),
                Step::Send => self.send(call, operation, permit.take(), &mut meta),
                Step::Done(result) => return self.done(call, result, meta),
            };
        }
    }

    fn done<T, E>(
        &self,
        call: &Retrier<E>,
        result: Result<T, Failure<E>>,
        mut meta: Meta,
    ) -> Attempt<T, Failure<E>> {
        meta.attempts = call.state.attempts;
        meta.waited = call.state.waited;
        meta.elapsed = self.clock.now().saturating_duration_since(call.state.started);
        Attempt { result, meta }
    }

    /// Makes one attempt with a permit that was acquired, and returns the next step.
    pub(crate) fn attempt<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        acquired: Acquired,
    ) -> (Step<O::Output, O::Error>, Meta) {
        let (mut permit, mut meta) = (None, Meta::default());
        let step = match self.granted(call, operation, acquired, &mut permit) {
            Step::Send => self.send(call, operation, permit.take(), &mut meta),
            step => step,
        };
        if let Step::WaitUntil(at) = step {
            self.announce(call, operation, at.saturating_duration_since(self.clock.now()));
        }
        meta.attempts = call.state.attempts;
        meta.waited = call.state.waited;
        meta.elapsed = self.clock.now().saturating_duration_since(call.state.started);
        (step, meta)
    }

    fn granted<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        acquired: Acquired,
        permit: &mut Option<Permit>,
    ) -> Step<O::Output, O::Error> {
        let Acquired { permit: granted, waited, breaker, is_probe } = acquired;
        self.announce(call, operation, waited);
        *permit = Some(granted);
        let step = call.granted(waited, is_probe);
        if !waited.is_zero() {
            operation.observe(&call.state, Progress::Paced(waited));
        }
        if breaker.is_some() {
            let change = Change { breaker, ..Change::default() };
            operation.observe(&call.state, Progress::Learned(change));
        }
        step
    }

    fn send<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        permit: Option<Permit>,
        meta: &mut Meta,
    ) -> Step<O::Output, O::Error> {
        let attempt = operation.attempt(&call.state);
        *meta = attempt.meta;
        self.after_attempt(call, operation, permit, attempt.result, meta.rate_limits)
    }

    /// Waits for the turn of the next attempt. A retry that wasn't announced is announced as soon as its wait is known.
    fn acquire<O: Operation>(&self, call: &mut Retrier<O::Error>, operation: &mut O) -> Result<Acquired> {
        let request = AcquireRequest {
            clock: self.clock,
            stop: self.cancel,
            deadline: call.state.due.filter(|_| !self.background),
            retry: call.state.attempts > 0,
            background: self.background,
        };
        if call.state.is_unannounced {
            match self.handler.enter_at_once(&request) {
                Ok(acquired) => return Ok(acquired),
                Err(Some(wait)) => self.announce(call, operation, wait),
                Err(None) => {}
            }
        }
        self.handler.enter(&request)
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

    /// Records the outcome of the attempt with the handler, and decides the next step.
    fn after_attempt<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        permit: Option<Permit>,
        result: Result<O::Output, O::Error>,
        limits: RateLimits,
    ) -> Step<O::Output, O::Error> {
        match result {
            Ok(value) => {
                self.record(call, operation, permit, Some(Outcome::success().limits(limits)));
                Step::Done(Ok(value))
            }
            Err(error) => self.after_failure(call, operation, permit, error, limits),
        }
    }

    fn after_failure<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &mut O,
        permit: Option<Permit>,
        error: O::Error,
        limits: RateLimits,
    ) -> Step<O::Output, O::Error> {
        let failure = operation.classify(&error);
        let learned = failure.learned().map(|outcome| outcome.limits(limits));
        let retry_delay =
            |tries: &mut Tries| self.handler.next_delay(self.retry, tries, &failure.outcome, self.background);
        // A stale connection says nothing about the service, unless the retry that would tell isn't made.
        if call.immediate_retry(&failure) == Some(Immediate::FreshConnection) {
            let step = call.failed(self.clock.now(), error, &failure, retry_delay);
            if matches!(step, Step::Done(_)) {
                self.record(call, operation, permit, learned);
            }
            step
        } else {
            self.record(call, operation, permit, learned);
            call.failed(self.clock.now(), error, &failure, retry_delay)
        }
    }

    /// Tells the handler an outcome, if there is one to tell; otherwise the permit is released without effect.
    fn record<O: Operation>(
        &self,
        call: &Retrier<O::Error>,
        operation: &mut O,
        permit: Option<Permit>,
        outcome: Option<Outcome>,
    ) {
        let (Some(permit), Some(outcome)) = (permit, outcome) else { return };
        let change = self.handler.record_outcome(self.clock.now(), permit, &outcome);
        if change != Change::default() {
            operation.observe(&call.state, Progress::Learned(change));
        }
    }
}

/// Retry settings that work: the nearest ones, with a warning in the log, where these don't.
pub(crate) fn clamped(retry: RetryConfig) -> RetryConfig {
    if let Err(error) = retry.check() {
        log::warn!("{error}; continuing with the nearest allowed value");
    }
    retry.clamped()
}
