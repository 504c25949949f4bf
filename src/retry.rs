//! The retry loop: the one place where attempts repeat, for the client's calls and for any other fallible call.

mod retrier;

use std::time::Duration;

pub(crate) use self::retrier::{CallState, Failure, Retrier, Step};
use crate::adaptive::{AcquireRequest, Acquired, AdaptiveConfig, AdaptiveHandler, Change, Permit, Tries};
use crate::error::{Error, Result};
use crate::limits::RateLimits;
use crate::meta::{Attempt, Meta};
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Feedback, Immediate, Retryable, Verdict};
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

    /// Is told what happens between attempts.
    fn observe(&self, _state: &CallState, _progress: Progress<'_, Self::Error>) {}
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

    /// Goes on with a call whose last attempt failed after it had succeeded at first.
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
                Step::WaitForTurn => match self.acquire(&call.state) {
                    Ok(acquired) => self.granted(call, operation, acquired, &mut permit),
                    Err(by) => call.rejected(by),
                },
                Step::WaitUntil(at) if self.cancel.sleep_until(self.clock, at) => Step::WaitForTurn,
                Step::WaitUntil(_) => call.rejected(Error::Shutdown),
                Step::Send => self.send(call, operation, permit.take(), &mut meta),
                Step::Done(result) => {
                    meta.attempts = call.state.attempts;
                    meta.waited = call.state.waited;
                    meta.elapsed = self.clock.now().saturating_duration_since(call.state.started);
                    return Attempt { result, meta };
                }
            };
        }
    }

    /// Makes one attempt with a permit that was acquired, and returns what comes next.
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
        meta.attempts = call.state.attempts;
        meta.waited = call.state.waited;
        meta.elapsed = self.clock.now().saturating_duration_since(call.state.started);
        (step, meta)
    }

    fn granted<O: Operation>(
        &self,
        call: &mut Retrier<O::Error>,
        operation: &O,
        acquired: Acquired,
        permit: &mut Option<Permit>,
    ) -> Step<O::Output, O::Error> {
        let Acquired { permit: granted, waited, breaker, is_probe } = acquired;
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

    /// Waits for the turn of the next attempt.
    fn acquire(&self, state: &CallState) -> Result<Acquired> {
        self.handler.enter(&AcquireRequest {
            clock: self.clock,
            stop: self.cancel,
            deadline: state.due.filter(|_| !self.background),
            retry: state.attempts > 0,
            background: self.background,
        })
    }

    /// Tells the handler how the attempt ended, and decides what comes next.
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
        let step = if call.immediate_retry(&failure) == Some(Immediate::FreshConnection) {
            let step = call.failed(self.clock.now(), error, &failure, retry_delay);
            if matches!(step, Step::Done(_)) {
                self.record(call, operation, permit, learned);
            }
            step
        } else {
            self.record(call, operation, permit, learned);
            call.failed(self.clock.now(), error, &failure, retry_delay)
        };
        let wait = match step {
            Step::WaitUntil(at) => at.saturating_duration_since(self.clock.now()),
            _ => Duration::ZERO,
        };
        if let Some(error) = call.last() {
            operation.observe(&call.state, Progress::Retrying { error, wait });
        }
        step
    }

    /// Tells the handler an outcome, if there is one to tell; otherwise the permit is released without effect.
    fn record<O: Operation>(
        &self,
        call: &Retrier<O::Error>,
        operation: &O,
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

/// Calls `op` until it succeeds, its error's [`verdict`](Retryable::verdict) is to give up, or the retries are used up.
///
/// For any fallible call: a database, a file share, another HTTP client. Sleeps on this thread between attempts.
/// A setting that can't work is replaced by the nearest one that can, with a warning in the log. A
/// [`Verdict::RetryAfter`] of more than 60 s gives up.
///
/// # Errors
/// The error of the last attempt.
///
/// ```
/// use holysheep::{RetryConfig, retry};
/// use std::{fs, time::Duration};
///
/// let quick = RetryConfig::default().base_delay(Duration::from_millis(50));
/// let text = retry(&quick, || fs::read_to_string("Cargo.toml"))?;
/// # Ok::<_, std::io::Error>(())
/// ```
pub fn retry<T, E: Retryable>(config: &RetryConfig, op: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    retry_if(config, E::verdict, op)
}

/// Like [`retry`], with the verdict on each error given by a function.
///
/// # Errors
/// The error of the last attempt.
pub fn retry_if<T, E>(
    config: &RetryConfig,
    verdict: impl FnMut(&E) -> Verdict,
    op: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    retry_on(&Clock::system(), config, verdict, op)
}

fn retry_on<T, E>(
    clock: &Clock,
    config: &RetryConfig,
    verdict: impl FnMut(&E) -> Verdict,
    op: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let config = clamped(config.clone());
    let handler = AdaptiveHandler::new(AdaptiveConfig::off());
    let (cancel, background) = (&Cancel::default(), false);
    let with = RetryLoop { retry: &config, handler: &handler, clock, cancel, background };
    let mut call = FallibleCall { op, verdict };
    let retrier = &mut Retrier::new(clock.now(), None, background, config.max_timeout_retries());
    match with.run(retrier, &mut call).result {
        Ok(value) => Ok(value),
        Err(Failure::GaveUp { last, .. } | Failure::Rejected { last: Some(last), .. }) => Err(last),
        // A handler that is off rejects no call; if it did, there would still be the call to make.
        Err(Failure::Rejected { last: None, .. }) => (call.op)(),
    }
}

/// A fallible call of any kind, and what its errors mean.
struct FallibleCall<F, V> {
    op: F,
    verdict: V,
}

impl<T, E, F, V> Operation for FallibleCall<F, V>
where
    F: FnMut() -> Result<T, E>,
    V: FnMut(&E) -> Verdict,
{
    type Output = T;
    type Error = E;

    fn attempt(&mut self, _: &CallState) -> Attempt<T, E> {
        (self.op)().into()
    }

    fn classify(&mut self, error: &E) -> Classification {
        Classification::new((self.verdict)(error), Feedback::Ignore)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::policy::backoff::Jitter;

    fn exact() -> RetryConfig {
        RetryConfig::default().jitter(Jitter::None)
    }

    /// Runs an operation that fails with these kinds of errors and then succeeds; tells the result and the sleeps.
    fn after(
        failures: &[io::ErrorKind],
        verdict: impl Fn(&io::Error) -> Verdict,
    ) -> (io::Result<u32>, Vec<u64>) {
        let clock = Clock::fake();
        let mut failures = failures.iter();
        let result = retry_on(
            &clock,
            &exact(),
            |error| verdict(error),
            || match failures.next() {
                Some(kind) => Err(io::Error::from(*kind)),
                None => Ok(42),
            },
        );
        (result, clock.sleeps().iter().map(Duration::as_secs).collect())
    }

    #[test]
    fn anything_that_may_pass_is_tried_again() {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, PermissionDenied, TimedOut};
        let (result, sleeps) = after(&[TimedOut, ConnectionRefused, BrokenPipe], Retryable::verdict);
        assert_eq!((result.unwrap(), sleeps), (42, vec![1, 2, 4]));
        let (result, sleeps) = after(&[TimedOut, PermissionDenied], Retryable::verdict);
        assert_eq!((result.unwrap_err().kind(), sleeps), (PermissionDenied, vec![1]));
        let (result, sleeps) = after(&[TimedOut; 9], Retryable::verdict);
        assert_eq!((result.unwrap_err().kind(), sleeps), (TimedOut, vec![1, 2, 4, 8, 16]));
    }

    #[test]
    fn the_verdict_can_be_the_callers_own_and_name_a_time() {
        let in_ten = |_: &io::Error| Verdict::RetryAfter(Duration::from_secs(10));
        assert_eq!(
            after(&[io::ErrorKind::NotFound; 5], in_ten).1,
            [10, 10, 10, 10, 16],
            "the longer of the two"
        );
        let in_an_hour = |_: &io::Error| Verdict::RetryAfter(Duration::from_secs(3600));
        let (result, sleeps) = after(&[io::ErrorKind::NotFound], in_an_hour);
        assert!(result.is_err() && sleeps.is_empty(), "longer than allowed");
    }

    #[test]
    fn settings_that_contradict_each_other_still_end() {
        let clock = Clock::fake();
        let odd = exact().base_delay(Duration::MAX).exponential_base(f64::NAN);
        let result: io::Result<()> =
            retry_on(&clock, &odd, |_| Verdict::Retry, || Err(io::ErrorKind::TimedOut.into()));
        assert!(result.is_err());
        assert_eq!(clock.sleeps(), [Duration::from_secs(32); 5], "the cap wins");
    }
}
