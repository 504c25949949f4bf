//! The body of an answer, read as it arrives.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::BodyReader;

use crate::error::{Error, Phase, Result};
use crate::http::request::TimeLimits;
use crate::http::transport::{ResponseHead, Transport};
use crate::runtime::cancel::Cancel;

/// Bytes read at once: as many as the connection's buffer holds.
const BUFFER: usize = 16 * 1024;

/// After the end of a stream, how long and how many bytes more the body may take to end too, so that the connection can
/// be kept: it mostly has by then. One server is known to wait for 5 s, which no caller should.
const DRAIN_TIME: Duration = Duration::from_millis(100);
const DRAIN_BYTES: u64 = 64 * 1024;

/// A body that is being read. Dropping it closes its connection at once.
pub(crate) struct ResponseBody {
    reader: BufReader<BodyReader<'static>>,
    transport: Arc<Transport>,
    limits: TimeLimits,
}

impl ResponseBody {
    pub(crate) fn new(head: ResponseHead, transport: Arc<Transport>) -> ResponseBody {
        let reader = BufReader::with_capacity(BUFFER, head.body.into_reader());
        ResponseBody { reader, transport, limits: head.limits }
    }

    /// The bytes that have arrived and were not consumed; waits if there are none. Empty at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        let (transport, limits) = (&self.transport, &self.limits);
        let filled = self.reader.fill_buf();
        filled.map_err(|error| transport.failures().error(error.into(), Phase::Reading, limits))
    }

    /// The inactivity timeout.
    pub(crate) fn timeout(&self) -> Duration {
        self.limits.timeout
    }

    /// Whether this may be an event stream: no line of one begins like a JSON document or an HTML page.
    pub(crate) fn may_be_event_stream(&mut self) -> Result<bool> {
        let first = self.fill()?.trim_ascii_start().first();
        Ok(!matches!(first, Some(b'{' | b'[' | b'<')))
    }

    /// Reads all of it, up to the largest answer allowed.
    pub(crate) fn read_to_end(mut self) -> Result<Vec<u8>> {
        let limit = self.transport.max_response_bytes();
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

    /// Removes this many bytes from the front.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// Reads on to the end for a short time, so that the connection is kept. A thread of its own continues if that isn't
    /// enough, until the inactivity timeout ends it.
    pub(crate) fn drain(self, cancel: &Cancel) {
        let mut rest = self.reader.take(DRAIN_BYTES);
        let _ = cancel.run_cancellable(DRAIN_TIME, move || std::io::copy(&mut rest, &mut std::io::sink()));
    }
}
