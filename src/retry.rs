//! The one place where attempts repeat.

use std::time::{Duration, Instant};

use crate::adaptive::{AcquireRequest, Acquired, AdaptiveConfig, AdaptiveHandler, Change, Permit, Tries};
use crate::error::{Error, Reason};
use crate::limits::RateLimits;
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Feedback, Retryable, Verdict};
use crate::policy::outcome::Outcome;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;

/// What the loop works with.
pub(crate) struct Loop<'a> {
    pub(crate) retry: &'a RetryConfig,
    /// Paces the attempts, refuses them while the service is down, and says how long to wait between them.
    pub(crate) handler: &'a AdaptiveHandler,
    pub(crate) clock: &'a Clock,
    pub(crate) stop: &'a Cancel,
    /// The time for the whole call.
    pub(crate) deadline: Option<Duration>,
    /// Nobody waits for this call but a worker that would only make another one: it waits out an open breaker, needs no
    /// budget, isn't charged for trying whether the service is back, and its time stands still while it waits for a turn.
    pub(crate) background: bool,
}

/// How often a background call may try whether a service is back without being charged for a retry: at up to 30 s each that
/// is some ten minutes for one worker, and more than an hour for eight, who take turns. It must end, because it may be the
/// call itself that breaks the service.
const PROBES: u32 = 30;

/// How far a call has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail {
    pub(crate) started: Instant,
    pub(crate) attempts: u32,
    pub(crate) waited: Duration,
    /// When the whole call must be over.
    pub(crate) due: Option<Instant>,
    /// This attempt must not use a pooled connection: the one before it met a stale one.
    pub(crate) fresh: bool,
    /// The one immediate retry after a stale connection was made.
    hurried: bool,
    /// This attempt tries whether the service is back, and isn't charged.
    is_probe: bool,
    /// How many did.
    probes: u32,
    tries: Tries,
}

/// What an attempt brought: a result, and what the service said of its limits with it.
pub(crate) struct Brought<T, E> {
    pub(crate) result: Result<T, E>,
    pub(crate) limits: RateLimits,
}

/// What an observer of the loop is told.
pub(crate) enum Step<'a, E> {
    /// The attempt that is about to be made waited this long for its turn.
    Paced(Duration),
    /// The handler learned something.
    Learned(Change),
    /// There will be another attempt, after this wait.
    Again(&'a E, Duration),
}

/// The end of a call that didn't succeed.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    /// This attempt was the last one; `before` is the failure of the one before.
    GaveUp { reason: Reason, trail: Trail, last: E, before: Option<E> },
    /// The next attempt wasn't let go: shutdown, deadline or an open breaker.
    Barred { by: Error, trail: Trail, last: Option<E> },
}

