//! Retries for any fallible call: a database, a file share, another HTTP client.

use std::borrow::Cow;
use std::time::Duration;

use crate::adaptive::{AdaptiveConfig, AdaptiveHandler, valid};
use crate::meta::Attempt;
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Feedback, Retryable, Verdict};
use crate::retry::{CallState, Failure, Operation, Progress, Retrier, RetryLoop};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;

/// Calls `op` until it succeeds, its error's [`verdict`](Retryable::verdict) is to give up, or the retries are used up.
///
/// For any fallible call: a database, a file share, another HTTP client. Sleeps on this thread between attempts. An
/// invalid setting is replaced by the nearest valid one, with a warning in the log. A [`Verdict::RetryAfter`] of more
/// than 60 s gives up. [`Retry`] adds a hook before each retry and a clock for tests.
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
    Retry::new(config, op).run()
}

/// Like [`retry`], with a function that gives the verdict on each error.
///
/// # Errors
/// The error of the last attempt.
pub fn retry_if<T, E>(
    config: &RetryConfig,
    verdict: impl FnMut(&E) -> Verdict,
    op: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    Retry::when(config, op, verdict).run()
}

/// A fallible call with its retries, started by [`run`](Retry::run): [`retry`] with a hook before each retry, and with
/// a clock for tests.
///
/// ```
/// use holysheep::{Clock, Jitter, Retry, RetryConfig};
/// use std::{io, time::Duration};
///
/// /// What the program does.
/// fn load(clock: &Clock, mut read: impl FnMut() -> io::Result<String>) -> io::Result<String> {
///     let config = RetryConfig::default().jitter(Jitter::None);
///     Retry::new(&config, || read())
///         .notify(|error, wait| eprintln!("{error}; the next attempt is in {wait:?}"))
///         .clock(clock) // Clock::system() outside of tests
///         .run()
/// }
///
/// // Its test: two attempts fail, no time passes, and the waits are known.
/// let clock = Clock::fake();
/// let mut attempts = 0;
/// let text = load(&clock, || {
///     attempts += 1;
///     if attempts < 3 { Err(io::ErrorKind::TimedOut.into()) } else { Ok("loaded".to_owned()) }
/// });
/// assert_eq!(text?, "loaded");
/// assert_eq!(clock.sleeps(), [Duration::from_secs(1), Duration::from_secs(2)]);
/// # Ok::<_, io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is called before run()"]
pub struct Retry<F, V, N> {
    config: RetryConfig,
    clock: Clock,
    op: F,
    verdict: V,
    notify: N,
}

impl<T, E: Retryable, F: FnMut() -> Result<T, E>> Retry<F, fn(&E) -> Verdict, fn(&E, Duration)> {
    /// A call whose errors implement [`Retryable`].
    pub fn new(config: &RetryConfig, op: F) -> Self {
        Retry::when(config, op, E::verdict)
    }
}

impl<T, E, F, V> Retry<F, V, fn(&E, Duration)>
where
    F: FnMut() -> Result<T, E>,
    V: FnMut(&E) -> Verdict,
{
    /// A call with a function that gives the verdict on its errors.
    pub fn when(config: &RetryConfig, op: F, verdict: V) -> Self {
        Retry { config: config.clone(), clock: Clock::system(), op, verdict, notify: |_, _| {} }
    }
}

impl<T, E, F, V, N> Retry<F, V, N>
where
    F: FnMut() -> Result<T, E>,
    V: FnMut(&E) -> Verdict,
    N: FnMut(&E, Duration),
{
    /// Calls a function before each retry, with the error of the attempt that failed and the wait that follows. It is not
    /// called for the error that [`run`](Retry::run) returns.
    pub fn notify<M: FnMut(&E, Duration)>(self, notify: M) -> Retry<F, V, M> {
        let Retry { config, clock, op, verdict, .. } = self;
        Retry { config, clock, op, verdict, notify }
    }

    /// The clock to sleep on: [`Clock::fake`] in tests, where no time passes.
    pub fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// Makes the call and its retries.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub fn run(self) -> Result<T, E> {
        let config = valid(Cow::Borrowed(&self.config)).into_owned();
        let handler = AdaptiveHandler::new(AdaptiveConfig::off());
        let clock = self.clock.clone();
        let (cancel, background) = (&Cancel::default(), false);
        let with = RetryLoop { retry: &config, handler: &handler, clock: &clock, cancel, background };
        let retrier = &mut Retrier::new(clock.now(), None, background, config.max_timeout_retries());
        let mut call = self;
        match with.run(retrier, &mut call).result.map_err(|failure| *failure) {
            Ok(value) => Ok(value),
            Err(Failure::GaveUp { last, .. } | Failure::Rejected { last: Some(last), .. }) => Err(last),
            // A handler that is off rejects no call. If it did, the call would still have to be made.
            Err(Failure::Rejected { last: None, .. }) => (call.op)(),
        }
    }
}

