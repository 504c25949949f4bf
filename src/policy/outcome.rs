//! What became of a call, in the words that the policies learn from.

use std::time::Duration;

use crate::limits::RateLimits;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an outcome is for AdaptiveHandler::record and retry_delay"]
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

    /// The service did what was asked.
    pub fn success() -> Outcome {
        Outcome::new(Kind::Success)
    }

    /// The service was asked too fast: 429, 529, or a 503 with a Retry-After. Not a 429 about money, for which the permit is
    /// best dropped.
    pub fn throttled() -> Outcome {
        Outcome::new(Kind::Throttled)
    }

    /// The call failed: no connection, silence, 408, 409 or a 5xx.
    pub fn failed() -> Outcome {
        Outcome::new(Kind::Failed)
    }

    /// The service works, and refused this call for what is in it: any other 4xx.
    pub fn refused() -> Outcome {
        Outcome::new(Kind::Refused)
    }

    /// How long the service asked to be left alone. With a success that is no order, and ignored.
    pub fn retry_after(mut self, wait: Duration) -> Outcome {
        self.retry_after = Some(wait);
        self
    }

    /// What the headers said about limits, if anything.
    pub fn limits(mut self, limits: RateLimits) -> Outcome {
        self.limits = limits;
        self
    }

    /// The status of the answer, whose caps hold for the wait before the next attempt.
    pub(crate) fn status(mut self, status: u16) -> Outcome {
        self.status = Some(status);
        self
    }
}
