//! One call: its specification, its attempts, their reports, and its final error.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adaptive::{Acquired, AdaptiveHandler, StreamPlace};
use crate::api::Usage;
use crate::client::answer::{Answer, Other};
use crate::client::call_key::CallKey;
use crate::client::cancellation::Cancellation;
use crate::client::core::{Core, IdempotencyKeys};
use crate::client::decode::ResponseDecoder;
use crate::client::event::Event;
use crate::client::final_error::final_error;
use crate::client::key_provider::KeyProvider;
use crate::client::report::{CallName, next_number};
use crate::client::usage_option::{refuses_usage, without_usage};
use crate::error::{Error, Result};
use crate::http::request::{Deadline, HttpRequest, Limits, RequestHeaders};
use crate::http::transport::HttpResponse;
use crate::meta::{Attempt, Meta};
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Classification, Immediate, classify};
use crate::retry::{CallState, Failure, Operation, Progress, Retrier, RetryLoop, Step};

/// The options that the calls of one client share. Clones of the client may have others.
#[derive(Clone)]
pub(crate) struct CallOptions {
    pub(crate) retry: RetryConfig,
    pub(crate) deadline: Option<Duration>,
    /// The inactivity timeout.
    pub(crate) timeout: Duration,
    pub(crate) headers: RequestHeaders,
    pub(crate) decoder: ResponseDecoder,
    /// Provides the key of each attempt, if the headers have none.
    pub(crate) keys: Option<Arc<KeyProvider>>,
    /// The call belongs to a batch: no caller waits for it alone.
    pub(crate) background: bool,
    /// Ends the calls, in addition to the client's own shutdown and drain.
    pub(crate) cancellation: Option<Cancellation>,
}

/// The specification of a call.
pub(crate) struct CallSpec<'a> {
    pub(crate) options: Arc<CallOptions>,
    pub(crate) model: Cow<'a, str>,
    /// Begins with a slash and stays below the base address.
    pub(crate) path: Cow<'a, str>,
    /// JSON to POST; without it the call is a GET.
    pub(crate) body: Option<Vec<u8>>,
    /// The body requests the usage of a stream, which a service may reject.
    pub(crate) asks_for_usage: bool,
}

/// A call, from its first attempt to its last.
pub(crate) struct Call<'a> {
    number: u64,
    spec: CallSpec<'a>,
    idempotency_key: Option<String>,
    retrier: Retrier<Error>,
    key: CallKey,
}

/// A call as the retry loop repeats it: `send` makes one attempt.
struct Sending<'c, 'a, F> {
    core: &'c Core,
    number: u64,
    spec: &'c mut CallSpec<'a>,
    idempotency_key: Option<&'c str>,
    key: &'c mut CallKey,
    send: F,
}

/// The state of a call after one attempt.
#[expect(
    clippy::large_enum_variant,
    reason = "it is matched at once; a box would cost each call an allocation"
)]
pub(crate) enum Progressed<T> {
    /// It waits for its next permit.
    WaitForTurn,
    /// It waits until this moment, and then for a permit.
    WaitUntil(Instant),
    Done(Attempt<T>),
}

impl Call<'_> {
    pub(crate) fn model(&self) -> &str {
        &self.spec.model
    }

    pub(super) fn name(&self) -> CallName<'_> {
        CallName { number: self.number, model: &self.spec.model }
    }

    pub(crate) fn started(&self) -> Instant {
        self.retrier.state.started
    }

    /// It waited for a permit and got none.
    pub(crate) fn waited_without_permit(&mut self, waited: Duration) {
        self.retrier.waited_without_permit(waited);
    }

    /// Whether an attempt was made before.
    pub(crate) fn is_retry(&self) -> bool {
        self.retrier.state.attempts > 0
    }

    /// How often it was refused because of the rate or the load.
    pub(crate) fn refusals(&self) -> u32 {
        self.retrier.state.refusals
    }

    /// The call without borrowed data, for a stream that outlives the request.
    pub(crate) fn into_owned(self) -> Call<'static> {
        let CallSpec { options, model, path, body, asks_for_usage } = self.spec;
        let (model, path) = (model.into_owned().into(), path.into_owned().into());
        let spec = CallSpec { options, model, path, body, asks_for_usage };
        Call { spec, ..self }
    }

    pub(crate) fn options(&self) -> &Arc<CallOptions> {
        &self.spec.options
    }
}

impl Core {
    /// Makes a call that isn't streamed and has no usage. `decode` makes a value of the response.
    pub(crate) fn call<T>(
        &self,
        call: &mut Call<'_>,
        decode: impl Fn(&HttpResponse) -> Result<T>,
    ) -> Result<T> {
        let decode = |response: &HttpResponse| decode(response).map(Other);
        self.complete(call, |request| self.send_whole(request, decode)).result.map(|Other(value)| value)
    }

