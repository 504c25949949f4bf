//! Constructors of errors, and what programs can ask an error.

use std::time::Duration;

use super::{Error, Phase, Reason, Source, is_name};

impl Error {
    pub(crate) fn config(setting: &'static str, message: impl Into<String>) -> Error {
        Error::Config { setting, message: message.into(), source: None }
    }

    pub(crate) fn timeout(phase: Phase, after: Duration) -> Error {
        Error::Timeout { phase, after, target: None }
    }

    pub(crate) fn transport(answered: bool, source: Source) -> Error {
        Error::Transport { answered, source, target: None }
    }

    pub(crate) fn too_large(part: &'static str, limit: u64) -> Error {
        Error::TooLarge { part, limit, target: None }
    }

    pub(crate) fn circuit_open(retry_in: Duration) -> Error {
        Error::CircuitOpen { retry_in, target: None }
    }

    pub(crate) fn deadline(after: Duration, phase: Option<Phase>) -> Error {
        Error::Deadline { after, phase, waiting_for: None, turn_in: None, target: None }
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self.innermost() {
            Error::Api { status, .. } | Error::Decode { status, .. } | Error::NoAnswer { status, .. } => {
                Some(*status)
            }
            _ => None,
        }
    }

    /// Attempts made; 0 if nothing was sent, and after a cancellation or shutdown.
    pub fn attempts(&self) -> u32 {
        match self {
            Error::GaveUp { attempts, .. } => *attempts,
            Error::Deadline { phase: Some(_), .. } => 1,
            Error::Config { .. }
            | Error::CircuitOpen { .. }
            | Error::Deadline { .. }
            | Error::Cancelled
            | Error::Shutdown
            | Error::Panicked => 0,
            _ => 1,
        }
    }

    /// The time that the whole call took, if it gave up on retrying.
    pub fn elapsed(&self) -> Option<Duration> {
        match self {
            Error::GaveUp { elapsed, .. } => Some(*elapsed),
            _ => None,
        }
    }

    /// The service's id of the failed request.
    pub fn request_id(&self) -> Option<&str> {
        match self.innermost() {
            Error::Api { request_id, .. }
            | Error::Decode { request_id, .. }
            | Error::NoAnswer { request_id, .. }
            | Error::Incomplete { request_id, .. } => request_id.as_deref(),
            _ => None,
        }
    }

    /// The wait that the server asked for before the next request; with an open circuit breaker the time until the next
    /// probe, and for a call that couldn't be admitted before its deadline the time until it would have been.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.innermost() {
            Error::Api { retry_after, .. } => *retry_after,
            Error::CircuitOpen { retry_in, .. } => Some(*retry_in),
            Error::Deadline { turn_in, .. } => *turn_in,
            _ => None,
        }
    }

    /// Whether time ran out: a [`Timeout`](Error::Timeout), a [`Deadline`](Error::Deadline), or giving up because of one.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::GaveUp { reason: Reason::Deadline | Reason::DeadlinePassed, .. })
            || matches!(self.innermost(), Error::Timeout { .. } | Error::Deadline { .. })
    }

    /// Whether the service refused the key: 401, or 403, which may also mean that the key lacks permission.
    pub fn is_auth(&self) -> bool {
        matches!(self.innermost(), Error::Api { status: 401 | 403, .. })
    }

    /// Whether the service answered 429, for the rate or for the account's quota.
    pub fn is_rate_limited(&self) -> bool {
        self.status() == Some(429)
    }

    /// The failure without text from the server, except the service's code. It is for logs and events, and a server may
    /// repeat parts of a prompt.
    pub(crate) fn outline(&self) -> String {
        match self {
            Error::Api { status, code: Some(code), .. } if is_name(code) => {
                format!("status {status}, {code}")
            }
            Error::Api { status, .. } => format!("status {status}"),
            Error::Decode { status, .. } => format!("unreadable answer, status {status}"),
            Error::NoAnswer { status, .. } => format!("no answer, status {status}"),
            other => other.to_string(),
        }
    }

    /// The failure of the last attempt.
    pub(crate) fn innermost(&self) -> &Error {
        let mut error = self;
        while let Error::GaveUp { last, .. } = error {
            error = last;
        }
        error
    }
}
