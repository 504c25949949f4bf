//! The iterator over the chunks of a stream, and the report of its end.

use std::fmt;

use crate::api::ChatChunk;
use crate::client::stream::ChatStream;
use crate::error::{Error, Result};

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
        self.end_by.is_some() || self.body.is_none()
    }

    /// Reports the end of the call, unless it was reported before or the caller doesn't hold this stream yet.
    pub(super) fn report_end(&mut self, error: Option<&Error>) {
        if let Some(report) = self.report.take() {
            report.end(self.accumulator.usage(), error);
        }
    }
}

impl std::iter::FusedIterator for ChatStream {}

impl fmt::Debug for ChatStream {
    /// Omits the content, which must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream")
            .field("meta", &self.meta)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
