//! `AdaptiveHandler::call`: makes one call under a handler, with retries.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::adaptive::{AdaptiveHandler, Tries};
use crate::error::Error;
use crate::policy::backoff::RetryConfig;
use crate::policy::later;
use crate::policy::outcome::{Kind, Outcome};
use crate::runtime::cancel::Cancel;

/// The error of [`AdaptiveHandler::call`].
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The call failed and isn't retried.
    #[non_exhaustive]
    Failed {
        /// The error of the last attempt.
        error: E,
        /// The number of attempts made.
        attempts: u32,
    },
    /// The circuit breaker is open, so the handler admitted no further attempt.
    #[non_exhaustive]
    NotAdmitted {
        /// The rejection, with the time after which to try again.
        reason: Error,
        /// The error of the last attempt; `None` if there was none.
        error: Option<E>,
        /// The number of attempts made.
        attempts: u32,
    },
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Failed { error, attempts: 1 } => error.fmt(f),
            CallError::Failed { error, attempts } => write!(f, "failed after {attempts} attempts: {error}"),
            CallError::NotAdmitted { reason, error: None, .. } => reason.fmt(f),
            CallError::NotAdmitted { reason, error: Some(error), attempts } => {
                write!(f, "{reason}; attempt {attempts} failed: {error}")
            }
        }
    }
}

impl<E: StdError + 'static> StdError for CallError<E> {
    /// The source of the printed error, so that a chain repeats nothing.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            CallError::Failed { error, .. } | CallError::NotAdmitted { error: Some(error), .. } => {
                error.source()
            }
            CallError::NotAdmitted { reason, error: None, .. } => reason.source(),
        }
    }
}

/// These retry settings, or the nearest valid ones, with a warning in the log.
pub(crate) fn valid(retry: Cow<'_, RetryConfig>) -> Cow<'_, RetryConfig> {
    match retry.check() {
        Ok(()) => retry,
        Err(error) => {
            log::warn!("{error}; continuing with the nearest allowed value");
            Cow::Owned(retry.into_owned().clamped())
        }
    }
}

impl AdaptiveHandler {
    /// Makes a call: waits for a permit, runs `op`, records its `outcome`, and retries while `retry` and the handler
    /// allow it. Blocks this thread.
    ///
    /// An `Ok` whose outcome isn't a success, such as a 429 returned by an HTTP client, is retried too; the last one is
    /// returned.
    ///
    /// # Errors
    /// [`CallError::Failed`] with the error of the last attempt, or [`CallError::NotAdmitted`] while the circuit
    /// breaker is open.
    ///
    /// ```
    /// use holysheep::{AdaptiveConfig, AdaptiveHandler, Outcome, RetryConfig};
    ///
    /// let handler = AdaptiveHandler::new(AdaptiveConfig::default());
    /// let text = handler.call(
    ///     &RetryConfig::default(),
    ///     || std::fs::read_to_string("Cargo.toml"),
    ///     |result| if result.is_ok() { Outcome::success() } else { Outcome::failed() },
    /// )?;
    /// assert!(text.contains("holysheep"));
    /// # Ok::<_, holysheep::CallError<std::io::Error>>(())
    /// ```
    pub fn call<T, E>(
        &self,
        retry: &RetryConfig,
        mut op: impl FnMut() -> Result<T, E>,
        mut outcome: impl FnMut(&Result<T, E>) -> Outcome,
    ) -> Result<T, CallError<E>> {
        let retry = &valid(Cow::Borrowed(retry));
        let (mut tries, mut attempts, mut last) = (Tries::default(), 0, None);
        loop {
            let permit = if attempts == 0 { self.acquire(None) } else { self.acquire_again(None) };
            let permit = match permit {
                Ok(permit) => permit,
                Err(reason) => return Err(CallError::NotAdmitted { reason, error: last, attempts }),
            };
            attempts += 1;
            let result = op();
            let outcome = outcome(&result);
            self.record(self.shared.clock.now(), permit, outcome);
            let delay = match outcome.kind {
                Kind::Success => None,
                _ => self.retry_delay(retry, &mut tries, &outcome),
            };
            let Some(delay) = delay else {
                return result.map_err(|error| CallError::Failed { error, attempts });
            };
            last = result.err();
            let clock = &self.shared.clock;
            Cancel::default().sleep_until(clock, later(clock.now(), delay));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A failed look-up, which is caused by a failed read.
    #[derive(Debug)]
    struct LookUp(io::Error);

    impl fmt::Display for LookUp {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("can't look up the name")
        }
    }

    impl StdError for LookUp {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_and_its_sources_print_each_cause_once() {
        let look_up = || LookUp(io::Error::other("disk full"));
        let open_text = "the circuit breaker is open after too many consecutive failures; the next call may probe in 3.0 s";
        let open = || Error::CircuitOpen { retry_in: std::time::Duration::from_secs(3), target: None };
        let cases = [
            (
                CallError::Failed { error: look_up(), attempts: 1 },
                "can't look up the name, disk full".to_owned(),
            ),
            (
                CallError::Failed { error: look_up(), attempts: 3 },
                "failed after 3 attempts: can't look up the name, disk full".to_owned(),
            ),
            (CallError::NotAdmitted { reason: open(), error: None, attempts: 0 }, open_text.to_owned()),
            (
                CallError::NotAdmitted { reason: open(), error: Some(look_up()), attempts: 2 },
                format!("{open_text}; attempt 2 failed: can't look up the name, disk full"),
            ),
        ];
        for (error, expected) in cases {
            let top: &dyn StdError = &error;
            let sources = std::iter::successors(Some(top), |error| (*error).source());
            let chain: Vec<String> = sources.map(ToString::to_string).collect();
            assert_eq!(chain.join(", "), expected);
        }
    }
}
