//! The shared words of rate limits: what a service says is left, whatever header it says it in.

use std::time::Duration;

/// One limit, as a service reported it with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// How much is allowed in all: requests or tokens.
    pub limit: u64,
    /// How much of it was left when the service answered.
    pub remaining: u64,
    /// The time from sending the call to the moment when all of it is there again.
    pub reset: Duration,
}

/// The limits that a service reported with an answer.
///
/// ```
/// use holysheep::{AdaptiveConfig, AdaptiveHandler, Limit, Outcome, RateLimits};
/// use std::time::{Duration, Instant};
///
/// let requests = Limit { limit: 600, remaining: 12, reset: Duration::from_secs(20) };
/// let limits = RateLimits { requests: Some(requests), tokens: None };
/// let handler = AdaptiveHandler::new(AdaptiveConfig::default());
/// let permit = handler.acquire(None)?;
/// handler.record(Instant::now(), permit, Outcome::success().limits(limits));
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RateLimits {
    /// The limit on requests.
    pub requests: Option<Limit>,
    /// The limit on tokens.
    pub tokens: Option<Limit>,
}