    /// Makes a call and reports its end.
    pub(crate) fn complete<T: Answer>(
        &self,
        call: &mut Call<'_>,
        send: impl Fn(&HttpRequest<'_>) -> Attempt<T>,
    ) -> Attempt<T> {
        let attempt = self.run(call, None, send);
        self.report_end(call.name(), &attempt.meta, attempt.result.as_ref().map(T::usage));
        attempt
    }

    /// A call that begins now.
    pub(crate) fn begin<'a>(&self, spec: CallSpec<'a>) -> Call<'a> {
        let keys = self.idempotency.as_ref().filter(|_| spec.body.is_some());
        let idempotency_key = keys.map(IdempotencyKeys::next);
        let CallOptions { deadline, background, retry, .. } = &*spec.options;
        let retrier = Retrier::new(self.clock.now(), *deadline, *background, retry.max_timeout_retries());
        Call { number: next_number(), spec, idempotency_key, retrier, key: CallKey::default() }
    }

    /// Makes a call: repeats `send` as the retry loop decides. `failed` is the failure of an attempt that had succeeded
    /// at first, if the call is resumed after one.
    pub(crate) fn run<T: Answer>(
        &self,
        call: &mut Call<'_>,
        failed: Option<Error>,
        send: impl Fn(&HttpRequest<'_>) -> Attempt<T>,
    ) -> Attempt<T> {
        let options = Arc::clone(&call.spec.options);
        let handler = self.handlers.get(&call.spec.model);
        let retry_loop = self.retry_loop(&options, &handler);
        let (retrier, mut sending) = self.sending(call, send);
        let Attempt { result, meta } = match failed {
            None => retry_loop.run(retrier, &mut sending),
            Some(error) => retry_loop.resume(retrier, &mut sending, error),
        };
        self.ended(&options, &call.spec.model, result, meta)
    }

    /// Makes one attempt of a call with an acquired permit, and reports the end of the call if it was the last.
    pub(crate) fn attempt<T: Answer>(
        &self,
        call: &mut Call<'_>,
        acquired: Acquired,
        send: impl Fn(&HttpRequest<'_>) -> Attempt<T>,
    ) -> Progressed<T> {
        let options = Arc::clone(&call.spec.options);
        let handler = self.handlers.get(&call.spec.model);
        let retry_loop = self.retry_loop(&options, &handler);
        let (retrier, mut sending) = self.sending(call, send);
        match retry_loop.attempt(retrier, &mut sending, acquired) {
            (Step::Done(result), meta) => {
                let attempt = self.ended(&options, &call.spec.model, result, meta);
                self.report_end(call.name(), &attempt.meta, attempt.result.as_ref().map(T::usage));
                Progressed::Done(attempt)
            }
            (Step::WaitUntil(at), _) => Progressed::WaitUntil(at),
            (Step::WaitForTurn, _) => Progressed::WaitForTurn,
        }
    }

    /// Ends a waiting call, because the client was shut down, drained or cancelled.
    pub(crate) fn abandon(&self, call: &Call<'_>) -> Error {
        let error = self.cancelled(&call.spec.options).unwrap_or(Error::Shutdown);
        let (state, now) = (&call.retrier.state, self.clock.now());
        let (attempts, waited) = (state.attempts, state.waited(now));
        let elapsed = now.saturating_duration_since(state.started);
        self.report_end(call.name(), &Meta { attempts, waited, elapsed, ..Meta::default() }, Err(&error));
        error
    }

    /// Makes one attempt that isn't streamed.
    pub(crate) fn send_whole<T>(
        &self,
        request: &HttpRequest<'_>,
        decode: impl Fn(&HttpResponse) -> Result<T>,
    ) -> Attempt<T> {
        match self.transport.exchange(request) {
            Ok(response) => Attempt { result: decode(&response), meta: response.into_meta() },
            Err(error) => Err(error).into(),
        }
    }

    fn retry_loop<'a>(&'a self, options: &'a CallOptions, handler: &'a AdaptiveHandler) -> RetryLoop<'a> {
        RetryLoop {
            retry: &options.retry,
            handler,
            clock: &self.clock,
            cancel: options.cancellation.as_ref().map_or(&self.draining, |ends| &ends.waits),
            background: options.background,
        }
    }

    fn sending<'c, 'a, T, F: Fn(&HttpRequest<'_>) -> Attempt<T>>(
        &'c self,
        call: &'c mut Call<'a>,
        send: F,
    ) -> (&'c mut Retrier<Error>, Sending<'c, 'a, F>) {
        let Call { number, spec, idempotency_key, retrier, key } = call;
        let (number, idempotency_key) = (*number, idempotency_key.as_deref());
        (retrier, Sending { core: self, number, spec, idempotency_key, key, send })
    }

    /// Converts the result of the retry loop into that of the call.
    fn ended<T>(
        &self,
        options: &CallOptions,
        model: &str,
        result: std::result::Result<T, Box<Failure<Error>>>,
        meta: Meta,
    ) -> Attempt<T> {
        let result = result.map_err(|failure| {
            match final_error(*failure, &meta, options.deadline, self.transport.host(), model) {
                Error::Shutdown => self.cancelled(options).unwrap_or(Error::Shutdown),
                error => error,
            }
        });
        Attempt { result, meta }
    }

    /// [`Error::Cancelled`] if the user's token ended the call.
    fn cancelled(&self, options: &CallOptions) -> Option<Error> {
        let by_user = options.cancellation.as_ref().is_some_and(|ends| ends.user.is_cancelled());
        (by_user && !self.shutdown.is_cancelled()).then_some(Error::Cancelled)
    }
}