/// Calls `attempt` until it succeeds, or `classify` gives up, or retries or time are used up.
pub(crate) fn run<T, E>(
    with: &Loop<'_>,
    mut classify: impl FnMut(&E) -> Classification,
    observe: impl Fn(&Trail, &Step<'_, E>),
    mut attempt: impl FnMut(&Trail) -> Brought<T, E>,
) -> Result<(T, Trail), Failure<E>> {
    let mut trail = Trail::begin(with);
    let mut last = None;
    loop {
        let permit = match with.enter(&mut trail, &observe) {
            Ok(permit) => permit,
            Err(by) => return Err(Failure::Barred { by, trail, last }),
        };
        trail.attempts += 1;
        let Brought { result, limits } = attempt(&trail);
        let error = match result {
            Ok(value) => {
                with.learn(&trail, permit, Outcome::success().limits(limits), &observe);
                return Ok((value, trail));
            }
            Err(error) => error,
        };
        let classification = classify(&error);
        let hurry = classification.stale && !trail.hurried;
        match classification.feedback {
            Feedback::Outcome if !hurry => {
                with.learn(&trail, permit, classification.outcome.limits(limits), &observe);
            }
            Feedback::ServiceUp => with.learn(&trail, permit, Outcome::refused().limits(limits), &observe),
            Feedback::Outcome | Feedback::Ignore => drop(permit),
        }
        let wait = match with.next_wait(&mut trail, &classification, hurry) {
            Ok(wait) => wait,
            Err(reason) => return Err(Failure::GaveUp { reason, trail, last: error, before: last }),
        };
        observe(&trail, &Step::Again(&error, wait));
        if !with.stop.sleep(with.clock, wait) {
            return Err(Failure::Barred { by: Error::Shutdown, trail, last: Some(error) });
        }
        trail.waited += wait;
        last = Some(error);
    }
}

impl Trail {
    fn begin(with: &Loop<'_>) -> Trail {
        let started = with.clock.now();
        let due = with.deadline.and_then(|deadline| started.checked_add(deadline));
        let (attempts, waited, tries, probes) = (0, Duration::ZERO, Tries::default(), 0);
        Trail { started, attempts, waited, due, fresh: false, hurried: false, is_probe: false, probes, tries }
    }
}

impl Loop<'_> {
    /// Waits for the turn of the next attempt.
    fn enter<E>(&self, trail: &mut Trail, observe: impl Fn(&Trail, &Step<'_, E>)) -> Result<Permit, Error> {
        let retry = trail.attempts > 0;
        let (clock, stop, background) = (self.clock, self.stop, self.background);
        let entrant =
            AcquireRequest { clock, stop, deadline: trail.due.filter(|_| !background), retry, background };
        let Acquired { permit, waited, breaker, is_probe } = self.handler.enter(&entrant)?;
        if background {
            trail.due = trail.due.and_then(|due| due.checked_add(waited));
        }
        trail.is_probe = background && is_probe && trail.probes < PROBES;
        trail.probes += u32::from(trail.is_probe);
        trail.waited += waited;
        if !waited.is_zero() {
            observe(trail, &Step::Paced(waited));
        }
        if breaker.is_some() {
            observe(trail, &Step::Learned(Change { breaker, ..Change::default() }));
        }
        Ok(permit)
    }

    /// Tells the handler what became of the attempt.
    fn learn<E>(
        &self,
        trail: &Trail,
        permit: Permit,
        outcome: Outcome,
        observe: impl Fn(&Trail, &Step<'_, E>),
    ) {
        let change = self.handler.record_outcome(self.clock.now(), permit, &outcome);
        if change != Change::default() {
            observe(trail, &Step::Learned(change));
        }
    }

    /// The wait before the next attempt, or why there is none.
    fn next_wait(
        &self,
        trail: &mut Trail,
        classification: &Classification,
        hurry: bool,
    ) -> Result<Duration, Reason> {
        if classification.verdict == Verdict::GiveUp {
            return Err(Reason::NotRetryable);
        }
        let tries = if trail.is_probe { &mut Tries::default() } else { &mut trail.tries };
        let wait = self.handler.next_delay(self.retry, tries, &classification.outcome, self.background)?;
        trail.fresh = hurry;
        trail.hurried |= hurry;
        let wait = if hurry { Duration::ZERO } else { wait };
        match trail.due {
            Some(due) if due.saturating_duration_since(self.clock.now()) <= wait => Err(Reason::Deadline),
            _ => Ok(wait),
        }
    }
}

/// Calls `op` until it succeeds, its error's [`verdict`](Retryable::verdict) is to give up, or the retries are used up.
///
/// For any fallible call: a database, a file share, another HTTP client. Sleeps on this thread between attempts.
/// Settings of `config` that contradict each other don't fail here: the caps win. A
/// [`Verdict::RetryAfter`] of more than 60 s gives up, as a server's wish would.
///
/// # Errors
/// The error of the last attempt.
///
/// ```
/// use holysheep::{RetryConfig, retry};
/// use std::{fs, time::Duration};
///
/// let background = RetryConfig::default().base_delay(Duration::from_millis(50));
/// let text = retry(&background, || fs::read_to_string("Cargo.toml"))?;
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
    mut verdict: impl FnMut(&E) -> Verdict,
    op: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    retry_on(&Clock::system(), config, &mut verdict, op)
}

fn retry_on<T, E>(
    clock: &Clock,
    config: &RetryConfig,
    verdict: &mut dyn FnMut(&E) -> Verdict,
    mut op: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let handler = AdaptiveHandler::new(AdaptiveConfig::off());
    let (stop, deadline, background) = (&Cancel::default(), None, false);
    let with = Loop { retry: config, handler: &handler, clock, stop, deadline, background };
    let classify = |error: &E| Classification::new(verdict(error), Feedback::Ignore);
    let call = |_: &Trail| Brought { result: op(), limits: RateLimits::default() };
    match run(&with, classify, |_, _| {}, call) {
        Ok((value, _)) => Ok(value),
        Err(Failure::GaveUp { last, .. } | Failure::Barred { last: Some(last), .. }) => Err(last),
        // A handler that is off bars nobody; if it did, there would still be the call to make.
        Err(Failure::Barred { last: None, .. }) => op(),
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
        let result = retry_on(&clock, &exact(), &mut |error| verdict(error), || match failures.next() {
            Some(kind) => Err(io::Error::from(*kind)),
            None => Ok(42),
        });
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
            retry_on(&clock, &odd, &mut |_| Verdict::Retry, || Err(io::ErrorKind::TimedOut.into()));
        assert!(result.is_err());
        assert_eq!(clock.sleeps(), [Duration::from_secs(32); 5], "the cap wins");
    }
}
