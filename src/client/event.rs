//! Events of calls as data, for progress bars and metrics.

use std::time::Duration;

use crate::adaptive::RefusalCause;
use crate::api::Usage;
use crate::error::{Error, Reason, WaitCause};
use crate::policy::circuit_breaker::BreakerState;

/// An event of a call, passed to [`ConfigBuilder::on_event`](crate::ConfigBuilder::on_event).
///
/// Each event has the number of the call, which is unique in the process, and the model, which is empty for calls
/// without one. Events contain no keys, prompts or answers.
///
/// A call has an [`Attempt`](Event::Attempt) and an [`Answer`](Event::Answer) for each request, a
/// [`Retry`](Event::Retry) between two of them, and finally one [`End`](Event::End).
///
/// ```
/// use holysheep::{Config, Event};
///
/// let config = Config::builder().api_key("sk-…").on_event(|event| match event {
///     Event::Retry { call, wait, why, .. } => eprintln!("call {call}: {why}; retrying in {wait:.1?}"),
///     Event::Breaker { model, state, .. } => eprintln!("{model}: the circuit breaker is {state}"),
///     Event::End { call, attempts, elapsed, .. } => eprintln!("call {call}: {attempts} attempts, {elapsed:.1?}"),
///     _ => {} // events may be added
/// });
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A request is sent.
    #[non_exhaustive]
    Attempt {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The number of the attempt in its call, from 1.
        attempt: u32,
    },
    /// A request ended, with a response or a failure.
    #[non_exhaustive]
    Answer {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that ended.
        attempt: u32,
        /// The status of the response; `None` if there was no response, or not all of it.
        status: Option<u16>,
        /// From sending to the end of the response or the failure; for a stream, to the first chunk.
        elapsed: Duration,
    },
    /// An attempt failed and will be retried.
    ///
    /// Emitted before the wait, as soon as its length is known. If other calls are ahead of this one in the queue,
    /// emitted after the wait.
    #[non_exhaustive]
    Retry {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that failed.
        attempt: u32,
        /// The status of its response; `None` if there was no response, or not all of it.
        status: Option<u16>,
        /// The class of the error, as listed at [`End`](Event::End): a label for metrics.
        error: &'static str,
        /// The wait before the next attempt: the backoff or what the service asked for; after a refusal without
        /// `Retry-After` the time until the rate limiter admits the call. If a backoff or a `Retry-After` is followed by a
        /// wait for the rate limiter, [`Event::Paced`] reports that one in addition.
        wait: Duration,
        /// A description of the failure, for people.
        why: String,
    },
    /// A call begins to wait for a permit.
    ///
    /// Not emitted if [`Retry`](Event::Retry) has announced the wait, and not for the calls of a batch:
    /// [`Snapshot::waiting`](crate::Snapshot::waiting) counts all that wait.
    #[non_exhaustive]
    Waiting {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that waits.
        attempt: u32,
        /// The expected wait; `None` if it isn't known, because other calls are ahead in the queue or must end first.
        wait: Option<Duration>,
        /// What it waits for.
        cause: WaitCause,
    },
    /// A request waited for a permit and is now sent.
    #[non_exhaustive]
    Paced {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that waited.
        attempt: u32,
        /// How long it waited for the permit. After a refusal without `Retry-After` that is the wait that [`Event::Retry`]
        /// announced; otherwise it doesn't include what was announced.
        waited: Duration,
        /// What it waited for last.
        cause: WaitCause,
    },
    /// The outcome of this call changed the rate limit of the model.
    #[non_exhaustive]
    Rate {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The new rate, in calls a minute.
        per_minute: f64,
    },
    /// The model's handler learned something else about the service: it explains why calls wait from now on.
    #[non_exhaustive]
    Learned {
        /// The number of the call whose outcome it was learned from.
        call: u64,
        /// The model.
        model: String,
        /// The assumed cause of the last refusals; `None` before the first.
        refused_for: Option<RefusalCause>,
        /// The rate in calls a minute; `None` for no limit.
        rate_per_minute: Option<f64>,
        /// The cap on calls in flight; `None` for no cap.
        max_in_flight: Option<u32>,
        /// Whether the rate limit headers are used. They are ignored while calls are granted that they exclude.
        headers_believed: bool,
    },
    /// The model's circuit breaker opened, closed, or admitted this call as its probe.
    #[non_exhaustive]
    Breaker {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The new state.
        state: BreakerState,
    },
    /// A call ended and has no further events. A stream ends with its last chunk, with its error, or when it is
    /// dropped.
    ///
    /// A request rejected with [`Error::Config`] before the call begins has no events.
    #[non_exhaustive]
    End {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The number of attempts; 0 for a call that never got a permit.
        attempts: u32,
        /// From the start of the call to its end.
        elapsed: Duration,
        /// The part of `elapsed` spent waiting for permits and between attempts.
        waited: Duration,
        /// The status of the last response; `None` if there was none.
        status: Option<u16>,
        /// `None` for a success, otherwise the class of the error, as a label for metrics. For
        /// [`GaveUp`](Error::GaveUp) it is that of the last failure, or `deadline` or `circuit_open` if that ended the
        /// call. The classes: `api`, `cancelled`,
        /// `circuit_open`, `config`, `connect`, `deadline`, `decode`, `dropped` (a stream before its end),
        /// `incomplete`, `no_answer`, `panicked`, `shutdown`, `timeout`, `too_large`, `transport`, `truncated`. Later
        /// versions may add more.
        error: Option<&'static str>,
        /// The token usage, if the service reported it. Its `extra` is empty.
        usage: Option<Usage>,
    },
}

impl Event {
    /// The number of the call, which is unique in the process.
    pub fn call(&self) -> u64 {
        match self {
            Event::Attempt { call, .. }
            | Event::Answer { call, .. }
            | Event::Retry { call, .. }
            | Event::Waiting { call, .. }
            | Event::Paced { call, .. }
            | Event::Rate { call, .. }
            | Event::Learned { call, .. }
            | Event::Breaker { call, .. }
            | Event::End { call, .. } => *call,
        }
    }

    /// The model; empty for calls without one.
    pub fn model(&self) -> &str {
        match self {
            Event::Attempt { model, .. }
            | Event::Answer { model, .. }
            | Event::Retry { model, .. }
            | Event::Waiting { model, .. }
            | Event::Paced { model, .. }
            | Event::Rate { model, .. }
            | Event::Learned { model, .. }
            | Event::Breaker { model, .. }
            | Event::End { model, .. } => model,
        }
    }
}

/// The class of an error, as listed at [`Event::End`].
pub(super) fn error_class(error: &Error) -> &'static str {
    match error {
        Error::GaveUp { reason: Reason::Deadline | Reason::DeadlinePassed, .. } | Error::Deadline { .. } => {
            "deadline"
        }
        Error::GaveUp { reason: Reason::CircuitOpen, .. } | Error::CircuitOpen { .. } => "circuit_open",
        Error::GaveUp { last, .. } => error_class(last),
        Error::NoAnswer { .. } => "no_answer",
        Error::Incomplete { .. } => "incomplete",
        Error::Api { .. } => "api",
        Error::Cancelled => "cancelled",
        Error::Config { .. } => "config",
        Error::Connect { .. } => "connect",
        Error::Decode { .. } => "decode",
        Error::Panicked => "panicked",
        Error::Shutdown => "shutdown",
        Error::StreamTruncated { .. } => "truncated",
        Error::Timeout { .. } => "timeout",
        Error::TooLarge { .. } => "too_large",
        Error::Transport { .. } => "transport",
    }
}
