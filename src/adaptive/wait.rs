//! Waits for permits and before retries.

use std::time::Duration;

use crate::error::WaitCause;

/// How soon to ask again while the cap on calls in flight is reached: it is unknown
/// when the next call ends.
const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A wait for a permit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// How long it is; for [`WaitCause::Concurrency`] at most, because any call may end before.
    pub(crate) time: Duration,
    pub(crate) cause: WaitCause,
}

/// The wait before a retry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RetryDelay {
    /// The backoff, or what the server asked for.
    pub(crate) wait: Duration,
    /// The least time until the handler admits a call, if it is known.
    pub(crate) admitted_in: Duration,
    /// How long the open circuit breaker will still reject the call.
    pub(crate) rejected_for: Duration,
}

/// How a retry after an error uses the retry budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    /// It needs a unit and spends it.
    Needed,
    /// It spends a unit if there is one. In a batch, and where calls wait for the end of an outage, a retry replaces a new
    /// call instead of adding load.
    Optional,
    /// It is free: the service received nothing.
    Free,
}

impl RetryDelay {
    /// A wait that the handler doesn't prolong.
    pub(crate) fn of(wait: Duration) -> RetryDelay {
        RetryDelay { wait, ..RetryDelay::default() }
    }
}

impl Wait {
    /// When to ask again without being woken by the end of another call.
    pub(super) fn until_next_check(self) -> Duration {
        match self.cause {
            WaitCause::Concurrency => self.time.min(FULL_RETRY_INTERVAL),
            _ => self.time,
        }
    }
}
