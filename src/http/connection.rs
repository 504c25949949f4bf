//! The connection that ureq's protocol code reads and writes. It substitutes secrets, grows its buffer for a large head,
//! reads bytes that have arrived before it reports a timeout, and keeps a head that ureq can't parse.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::unversioned::transport::{Buffers, NextTimeout, ShutdownHandle, Transport};

use crate::http::exchange::{self, MAX_HEAD, keep_unparsed_head, remaining_read_time};
use crate::http::redaction::Substitution;
use crate::runtime::cancel::Subscription;
use crate::runtime::clock::Clock;
use crate::wire::secrets::Secrets;

/// How long to check after a timeout for bytes that arrived while the process was suspended.
const LAST_READ: Duration = Duration::from_millis(1);

/// How long to wait for each further part of a head that ureq rejected, and for all of them together: 64 KiB take a few
/// round trips. The deadline of the exchange also ends it.
const PART_OF_HEAD: Duration = Duration::from_millis(100);
const REST_OF_HEAD: Duration = Duration::from_secs(1);

/// The beginning of every response.
const HEAD: &[u8] = b"HTTP/";

/// A connection to the service.
pub(super) struct HttpConnection {
    inner: Box<dyn Transport>,
    substitution: Substitution,
    /// The unread input, while it exceeds the buffer of `inner`.
    overflow: Option<InputBuffer>,
    /// Handles to shut down the sockets of this connection.
    handles: Arc<[Weak<dyn ShutdownHandle>]>,
    /// Shuts the connection down when the exchange that uses it is cancelled.
    cancellation: Option<Subscription>,
    /// A read failed or found the end, so an incomplete head stays incomplete.
    input_ended: bool,
    /// When the exchange has to end, as of the last read; `None` if never.
    deadline: Option<Instant>,
    clock: Clock,
}

impl HttpConnection {
    pub(super) fn new(
        inner: Box<dyn Transport>,
        secrets: Arc<Secrets>,
        handles: Vec<Weak<dyn ShutdownHandle>>,
        clock: Clock,
    ) -> HttpConnection {
        HttpConnection {
            inner,
            substitution: Substitution::new(secrets),
            overflow: None,
            handles: handles.into(),
            cancellation: None,
            input_ended: false,
            deadline: None,
            clock,
        }
    }

    /// Subscribes to the cancellation of the exchange that begins to use the connection.
    fn begin_exchange(&mut self) {
        self.cancellation = exchange::own_cancel().map(|cancel| {
            let handles = Arc::clone(&self.handles);
            cancel.subscribe(move || {
                handles.iter().filter_map(Weak::upgrade).for_each(|handle| handle.shutdown());
            })
        });
    }

    /// Reads the rest of a head that ureq rejected before all of it had arrived.
    fn read_rest_of_head(&mut self) {
        let latest = self.clock.now() + REST_OF_HEAD;
        let latest = self.deadline.map_or(latest, |deadline| deadline.min(latest));
        loop {
            let overflow = self.overflow.get_or_insert_default();
            overflow.take_from(self.inner.buffers());
            let left = latest.saturating_duration_since(self.clock.now());
            let is_complete = overflow.bytes.len() >= MAX_HEAD || head_length(overflow.input()).is_some();
            if is_complete || left.is_zero() {
                return;
            }
            let timeout = NextTimeout { after: left.min(PART_OF_HEAD).into(), ..NextTimeout::default() };
            if !matches!(self.inner.await_input(timeout), Ok(true)) {
                return;
            }
        }
    }

    /// Waits for input. If time ran out while the process was suspended, the bytes that arrived meanwhile are still read.
    fn read(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.deadline = self.clock.now().checked_add(*timeout.after);
        let read = match remaining_read_time() {
            Some(remaining) => {
                let after = remaining.max(LAST_READ).min(*timeout.after).into();
                self.inner.await_input(NextTimeout { after, ..timeout })
            }
            None => match self.inner.await_input(timeout) {
                Err(Error::Timeout(reason)) => {
                    let after = LAST_READ.into();
                    self.inner.await_input(NextTimeout { after, reason, per_read: None, per_write: None })
                }
                read => read,
            },
        };
        self.input_ended = !matches!(read, Ok(true));
        read
    }

    /// Overwrites secrets that the server repeats in the head of a response, because ureq logs it. An incomplete head isn't
    /// logged yet.
    fn redact_heads(&mut self) {
        let mut bytes = self.buffers().input().to_vec();
        let mut end = 0;
        while bytes[end..].starts_with(HEAD) {
            let Some(length) = head_length(&bytes[end..]) else { break };
            end += length; // of an interim response, which another head follows
        }
        if self.substitution.blank(&mut bytes[..end]) {
            self.buffers().input_consume(bytes.len());
            self.overflow = Some(InputBuffer { bytes, ..InputBuffer::default() });
        }
    }
}

