//! Rate limits as a service reports them, whatever the header format.

use std::time::Duration;

/// A rate limit that a service reported in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// The maximum number of requests or tokens.
    pub limit: u64,
    /// The number left when the service responded.
    pub remaining: u64,
    /// The time from sending the request until the limit is fully available again.
    pub reset: Duration,
}

/// The rate limits that a service reported in a response.
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
