//! The last step before a request is sent: placeholders are substituted by the secrets they stand for. ureq and its parts
//! log requests before this step, so that their logs have the placeholders.

use std::fmt;
use std::sync::Arc;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use crate::wire::secrets::Secrets;

/// A connection that substitutes the placeholders in the heads of requests.
pub(super) struct RedactingTransport {
    inner: Box<dyn Transport>,
    secrets: Arc<Secrets>,
    /// Placeholders that the head under way still contains: a long head goes out in parts.
    remaining: usize,
    /// Where they were in the last head.
    positions: Vec<usize>,
}

impl RedactingTransport {
    pub(super) fn new(inner: Box<dyn Transport>, secrets: Arc<Secrets>) -> RedactingTransport {
        RedactingTransport { inner, secrets, remaining: 0, positions: Vec::new() }
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
            self.remaining = self.secrets.len();
        }
        if self.remaining > 0 {
            let found = self.secrets.substitute(part, &mut self.positions);
            self.remaining = self.remaining.saturating_sub(found);
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