impl Transport for HttpConnection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        if self.overflow.as_ref().is_some_and(|overflow| overflow.input().is_empty()) {
            self.overflow = None;
        }
        match &mut self.overflow {
            Some(overflow) => overflow,
            None => self.inner.buffers(),
        }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = self.inner.buffers().output();
        let length = amount.min(output.len());
        if self.substitution.apply(&mut output[..length]) {
            self.begin_exchange();
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // A full buffer without usable input means a large head.
        if self.overflow.is_none() && self.inner.buffers().input_append_buf().is_empty() {
            self.overflow = Some(InputBuffer::default());
        }
        if let Some(overflow) = &mut self.overflow {
            overflow.take_from(self.inner.buffers());
        }
        let made_progress = self.read(timeout)?;
        if let Some(overflow) = &mut self.overflow {
            overflow.take_from(self.inner.buffers());
        }
        if log::max_level() == log::LevelFilter::Trace {
            self.redact_heads();
        }
        Ok(made_progress)
    }

    /// ureq calls this when it returns the connection to the pool and when it takes it out.
    fn is_open(&mut self) -> bool {
        self.cancellation = None;
        let unread = self.overflow.as_ref().is_some_and(|overflow| !overflow.input().is_empty());
        !unread && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        if !self.input_ended && self.buffers().input().starts_with(HEAD) {
            self.read_rest_of_head();
            keep_unparsed_head(self.buffers().input());
        }
    }
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpConnection").field(&self.inner).finish()
    }
}

/// The length of the head at the beginning of the bytes, if it is complete.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let lf = bytes.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
    crlf.into_iter().chain(lf).min()
}

/// An input buffer that grows as needed, up to ureq's limit for heads.
#[derive(Default)]
struct InputBuffer {
    bytes: Vec<u8>,
    consumed: usize,
    /// The last attempt to consume input consumed some.
    progress: bool,
}

impl InputBuffer {
    fn take_from(&mut self, buffers: &mut dyn Buffers) {
        let input = buffers.input();
        let length = input.len();
        self.bytes.extend_from_slice(input);
        buffers.input_consume(length);
    }
}

impl Buffers for InputBuffer {
    fn output(&mut self) -> &mut [u8] {
        &mut [] // while input is unread, no request is written
    }

    fn input(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        &mut [] // it is filled by `take_from`
    }

