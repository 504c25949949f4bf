//! `Display`, `Debug` and `source` of errors. Each message is one line that makes sense on its own.

use std::fmt;
use std::time::Duration;

use super::{Error, Phase, Reason, Target, WaitCause, incompleteness, is_name};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(target) = self.target() {
            write!(f, "{target}: ")?;
        }
        match self {
            Error::Config { setting, message, .. } => write!(f, "{setting}: {message}"),
            Error::Api { status, code: Some(code), message, .. } => {
                write!(f, "the service answered {status} ({code}): {message}")
            }
            Error::Api { status, message, .. } => write!(f, "the service answered {status}: {message}"),
            Error::Connect { source, target: Some(target), host } if target.host == *host => {
                write!(f, "can't connect: {source}")
            }
            Error::Connect { host, source, .. } => write!(f, "can't connect to {host}: {source}"),
            Error::Timeout { phase, after, .. } => {
                let setting = if *phase == Phase::Connect { "connect_timeout" } else { "timeout" };
                write!(f, "no progress in {after:?} while {phase}; raise {setting} if that is too short")
            }
            Error::Transport { answered: false, source, .. } => write!(
                f,
                "the connection broke before the answer; the request may have been processed: {source}"
            ),
            Error::Transport { answered: true, source, .. } => {
                write!(f, "the connection broke in the middle of the answer: {source}")
            }
            Error::Decode { status, at, excerpt, .. } if excerpt.is_empty() => {
                write!(f, "can't read the answer (status {status}): {at}")
            }
            Error::Decode { status, at, excerpt, .. } => {
                write!(f, "can't read the answer (status {status}) at {at}: `{excerpt}`")
            }
            Error::NoAnswer { status, missing, body, .. } => {
                write!(f, "the service answered {status}, but sent no answer: {missing}")?;
                if body.is_empty() { Ok(()) } else { write!(f, ": `{body}`") }
            }
            Error::Incomplete { finish_reason, .. } => {
                let cause = incompleteness(finish_reason).unwrap_or("is incomplete");
                write!(f, "the answer {cause} (finish reason {finish_reason})")
            }
            Error::StreamTruncated { received, .. } => {
                write!(f, "the stream was cut after {} bytes of text", received.len())
            }
            Error::TooLarge { part, limit, .. } => match *part {
                "parts" => write!(f, "the answer has more than {limit} parts"),
                "values" => write!(f, "the values in the answer need more than {limit} bytes of memory"),
                part => write!(f, "the {part} of the answer is larger than {limit} bytes"),
            },
            Error::CircuitOpen { retry_in, .. } => {
                let seconds = retry_in.as_secs_f64();
                write!(
                    f,
                    "the circuit breaker is open after too many consecutive failures; the next call may probe in {seconds:.1} s"
                )
            }
            Error::Deadline { after, phase, waiting_for: None, .. } => {
                write!(f, "the deadline of {after:?} passed")?;
                phase.map_or(Ok(()), |phase| write!(f, " while {phase}"))
            }
            Error::Deadline { after, waiting_for: Some(cause), turn_in, .. } => {
                write_not_sent(f, *after, *cause, *turn_in)
            }
            Error::Cancelled => write!(f, "the call was cancelled"),
            Error::Shutdown => write!(f, "the client was shut down or drained"),
            Error::Panicked => write!(f, "the program panicked during the call"),
            Error::GaveUp { .. } => self.write_gave_up(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_target(f, &self.host, &self.model)
    }
}

fn write_not_sent(
    f: &mut fmt::Formatter<'_>,
    after: Duration,
    cause: WaitCause,
    turn_in: Option<Duration>,
) -> fmt::Result {
    match turn_in.map(|time| time.as_secs_f64()) {
        Some(turn) => {
            write!(
                f,
                "not sent: {cause} would admit the call in {turn:.1} s, after the deadline of {after:?}"
            )
        }
        None => write!(f, "not sent: the deadline of {after:?} passed while the call waited for {cause}"),
    }
}

fn write_target(f: &mut fmt::Formatter<'_>, host: &str, model: &str) -> fmt::Result {
    let at = if model.is_empty() { "" } else { " at " };
    write!(f, "{model}{at}{host}")
}

