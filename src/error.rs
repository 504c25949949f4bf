//! The error type of all calls: what failed, where, and what the server asked for.

mod display;
mod methods;
mod target;

use std::sync::Arc;
use std::time::Duration;

pub use self::target::Target;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error, as reported by another library. Shared, so that an error can be cloned.
pub(crate) type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// An error of the program's own functions.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Wraps an error of another library, or a text.
pub(crate) fn into_source(error: impl Into<BoxError>) -> Source {
    Arc::from(error.into())
}

/// Why a call failed.
///
/// `Display` is one line that is enough to act on. It names the model and the host of the call, and after giving up the
/// attempts, the time, the reason and the last failure. [`source()`](std::error::Error::source) returns only causes that the line doesn't include. The methods
/// ([`status`](Error::status), [`is_retryable`](Error::is_retryable) and so on) look through [`GaveUp`](Error::GaveUp).
/// `Debug` shows no prompt, no answer and no body.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client, Error};
///
/// let client = Client::from_env()?;
/// match client.chat(&ChatRequest::new("gpt-4.1").user("hi")) {
///     Ok(answer) => println!("{}", answer.text()),
///     Err(error) if error.is_auth() => eprintln!("check the key: {error}"),
///     Err(Error::CircuitOpen { retry_in, .. }) => eprintln!("down, come back in {retry_in:?}"),
///     Err(error) => eprintln!("{error} (request {})", error.request_id().unwrap_or("unknown")),
/// }
/// # Ok::<_, Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// An invalid setting or request. Never retried.
    #[non_exhaustive]
    Config {
        /// The setting or the part of the request, as it is named in the API, for example `base_url`.
        setting: &'static str,
        /// What is wrong and what to change.
        message: String,
        /// The cause, if another library found the problem.
        source: Option<Source>,
    },
    /// The service answered with an error: a status that isn't 2xx, or an `error` inside a 200.
    #[non_exhaustive]
    Api {
        /// The HTTP status; for an error inside a 200 the code found there, else 500.
        status: u16,
        /// The service's machine-readable code, for example `insufficient_quota`.
        code: Option<String>,
        /// The service's error type, for example `invalid_request_error`.
        kind: Option<String>,
        /// The service's message, or the usual meaning of the status if it sent none.
        message: String,
        /// The parameter the service objects to.
        param: Option<String>,
        /// The id to quote to the service's support.
        request_id: Option<String>,
        /// The wait that the server asked for before the next request.
        retry_after: Option<Duration>,
        /// The server's `x-should-retry`, which overrides the default for the status.
        should_retry: Option<bool>,
        /// The beginning of the body, at most [`EXCERPT`] bytes and an ellipsis.
        body: String,
        /// The service and the model, if the call ended with this error; [`GaveUp`](Error::GaveUp) names them itself.
        target: Option<Box<Target>>,
    },
    /// Connecting failed: the request was never sent.
    #[non_exhaustive]
    Connect {
        /// The host and port that couldn't be reached.
        host: String,
        /// The cause.
        source: Source,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// There was no progress within the allowed time.
    #[non_exhaustive]
    Timeout {
        /// What was in progress.
        phase: Phase,
        /// The longest time without progress that was allowed.
        after: Duration,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// The connection broke. The request may have been processed.
    #[non_exhaustive]
    Transport {
        /// Whether part of the response had already arrived.
        answered: bool,
        /// The cause.
        source: Source,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// A response that can't be decoded.
    #[non_exhaustive]
    Decode {
        /// The HTTP status it came with.
        status: u16,
        /// Where parsing failed, for example `byte 7 of 12`.
        at: String,
        /// At most [`EXCERPT`] bytes, and ellipses, around that position.
        excerpt: String,
        /// The id to quote to the service's support.
        request_id: Option<String>,
        /// The parser's error.
        source: Source,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// A success status without an answer: an empty body, no choices, or a stream that ends before its first choice. Retried.
    #[non_exhaustive]
    NoAnswer {
        /// The HTTP status it came with.
        status: u16,
        /// What is missing.
        missing: String,
        /// The id to quote to the service's support.
        request_id: Option<String>,
        /// The beginning of the body, at most [`EXCERPT`] bytes and an ellipsis.
        body: String,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// JSON was requested from an answer that was cut off by the token limit, filtered or refused.
    #[non_exhaustive]
    Incomplete {
        /// Why the answer ended, for example `length` or `content_filter`; `refusal` if the model refused to answer.
        finish_reason: String,
        /// The id to quote to the service's support.
        request_id: Option<String>,
    },
    /// A stream that ended before the answer was complete: without a finish reason and without `[DONE]`.
    #[non_exhaustive]
    StreamTruncated {
        /// The text received so far.
        received: String,
        /// Whether a chunk had been delivered to the caller. If so, another attempt can't replace the answer.
        delivered: bool,
        /// The cause, if the connection broke.
        source: Option<Source>,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// A response that exceeds a size limit.
    #[non_exhaustive]
    TooLarge {
        /// What is too large: `header`, `body`, a `line` or `event` of a stream, `parts` (choices or tool calls), or
        /// `values` (the memory of the parsed JSON).
        part: &'static str,
        /// The limit: the number of `parts`, otherwise in bytes.
        limit: u64,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// The circuit breaker is open after too many consecutive failures, and nothing was sent.
    #[non_exhaustive]
    CircuitOpen {
        /// The time until the next call may probe the service; while a probe is in flight, an estimate of at most 5 s.
        retry_in: Duration,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// The deadline of the whole call passed, or would pass before the adaptive handler admits the call. Without one, the
    /// body of an answer wasn't complete after an hour.
    #[non_exhaustive]
    Deadline {
        /// The deadline, counted from the start of the call.
        after: Duration,
        /// What was in progress, if a request was being sent or answered.
        phase: Option<Phase>,
        /// What the call waited for, if it was waiting for a permit of the handler. Then nothing was sent.
        waiting_for: Option<WaitCause>,
        /// The time until the handler would have admitted the call, if that is known and after the deadline.
        turn_in: Option<Duration>,
        /// The service and the model, if the call ended with this error.
        target: Option<Box<Target>>,
    },
    /// The call's [`Cancel`](crate::Cancel) was cancelled.
    Cancelled,
    /// [`Client::shutdown`](crate::Client::shutdown) or [`Client::drain`](crate::Client::drain) was called.
    Shutdown,
    /// The program's event observer panicked. In a batch, this ends only one item.
    Panicked,
    /// The call failed after more than one attempt, or a retry was not permitted.
    #[non_exhaustive]
    GaveUp {
        /// The host and port of the service.
        host: String,
        /// The model; empty for calls without one.
        model: String,
        /// Why there is no further attempt.
        reason: Reason,
        /// Requests made in this call.
        attempts: u32,
        /// Time since the call began.
        elapsed: Duration,
        /// The last attempt's failure; with [`Reason::DeadlinePassed`] that of the attempt before.
        last: Box<Error>,
    },
}

/// Why a call waits for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitCause {
    /// The rate limit: a rate that was configured or learned from refusals, or a `Retry-After` of the service.
    Rate,
    /// The service's rate limit headers: little is left until the reset.
    Headers,
    /// The cap on calls in flight.
    Concurrency,
    /// The circuit breaker is open, or its probe is in flight. The call waits because it belongs to a batch, or because of
    /// [`wait_when_open`](crate::AdaptiveConfig::wait_when_open).
    CircuitOpen,
}

/// The maximum length of a response excerpt in an error, in bytes: enough for an error object or the title of an HTML page,
/// short enough for a log line.
pub const EXCERPT: usize = 512;

/// The phase of an exchange in which a timeout occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Looking up the name, connecting, TLS: nothing was sent.
    Connect,
    /// Sending the request.
    Sending,
    /// Waiting for the first byte of the answer.
    Waiting,
    /// Reading the answer.
    Reading,
}

/// Why a call gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// All retries are used.
    RetriesSpent,
    /// The retries that may follow timeouts while waiting for an answer are used: see
    /// [`timeout_retries`](crate::RetryConfig::timeout_retries).
    TimeoutRetriesSpent,
    /// Another attempt can't fix the last failure.
    NotRetryable,
    /// The server asks for a longer wait than [`status_max_delay`](crate::RetryConfig::status_max_delay) allows.
    WaitTooLong,
    /// The deadline leaves no time for another attempt: the wait before it would be too long.
    Deadline,
    /// The deadline passed during the last attempt. The error's `last` is the failure of the attempt before that.
    DeadlinePassed,
    /// The retry budget is spent: so many calls fail that another retry would only add load.
    BudgetSpent,
    /// The circuit breaker opened: the service is down.
    CircuitOpen,
}

/// Why this finish reason means that the answer is incomplete, and a remedy. `None` for other finish reasons.
pub(crate) fn incompleteness(finish_reason: &str) -> Option<&'static str> {
    Some(match finish_reason.to_ascii_lowercase().as_str() {
        "length" | "max_tokens" | "model_length" => {
            "was cut by the token limit; raise max_tokens or max_completion_tokens"
        }
        "content_filter" | "safety" | "sensitive" | "recitation" | "prohibited_content" | "blocklist" => {
            "was withheld or cut by the service's content filter"
        }
        "refusal" => "is a refusal instead of JSON; its text is in refusal() or text()",
        "error" | "abort" | "network_error" | "insufficient_system_resource" => {
            "was aborted by the service; try again"
        }
        _ => return None,
    })
}

/// Whether a code is the name of an error, and not a sentence that may repeat a prompt.
fn is_name(code: &str) -> bool {
    code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// The beginning of `bytes` as text, at most [`EXCERPT`] bytes and an ellipsis, cut between characters, without control characters.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(EXCERPT)];
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut text: String = String::from_utf8_lossy(head).chars().map(clean).collect();
    if bytes.len() > head.len() && text.ends_with(char::REPLACEMENT_CHARACTER) {
        text.pop(); // possibly a split character
    }
    while text.len() > EXCERPT {
        text.pop();
    }
    if bytes.len() > head.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn cause() -> Source {
        into_source("the cause")
    }

    pub(super) fn api() -> Error {
        Error::Api {
            status: 429,
            code: Some("rate_limit_exceeded".to_owned()),
            kind: None,
            message: "slow down".to_owned(),
            param: None,
            request_id: Some("req-1".to_owned()),
            retry_after: Some(Duration::from_secs(7)),
            should_retry: None,
            body: "{}".to_owned(),
            target: None,
        }
    }

    pub(super) fn gave_up(reason: Reason, attempts: u32) -> Error {
        let (host, model) = ("api.example:443".to_owned(), "m".to_owned());
        let elapsed = Duration::from_millis(12_340);
        Error::GaveUp { host, model, reason, attempts, elapsed, last: Box::new(api()) }
    }

    #[test]
    fn methods_look_through_gave_up() {
        let error = gave_up(Reason::RetriesSpent, 6);
        assert_eq!((error.status(), error.attempts(), error.request_id()), (Some(429), 6, Some("req-1")));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.elapsed(), Some(Duration::from_millis(12_340)));
        assert!(error.is_rate_limited() && error.is_retryable() && !error.is_auth() && !error.is_timeout());
        assert_eq!((api().attempts(), api().elapsed()), (1, None));
        assert_eq!(Error::deadline(Duration::ZERO, Some(Phase::Waiting)).attempts(), 1);
        for unsent in [
            Error::config("timeout", "is zero"),
            Error::circuit_open(Duration::ZERO),
            Error::deadline(Duration::ZERO, None),
            Error::Shutdown,
        ] {
            assert_eq!(unsent.attempts(), 0, "{unsent}");
        }
        assert!(gave_up(Reason::Deadline, 2).is_timeout());
        assert!(Error::timeout(Phase::Waiting, Duration::ZERO).is_timeout());
        assert_eq!(Error::Shutdown.status(), None);
    }

    #[test]
    fn an_outline_contains_no_message_of_the_server() {
        assert_eq!(api().outline(), "status 429, rate_limit_exceeded");
    }

    #[test]
    fn an_excerpt_is_short_clean_and_cut_between_characters() {
        assert_eq!(excerpt(b"a\nb\x1b[31m"), "a b [31m");
        let long = excerpt("é".repeat(1000).as_bytes());
        assert_eq!(long, format!("{}…", "é".repeat(256)));
        assert_eq!(excerpt(&[b"x".as_slice(), "é".repeat(1000).as_bytes()].concat()).chars().count(), 257);
        assert_eq!(excerpt("é".repeat(256).as_bytes()), "é".repeat(256), "512 bytes fit");
    }
}