    fn input_appended(&mut self, _: usize) {}

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.consumed = (self.consumed + amount).min(self.bytes.len());
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut [], &mut [])
    }

    fn can_use_input(&self) -> bool {
        self.progress && !self.input().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use ureq::Timeout;
    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    /// A transport with scripted results of reads, in order.
    #[derive(Debug)]
    struct Scripted {
        buffers: LazyBuffers,
        reads: Vec<Option<Vec<u8>>>,
        waits: Arc<std::sync::Mutex<Vec<Duration>>>,
        clock: Clock,
        /// How long each read takes.
        pace: Duration,
    }

    impl Transport for Scripted {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            Ok(())
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
            self.waits.lock().unwrap().push(*timeout.after);
            self.clock.advance(self.pace.min(*timeout.after));
            let Some(bytes) = self.reads.remove(0) else { return Err(Error::Timeout(timeout.reason)) };
            let free = self.buffers.input_append_buf();
            free[..bytes.len()].copy_from_slice(&bytes);
            self.buffers.input_appended(bytes.len());
            Ok(!bytes.is_empty())
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    fn connection(reads: &[Option<&[u8]>]) -> (HttpConnection, Arc<std::sync::Mutex<Vec<Duration>>>) {
        paced_connection(reads, Duration::ZERO, &Clock::fake())
    }

    fn paced_connection(
        reads: &[Option<&[u8]>],
        pace: Duration,
        clock: &Clock,
    ) -> (HttpConnection, Arc<std::sync::Mutex<Vec<Duration>>>) {
        let waits = Arc::default();
        let reads = reads.iter().map(|read| read.map(<[u8]>::to_vec)).collect();
        let (buffers, clock) = (LazyBuffers::new(8, 8), clock.clone());
        let scripted = Scripted { buffers, reads, waits: Arc::clone(&waits), clock: clock.clone(), pace };
        (HttpConnection::new(Box::new(scripted), Arc::default(), Vec::new(), clock), waits)
    }

    fn minute() -> NextTimeout {
        NextTimeout {
            after: Duration::from_secs(60).into(),
            reason: Timeout::PerRead,
            ..NextTimeout::default()
        }
    }

    #[test]
    fn bytes_that_have_arrived_are_preferred_to_a_timeout() {
        let (mut connection, waits) = connection(&[None, Some(b"late"), None, None]);
        assert!(connection.await_input(minute()).unwrap());
        assert_eq!(connection.buffers().input(), b"late");
        assert_eq!(*waits.lock().unwrap(), [Duration::from_secs(60), LAST_READ]);
        connection.buffers().input_consume(4);
        assert!(matches!(connection.await_input(minute()), Err(Error::Timeout(Timeout::PerRead))));
    }

    #[test]
    fn a_head_larger_than_the_buffer_is_read_and_consumed_in_any_parts() {
        let parts: Vec<Option<&[u8]>> =
            vec![Some(b"01234567"), Some(b"89abcdef"), Some(b"ghij"), Some(b"klmnopqr"), Some(b"tail")];
        for step in 1..=20 {
            let (mut connection, _) = connection(&parts);
            let mut seen = Vec::new();
            for read in 0..parts.len() {
                connection.buffers().input_consume(0); // nothing can be used yet
                if read == 4 {
                    let head = connection.buffers().input().len();
                    assert_eq!(head, 28, "all bytes that arrived");
                    while !connection.buffers().input().is_empty() {
                        let input = connection.buffers().input();
                        let part = input[..step.min(input.len())].to_vec();
                        connection.buffers().input_consume(part.len());
                        seen.extend(part);
                    }
                    assert!(connection.overflow.is_none() || connection.buffers().input().is_empty());
                }
                assert!(connection.await_input(minute()).unwrap());
            }
            seen.extend_from_slice(connection.buffers().input());
            assert_eq!(seen, b"0123456789abcdefghijklmnopqrtail");
            assert!(connection.overflow.is_none(), "the usual buffer is in use again");
            assert!(!connection.buffers().output().is_empty());
        }
    }

    #[test]
    fn a_connection_with_unread_overflow_is_not_reused() {
        let (mut connection, _) = connection(&[Some(b"01234567"), Some(b"8")]);
        assert!(connection.await_input(minute()).unwrap() && connection.is_open());
        connection.buffers().input_consume(0);
        assert!(connection.await_input(minute()).unwrap());
        assert!(!connection.is_open());
    }

    #[test]
    fn a_head_that_is_dropped_unread_is_kept() {
        let (mut connection, _) =
            connection(&[Some(b"HTTP/1.1"), Some(b" 429 x"), Some(b"\r\na: b"), Some(b"\r\n\r\n")]);
        assert!(connection.await_input(minute()).unwrap());
        connection.buffers().input_consume(0);
        assert!(connection.await_input(minute()).unwrap());
        drop(connection);
        assert_eq!(crate::http::exchange::take_unparsed_head(), b"HTTP/1.1 429 x\r\na: b\r\n\r\n");
        let (mut connection, _) = self::connection(&[Some(b"0123")]);
        assert!(connection.await_input(minute()).unwrap());
        drop(connection);
        assert!(crate::http::exchange::take_unparsed_head().is_empty());
    }

    #[test]
    fn the_rest_of_a_rejected_head_is_not_awaited_for_long_or_beyond_the_deadline() {
        for (after, expected) in [(60_000, 1050), (1050, 1050), (300, 300), (50, 50)] {
            let (clock, pace) = (Clock::fake(), Duration::from_millis(50));
            let reads = [[Some(&b"HTTP/1.1"[..])].as_slice(), &[Some(&b"x"[..]); 100]].concat();
            let (mut connection, waits) = paced_connection(&reads, pace, &clock);
            let started = clock.now();
            let after = Duration::from_millis(after).into();
            connection.await_input(NextTimeout { after, ..minute() }).unwrap();
            drop(connection);
            assert_eq!(clock.now() - started, Duration::from_millis(expected), "{after:?}");
            assert!(waits.lock().unwrap()[1..].iter().all(|wait| *wait <= PART_OF_HEAD));
            assert!(crate::http::exchange::take_unparsed_head().starts_with(b"HTTP/1.1"));
        }
    }

    #[test]
    fn secrets_in_complete_heads_are_overwritten_and_bodies_are_not() {
        let mut secrets = Secrets::default();
        secrets.add("x", "sk-0123456789", || 'x');
        let (mut connection, _) = connection(&[]);
        connection.substitution = Substitution::new(Arc::new(secrets));
        let redacted = |connection: &mut HttpConnection, bytes: &[u8]| {
            connection.overflow = Some(InputBuffer { bytes: bytes.to_vec(), ..InputBuffer::default() });
            connection.redact_heads();
            String::from_utf8(connection.buffers().input().to_vec()).unwrap()
        };
        let body = "HTTP/1.1 307 R\r\nlocation: /?k=sk-0123456789\r\n\r\nsk-0123456789";
        let clean = "HTTP/1.1 307 R\r\nlocation: /?k=*************\r\n\r\nsk-0123456789";
        assert_eq!(redacted(&mut connection, body.as_bytes()), clean);
        let interim = format!("HTTP/1.1 100 C\n\n{body}");
        assert_eq!(redacted(&mut connection, interim.as_bytes()), format!("HTTP/1.1 100 C\n\n{clean}"));
        for kept in [
            "HTTP/1.1 307 R\r\nlocation: sk-0123456789\r\n",
            "sk-0123456789\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(redacted(&mut connection, kept.as_bytes()), kept);
        }
    }
}
