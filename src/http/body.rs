//! The body of an answer as it arrives.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::BodyReader;

use crate::error::{Error, Phase, Result};
use crate::http::transport::{Opened, Terms, Transport};
use crate::runtime::cancel::Cancel;

/// Bytes read at once: as many as the connection's buffer holds.
const BUFFER: usize = 16 * 1024;

/// After the end of a stream, how long and how many bytes more the body may take to end too, so that the connection can
/// be kept: it mostly has by then, and one server is known to wait for 5 s, which nobody else should.
const DRAIN_TIME: Duration = Duration::from_millis(100);
const DRAIN_BYTES: u64 = 64 * 1024;

/// A body that is being read. Dropping it closes its connection at once.
pub(crate) struct Incoming {
    reader: BufReader<BodyReader<'static>>,
    transport: Arc<Transport>,
    terms: Terms,
}

impl Incoming {
    pub(crate) fn new(opened: Opened, transport: Arc<Transport>, terms: Terms) -> Incoming {
        let reader = BufReader::with_capacity(BUFFER, opened.body.into_reader());
        Incoming { reader, transport, terms }
    }

    /// What has arrived and wasn't consumed; waits if that is nothing. Empty at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        let (transport, terms) = (&self.transport, &self.terms);
        self.reader.fill_buf().map_err(|error| transport.failure(error.into(), Phase::Reading, terms))
    }

    /// Whether this may be a stream of events: no line of one begins like a JSON document or a page.
    pub(crate) fn may_be_events(&mut self) -> Result<bool> {
        let begins = self.fill()?.trim_ascii_start().first();
        Ok(!matches!(begins, Some(b'{' | b'[' | b'<')))
    }

    /// Reads all of it, at most this many bytes.
    pub(crate) fn whole(mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let arrived = self.fill()?;
            let length = arrived.len();
            if length == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(arrived);
            self.consume(length);
            if bytes.len() as u64 > limit {
                return Err(Error::TooLarge { part: "body", limit });
            }
        }
    }

    /// Takes this many bytes off the front.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// Reads on to the end, so that the connection is kept, for a short time; a thread goes on with it if that isn't
    /// enough, until the server's silence ends it.
    pub(crate) fn finish(self, stop: &Arc<Cancel>) {
        let mut rest = self.reader.take(DRAIN_BYTES);
        let _ = stop.aside(DRAIN_TIME, move || std::io::copy(&mut rest, &mut std::io::sink()));
    }
}
