//! One call: its specification, its attempts, what is reported of them, and the error of one that failed.

use std::time::Duration;

use crate::adaptive::Change;
use crate::api::ChatRequest;
use crate::client::core::{Core, IdempotencyKeys};
use crate::client::event::Event;
use crate::client::to_json;
use crate::error::{Error, Reason, Result};
use crate::http::request::{Deadline, HttpRequest, TimeLimits};
use crate::http::transport::HttpResponse;
use crate::meta::{Attempt, Meta};
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Immediate, classify};
use crate::retry::{CallState, Failure, Operation, Progress, RetryLoop};

/// What a call is about.
pub(crate) struct CallSpec<'a> {
    pub(crate) retry: &'a RetryConfig,
    pub(crate) deadline: Option<Duration>,
    pub(crate) background: bool,
    pub(crate) model: &'a str,
    /// Begins with a slash and stays below the base address.
    pub(crate) path: &'a str,
    /// JSON to POST; without it the call is a GET.
    pub(crate) body: Option<Vec<u8>>,
    /// The request of a stream that asks for usage, to be sent without that to a service which refuses it.
    pub(crate) usage_of: Option<&'a ChatRequest>,
}

/// A call as the retry loop repeats it: `send` makes one attempt.
struct Call<'a, F> {
    core: &'a Core,
    spec: CallSpec<'a>,
    idempotency_key: Option<String>,
    send: F,
}

impl Core {
    /// Makes a call whose answer comes as a whole, which `decode` makes a value of.
    pub(crate) fn exchange<T>(
        &self,
        spec: CallSpec<'_>,
        decode: impl Fn(&HttpResponse) -> Result<T>,
    ) -> Attempt<T> {
        self.run(spec, |request| match self.transport.exchange(request) {
            Ok(response) => Attempt { result: decode(&response), meta: response.into_meta() },
            Err(error) => Err(error).into(),
        })
    }

    /// Makes a call: repeats `send` as the retry loop decides.
    pub(crate) fn run<T>(
        &self,
        spec: CallSpec<'_>,
        send: impl Fn(&HttpRequest<'_>) -> Attempt<T>,
    ) -> Attempt<T> {
        let handler = self.handlers.get(spec.model);
        let retry_loop = RetryLoop {
            retry: spec.retry,
            handler: &handler,
            clock: &self.clock,
            cancel: &self.draining,
            deadline: spec.deadline,
            background: spec.background,
        };
        let keys = self.idempotency.as_ref().filter(|_| spec.body.is_some());
        let idempotency_key = keys.map(IdempotencyKeys::next);
        let mut call = Call { core: self, spec, idempotency_key, send };
        let Attempt { result, meta } = retry_loop.run(&mut call);
        Attempt { result: result.map_err(|failure| final_error(failure, &meta, call.spec.deadline)), meta }
    }

    fn emit(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            observer(&event());
        }
    }
}

