//! The expected content of a response, read within a memory budget.

use crate::error::Error;
use crate::json::budget::{Budget, Excess};

/// The expected content of a response.
pub(super) struct Expected<T> {
    /// The list that an answer must have; `None` if any value is an answer.
    pub(super) list: Option<&'static str>,
    /// The memory budget of a body.
    pub(super) budget: fn(&[u8]) -> Budget,
    pub(super) read: fn(&[u8], &Budget) -> serde_json::Result<T>,
    pub(super) is_answer: fn(&T) -> bool,
}

/// Why a body can't be read.
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

/// The error for a response that exceeds its memory budget.
pub(crate) fn too_large(excess: Excess) -> Error {
    match excess {
        Excess::Entries(limit) => Error::too_large("parts", limit as u64),
        Excess::Memory(limit) => Error::too_large("values", limit as u64),
    }
}

/// Logs a warning if unknown fields were left out.
pub(crate) fn warn_of_omitted(budget: &Budget) {
    if budget.omits_fields() {
        log::warn!("unknown fields of a response exceed the memory budget and are left out");
    }
}
