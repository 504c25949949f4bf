//! Reads responses that arrive before the request was sent completely. A server that rejects a large body (401, 413, 429)
//! responds and closes the connection, so that a write fails. The error is kept while the response is read, and is returned
//! if there is none. This layer is between TCP and TLS, because TLS repeats a failed write before it reads.

use std::time::Duration;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// How long to wait for each part of a response after a write timed out: the server would have sent it long before. After
/// any other error, the closed connection ends the read.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// The same where the time is up: what has arrived is still read.
const LAST_READ: Duration = Duration::from_millis(1);

/// Makes connections that read early responses.
#[derive(Debug, Default)]
pub(super) struct EarlyAnswerConnector;

impl<In: Transport> Connector<In> for EarlyAnswerConnector {
    type Out = EarlyAnswerTransport<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| EarlyAnswerTransport { inner, failed: None, is_broken: false }))
    }
}

/// A connection that still reads after a failed write.
#[derive(Debug)]
pub(super) struct EarlyAnswerTransport<T> {
    inner: T,
    /// The error of a write, which is returned when reading ends. Input doesn't clear it, because it may consist of TLS
    /// session tickets only.
    failed: Option<Error>,
    /// A write failed, so nothing more is sent and the connection isn't reused.
    is_broken: bool,
}

impl<T: Transport> Transport for EarlyAnswerTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.is_broken {
            return Ok(());
        }
        if let Err(error) = self.inner.transmit_output(amount, timeout) {
            (self.failed, self.is_broken) = (Some(error), true);
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = match self.failed {
            Some(Error::Timeout(reason)) => {
                let after = ANSWER_TIME.min(*timeout.after).max(LAST_READ).into();
                NextTimeout { after, reason, per_read: None, per_write: None }
            }
            _ => timeout,
        };
        match self.inner.await_input(timeout) {
            Ok(true) => Ok(true),
            ended => self.failed.take().map_or(ended, Err),
        }
    }

    fn is_open(&mut self) -> bool {
        !self.is_broken && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