impl<F> Sending<'_, '_, F> {
    fn name(&self) -> CallName<'_> {
        CallName { number: self.number, model: &self.spec.model }
    }
}

impl<T: Answer, F: Fn(&HttpRequest<'_>) -> Attempt<T>> Operation for Sending<'_, '_, F> {
    type Output = T;
    type Error = Error;

    fn attempt(&mut self, state: &mut CallState) -> Attempt<T> {
        if state.fallback && std::mem::take(&mut self.spec.asks_for_usage) {
            self.spec.body = self.spec.body.take().map(without_usage);
        }
        let options = Arc::clone(&self.spec.options);
        let headers = match self.key.headers(self.core, &options, state) {
            Ok(headers) => headers,
            Err(error) => {
                state.attempts -= 1;
                return Err(error).into();
            }
        };
        let attempt = state.attempts;
        log::trace!("{}: attempt {attempt} to {}", self.name(), self.spec.path);
        self.core.emit(self.name(), |call, model| Event::Attempt { call, model, attempt });
        let sent = self.core.clock.now();
        let remaining = state.due.map(|due| due.saturating_duration_since(sent));
        let deadline = state.deadline.zip(remaining);
        let ended = (self.send)(&HttpRequest {
            path: &self.spec.path,
            body: self.spec.body.as_deref(),
            idempotency_key: self.idempotency_key,
            fresh_connection: state.fresh_connection,
            headers: &headers,
            limits: Limits {
                timeout: grown_timeout(options.timeout, state.timeouts),
                deadline: deadline.map(|(total, remaining)| Deadline { total, remaining }),
                cancel: options.cancellation.as_ref().map(|ends| ends.exchanges.clone()),
            },
        });
        if state.fallback && ended.result.is_ok() {
            self.core.remember_without_usage(&self.spec.model);
        }
        self.core.emit(self.name(), |call, model| Event::Answer {
            call,
            model,
            attempt,
            status: ended.result.as_ref().map_or_else(Error::status, |_| Some(ended.meta.status)),
            elapsed: self.core.clock.now().saturating_duration_since(sent),
        });
        self.key.renew(ended, self.core, &options, state)
    }

    fn classify(&mut self, error: &Error) -> Classification {
        let failure = classify(error, &self.spec.options.retry);
        if self.spec.asks_for_usage && refuses_usage(error) {
            return Classification { immediate: Some(Immediate::Fallback), ..failure };
        }
        if self.key.is_new() {
            return Classification { immediate: Some(Immediate::NewKey), ..failure };
        }
        failure
    }

    fn tokens(&self, answer: &T) -> Option<u64> {
        answer.usage().and_then(Usage::tokens)
    }

    fn inactivity_timeout(&self, answer: &T) -> Option<Duration> {
        answer.inactivity_timeout()
    }

    fn hold(&self, answer: &mut T, place: StreamPlace) {
        answer.hold(place);
    }

    /// Reports what happens between attempts to the log and to the program.
    fn observe(&mut self, state: &CallState, progress: Progress<'_, Error>) {
        self.core.report(self.name(), state, &progress);
    }
}

/// The longest inactivity timeout after doubling: models that reason for longer are rare, and a caller who knows one
/// can set a longer timeout.
const MAX_GROWN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The inactivity timeout of an attempt: doubled after each attempt that timed out while waiting for or reading the
/// response.
fn grown_timeout(timeout: Duration, timeouts: u32) -> Duration {
    let factor = 1u32.checked_shl(timeouts).unwrap_or(u32::MAX);
    timeout.saturating_mul(factor).min(MAX_GROWN_TIMEOUT).max(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_doubles_up_to_ten_minutes_and_never_shrinks() {
        let grown = |timeout, timeouts| grown_timeout(Duration::from_secs(timeout), timeouts).as_secs();
        assert_eq!(
            [0, 1, 2, 3, 4, 31, 32, 1000].map(|n| grown(60, n)),
            [60, 120, 240, 480, 600, 600, 600, 600]
        );
        assert_eq!(
            [0, 1, 32].map(|n| grown(1200, n)),
            [1200; 3],
            "a longer timeout of the caller's own stays"
        );
    }
}
