//! Classifies failures, whether to retry and what the handler learns: error statuses, errors inside a 200, broken
//! connections.

use std::io;
use std::time::Duration;

use crate::error::{Error, Phase};
use crate::policy::backoff::RetryConfig;
use crate::policy::outcome::Outcome;

/// What to do after a failure.
///
/// ```
/// use holysheep::{RetryConfig, Verdict, retry_if};
///
/// let text = retry_if(
///     &RetryConfig::default().max_retries(0),
///     |error: &std::io::Error| match error.kind() {
///         std::io::ErrorKind::NotFound => Verdict::Retry, // another program will write it
///         _ => Verdict::GiveUp,
///     },
///     || std::fs::read_to_string("Cargo.toml"),
/// )?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A retry can't help.
    GiveUp,
    /// Retry after a delay.
    Retry,
    /// Retry, but not before this much time has passed.
    RetryAfter(Duration),
}

/// An error that can tell whether a retry could help.
///
/// ```
/// use holysheep::{Retryable, Verdict};
///
/// enum DatabaseError {
///     Locked,
///     Corrupt,
/// }
///
/// impl Retryable for DatabaseError {
///     fn verdict(&self) -> Verdict {
///         match self {
///             DatabaseError::Locked => Verdict::Retry,
///             DatabaseError::Corrupt => Verdict::GiveUp,
///         }
///     }
/// }
/// ```
pub trait Retryable {
    /// What to do after a failure.
    fn verdict(&self) -> Verdict;
}

/// What a failure means for the retry loop and the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Classification {
    pub(crate) verdict: Verdict,
    /// The failure in the handler's terms.
    pub(crate) outcome: Outcome,
    /// What the handler learns from it.
    pub(crate) feedback: Feedback,
    /// The immediate retry that this failure allows, once in a call.
    pub(crate) immediate: Option<Immediate>,
    /// It is a timeout while waiting for or reading the response, which doubles the timeout of the next attempt.
    pub(crate) answer_timeout: bool,
    /// The service received nothing.
    pub(crate) not_sent: bool,
}

/// A retry without a wait, made at most once in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Immediate {
    /// On a fresh connection: most likely the server had closed the pooled one.
    FreshConnection,
    /// Without the optional part of the request that the service rejects.
    Fallback,
    /// With a new key, because the service rejected the last one.
    NewKey,
}

/// What the handler learns from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feedback {
    /// The outcome of the attempt.
    Outcome,
    /// The service is up; the fault is in this call.
    ServiceUp,
    /// Nothing: it is a billing error or a client-side fault.
    Ignore,
}

impl Classification {
    /// A classification without an immediate retry or a timeout.
    pub(crate) fn new(verdict: Verdict, feedback: Feedback) -> Classification {
        let outcome = match verdict {
            Verdict::RetryAfter(asked) => Outcome::failed().retry_after(asked),
            Verdict::Retry | Verdict::GiveUp => Outcome::failed(),
        };
        Classification { verdict, outcome, feedback, immediate: None, answer_timeout: false, not_sent: false }
    }

    /// The outcome to record in the handler, if any.
    pub(crate) fn learned(&self) -> Option<Outcome> {
        match self.feedback {
            Feedback::Outcome => Some(self.outcome),
            Feedback::ServiceUp => Some(Outcome::refused()),
            Feedback::Ignore => None,
        }
    }
}

/// Classifies a failure.
pub(crate) fn classify(error: &Error, retry: &RetryConfig) -> Classification {
    use Verdict::{GiveUp, Retry};
    match error {
        Error::Api { status, code, kind, message, retry_after, should_retry, .. } => {
            let hopeless =
                is_billing(*status, code, kind, message) || (*status == 429 && exceeds_limit_alone(message));
            let again = should_retry.unwrap_or(retry.retries_status(*status) && !hopeless);
            let asked = retry_after.map_or(Retry, Verdict::RetryAfter);
            let (outcome, feedback) = match status {
                _ if hopeless => (Outcome::failed(), Feedback::Ignore),
                429 | 529 => (Outcome::throttled(), Feedback::Outcome),
                503 if retry_after.is_some() => (Outcome::throttled(), Feedback::Outcome),
                408 | 409 | 500.. => (Outcome::failed(), Feedback::Outcome),
                // A request that is rejected and yet retried must not restore the retry budget that the retry costs.
                _ if again => (Outcome::failed(), Feedback::Ignore),
                _ => (Outcome::failed(), Feedback::ServiceUp),
            };
            let outcome = retry_after.map_or(outcome, |asked| outcome.retry_after(asked)).status(*status);
            let verdict = if again { asked } else { GiveUp };
            Classification { outcome, ..Classification::new(verdict, feedback) }
        }
        Error::Connect { .. } | Error::Timeout { phase: Phase::Connect, .. } => {
            Classification { not_sent: true, ..Classification::new(Retry, Feedback::Outcome) }
        }
        Error::Timeout { phase, .. } => {
            let verdict = if retry.retries_timeouts() { Retry } else { GiveUp };
            let answer_timeout = *phase != Phase::Sending;
            Classification { answer_timeout, ..Classification::new(verdict, Feedback::Outcome) }
        }
        Error::Transport { answered, .. } => {
            let immediate = (!answered).then_some(Immediate::FreshConnection);
            Classification { immediate, ..Classification::new(Retry, Feedback::Outcome) }
        }
        Error::CircuitOpen { retry_in, .. } => {
            Classification::new(Verdict::RetryAfter(*retry_in), Feedback::Ignore)
        }
        Error::GaveUp { last, .. } => classify(last, retry),
        Error::Decode { .. } | Error::TooLarge { .. } => Classification::new(GiveUp, Feedback::ServiceUp),
        Error::NoAnswer { .. } => Classification::new(Retry, Feedback::Outcome),
        // It is the model's answer to this request.
        Error::Incomplete { .. } => Classification::new(GiveUp, Feedback::ServiceUp),
        // Chunks that were returned can't be taken back.
        Error::StreamTruncated { delivered, .. } => {
            Classification::new(if *delivered { GiveUp } else { Retry }, Feedback::Outcome)
        }
        Error::Config { .. }
        | Error::Deadline { .. }
        | Error::Cancelled
        | Error::Shutdown
        | Error::Panicked => Classification::new(GiveUp, Feedback::Ignore),
    }
}