impl<T, E, F, V, N> Operation for Retry<F, V, N>
where
    F: FnMut() -> Result<T, E>,
    V: FnMut(&E) -> Verdict,
    N: FnMut(&E, Duration),
{
    type Output = T;
    type Error = E;

    fn attempt(&mut self, _: &mut CallState) -> Attempt<T, E> {
        (self.op)().into()
    }

    fn classify(&mut self, error: &E) -> Classification {
        Classification::new((self.verdict)(error), Feedback::Ignore)
    }

    fn observe(&mut self, _: &CallState, progress: Progress<'_, E>) {
        if let Progress::Retrying { error, wait } = progress {
            (self.notify)(error, wait);
        }
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

    /// Runs an operation that fails with these kinds of errors and then succeeds; returns the result and the sleeps.
    fn after(
        failures: &[io::ErrorKind],
        verdict: impl Fn(&io::Error) -> Verdict,
    ) -> (io::Result<u32>, Vec<u64>) {
        let clock = Clock::fake();
        let mut failures = failures.iter();
        let op = || match failures.next() {
            Some(kind) => Err(io::Error::from(*kind)),
            None => Ok(42),
        };
        let result = Retry::when(&exact(), op, verdict).clock(&clock).run();
        (result, clock.sleeps().iter().map(Duration::as_secs).collect())
    }

    #[test]
    fn transient_io_errors_are_retried() {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, PermissionDenied, TimedOut};
        let (result, sleeps) = after(&[TimedOut, ConnectionRefused, BrokenPipe], Retryable::verdict);
        assert_eq!((result.unwrap(), sleeps), (42, vec![1, 2, 4]));
        let (result, sleeps) = after(&[TimedOut, PermissionDenied], Retryable::verdict);
        assert_eq!((result.unwrap_err().kind(), sleeps), (PermissionDenied, vec![1]));
        let (result, sleeps) = after(&[TimedOut; 9], Retryable::verdict);
        assert_eq!((result.unwrap_err().kind(), sleeps), (TimedOut, vec![1, 2, 4, 8, 16]));
    }

    #[test]
    fn the_callers_verdict_can_set_the_wait() {
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
    fn contradictory_settings_are_clamped() {
        let clock = Clock::fake();
        let odd = exact().base_delay(Duration::MAX).exponential_base(f64::NAN);
        let op = || -> io::Result<()> { Err(io::ErrorKind::TimedOut.into()) };
        let result = Retry::new(&odd, op).clock(&clock).run();
        assert!(result.is_err());
        assert_eq!(clock.sleeps(), [Duration::from_secs(32); 5], "the cap wins");
    }

    #[test]
    fn the_hook_is_called_before_each_wait() {
        let clock = Clock::fake();
        let (attempts, mut told) = (std::cell::Cell::new(0), Vec::new());
        let op = || -> io::Result<()> {
            attempts.set(attempts.get() + 1);
            Err(io::ErrorKind::TimedOut.into())
        };
        let config = exact().max_retries(2);
        let hook = |error: &io::Error, wait: Duration| {
            told.push((attempts.get(), error.kind(), wait.as_secs(), clock.sleeps().len()));
        };
        let result = Retry::new(&config, op).notify(hook).clock(&clock).run();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let timed_out = io::ErrorKind::TimedOut;
        assert_eq!(told, [(1, timed_out, 1, 0), (2, timed_out, 2, 1)], "not for the last error");
        assert_eq!(attempts.get(), 3);
    }

    #[test]
    fn an_error_of_any_type_can_have_a_verdict_and_a_hook() {
        #[derive(Debug, PartialEq)]
        struct Busy(u64);
        let (clock, mut number, mut told) = (Clock::fake(), 0, Vec::new());
        let op = || {
            number += 1;
            if number < 3 { Err(Busy(number)) } else { Ok(number) }
        };
        let result = Retry::when(&exact(), op, |busy| Verdict::RetryAfter(Duration::from_secs(busy.0 * 7)))
            .notify(|busy, wait| told.push((busy.0, wait.as_secs())))
            .clock(&clock)
            .run();
        assert_eq!((result, told), (Ok(3), vec![(1, 7), (2, 14)]));
    }
}
