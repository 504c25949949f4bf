//! What is known about a call besides its answer: attempts, times, the request's id, the rate limits.

use std::time::Duration;

use crate::error::Error;
use crate::limits::RateLimits;

/// How a call went.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let answer = Client::from_env()?.chat(&ChatRequest::new("gpt-4.1").user("hi"))?;
/// let meta = answer.meta();
/// println!("{} attempts in {:?}, {:?} of it waiting", meta.attempts, meta.elapsed, meta.waited);
/// println!("request id {}", meta.request_id.as_deref().unwrap_or("unknown"));
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Requests made, 1 if the first one succeeded.
    pub attempts: u32,
    /// Time from the start of the call to the end of the answer.
    pub elapsed: Duration,
    /// The part of `elapsed` spent waiting: for a turn, and between attempts.
    pub waited: Duration,
    /// The service's id of the request, to quote to its support.
    pub request_id: Option<String>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The rate limits that the service reported with the answer.
    pub rate_limits: RateLimits,
}

/// What an attempt, or a whole call, brought back.
#[derive(Debug)]
pub(crate) struct Attempt<T, E = Error> {
    pub(crate) result: Result<T, E>,
    /// What the answer said besides; the default where there was none.
    pub(crate) meta: Meta,
}

impl<T, E> From<Result<T, E>> for Attempt<T, E> {
    fn from(result: Result<T, E>) -> Attempt<T, E> {
        Attempt { result, meta: Meta::default() }
    }
}