/// Whether an error is about the account's balance or its paid quota.
fn is_billing(status: u16, code: &Option<String>, kind: &Option<String>, message: &str) -> bool {
    let quota = || names_billing(code) || names_billing(kind) || quotes_quota(message);
    status == 402 || (status == 429 && quota())
}

/// Whether the code or type of a 429 names a billing problem rather than a rate limit. Messages don't count: plain rate
/// limits say "check quota" too.
fn names_billing(word: &Option<String>) -> bool {
    let word = word.as_deref().unwrap_or_default().to_ascii_lowercase();
    ["quota", "billing", "credit", "balance"].iter().any(|billing| word.contains(billing))
}

/// Whether a message contains OpenAI's code for an exhausted quota: LiteLLM replaces the code by the status and passes
/// the error on as text. Rate limit messages don't contain the code.
fn quotes_quota(message: &str) -> bool {
    message.contains("insufficient_quota")
}

/// Whether a 429 says that the request alone is larger than the limit, so that waiting doesn't help. OpenAI: "Request
/// too large … Limit 30000, Requested 41251".
fn exceeds_limit_alone(message: &str) -> bool {
    let number_after = |word: &str| {
        let digits = message.split(word).nth(1)?.trim_start_matches([':', ' ']);
        let digits: String = digits.chars().filter(|c| *c != ',').take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    number_after("Limit").zip(number_after("Requested")).is_some_and(|(limit, requested)| requested > limit)
}

impl Error {
    /// Whether the account has no balance or paid quota left: a 402, or a 429 that says so. Every other call of the account
    /// would fail too, until its owner pays.
    pub fn is_billing(&self) -> bool {
        match self.innermost() {
            Error::Api { status, code, kind, message, .. } => is_billing(*status, code, kind, message),
            _ => false,
        }
    }

    /// Whether the same call could succeed later: after a failure that is retried by default, a deadline, or an open
    /// circuit breaker.
    pub fn is_retryable(&self) -> bool {
        matches!(self.innermost(), Error::Deadline { .. }) || self.verdict() != Verdict::GiveUp
    }
}

impl Retryable for Error {
    fn verdict(&self) -> Verdict {
        classify(self, &RetryConfig::default()).verdict
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
    use crate::error::into_source;
    use crate::policy::outcome::Kind;

    fn api(status: u16) -> Error {
        let (code, kind, param, request_id, target) = (None, None, None, None, None);
        let (retry_after, should_retry) = (None, None);
        let (message, body) = (String::new(), String::new());
        Error::Api { status, code, kind, message, param, request_id, retry_after, should_retry, body, target }
    }

    /// [`api`] with one field changed.
    fn api_with(
        status: u16,
        change: impl FnOnce(&mut Option<String>, &mut String, &mut Option<bool>),
    ) -> Error {
        let mut error = api(status);
        if let Error::Api { code, message, should_retry, .. } = &mut error {
            change(code, message, should_retry);
        }
        error
    }

    #[test]
    fn the_config_sets_the_retryable_statuses() {
        let picky = RetryConfig::default().retryable_statuses([418]);
        assert_eq!(classify(&api(418), &picky).verdict, Verdict::Retry);
        assert_eq!(classify(&api(503), &picky).verdict, Verdict::GiveUp);
        assert_eq!(classify(&api(503), &picky).outcome.status, Some(503));
    }

    #[test]
    fn billing_errors_and_client_side_faults_do_not_affect_the_handler() {
        let learns = |error: Error| {
            let classification = classify(&error, &RetryConfig::default());
            (classification.feedback, classification.outcome.kind)
        };
        let quota = api_with(429, |code, _, _| *code = Some("insufficient_quota".to_owned()));
        assert_eq!(learns(api(429)), (Feedback::Outcome, Kind::Throttled));
        assert_eq!(learns(api(529)), (Feedback::Outcome, Kind::Throttled));
        assert_eq!(learns(api(503)), (Feedback::Outcome, Kind::Failed));
        assert_eq!(learns(api(408)), (Feedback::Outcome, Kind::Failed));
        assert_eq!(learns(api(404)).0, Feedback::ServiceUp);
        assert_eq!(learns(api(302)).0, Feedback::ServiceUp);
        assert_eq!(learns(Error::too_large("body", 1)).0, Feedback::ServiceUp);
        assert_eq!(
            learns(Error::Connect { host: String::new(), source: into_source("refused"), target: None }).0,
            Feedback::Outcome
        );
        assert!(quota.is_billing() && api(402).is_billing() && !api(429).is_billing());
        for nothing in [quota, api(402), Error::Shutdown, Error::config("ca_file", "wrong")] {
            assert_eq!(learns(nothing).0, Feedback::Ignore);
        }
    }

    #[test]
    fn a_503_with_retry_after_throttles() {
        let mut busy = api(503);
        if let Error::Api { retry_after, .. } = &mut busy {
            *retry_after = Some(Duration::from_secs(7));
        }
        let failure = classify(&busy, &RetryConfig::default());
        let outcome = Outcome::throttled().retry_after(Duration::from_secs(7)).status(503);
        assert_eq!(failure.verdict, Verdict::RetryAfter(Duration::from_secs(7)));
        assert_eq!(failure.learned(), Some(outcome));
    }

    #[test]
    fn a_request_larger_than_the_limit_is_not_retried_and_does_not_affect_the_handler() {
        let said = |text: &str| api_with(429, |_, message, _| *message = text.to_owned());
        for (message, refused) in [
            (
                "Request too large for m in organization o on tokens per min (TPM): Limit 30000, Requested 41251.",
                true,
            ),
            ("Request too large: Limit 30,000, Requested 30,001", true),
            (
                "Rate limit reached for m on tokens per min (TPM): Limit 30000, Used 29000, Requested 1500.",
                false,
            ),
            ("Limit 30000, Requested 30000", false),
            ("Requested 41251", false),
            ("Limit: none, Requested: many", false),
            ("Limit 1, Requested 99999999999999999999999", false),
        ] {
            let failure = classify(&said(message), &RetryConfig::default());
            let seen = (failure.verdict == Verdict::GiveUp, failure.feedback == Feedback::Ignore);
            assert_eq!(seen, (refused, refused), "{message}");
        }
    }

    #[test]
    fn a_rejected_request_that_the_server_wants_retried_restores_no_retry_budget() {
        let wanted = api_with(400, |_, _, should_retry| *should_retry = Some(true));
        let failure = classify(&wanted, &RetryConfig::default());
        assert_eq!((failure.verdict, failure.learned()), (Verdict::Retry, None));
        assert_eq!(classify(&api(400), &RetryConfig::default()).feedback, Feedback::ServiceUp);
    }

    #[test]
    fn only_a_connection_that_broke_before_the_response_may_have_been_stale() {
        let broken = |answered| Error::transport(answered, into_source("gone"));
        let classification = |error: Error| classify(&error, &RetryConfig::default());
        assert!(
            classification(broken(false)).immediate == Some(Immediate::FreshConnection)
                && classification(broken(true)).immediate.is_none()
                && classification(api(503)).immediate.is_none()
        );
        assert_eq!(classification(broken(true)).verdict, Verdict::Retry);
    }

    #[test]
    fn a_missing_answer_is_a_failure_that_is_retried() {
        let truncated = |delivered| Error::StreamTruncated {
            received: String::new(),
            delivered,
            source: None,
            target: None,
        };
        let (missing, body) = ("there are no choices".to_owned(), String::new());
        for (error, verdict) in [
            (Error::NoAnswer { status: 200, missing, request_id: None, body, target: None }, Verdict::Retry),
            (truncated(false), Verdict::Retry),
            (truncated(true), Verdict::GiveUp),
        ] {
            let failure = classify(&error, &RetryConfig::default());
            assert_eq!((failure.verdict, failure.learned()), (verdict, Some(Outcome::failed())), "{error}");
        }
    }

    #[test]
    fn a_deadline_may_be_met_later_and_is_not_retried_by_itself() {
        for error in [Error::deadline(Duration::ZERO, None), Error::circuit_open(Duration::ZERO), api(503)] {
            assert!(error.is_retryable(), "{error}");
        }
        assert_eq!(Error::deadline(Duration::ZERO, None).verdict(), Verdict::GiveUp);
        assert!(!api(404).is_retryable() && !Error::Cancelled.is_retryable());
    }

    #[test]
    fn permanent_failures_are_not_retried() {
        for error in [
            Error::Incomplete { finish_reason: "length".to_owned(), request_id: None },
            Error::config("timeout", "is zero"),
            Error::too_large("body", 1),
            Error::deadline(Duration::ZERO, None),
            Error::Shutdown,
            api(404),
            api(302),
        ] {
            assert_eq!(error.verdict(), Verdict::GiveUp, "{error}");
        }
    }
}