impl<T, F: Fn(&HttpRequest<'_>) -> Attempt<T>> Operation for Call<'_, F> {
    type Output = T;
    type Error = Error;

    fn attempt(&mut self, state: &CallState) -> Attempt<T> {
        if let Some(request) = self.spec.usage_of.take_if(|_| state.fallback) {
            self.core.remember_without_usage(self.spec.model);
            match to_json(&request.stream_body(false)) {
                Ok(body) => self.spec.body = Some(body),
                Err(error) => return Err(error).into(),
            }
        }
        let attempt = state.attempts;
        log::trace!("attempt {attempt}: {}", self.spec.path);
        self.core.emit(|| Event::Attempt { attempt });
        let sent = self.core.clock.now();
        let remaining = state.due.map(|due| due.saturating_duration_since(sent));
        let deadline = state.deadline.zip(remaining);
        let ended = (self.send)(&HttpRequest {
            path: self.spec.path,
            body: self.spec.body.as_deref(),
            idempotency_key: self.idempotency_key.as_deref(),
            fresh_connection: state.fresh_connection,
            limits: TimeLimits {
                timeout: grown_timeout(self.core.transport.timeout(), state.timeouts),
                deadline: deadline.map(|(total, remaining)| Deadline { total, remaining }),
            },
        });
        self.core.emit(|| Event::Answer {
            attempt,
            status: ended.result.as_ref().map_or_else(Error::status, |_| Some(ended.meta.status)),
            elapsed: self.core.clock.now().saturating_duration_since(sent),
        });
        ended
    }

    fn classify(&mut self, error: &Error) -> Classification {
        let failure = classify(error, self.spec.retry);
        match self.spec.usage_of {
            Some(_) if refuses_usage(error) => {
                Classification { immediate: Some(Immediate::Fallback), ..failure }
            }
            _ => failure,
        }
    }

    /// Reports what happens between attempts to the log and to the program.
    fn observe(&self, state: &CallState, progress: Progress<'_, Error>) {
        let (attempt, model) = (state.attempts, self.spec.model);
        match progress {
            Progress::Paced(waited) => {
                log::debug!("attempt {attempt} waited {waited:?} for its turn");
                self.core.emit(|| Event::Paced { attempt, waited });
            }
            Progress::Learned(Change { rate_per_minute, breaker, .. }) => {
                if let Some(per_minute) = rate_per_minute {
                    log::debug!("{model}: rate limited to {per_minute:.1} calls a minute");
                    self.core.emit(|| Event::Rate { model: model.to_owned(), per_minute });
                }
                if let Some(state) = breaker {
                    log::warn!("{model}: the circuit breaker is {state}");
                    self.core.emit(|| Event::Breaker { model: model.to_owned(), state });
                }
            }
            Progress::Retrying { error, wait } => {
                let why = error.outline();
                log::warn!("attempt {attempt} failed ({why}); retrying in {wait:?}");
                self.core.emit(|| Event::Retry { attempt, status: error.status(), wait, why });
            }
        }
    }
}

/// The longest inactivity timeout that retries lead to: models that reason for longer are rare, and a caller who knows one
/// can set a longer timeout.
const MAX_GROWN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The inactivity timeout of an attempt: twice as long after each attempt that timed out while waiting for the answer.
fn grown_timeout(timeout: Duration, timeouts: u32) -> Duration {
    let factor = 1u32.checked_shl(timeouts).unwrap_or(u32::MAX);
    timeout.saturating_mul(factor).min(MAX_GROWN_TIMEOUT).max(timeout)
}

/// Whether a service refused to report the usage of a stream, which older ones can't.
fn refuses_usage(error: &Error) -> bool {
    let Error::Api { status: 400 | 422, message, param, body, .. } = error else { return false };
    let words = [Some(message.as_str()), param.as_deref(), Some(body.as_str())];
    let option = |words: &str| words.contains("stream_options") || words.contains("include_usage");
    words.into_iter().flatten().any(option)
}

/// The error of a call that ended without success.
fn final_error(failure: Failure<Error>, meta: &Meta, deadline: Option<Duration>) -> Error {
    let (reason, last) = match failure {
        Failure::GaveUp { last: Error::Shutdown, .. } | Failure::Rejected { by: Error::Shutdown, .. } => {
            return Error::Shutdown;
        }
        Failure::Rejected { by: Error::Deadline { .. }, last: None } => {
            return Error::Deadline { after: deadline.unwrap_or_default() };
        }
        Failure::Rejected { by, last: None } => return by,
        Failure::Rejected { by: Error::Deadline { .. }, last: Some(last) } => (Reason::Deadline, last),
        Failure::Rejected { last: Some(last), .. } => (Reason::CircuitOpen, last),
        Failure::GaveUp { reason: Reason::NotRetryable | Reason::RetriesSpent, last, .. }
            if meta.attempts == 1 =>
        {
            return last;
        }
        // The failure before says more than that the deadline passed.
        Failure::GaveUp { last: last @ Error::Deadline { .. }, previous, .. } => {
            (Reason::Deadline, previous.unwrap_or(last))
        }
        Failure::GaveUp { reason, last, .. } => (reason, last),
    };
    Error::GaveUp { reason, attempts: meta.attempts, elapsed: meta.elapsed, last: Box::new(last) }
}