impl fmt::Debug for Error {
    /// Omits the service's messages and bodies and the text of answers, because debug output is often logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config { setting, message, source } => f
                .debug_struct("Config")
                .field("setting", setting)
                .field("message", message)
                .field("source", source)
                .finish(),
            Error::Api { .. } => self.debug_api(f),
            Error::Connect { host, source, target } => f
                .debug_struct("Connect")
                .field("host", host)
                .field("source", source)
                .field("target", target)
                .finish(),
            Error::Timeout { phase, after, target } => f
                .debug_struct("Timeout")
                .field("phase", phase)
                .field("after", after)
                .field("target", target)
                .finish(),
            Error::Transport { answered, source, target } => f
                .debug_struct("Transport")
                .field("answered", answered)
                .field("source", source)
                .field("target", target)
                .finish(),
            Error::Decode { status, at, request_id, target, .. } => f
                .debug_struct("Decode")
                .field("status", status)
                .field("at", at)
                .field("request_id", request_id)
                .field("target", target)
                .finish_non_exhaustive(),
            Error::NoAnswer { status, missing, request_id, target, .. } => f
                .debug_struct("NoAnswer")
                .field("status", status)
                .field("missing", missing)
                .field("request_id", request_id)
                .field("target", target)
                .finish_non_exhaustive(),
            Error::Incomplete { finish_reason, request_id } => f
                .debug_struct("Incomplete")
                .field("finish_reason", &Some(finish_reason).filter(|reason| is_name(reason)))
                .field("request_id", request_id)
                .finish(),
            Error::StreamTruncated { received, delivered, target, .. } => f
                .debug_struct("StreamTruncated")
                .field("bytes", &received.len())
                .field("delivered", delivered)
                .field("target", target)
                .finish_non_exhaustive(),
            Error::TooLarge { part, limit, target } => f
                .debug_struct("TooLarge")
                .field("part", part)
                .field("limit", limit)
                .field("target", target)
                .finish(),
            Error::CircuitOpen { retry_in, target } => {
                f.debug_struct("CircuitOpen").field("retry_in", retry_in).field("target", target).finish()
            }
            Error::Deadline { .. } => self.debug_deadline(f),
            Error::Cancelled => f.write_str("Cancelled"),
            Error::Shutdown => f.write_str("Shutdown"),
            Error::Panicked => f.write_str("Panicked"),
            Error::GaveUp { .. } => self.debug_gave_up(f),
        }
    }
}

impl Error {
    fn write_gave_up(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::GaveUp { host, model, reason, attempts, elapsed, last } = self else { return Ok(()) };
        write_target(f, host, model)?;
        let s = if *attempts == 1 { "" } else { "s" };
        let seconds = elapsed.as_secs_f64();
        write!(f, ": gave up after {attempts} attempt{s} in {seconds:.1} s: {reason}")?;
        match self.retry_after() {
            Some(wait) if *reason == Reason::WaitTooLong => write!(f, " ({wait:?}): {last}"),
            _ => write!(f, ": {last}"),
        }
    }

    fn debug_api(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::Api { status, code, kind, param, request_id, retry_after, should_retry, target, .. } =
            self
        else {
            return Ok(());
        };
        let name = |text: &Option<String>| text.clone().filter(|text| is_name(text));
        f.debug_struct("Api")
            .field("status", status)
            .field("code", &name(code))
            .field("kind", &name(kind))
            .field("param", &name(param))
            .field("request_id", request_id)
            .field("retry_after", retry_after)
            .field("should_retry", should_retry)
            .field("target", target)
            .finish_non_exhaustive()
    }

