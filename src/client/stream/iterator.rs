//! A stream as an iterator of chunks: each `next` reports what came, and the end of the call.

use std::fmt;

use super::{ChatStream, StreamReport};
use crate::api::ChatChunk;
use crate::error::Result;

impl Iterator for ChatStream {
    type Item = Result<ChatChunk>;

    fn next(&mut self) -> Option<Result<ChatChunk>> {
        // What is handed out can't be taken back; a stream that was opened has a chunk.
        (self.call, self.delivered) = (None, true);
        let item = self.advance();
        match (&item, &mut self.report) {
            (Some(Ok(chunk)), Some(report)) => {
                report.received(chunk.usage.as_ref(), self.end_by.is_some() || self.body.is_none());
            }
            (Some(Ok(_)), None) => {}
            (Some(Err(error)), _) => StreamReport::end(self.report.take(), Some(error)),
            (None, _) => StreamReport::end(self.report.take(), None),
        }
        item
    }
}

impl std::iter::FusedIterator for ChatStream {}

impl fmt::Debug for ChatStream {
    /// Shows what may be logged: no content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream")
            .field("meta", &self.meta)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
