//! The outcome of a call, which the policies learn from.

use std::time::Duration;

use crate::limits::RateLimits;

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "pass the outcome to AdaptiveHandler::record and retry_delay"]
pub struct Outcome {
    pub(crate) kind: Kind,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) limits: RateLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Success,
    Throttled,
    Failed,
    Refused,
}

impl Outcome {
    fn new(kind: Kind) -> Outcome {
        Outcome { kind, status: None, retry_after: None, limits: RateLimits::default() }
    }

    /// The call succeeded.
    pub fn success() -> Outcome {
        Outcome::new(Kind::Success)
    }

    /// The service throttled the call: 429, 529, or a 503 with a Retry-After. For a 429 about billing, drop the permit
    /// instead.
    pub fn throttled() -> Outcome {
        Outcome::new(Kind::Throttled)
    }

    /// The call failed: no connection, timeout, 408, 409 or a 5xx.
    pub fn failed() -> Outcome {
        Outcome::new(Kind::Failed)
    }

    /// The service works, but rejected this call because of its content: any other 4xx.
    pub fn refused() -> Outcome {
        Outcome::new(Kind::Refused)
    }

    /// The service's Retry-After. Ignored for a success.
    pub fn retry_after(mut self, wait: Duration) -> Outcome {
        self.retry_after = Some(wait);
        self
    }

    /// The rate limits from the answer's headers.
    pub fn limits(mut self, limits: RateLimits) -> Outcome {
        self.limits = limits;
        self
    }

    /// The status of the answer, which selects the cap of the delay before the next attempt.
    pub(crate) fn status(mut self, status: u16) -> Outcome {
        self.status = Some(status);
        self
    }
}
