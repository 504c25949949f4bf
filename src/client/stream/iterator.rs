//! The stream as an iterator over its chunks and as the answer to a call, and its end.

use std::fmt;
use std::time::Duration;

use crate::adaptive::StreamPlace;
use crate::api::{ChatChunk, Usage};
use crate::client::answer::Answer;
use crate::client::stream::ChatStream;
use crate::error::{Error, Result};
use crate::http::body::ResponseBody;

impl Iterator for ChatStream {
    type Item = Result<ChatChunk>;

    fn next(&mut self) -> Option<Result<ChatChunk>> {
        // A returned chunk rules out a retry. A stream that was opened has a chunk.
        (self.call, self.delivered) = (None, true);
        self.advance()
    }
}

impl ChatStream {
    /// Whether the whole answer has arrived.
    pub(super) fn has_finished(&self) -> bool {
        self.ending.is_some() || self.body.is_none()
    }

    /// The error, with the service and the model of the call, unless that may still be retried.
    pub(super) fn of_call(&self, error: Error) -> Error {
        match &self.report {
            Some(report) => error.of_call(self.core.transport.host(), report.model()),
            None => error,
        }
    }

    /// Ends the call: releases its place, and reports its end, unless it was reported before or the caller doesn't hold
    /// this stream yet.
    pub(super) fn report_end(&mut self, error: Option<&Error>) {
        if let Some(place) = self.place.take() {
            place.end(self.accumulator.usage().and_then(Usage::tokens));
        }
        if let Some(report) = self.report.take() {
            report.end(self.accumulator.usage(), error);
        }
    }
}

impl std::iter::FusedIterator for ChatStream {}

impl Answer for ChatStream {
    /// The usage of an answer that came as a whole. That of a stream comes at its end, and may be a running total before.
    fn usage(&self) -> Option<&Usage> {
        self.accumulator.usage().filter(|_| self.body.is_none())
    }

    fn inactivity_timeout(&self) -> Option<Duration> {
        self.body.as_ref().map(ResponseBody::timeout)
    }

    fn hold(&mut self, place: StreamPlace) {
        self.place = Some(place);
    }
}

impl fmt::Debug for ChatStream {
    /// Omits the content, which must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream")
            .field("meta", &self.meta)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
