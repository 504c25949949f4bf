//! The outcome of a call, which the policies learn from.

use std::time::{Duration, Instant};

use crate::limits::RateLimits;

/// The outcome of a call.
///
/// ```
/// use holysheep::Outcome;
/// use std::time::Duration;
///
/// fn outcome(status: u16, retry_after: Option<u64>) -> Outcome {
///     let outcome = match status {
///         429 | 529 => Outcome::throttled(),
///         500.. => Outcome::failed(),
///         400.. => Outcome::refused(),
///         _ => Outcome::success(),
///     };
///     match retry_after {
///         Some(seconds) => outcome.retry_after(Duration::from_secs(seconds)),
///         None => outcome,
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "pass the outcome to AdaptiveHandler::record and retry_delay"]
pub struct Outcome {
    pub(crate) kind: Kind,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) limits: RateLimits,
    pub(crate) tokens: Option<u64>,
}

/// A call in flight, as the policies know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted {
    /// Its sequence number.
    pub(crate) number: u64,
    pub(crate) at: Instant,
    /// How many others were in flight when it was admitted.
    pub(crate) others: u32,
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
        Outcome { kind, status: None, retry_after: None, limits: RateLimits::default(), tokens: None }
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

    /// The service works, but rejected this call because of its content: any other 4xx. Don't use it for a 429, which is
    /// [`throttled`](Outcome::throttled).
    pub fn refused() -> Outcome {
        Outcome::new(Kind::Refused)
    }

    /// The service's Retry-After. Ignored for a success.
    pub fn retry_after(mut self, wait: Duration) -> Outcome {
        self.retry_after = Some(wait);
        self
    }

    /// The rate limits from the response headers.
    pub fn limits(mut self, limits: RateLimits) -> Outcome {
        self.limits = limits;
        self
    }

    /// The HTTP status of the response. A 503 or 529 without a Retry-After may come from a rate limiter; the handler
    /// determines that. A failure without a status is a timeout or a failed connection.
    pub fn status(mut self, status: u16) -> Outcome {
        self.status = Some(status);
        self
    }

    /// The tokens that a successful call used, prompt and completion together. They count towards a token limit.
    pub fn tokens(mut self, tokens: u64) -> Outcome {
        self.tokens = Some(tokens);
        self
    }

    /// Whether the call was refused because of the rate or the load, by a service that is up.
    pub(crate) fn is_refusal(&self) -> bool {
        self.kind == Kind::Throttled && !self.is_bare_503()
    }

    /// Whether this is a 503 or 529 without a Retry-After, as sent by overloaded servers and by some rate limiters.
    pub(crate) fn is_bare_503(&self) -> bool {
        let is_5xx = matches!(self.status, Some(503 | 529));
        is_5xx && self.retry_after.is_none() && matches!(self.kind, Kind::Throttled | Kind::Failed)
    }
}
