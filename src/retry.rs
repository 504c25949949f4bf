//! The one place where attempts repeat.

use std::time::{Duration, Instant};

use crate::error::Reason;
use crate::io::clock::{Clock, Stop};
use crate::policy::backoff::RetryConfig;
use crate::policy::verdict::{Retryable, Ruling, Verdict};

/// What the loop works with.
pub(crate) struct Loop<'a> {
    pub(crate) retry: &'a RetryConfig,
    pub(crate) clock: &'a Clock,
    pub(crate) stop: &'a Stop,
    /// When the whole call must be over.
    pub(crate) deadline: Option<Instant>,
    /// Draws from [0, 1).
    pub(crate) chance: &'a dyn Fn() -> f64,
}

/// How far a call has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail {
    pub(crate) started: Instant,
    pub(crate) attempts: u32,
    pub(crate) waited: Duration,
    /// This attempt must not use a pooled connection: the one before it met a stale one.
    pub(crate) fresh: bool,
    /// The one immediate retry after a stale connection was made.
    hurried: bool,
}

/// The end of a call that didn't succeed.
#[derive(Debug)]
pub(crate) struct Failure<E> {
    /// None where the loop was stopped.
    pub(crate) reason: Option<Reason>,
    pub(crate) trail: Trail,
    pub(crate) last: E,
}

/// Calls `attempt` until it succeeds, or `judge` gives up, or retries or time are used up.
pub(crate) fn run<T, E>(
    with: &Loop<'_>,
    mut judge: impl FnMut(&E) -> Ruling,
    observe: impl Fn(&Trail, &E, Duration),
    mut attempt: impl FnMut(&Trail) -> Result<T, E>,
) -> Result<(T, Trail), Failure<E>> {
    let mut trail = Trail {
        started: with.clock.now(),
        attempts: 0,
        waited: Duration::ZERO,
        fresh: false,
        hurried: false,
    };
    loop {
        trail.attempts += 1;
        let last = match attempt(&trail) {
            Ok(value) => return Ok((value, trail)),
            Err(error) => error,
        };
        let wait = match next_wait(with, &mut trail, judge(&last)) {
            Ok(wait) => wait,
            Err(reason) => return Err(Failure { reason: Some(reason), trail, last }),
        };
        observe(&trail, &last, wait);
        if !with.stop.sleep(with.clock, wait) {
            return Err(Failure { reason: None, trail, last });
        }
        trail.waited += wait;
    }
}

/// The wait before the next attempt, or why there is none.
fn next_wait(with: &Loop<'_>, trail: &mut Trail, ruling: Ruling) -> Result<Duration, Reason> {
    let asked = match ruling.verdict {
        Verdict::GiveUp => return Err(Reason::NotRetryable),
        Verdict::Retry => None,
        Verdict::RetryAfter(asked) => Some(asked),
    };
    let retries = trail.attempts - 1;
    if retries >= with.retry.retries() {
        return Err(Reason::RetriesSpent);
    }
    trail.fresh = ruling.stale && !trail.hurried;
    let wait = if trail.fresh {
        trail.hurried = true;
        Duration::ZERO
    } else {
        let chance = (with.chance)();
        with.retry.wait(retries, ruling.status, asked, chance).ok_or(Reason::WaitTooLong)?
    };
    match with.deadline {
        Some(deadline) if deadline.saturating_duration_since(with.clock.now()) <= wait => {
            Err(Reason::Deadline)
        }
        _ => Ok(wait),
    }
}

/// Calls `op` until it succeeds, its error's [`verdict`](Retryable::verdict) is to give up, or the retries are used up.
///
/// For any fallible call: a database, a file share, another HTTP client. Sleeps on this thread between attempts.
/// Settings of `config` that contradict each other don't fail here: the caps win.
///
/// # Errors
/// The error of the last attempt.
///
/// ```
/// use holysheep::{RetryConfig, retry};
/// use std::{fs, time::Duration};
///
/// let patient = RetryConfig::default().base_delay(Duration::from_millis(50));
/// let text = retry(&patient, || fs::read_to_string("Cargo.toml"))?;
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
    let with = Loop { retry: config, clock, stop: &Stop::default(), deadline: None, chance: &fastrand::f64 };
    let judge = |error: &E| Ruling::new(verdict(error));
    run(&with, judge, |_, _, _| {}, |_| op()).map(|(value, _)| value).map_err(|failure| failure.last)
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
