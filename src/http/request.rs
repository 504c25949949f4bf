//! The request of one attempt, with its headers and limits.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::HeaderMap;

use crate::error::{Error, Phase};
use crate::runtime::cancel::Cancel;
use crate::wire::secrets::Secrets;

/// The request of one attempt.
pub(crate) struct HttpRequest<'a> {
    /// Begins with a slash; relative to the base address.
    pub(crate) path: &'a str,
    /// JSON to POST; without it the request is a GET.
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) idempotency_key: Option<&'a str>,
    /// Whether to open a new connection instead of using a pooled one.
    pub(crate) fresh_connection: bool,
    pub(crate) headers: &'a RequestHeaders,
    pub(crate) limits: Limits,
}

/// The headers of every request of a client.
#[derive(Clone)]
pub(crate) struct RequestHeaders {
    /// With placeholders for secrets. Built once: ureq would build its own for each request.
    pub(crate) fields: HeaderMap,
    /// The secrets that the placeholders stand for.
    pub(crate) secrets: Arc<Secrets>,
}

/// The time limits and the cancellation of an attempt.
#[derive(Clone)]
pub(crate) struct Limits {
    /// The inactivity timeout.
    pub(crate) timeout: Duration,
    pub(crate) deadline: Option<Deadline>,
    /// Ends the attempt at once.
    pub(crate) cancel: Option<Cancel>,
}

/// The deadline of a call, as an attempt sees it.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    /// From the start of the call.
    pub(crate) total: Duration,
    /// From now.
    pub(crate) remaining: Duration,
}

impl Limits {
    /// The error of a call whose deadline passed in this phase.
    pub(super) fn deadline_passed(&self, phase: Phase) -> Error {
        Error::deadline(self.deadline.map_or(Duration::ZERO, |deadline| deadline.total), Some(phase))
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_cancelled)
    }
}
