//! Metadata of a call: attempts, times, request id, rate limits and response headers.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::limits::RateLimits;

/// Metadata of a call and its response.
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
    /// The number of attempts; 1 if the first one succeeded.
    pub attempts: u32,
    /// The time from the start of the call to the end of the response.
    pub elapsed: Duration,
    /// The part of `elapsed` spent waiting for permits and between attempts.
    pub waited: Duration,
    /// The service's request id, to quote to its support.
    pub request_id: Option<String>,
    /// The HTTP status of the response.
    pub status: u16,
    /// The rate limits that the service reported in the response.
    pub rate_limits: RateLimits,
    /// `None` if there was no response.
    pub(crate) headers: Option<AnswerHeaders>,
}

impl Meta {
    /// The value of a response header. The name is case-insensitive; of a repeated header this is the first value.
    ///
    /// `None` if the service didn't send the header, if its value isn't text, or if the value contains the API key or
    /// another secret that the client sends. The headers take at most 64 KiB and are kept as long as the response.
    ///
    /// ```no_run
    /// # let client = holysheep::Client::from_env()?;
    /// # let request = holysheep::ChatRequest::new("gpt-4.1").user("hi");
    /// let answer = client.chat(&request)?;
    /// if let Some(millis) = answer.meta().header("openai-processing-ms") {
    ///     println!("the model took {millis} ms");
    /// }
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.0.get(name)
    }
}

/// The header fields of a response.
///
/// This trait has only one implementor. It exists because the fields stay in the HTTP library's map: copying them costs
/// more than all other processing of a response head, and only the layer `http` may name that library.
pub(crate) trait HeaderFields: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// The first value with this name, unless it contains a secret.
    fn get(&self, name: &str) -> Option<&str>;
}

/// The header fields of a response, shared by its clones.
#[derive(Clone)]
pub(crate) struct AnswerHeaders(pub(crate) Arc<dyn HeaderFields>);

impl PartialEq for AnswerHeaders {
    /// Clones are equal; the headers of two responses are not.
    fn eq(&self, other: &AnswerHeaders) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AnswerHeaders {}

impl fmt::Debug for AnswerHeaders {
    /// Omits the values: a service may put anything into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The result of an attempt or of a whole call, with its metadata.
#[derive(Debug)]
pub(crate) struct Attempt<T, E = Error> {
    pub(crate) result: Result<T, E>,
    /// The default if there was no response.
    pub(crate) meta: Meta,
}

impl<T, E> From<Result<T, E>> for Attempt<T, E> {
    fn from(result: Result<T, E>) -> Attempt<T, E> {
        Attempt { result, meta: Meta::default() }
    }
}
