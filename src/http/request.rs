//! What goes down to the transport for one attempt.

use std::time::Duration;

use crate::error::Error;

/// The request of one attempt.
pub(crate) struct HttpRequest<'a> {
    /// Begins with a slash; relative to the base address.
    pub(crate) path: &'a str,
    /// JSON to POST; without it the request is a GET.
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) idempotency_key: Option<&'a str>,
    /// Use no pooled connection.
    pub(crate) fresh_connection: bool,
    pub(crate) limits: TimeLimits,
}

/// How long an attempt may take.
#[derive(Clone, Copy)]
pub(crate) struct TimeLimits {
    /// The inactivity timeout.
    pub(crate) timeout: Duration,
    pub(crate) deadline: Option<Deadline>,
}

/// The deadline of a call, as an attempt sees it.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    /// From the start of the call.
    pub(crate) total: Duration,
    /// From now.
    pub(crate) remaining: Duration,
}

impl TimeLimits {
    /// The error of a call whose deadline passed.
    pub(super) fn deadline_passed(&self) -> Error {
        Error::Deadline { after: self.deadline.map_or(Duration::ZERO, |deadline| deadline.total) }
    }
}
