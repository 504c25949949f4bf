//! Whether to try again: one classifier for the status line, an error inside a 200 and a broken connection alike.

use std::io;
use std::time::Duration;

use super::backoff::RetryConfig;
use super::outcome::Outcome;
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
    /// The failure as the policies see it.
    pub(crate) outcome: Outcome,
    /// What they may learn from it.
    pub(crate) lesson: Lesson,
    /// Most likely a pooled connection that the server had closed: the first time, try a new one without a wait.
    pub(crate) stale: bool,
}

/// What a failure tells about the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// What its outcome says.
    Outcome,
    /// The service works; the trouble is with this call.
    Works,
    /// Nothing: it is about money, or about this end of the line.
    Nothing,
}

impl Ruling {
    /// Of a failure that isn't an answer.
    pub(crate) fn new(verdict: Verdict, lesson: Lesson) -> Ruling {
        let outcome = match verdict {
            Verdict::RetryAfter(asked) => Outcome::failed().retry_after(asked),
            Verdict::Retry | Verdict::GiveUp => Outcome::failed(),
        };
        Ruling { verdict, outcome, lesson, stale: false }
    }
}

/// The classifier.
pub(crate) fn judge(error: &Error, retry: &RetryConfig) -> Ruling {
    use Verdict::{GiveUp, Retry};
    match error {
        Error::Api { status, code, kind, retry_after, should_retry, .. } => {
            let money = *status == 402 || (*status == 429 && (names_quota(code) || names_quota(kind)));
            let again = should_retry.unwrap_or(retry.retries_status(*status) && !money);
            let asked = retry_after.map_or(Retry, Verdict::RetryAfter);
            let (outcome, lesson) = match status {
                _ if money => (Outcome::failed(), Lesson::Nothing),
                429 | 529 => (Outcome::throttled(), Lesson::Outcome),
                503 if retry_after.is_some() => (Outcome::throttled(), Lesson::Outcome),
                408 | 409 | 500.. => (Outcome::failed(), Lesson::Outcome),
                _ => (Outcome::failed(), Lesson::Works),
            };
            let outcome = retry_after.map_or(outcome, |asked| outcome.retry_after(asked)).status(*status);
            Ruling { verdict: if again { asked } else { GiveUp }, outcome, lesson, stale: false }
        }
        Error::Connect { .. } | Error::Timeout { phase: Phase::Connect, .. } => {
            Ruling::new(Retry, Lesson::Outcome)
        }
        Error::Timeout { .. } => {
            Ruling::new(if retry.retries_timeouts() { Retry } else { GiveUp }, Lesson::Outcome)
        }
        Error::Transport { answered, .. } => {
            Ruling { stale: !answered, ..Ruling::new(Retry, Lesson::Outcome) }
        }
        Error::CircuitOpen { retry_in } => Ruling::new(Verdict::RetryAfter(*retry_in), Lesson::Nothing),
        Error::GaveUp { last, .. } => judge(last, retry),
        Error::Decode { .. } | Error::TooLarge { .. } => Ruling::new(GiveUp, Lesson::Works),
        // What was delivered can't be taken back.
        Error::StreamTruncated { .. } => Ruling::new(GiveUp, Lesson::Outcome),
        Error::Config { .. } | Error::Deadline { .. } | Error::Shutdown | Error::Panicked => {
            Ruling::new(GiveUp, Lesson::Nothing)
        }
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
    use crate::policy::outcome::Kind;

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
        assert_eq!(judge(&api(503), &picky).outcome.status, Some(503));
    }

    #[test]
    fn the_policies_learn_from_what_the_service_did_and_not_from_money_or_this_end() {
        let learns = |error: Error| {
            let ruling = judge(&error, &RetryConfig::default());
            (ruling.lesson, ruling.outcome.kind)
        };
        let quota = match api(429) {
            Error::Api {
                status, kind, message, param, request_id, retry_after, should_retry, body, ..
            } => {
                let code = Some("insufficient_quota".to_owned());
                Error::Api { status, code, kind, message, param, request_id, retry_after, should_retry, body }
            }
            other => other,
        };
        assert_eq!(learns(api(429)), (Lesson::Outcome, Kind::Throttled));
        assert_eq!(learns(api(529)), (Lesson::Outcome, Kind::Throttled));
        assert_eq!(learns(api(503)), (Lesson::Outcome, Kind::Failed));
        assert_eq!(learns(api(408)), (Lesson::Outcome, Kind::Failed));
        assert_eq!(learns(api(404)).0, Lesson::Works);
        assert_eq!(learns(api(302)).0, Lesson::Works);
        assert_eq!(learns(Error::TooLarge { part: "body", limit: 1 }).0, Lesson::Works);
        assert_eq!(
            learns(Error::Connect { host: String::new(), source: "refused".into() }).0,
            Lesson::Outcome
        );
        for nothing in [quota, api(402), Error::Shutdown, Error::config("ca_file", "wrong")] {
            assert_eq!(learns(nothing).0, Lesson::Nothing);
        }
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
