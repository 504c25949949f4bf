//! Whether to try again: one classifier for the status line, an error inside a 200 and a broken connection alike.

use std::io;
use std::time::Duration;

use super::backoff::RetryConfig;
use crate::error::{Error, Phase};

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt can't help.
    GiveUp,
    /// Try again after a delay.
    Retry,
    /// Try again, but not before this much time has passed.
    RetryAfter(Duration),
}

/// An error that knows whether another attempt could help.
pub trait Retryable {
    /// What to do after this failure.
    fn verdict(&self) -> Verdict;
}

/// A verdict with all that the retry loop needs to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) verdict: Verdict,
    /// The status whose caps hold for the wait.
    pub(crate) status: Option<u16>,
    /// Most likely a pooled connection that the server had closed: the first time, try a new one without a wait.
    pub(crate) stale: bool,
}

impl Ruling {
    pub(crate) fn new(verdict: Verdict) -> Ruling {
        Ruling { verdict, status: None, stale: false }
    }
}

/// The classifier.
pub(crate) fn judge(error: &Error, retry: &RetryConfig) -> Ruling {
    match error {
        Error::Api { status, code, kind, retry_after, should_retry, .. } => {
            let quota = *status == 402 || (*status == 429 && (names_quota(code) || names_quota(kind)));
            let again = should_retry.unwrap_or(retry.retries_status(*status) && !quota);
            let verdict = match retry_after {
                _ if !again => Verdict::GiveUp,
                Some(asked) => Verdict::RetryAfter(*asked),
                None => Verdict::Retry,
            };
            Ruling { verdict, status: Some(*status), stale: false }
        }
        Error::Connect { .. } | Error::Timeout { phase: Phase::Connect, .. } => Ruling::new(Verdict::Retry),
        Error::Timeout { .. } if retry.retries_timeouts() => Ruling::new(Verdict::Retry),
        Error::Transport { answered, .. } => Ruling { stale: !answered, ..Ruling::new(Verdict::Retry) },
        Error::GaveUp { last, .. } => judge(last, retry),
        Error::Timeout { .. }
        | Error::Config { .. }
        | Error::Decode { .. }
        | Error::TooLarge { .. }
        | Error::CircuitOpen { .. }
        | Error::Deadline { .. }
        | Error::Shutdown => Ruling::new(Verdict::GiveUp),
    }
}

/// Whether a 429 is about money rather than speed. Only the machine-readable words count: a message that says "check
/// quota" is also what plain rate limits say.
fn names_quota(word: &Option<String>) -> bool {
    let word = word.as_deref().unwrap_or_default().to_ascii_lowercase();
    ["quota", "billing", "credit", "balance"].iter().any(|money| word.contains(money))
}

impl Error {
    /// Whether another attempt could help, by the default table of statuses.
    pub fn is_retryable(&self) -> bool {
        self.verdict() != Verdict::GiveUp
    }
}

impl Retryable for Error {
    fn verdict(&self) -> Verdict {
        judge(self, &RetryConfig::default()).verdict
    }
}

impl Retryable for io::Error {
    fn verdict(&self) -> Verdict {
        use io::ErrorKind::*;
        match self.kind() {
            ConnectionRefused | ConnectionReset | ConnectionAborted | NotConnected | BrokenPipe
            | TimedOut | Interrupted | WouldBlock | UnexpectedEof | HostUnreachable | NetworkUnreachable
            | NetworkDown | AddrInUse | ResourceBusy => Verdict::Retry,
            _ => Verdict::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: u16) -> Error {
        let (code, kind, param, request_id) = (None, None, None, None);
        let (message, body) = (String::new(), String::new());
        Error::Api {
            status,
            code,
            kind,
            message,
            param,
            request_id,
            retry_after: None,
            should_retry: None,
            body,
        }
    }

    #[test]
    fn a_config_decides_which_statuses_are_worth_it() {
        let picky = RetryConfig::default().retryable_statuses([418]);
        assert_eq!(judge(&api(418), &picky).verdict, Verdict::Retry);
        assert_eq!(judge(&api(503), &picky).verdict, Verdict::GiveUp);
        assert_eq!(judge(&api(503), &picky).status, Some(503));
    }

    #[test]
    fn only_an_unanswered_broken_connection_may_be_a_stale_one() {
        let broken = |answered| Error::Transport { answered, source: "gone".into() };
        let ruling = |error: Error| judge(&error, &RetryConfig::default());
        assert!(ruling(broken(false)).stale && !ruling(broken(true)).stale && !ruling(api(503)).stale);
        assert_eq!(ruling(broken(true)).verdict, Verdict::Retry);
    }

    #[test]
    fn what_cannot_get_better_is_given_up() {
        for error in [
            Error::config("timeout", "is zero"),
            Error::TooLarge { part: "body", limit: 1 },
            Error::Deadline { after: Duration::ZERO },
            Error::Shutdown,
            api(404),
            api(302),
        ] {
            assert_eq!(error.verdict(), Verdict::GiveUp, "{error}");
        }
    }
}
