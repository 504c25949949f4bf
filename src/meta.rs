//! What is known about an answer besides its content: attempts, times, the request's id, the server's limits.

use std::time::Duration;

use crate::limits::RateLimits;

/// How a call went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Requests made, 1 if the first one succeeded.
    pub attempts: u32,
    /// Time from the start of the call to the end of the answer.
    pub elapsed: Duration,
    /// The part of `elapsed` spent waiting between attempts.
    pub waited: Duration,
    /// The service's id of the request, to quote to its support.
    pub request_id: Option<String>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What the service said of its limits.
    pub rate_limits: RateLimits,
}
