//! Replaces placeholders with secrets just before a request is sent. ureq logs requests before that, so its logs contain only
//! the placeholders. It also logs the heads of responses, in which secrets are overwritten.

use std::sync::Arc;

use crate::http::exchange::own_secrets;
use crate::wire::secrets::Secrets;

/// Replaces the placeholders in the request heads of one connection.
pub(super) struct Substitution {
    /// The secrets of the client.
    secrets: Arc<Secrets>,
    /// The secrets of the current request, if they differ from the client's.
    own: Option<Arc<Secrets>>,
    /// The number of placeholders still in the current head: a long head is sent in parts.
    remaining: usize,
    /// Their offsets in the last head.
    positions: Vec<usize>,
}

impl Substitution {
    pub(super) fn new(secrets: Arc<Secrets>) -> Substitution {
        Substitution { secrets, own: None, remaining: 0, positions: Vec::new() }
    }

    /// Replaces the placeholders in the next part of the output. Returns whether it begins a request.
    pub(super) fn apply(&mut self, part: &mut [u8]) -> bool {
        let begins = part.starts_with(b"POST ") || part.starts_with(b"GET ");
        if begins {
            self.own = own_secrets();
            self.remaining = self.own.as_ref().unwrap_or(&self.secrets).len();
        }
        if self.remaining > 0 {
            let secrets = self.own.as_ref().unwrap_or(&self.secrets);
            let found = secrets.substitute(part, &mut self.positions);
            self.remaining = self.remaining.saturating_sub(found);
        }
        begins
    }

    /// Overwrites the secrets that a server repeats in the head of a response. Returns whether there are any.
    pub(super) fn blank(&self, head: &mut [u8]) -> bool {
        self.own.as_ref().unwrap_or(&self.secrets).blank(head)
    }
}
