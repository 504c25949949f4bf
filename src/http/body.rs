//! A response body that is read as it arrives.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::BodyReader;

use crate::error::{Error, Phase, Result};
use crate::http::exchange::ReadLimit;
use crate::http::request::Limits;
use crate::http::transport::{ResponseHead, Transport};

/// The size of the read buffer in bytes, the same as that of the connection's input buffer.
const BUFFER: usize = 16 * 1024;

/// The time and the number of bytes in which the body must end, after the end of the event stream, for its connection to be
/// reused. Usually it has already ended; one server is known to wait for 5 s.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: u64 = 64 * 1024;

/// A body that is being read. Dropping it closes its connection at once.
pub(crate) struct ResponseBody {
    reader: BufReader<BodyReader<'static>>,
    transport: Arc<Transport>,
    limits: Limits,
}

impl ResponseBody {
    pub(crate) fn new(head: ResponseHead, transport: Arc<Transport>) -> ResponseBody {
        let reader = BufReader::with_capacity(BUFFER, head.body.into_reader());
        ResponseBody { reader, transport, limits: head.limits }
    }

    /// The bytes that have arrived and were not consumed. Waits if there are none. Empty at the end of the body.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        let (transport, limits) = (&self.transport, &self.limits);
        let filled = self.reader.fill_buf();
        filled.map_err(|error| transport.failures().error(error.into(), Phase::Reading, limits))
    }

    /// The inactivity timeout.
    pub(crate) fn timeout(&self) -> Duration {
        self.limits.timeout
    }

    /// The bytes that have arrived and were not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        self.reader.buffer()
    }

    /// Reads the whole body, up to the maximum size of a response.
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
                return Err(Error::too_large("body", limit));
            }
        }
    }

    /// Consumes this many bytes.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// Reads the rest of the body, so that the connection can be reused: at once if it has arrived, otherwise for a short
    /// time on a background thread.
    pub(crate) fn drain(mut self) {
        let read = |reader: &mut BufReader<BodyReader<'static>>, limit| {
            let _limit = ReadLimit::new(limit);
            std::io::copy(&mut reader.take(DRAIN_BYTES), &mut std::io::sink())
        };
        if read(&mut self.reader, Duration::ZERO).is_err() {
            let mut reader = self.reader;
            self.transport.drains().run(move || drop(read(&mut reader, DRAIN_TIME)));
        }
    }

    /// [`fill`](ResponseBody::fill), but waits at most this long.
    pub(crate) fn fill_within(&mut self, limit: Duration) -> Result<&[u8]> {
        let _limit = ReadLimit::new(limit);
        self.fill()
    }
}
