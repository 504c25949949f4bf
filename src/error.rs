//! The shared words of failure: one error type that says what happened, where, and what the server asked for.

use std::fmt;
use std::time::Duration;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause behind an error, as its library reported it.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a call failed.
///
/// `Display` is one line for this level only; the cause is in [`source()`](std::error::Error::source). The questions
/// ([`status`](Error::status), [`is_retryable`](Error::is_retryable) and so on) look through [`GaveUp`](Error::GaveUp).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A setting or a request that can't work; nothing useful happens until it is changed. Never retried.
    #[non_exhaustive]
    Config {
        /// The setting or the part of the request, as it is named in the API, for example `base_url`.
        setting: &'static str,
        /// What is wrong and what to change.
        message: String,
        /// The cause, where another library found the problem.
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
        /// The service's own words, or the status' usual name where it sent none.
        message: String,
        /// The parameter the service objects to.
        param: Option<String>,
        /// The id to quote to the service's support.
        request_id: Option<String>,
        /// How long the server asked to be left alone.
        retry_after: Option<Duration>,
        /// What the server said in `x-should-retry`, which overrules the table of statuses.
        should_retry: Option<bool>,
        /// The beginning of the body, at most [`EXCERPT`] bytes.
        body: String,
    },
    /// No connection: the request was never sent.
    #[non_exhaustive]
    Connect {
        /// The host and port that couldn't be reached.
        host: String,
        /// The cause.
        source: Source,
    },
    /// The server was silent for too long.
    #[non_exhaustive]
    Timeout {
        /// What was being waited for.
        phase: Phase,
        /// The silence that was allowed.
        after: Duration,
    },
    /// The connection broke. The request may have been processed.
    #[non_exhaustive]
    Transport {
        /// Whether a part of the answer had already arrived.
        answered: bool,
        /// The cause.
        source: Source,
    },
    /// An answer that can't be read.
    #[non_exhaustive]
    Decode {
        /// The HTTP status it came with.
        status: u16,
        /// Where it can't be read, for example `byte 7 of 12`.
        at: String,
        /// What is there: at most [`EXCERPT`] bytes around that place.
        excerpt: String,
        /// The id to quote to the service's support.
        request_id: Option<String>,
        /// What the parser said.
        source: Source,
    },
    /// A stream that ended before the answer did: without a finish reason and without `[DONE]`.
    #[non_exhaustive]
    StreamTruncated {
        /// The text that had arrived.
        received: String,
        /// The cause, where the connection broke.
        source: Option<Source>,
    },
    /// An answer larger than what may be kept in memory.
    #[non_exhaustive]
    TooLarge {
        /// What is too large: `header`, `body`, or of a stream a `line`, an `event` or a number of `parts`.
        part: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// The breaker is open: the service failed too often on end, and nothing was sent.
    #[non_exhaustive]
    CircuitOpen {
        /// The time until a call is let go again, to try.
        retry_in: Duration,
    },
    /// The deadline of the whole call passed.
    #[non_exhaustive]
    Deadline {
        /// The deadline, counted from the start of the call.
        after: Duration,
    },
    /// [`Client::shutdown`](crate::Client::shutdown) was called.
    Shutdown,
    /// The program's own observer of events panicked; in a batch that ends one item only.
    Panicked,
    /// There was more than one attempt, or one more was refused.
    #[non_exhaustive]
    GaveUp {
        /// Why there is no further attempt.
        reason: Reason,
        /// Requests made in this call.
        attempts: u32,
        /// Time since the call began.
        elapsed: Duration,
        /// The last attempt's failure.
        last: Box<Error>,
    },
}

/// The longest excerpt of a server's words kept in an error, in bytes: enough for an error object or the title of an
/// HTML page, short enough for a log line.
pub const EXCERPT: usize = 512;

/// The part of an exchange that a timeout ended.
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
    /// The allowed number of retries is used up.
    RetriesSpent,
    /// The last failure is of a kind that another attempt can't mend.
    NotRetryable,
    /// The server asks for a longer wait than [`RetryConfig`](crate::RetryConfig) allows.
    WaitTooLong,
    /// The deadline passed, or the next wait would cross it.
    Deadline,
    /// So many calls fail that another retry would only add to the load.
    BudgetSpent,
    /// The breaker opened: the service is down.
    CircuitOpen,
}