    fn debug_deadline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::Deadline { after, phase, waiting_for, turn_in, target } = self else { return Ok(()) };
        f.debug_struct("Deadline")
            .field("after", after)
            .field("phase", phase)
            .field("waiting_for", waiting_for)
            .field("turn_in", turn_in)
            .field("target", target)
            .finish()
    }

    fn debug_gave_up(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error::GaveUp { host, model, reason, attempts, elapsed, last } = self else { return Ok(()) };
        f.debug_struct("GaveUp")
            .field("host", host)
            .field("model", model)
            .field("reason", reason)
            .field("attempts", attempts)
            .field("elapsed", elapsed)
            .field("last", last)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Config { source, .. } | Error::StreamTruncated { source, .. } => {
                source.as_ref().map(|source| &**source as _)
            }
            // The message includes `source`, so the chain continues with its source.
            Error::Connect { source, .. } | Error::Transport { source, .. } => source.source(),
            Error::Decode { source, .. } => Some(&**source),
            Error::GaveUp { last, .. } => last.source(),
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

impl fmt::Display for WaitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitCause::Rate => "the rate limit",
            WaitCause::Headers => "the service's rate limit headers",
            WaitCause::Concurrency => "the limit on calls in flight",
            WaitCause::CircuitOpen => "the open circuit breaker",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::RetriesSpent => "no retries left",
            Reason::TimeoutRetriesSpent => "no retries left after timeouts (timeout_retries)",
            Reason::NotRetryable => "another attempt can't help",
            Reason::WaitTooLong => "the server asks for a longer wait than status_max_delay allows",
            Reason::Deadline => "the deadline leaves no time for another attempt",
            Reason::DeadlinePassed => "the deadline passed during the last attempt; the one before failed",
            Reason::BudgetSpent => "the retry budget is spent, because too many calls fail",
            Reason::CircuitOpen => "the circuit breaker opened, because the service is down",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::super::into_source;
    use super::super::tests::{api, cause, gave_up};
    use super::*;

    fn no_answer(missing: &str, body: &str) -> Error {
        let (missing, body) = (missing.to_owned(), body.to_owned());
        Error::NoAnswer { status: 200, missing, request_id: None, body, target: None }
    }

    fn incomplete(finish_reason: &str) -> Error {
        Error::Incomplete { finish_reason: finish_reason.to_owned(), request_id: None }
    }

    fn not_admitted(turn_in: Option<Duration>) -> Error {
        let (after, waiting_for) = (Duration::from_secs(30), Some(WaitCause::Rate));
        Error::Deadline { after, phase: None, waiting_for, turn_in, target: None }
    }

    #[test]
    fn every_message_is_one_line_that_does_not_repeat_its_source() {
        let timeout = |phase| Error::timeout(phase, Duration::from_secs(60));
        let cases = [
            (Error::config("timeout", "is zero"), "timeout: is zero"),
            (api(), "the service answered 429 (rate_limit_exceeded): slow down"),
            (
                Error::Connect { host: "a:1".to_owned(), source: cause(), target: None },
                "can't connect to a:1: the cause",
            ),
            (
                Error::Connect { host: "a:1".to_owned(), source: cause(), target: None }.of_call("a:1", "m"),
                "m at a:1: can't connect: the cause",
            ),
            (
                Error::Connect { host: "proxy:2".to_owned(), source: cause(), target: None }
                    .of_call("a:1", "m"),
                "m at a:1: can't connect to proxy:2: the cause",
            ),
            (
                timeout(Phase::Connect),
                "no progress in 60s while connecting; raise connect_timeout if that is too short",
            ),
            (
                timeout(Phase::Sending),
                "no progress in 60s while sending the request; raise timeout if that is too short",
            ),
            (
                timeout(Phase::Waiting),
                "no progress in 60s while waiting for the answer; raise timeout if that is too short",
            ),
            (
                timeout(Phase::Reading),
                "no progress in 60s while reading the answer; raise timeout if that is too short",
            ),
            (
                Error::transport(false, cause()),
                "the connection broke before the answer; the request may have been processed: the cause",
            ),
            (Error::transport(true, cause()), "the connection broke in the middle of the answer: the cause"),
            (
                Error::StreamTruncated {
                    received: "héllo".to_owned(),
                    delivered: true,
                    source: Some(cause()),
                    target: None,
                },
                "the stream was cut after 6 bytes of text",
            ),
            (
                no_answer("the body is empty", ""),
                "the service answered 200, but sent no answer: the body is empty",
            ),
            (
                no_answer("there are no choices", "{}"),
                "the service answered 200, but sent no answer: there are no choices: `{}`",
            ),
            (
                incomplete("length"),
                "the answer was cut by the token limit; raise max_tokens or max_completion_tokens (finish reason length)",
            ),
            (
                incomplete("SAFETY"),
                "the answer was withheld or cut by the service's content filter (finish reason SAFETY)",
            ),
            (
                incomplete("refusal"),
                "the answer is a refusal instead of JSON; its text is in refusal() or text() (finish reason refusal)",
            ),
            (incomplete("abort"), "the answer was aborted by the service; try again (finish reason abort)"),
            (Error::too_large("parts", 9), "the answer has more than 9 parts"),
            (Error::too_large("values", 9), "the values in the answer need more than 9 bytes of memory"),
            (Error::too_large("body", 9), "the body of the answer is larger than 9 bytes"),
            (Error::too_large("header", 9), "the header of the answer is larger than 9 bytes"),
            (
                Error::circuit_open(Duration::from_millis(12_340)),
                "the circuit breaker is open after too many consecutive failures; the next call may probe in 12.3 s",
            ),
            (Error::deadline(Duration::from_secs(2), None), "the deadline of 2s passed"),
            (
                Error::deadline(Duration::from_secs(2), Some(Phase::Waiting)),
                "the deadline of 2s passed while waiting for the answer",
            ),
            (
                not_admitted(Some(Duration::from_millis(42_040))),
                "not sent: the rate limit would admit the call in 42.0 s, after the deadline of 30s",
            ),
            (
                not_admitted(None),
                "not sent: the deadline of 30s passed while the call waited for the rate limit",
            ),
            (Error::Cancelled, "the call was cancelled"),
            (Error::Shutdown, "the client was shut down or drained"),
            (Error::Panicked, "the program panicked during the call"),
        ];
        let gave_up = [
            (Reason::RetriesSpent, 6, "6 attempts in 12.3 s: no retries left"),
            (Reason::NotRetryable, 1, "1 attempt in 12.3 s: another attempt can't help"),
            (
                Reason::TimeoutRetriesSpent,
                3,
                "3 attempts in 12.3 s: no retries left after timeouts (timeout_retries)",
            ),
            (
                Reason::WaitTooLong,
                2,
                "2 attempts in 12.3 s: the server asks for a longer wait than status_max_delay allows (7s)",
            ),
            (
                Reason::DeadlinePassed,
                2,
                "2 attempts in 12.3 s: the deadline passed during the last attempt; the one before failed",
            ),
            (Reason::Deadline, 2, "2 attempts in 12.3 s: the deadline leaves no time for another attempt"),
            (
                Reason::BudgetSpent,
                2,
                "2 attempts in 12.3 s: the retry budget is spent, because too many calls fail",
            ),
            (
                Reason::CircuitOpen,
                2,
                "2 attempts in 12.3 s: the circuit breaker opened, because the service is down",
            ),
        ]
        .map(|(reason, attempts, text)| {
            let last = "the service answered 429 (rate_limit_exceeded): slow down";
            (gave_up(reason, attempts), format!("m at api.example:443: gave up after {text}: {last}"))
        });
        let cases = cases.map(|(error, message)| (error, message.to_owned()));
        for (error, message) in cases.into_iter().chain(gave_up) {
            assert_eq!(error.to_string(), message);
            let repeats = error.source().is_some_and(|source| message.contains(&source.to_string()));
            assert!(!repeats, "{message} repeats its cause");
        }
    }

    #[test]
    fn debug_omits_prompts_and_answers() {
        let text = || "secret text".to_owned();
        let api = match api() {
            Error::Api { status, request_id, retry_after, should_retry, .. } => Error::Api {
                status,
                code: Some(text()),
                kind: Some(text()),
                message: text(),
                param: Some(text()),
                request_id,
                retry_after,
                should_retry,
                body: text(),
                target: None,
            },
            other => other,
        };
        let decode = Error::Decode {
            status: 200,
            at: "byte 1 of 2".to_owned(),
            excerpt: text(),
            request_id: None,
            source: into_source(text()),
            target: None,
        };
        let truncated = Error::StreamTruncated {
            received: text(),
            delivered: true,
            source: Some(into_source(text())),
            target: None,
        };
        for error in [api, decode, truncated, no_answer("choices", &text()), incomplete(&text())] {
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            let (attempts, elapsed) = (2, Duration::ZERO);
            let gave_up = Error::GaveUp {
                host: "h".to_owned(),
                model: "m".to_owned(),
                reason: Reason::RetriesSpent,
                attempts,
                elapsed,
                last: Box::new(error),
            };
            assert!(!format!("{gave_up:?}").contains("secret"), "{gave_up:?}");
        }
    }
}
