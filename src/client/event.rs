//! What happens inside a call, as data: for progress bars and metrics that the program draws itself.

use std::time::Duration;

use crate::api::Usage;
use crate::error::{Error, Reason};
use crate::policy::circuit_breaker::BreakerState;

/// Something that happened in a call, told to [`ConfigBuilder::on_event`](crate::ConfigBuilder::on_event).
///
/// Each event names the call and the model. The number of a call is unique in the process; the model is empty for calls
/// that name none. Nothing in an event is secret: no key, no prompt, no answer.
///
/// A call has an [`Attempt`](Event::Attempt) and an [`Answer`](Event::Answer) for each request, a [`Retry`](Event::Retry)
/// between two of them, and one [`End`](Event::End) at last.
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
    /// A request goes out.
    #[non_exhaustive]
    Attempt {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// Counted from 1 in each call.
        attempt: u32,
    },
    /// A request came to an end.
    #[non_exhaustive]
    Answer {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that ended.
        attempt: u32,
        /// The status of the answer; none where the connection failed.
        status: Option<u16>,
        /// From sending to the end of the answer or the failure; to the first chunk of a stream.
        elapsed: Duration,
    },
    /// An attempt failed and there will be another one.
    ///
    /// It is emitted before the wait, as soon as the wait is known. Only if other calls wait for their turn before this one, it
    /// is emitted after the wait.
    #[non_exhaustive]
    Retry {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that failed.
        attempt: u32,
        /// The status of its answer; none where the connection failed.
        status: Option<u16>,
        /// The wait before the next attempt: the backoff or what the service asked for, and after a refusal the time until
        /// the rate limiter admits the call. If the rate limiter delays it further, [`Event::Paced`] tells by how much.
        wait: Duration,
        /// The failure in words.
        why: String,
    },
    /// A request waited for its turn and goes out now.
    #[non_exhaustive]
    Paced {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The attempt that waited.
        attempt: u32,
        /// How long: for a retry after a refusal the wait that [`Event::Retry`] announced.
        waited: Duration,
    },
    /// The rate at which a model may be asked was changed by an outcome of this call.
    #[non_exhaustive]
    Rate {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The new rate, in calls a minute.
        per_minute: f64,
    },
    /// A model's breaker opened, closed, or lets this call try.
    #[non_exhaustive]
    Breaker {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// The new state.
        state: BreakerState,
    },
    /// A call ended: it has no further events. A stream ends with its last chunk, with its error, or when it is dropped.
    ///
    /// A request that is refused before the call begins, with [`Error::Config`], has no events.
    #[non_exhaustive]
    End {
        /// The number of the call.
        call: u64,
        /// The model.
        model: String,
        /// Requests made; 0 for a call that never got its turn.
        attempts: u32,
        /// From the start of the call to its end.
        elapsed: Duration,
        /// The part of `elapsed` spent waiting: for turns, and between attempts.
        waited: Duration,
        /// The status of the last answer; none where there was no answer.
        status: Option<u16>,
        /// None for a success. Otherwise one of a few words, as a label for metrics: `api`, `cancelled`, `circuit_open`,
        /// `config`, `connect`, `deadline`, `decode`, `dropped` (a stream before its end), `incomplete`, `no_answer`, `panicked`,
        /// `shutdown`, `timeout`, `too_large`, `transport`, `truncated`. There may be more in later versions.
        error: Option<&'static str>,
        /// The token usage, where the service reported it. Its `extra` is empty.
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
            | Event::Paced { call, .. }
            | Event::Rate { call, .. }
            | Event::Breaker { call, .. }
            | Event::End { call, .. } => *call,
        }
    }

    /// The model; empty for calls that name none.
    pub fn model(&self) -> &str {
        match self {
            Event::Attempt { model, .. }
            | Event::Answer { model, .. }
            | Event::Retry { model, .. }
            | Event::Paced { model, .. }
            | Event::Rate { model, .. }
            | Event::Breaker { model, .. }
            | Event::End { model, .. } => model,
        }
    }
}

/// The class of an error, as [`Event::End`] lists them.
pub(super) fn class(error: &Error) -> &'static str {
    match error {
        Error::GaveUp { reason: Reason::Deadline, .. } | Error::Deadline { .. } => "deadline",
        Error::GaveUp { reason: Reason::CircuitOpen, .. } | Error::CircuitOpen { .. } => "circuit_open",
        Error::GaveUp { last, .. } => class(last),
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