impl Error {
    pub(crate) fn config(setting: &'static str, message: impl Into<String>) -> Error {
        Error::Config { setting, message: message.into(), source: None }
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self.innermost() {
            Error::Api { status, .. } | Error::Decode { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Attempts made: 1 unless the error is a [`GaveUp`](Error::GaveUp) that counted more.
    pub fn attempts(&self) -> u32 {
        match self {
            Error::GaveUp { attempts, .. } => *attempts,
            _ => 1,
        }
    }

    /// The time the whole call took, where the call gave up on retrying.
    pub fn elapsed(&self) -> Option<Duration> {
        match self {
            Error::GaveUp { elapsed, .. } => Some(*elapsed),
            _ => None,
        }
    }

    /// The service's id of the failed request.
    pub fn request_id(&self) -> Option<&str> {
        match self.innermost() {
            Error::Api { request_id, .. } | Error::Decode { request_id, .. } => request_id.as_deref(),
            _ => None,
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.innermost() {
            Error::Api { retry_after, .. } => *retry_after,
            Error::CircuitOpen { retry_in } => Some(*retry_in),
            _ => None,
        }
    }

    /// Whether time ran out: a [`Timeout`](Error::Timeout), a [`Deadline`](Error::Deadline), or giving up because of one.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::GaveUp { reason: Reason::Deadline, .. })
            || matches!(self.innermost(), Error::Timeout { .. } | Error::Deadline { .. })
    }

    /// Whether the service refused the key: 401 or 403.
    pub fn is_auth(&self) -> bool {
        matches!(self.innermost(), Error::Api { status: 401 | 403, .. })
    }

    /// Whether the service said 429, be it for the rate or for the account's quota.
    pub fn is_rate_limited(&self) -> bool {
        self.status() == Some(429)
    }

    /// The failure in a few words of this crate's own and the service's code: fit for logs and events, which nothing
    /// that a server repeats of a prompt may reach.
    pub(crate) fn outline(&self) -> String {
        match self {
            Error::Api { status, code: Some(code), .. } if is_name(code) => {
                format!("status {status}, {code}")
            }
            Error::Api { status, .. } => format!("status {status}"),
            Error::Decode { status, .. } => format!("unreadable answer, status {status}"),
            other => other.to_string(),
        }
    }

    /// What the last attempt failed with.
    pub(crate) fn innermost(&self) -> &Error {
        let mut error = self;
        while let Error::GaveUp { last, .. } = error {
            error = last;
        }
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config { setting, message, .. } => write!(f, "{setting}: {message}"),
            Error::Api { status, code: Some(code), message, .. } => {
                write!(f, "the service answered {status} ({code}): {message}")
            }
            Error::Api { status, message, .. } => write!(f, "the service answered {status}: {message}"),
            Error::Connect { host, .. } => write!(f, "can't connect to {host}"),
            Error::Timeout { phase, after } => write!(f, "no progress in {after:?} while {phase}"),
            Error::Transport { answered: false, .. } => {
                write!(f, "the connection broke before the answer; the request may have been processed")
            }
            Error::Transport { answered: true, .. } => {
                write!(f, "the connection broke in the middle of the answer")
            }
            Error::Decode { status, at, excerpt, .. } => {
                write!(f, "can't read the answer (status {status}) at {at}: `{excerpt}`")
            }
            Error::StreamTruncated { received, .. } => {
                write!(f, "the stream was cut after {} bytes of text", received.len())
            }
            Error::TooLarge { part: "parts", limit } => write!(f, "the answer has more than {limit} parts"),
            Error::TooLarge { part, limit } => {
                write!(f, "the {part} of the answer is larger than {limit} bytes")
            }
            Error::CircuitOpen { retry_in } => {
                let seconds = retry_in.as_secs_f64();
                write!(f, "the service failed too often; the next call may try it in {seconds:.1} s")
            }
            Error::Deadline { after } => write!(f, "the deadline of {after:?} passed"),
            Error::Shutdown => write!(f, "the client was shut down"),
            Error::Panicked => write!(f, "the program panicked in the middle of the call"),
            Error::GaveUp { reason, attempts, elapsed, .. } => {
                let s = if *attempts == 1 { "" } else { "s" };
                write!(f, "gave up after {attempts} attempt{s} in {:.1} s: {reason}", elapsed.as_secs_f64())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Config { source, .. } | Error::StreamTruncated { source, .. } => {
                source.as_ref().map(|source| &**source as _)
            }
            Error::Connect { source, .. }
            | Error::Transport { source, .. }
            | Error::Decode { source, .. } => Some(&**source),
            Error::GaveUp { last, .. } => Some(&**last),
            _ => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connecting",
            Phase::Sending => "sending the request",
            Phase::Waiting => "waiting for the answer",
            Phase::Reading => "reading the answer",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::RetriesSpent => "no retries left",
            Reason::NotRetryable => "another attempt can't help",
            Reason::WaitTooLong => "the server asks for a longer wait than allowed",
            Reason::Deadline => "no time left before the deadline",
            Reason::BudgetSpent => "too many calls fail to try again",
            Reason::CircuitOpen => "the service is down and the breaker open",
        })
    }
}

/// Whether a code is the name of an error, and no sentence that might repeat something.
fn is_name(code: &str) -> bool {
    code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// The beginning of `text`, at most [`EXCERPT`] bytes, cut between characters, without control characters.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(EXCERPT)];
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut text: String = String::from_utf8_lossy(head).chars().map(clean).collect();
    if bytes.len() > head.len() && text.ends_with(char::REPLACEMENT_CHARACTER) {
        text.pop(); // perhaps half of a character
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
    use std::error::Error as _;

    use super::*;

    fn cause() -> Source {
        "the cause".into()
    }

    fn api() -> Error {
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
        }
    }

    fn gave_up(reason: Reason, attempts: u32) -> Error {
        Error::GaveUp { reason, attempts, elapsed: Duration::from_millis(12_340), last: Box::new(api()) }
    }

    #[test]
    fn every_message_is_one_line_for_its_level() {
        let timeout = |phase| Error::Timeout { phase, after: Duration::from_secs(60) };
        let cases = [
            (Error::config("timeout", "is zero"), "timeout: is zero"),
            (api(), "the service answered 429 (rate_limit_exceeded): slow down"),
            (Error::Connect { host: "a:1".to_owned(), source: cause() }, "can't connect to a:1"),
            (timeout(Phase::Connect), "no progress in 60s while connecting"),
            (timeout(Phase::Sending), "no progress in 60s while sending the request"),
            (timeout(Phase::Waiting), "no progress in 60s while waiting for the answer"),
            (timeout(Phase::Reading), "no progress in 60s while reading the answer"),
            (
                Error::Transport { answered: false, source: cause() },
                "the connection broke before the answer; the request may have been processed",
            ),
            (
                Error::Transport { answered: true, source: cause() },
                "the connection broke in the middle of the answer",
            ),
            (
                Error::StreamTruncated { received: "héllo".to_owned(), source: Some(cause()) },
                "the stream was cut after 6 bytes of text",
            ),
            (Error::TooLarge { part: "parts", limit: 9 }, "the answer has more than 9 parts"),
            (Error::TooLarge { part: "body", limit: 9 }, "the body of the answer is larger than 9 bytes"),
            (Error::TooLarge { part: "header", limit: 9 }, "the header of the answer is larger than 9 bytes"),
            (
                Error::CircuitOpen { retry_in: Duration::from_millis(12_340) },
                "the service failed too often; the next call may try it in 12.3 s",
            ),
            (Error::Deadline { after: Duration::from_secs(2) }, "the deadline of 2s passed"),
            (Error::Shutdown, "the client was shut down"),
            (Error::Panicked, "the program panicked in the middle of the call"),
            (gave_up(Reason::RetriesSpent, 6), "gave up after 6 attempts in 12.3 s: no retries left"),
            (
                gave_up(Reason::NotRetryable, 1),
                "gave up after 1 attempt in 12.3 s: another attempt can't help",
            ),
            (
                gave_up(Reason::WaitTooLong, 2),
                "gave up after 2 attempts in 12.3 s: the server asks for a longer wait than allowed",
            ),
            (
                gave_up(Reason::Deadline, 2),
                "gave up after 2 attempts in 12.3 s: no time left before the deadline",
            ),
            (
                gave_up(Reason::BudgetSpent, 2),
                "gave up after 2 attempts in 12.3 s: too many calls fail to try again",
            ),
            (
                gave_up(Reason::CircuitOpen, 2),
                "gave up after 2 attempts in 12.3 s: the service is down and the breaker open",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(error.to_string(), message);
            let repeats = error.source().is_some_and(|source| message.contains(&source.to_string()));
            assert!(!repeats, "{message} repeats its cause");
        }
    }

    #[test]
    fn questions_look_through_giving_up() {
        let error = gave_up(Reason::RetriesSpent, 6);
        assert_eq!((error.status(), error.attempts(), error.request_id()), (Some(429), 6, Some("req-1")));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.elapsed(), Some(Duration::from_millis(12_340)));
        assert!(error.is_rate_limited() && error.is_retryable() && !error.is_auth() && !error.is_timeout());
        assert_eq!((api().attempts(), api().elapsed()), (1, None));
        assert!(gave_up(Reason::Deadline, 2).is_timeout());
        assert!(Error::Timeout { phase: Phase::Waiting, after: Duration::ZERO }.is_timeout());
        assert_eq!(Error::Shutdown.status(), None);
    }

    #[test]
    fn an_outline_holds_no_words_of_the_server() {
        assert_eq!(api().outline(), "status 429, rate_limit_exceeded");
    }

    #[test]
    fn an_excerpt_is_short_clean_and_cut_between_characters() {
        assert_eq!(excerpt(b"a\nb\x1b[31m"), "a b [31m");
        let long = excerpt("é".repeat(1000).as_bytes());
        assert_eq!(long, format!("{}…", "é".repeat(EXCERPT / 2)));
        assert_eq!(
            excerpt(&[b"x".as_slice(), "é".repeat(1000).as_bytes()].concat()).chars().count(),
            EXCERPT / 2 + 1
        );
    }
}
