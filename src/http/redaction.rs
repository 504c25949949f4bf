//! The last step before a request is sent: placeholders are replaced by the secrets they stand for. ureq and its parts log
//! requests before this step, so that their logs have the placeholders.

use std::sync::Arc;

use crate::wire::secrets::Secrets;

/// Replaces the placeholders in the heads of one connection's requests.
pub(super) struct Substitution {
    secrets: Arc<Secrets>,
    /// Placeholders that the head under way still contains: a long head goes out in parts.
    remaining: usize,
    /// Where they were in the last head.
    positions: Vec<usize>,
}

impl Substitution {
    pub(super) fn new(secrets: Arc<Secrets>) -> Substitution {
        Substitution { secrets, remaining: 0, positions: Vec::new() }
    }

    /// Replaces the placeholders in the next part of the output.
    pub(super) fn apply(&mut self, part: &mut [u8]) {
        if part.starts_with(b"POST ") || part.starts_with(b"GET ") {
            self.remaining = self.secrets.len();
        }
        if self.remaining > 0 {
            let found = self.secrets.substitute(part, &mut self.positions);
            self.remaining = self.remaining.saturating_sub(found);
        }
    }
}
