//! What happens inside a call, as data: for progress bars and metrics that the program draws itself.

use std::time::Duration;

use crate::policy::circuit_breaker::BreakerState;

/// Something that happened in a call, told to [`ConfigBuilder::on_event`](crate::ConfigBuilder::on_event).
///
/// Nothing in it is secret: no key, no prompt, no answer.
///
/// ```
/// use holysheep::{Config, Event};
///
/// let config = Config::builder().api_key("sk-…").on_event(|event| match event {
///     Event::Retry { wait, why, .. } => eprintln!("{why}; retrying in {wait:.1?}"),
///     Event::Breaker { model, state, .. } => eprintln!("{model}: the circuit breaker is {state}"),
///     _ => {} // events may be added
/// });
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A request goes out.
    #[non_exhaustive]
    Attempt {
        /// Counted from 1 in each call.
        attempt: u32,
    },
    /// A request came to an end.
    #[non_exhaustive]
    Answer {
        /// The attempt that ended.
        attempt: u32,
        /// The status of the answer; none where the connection failed.
        status: Option<u16>,
        /// From sending to the end of the answer or the failure.
        elapsed: Duration,
    },
    /// An attempt failed and there will be another one.
    #[non_exhaustive]
    Retry {
        /// The attempt that failed.
        attempt: u32,
        /// The status of its answer; none where the connection failed.
        status: Option<u16>,
        /// The wait before the next one.
        wait: Duration,
        /// The failure in words.
        why: String,
    },
    /// A request waited for its turn and goes out now.
    #[non_exhaustive]
    Paced {
        /// The attempt that waited.
        attempt: u32,
        /// How long.
        waited: Duration,
    },
    /// The rate at which a model may be asked was cut.
    #[non_exhaustive]
    Rate {
        /// The model; empty for calls that name none.
        model: String,
        /// The new rate, in calls a minute.
        per_minute: f64,
    },
    /// A model's breaker opened, closed, or lets a call try.
    #[non_exhaustive]
    Breaker {
        /// The model; empty for calls that name none.
        model: String,
        /// The new state.
        state: BreakerState,
    },
}
