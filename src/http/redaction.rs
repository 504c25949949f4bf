//! The last step before a request is sent: placeholders are replaced by the secrets they stand for. ureq and its parts log
//! requests before this step, so that their logs have the placeholders. They log answers too.

use std::sync::Arc;

use crate::http::exchange::own_secrets;
use crate::wire::secrets::Secrets;

/// Replaces the placeholders in the heads of one connection's requests.
pub(super) struct Substitution {
    /// The secrets of the client.
    secrets: Arc<Secrets>,
    /// The secrets of the request under way, where they are its own.
    own: Option<Arc<Secrets>>,
    /// Placeholders that the head under way still contains: a long head goes out in parts.
    remaining: usize,
    /// Where they were in the last head.
    positions: Vec<usize>,
}

impl Substitution {
    pub(super) fn new(secrets: Arc<Secrets>) -> Substitution {
        Substitution { secrets, own: None, remaining: 0, positions: Vec::new() }
    }

    /// Replaces the placeholders in the next part of the output. Returns whether a request begins with it.
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

    /// Overwrites the secrets that a server repeats in the head of an answer. Returns whether there are any.
    pub(super) fn blank(&self, head: &mut [u8]) -> bool {
        self.own.as_ref().unwrap_or(&self.secrets).blank(head)
    }
}
