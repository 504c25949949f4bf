//! Answers that arrive before the request was sent completely: a server that refuses a large body (401, 413, 429) answers
//! and closes, and the client learns that from a failed write. So a failed write is remembered, the answer is read, and
//! only where there is none does the failure surface. Between TCP and TLS, because TLS repeats a failed write before it
//! reads.

use std::fmt;
use std::time::Duration;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// How long to wait for each part of an answer after a write that timed out: it was sent long before. After a write that
/// failed, reading ends by itself.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// Makes connections that read an early answer.
#[derive(Debug, Default)]
pub(super) struct EarlyAnswerConnector;

impl<In: Transport> Connector<In> for EarlyAnswerConnector {
    type Out = EarlyAnswerTransport<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| EarlyAnswerTransport { inner, failed: None, is_broken: false }))
    }
}

/// A connection that reads on after a failed write.
pub(super) struct EarlyAnswerTransport<T> {
    inner: T,
    /// The failure of a write, to be returned where reading ends without an answer. TLS session tickets are no answer, but
    /// look like one here, so it is kept until then.
    failed: Option<Error>,
    /// A write failed, so that nothing more is sent and the connection isn't reused.
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
                NextTimeout { after: ANSWER_TIME.into(), reason, per_read: None, per_write: None }
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

impl<T: Transport> fmt::Debug for EarlyAnswerTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EarlyAnswerTransport").field(&self.inner).finish()
    }
}
