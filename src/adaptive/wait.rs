//! Waits for permits.

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

impl Wait {
    /// When to ask again without being woken by the end of another call.
    pub(super) fn until_next_check(self) -> Duration {
        match self.cause {
            WaitCause::Concurrency => self.time.min(FULL_RETRY_INTERVAL),
            _ => self.time,
        }
    }
}
