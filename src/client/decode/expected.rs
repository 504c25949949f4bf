//! Reads what an answer must hold, within a budget of memory.

use crate::error::Error;
use crate::json::budget::{Budget, Excess};

/// What an answer must hold.
pub(super) struct Expected<T> {
    /// The list without which there is no answer; none where an answer has any form.
    pub(super) list: Option<&'static str>,
    /// The budget of a body.
    pub(super) budget: fn(&[u8]) -> Budget,
    pub(super) read: fn(&[u8], &Budget) -> serde_json::Result<T>,
    pub(super) is_answer: fn(&T) -> bool,
}

/// Why a value can't be read.
pub(super) enum Unread {
    Malformed(serde_json::Error),
    TooLarge(Excess),
}

impl<T> Expected<T> {
    /// Reads a body within its budget.
    pub(super) fn read(&self, body: &[u8]) -> Result<T, Unread> {
        let budget = (self.budget)(body);
        let read = (self.read)(body, &budget);
        if read.as_ref().is_ok_and(self.is_answer) {
            warn_of_omitted(&budget);
        }
        read.map_err(|error| budget.excess().map_or(Unread::Malformed(error), Unread::TooLarge))
    }
}

/// The error of an answer that exceeds a bound on what it becomes in memory.
pub(crate) fn too_large(excess: Excess) -> Error {
    match excess {
        Excess::Entries(limit) => Error::TooLarge { part: "parts", limit: limit as u64 },
        Excess::Memory(limit) => Error::TooLarge { part: "values", limit: limit as u64 },
    }
}

/// Warns of unknown fields that were left out.
pub(crate) fn warn_of_omitted(budget: &Budget) {
    if budget.omits_fields() {
        log::warn!("an answer has unknown fields that would need too much memory; they are left out");
    }
}
