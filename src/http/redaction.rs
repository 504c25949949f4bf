//! The last step of a request to the wire: where the stand-ins of secrets give way to the secrets. What ureq and its
//! parts log of a request before that, they log of the stand-ins.

use std::fmt;
use std::sync::Arc;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use crate::wire::secrets::Secrets;

/// A connection that reveals secrets in the heads of requests.
pub(super) struct RedactingTransport {
    inner: Box<dyn Transport>,
    secrets: Arc<Secrets>,
    /// Secrets that the head which is being sent must still hold: a long one goes out in parts.
    missing: usize,
    /// Where they were in the last head.
    places: Vec<usize>,
}

impl RedactingTransport {
    pub(super) fn new(inner: Box<dyn Transport>, secrets: Arc<Secrets>) -> RedactingTransport {
        RedactingTransport { inner, secrets, missing: 0, places: Vec::new() }
    }
}

impl Transport for RedactingTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = self.inner.buffers().output();
        let length = amount.min(output.len());
        let part = &mut output[..length];
        if part.starts_with(b"POST ") || part.starts_with(b"GET ") {
            self.missing = self.secrets.len();
        }
        if self.missing > 0 {
            self.missing = self.missing.saturating_sub(self.secrets.reveal(part, &mut self.places));
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl fmt::Debug for RedactingTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedactingTransport").field(&self.inner).finish()
    }
}
