//! What is known about a call besides its answer: attempts, times, the request's id, the rate limits, the headers.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
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
    /// None where there was no answer.
    pub(crate) headers: Option<AnswerHeaders>,
}

impl Meta {
    /// The value of one of the answer's headers, whatever the case of its name; the first value where it is repeated.
    ///
    /// `None` where the service didn't send the header, where its value isn't text, and where the value contains the API key
    /// or another secret that the client sends. The headers take at most 64 KiB, and are kept as long as the answer.
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

/// The header fields of an answer.
///
/// Although only one type implements this trait, it is needed: the fields stay in the map of the HTTP library, because
/// copying them costs more than all else that is done with a head, and no layer but `http` may name that library.
pub(crate) trait HeaderFields: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// The first value with this name, unless it contains a secret.
    fn get(&self, name: &str) -> Option<&str>;
}

/// The header fields of an answer, shared by its clones.
#[derive(Clone)]
pub(crate) struct AnswerHeaders(pub(crate) Arc<dyn HeaderFields>);

impl PartialEq for AnswerHeaders {
    /// The headers of clones are equal, those of two answers aren't.
    fn eq(&self, other: &AnswerHeaders) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AnswerHeaders {}

impl fmt::Debug for AnswerHeaders {
    /// Shows no values: a service may put anything into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
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
