//! Builds the error of a failed call from its last failures and the reason for giving up.

use std::time::Duration;

use crate::error::{Error, Reason};
use crate::meta::Meta;
use crate::retry::Failure;

/// Builds the error of a failed call from its last failures and the reason for giving up.
pub(super) fn final_error(
    failure: Failure<Error>,
    meta: &Meta,
    deadline: Option<Duration>,
    host: &str,
    model: &str,
) -> Error {
    let (reason, last) = match failure {
        Failure::GaveUp { last: last @ (Error::Shutdown | Error::Cancelled), .. } => return last,
        Failure::GaveUp { last, .. } if last.is_of_key_function() => return last,
        Failure::Rejected { by: by @ Error::Shutdown, .. } => return by,
        Failure::Rejected { mut by, last: None } => {
            if let (Error::Deadline { after, .. }, Some(deadline)) = (&mut by, deadline) {
                *after = deadline;
            }
            return by.of_call(host, model);
        }
        Failure::Rejected { by: Error::Deadline { .. }, last: Some(last) } => (Reason::Deadline, last),
        Failure::Rejected { last: Some(last), .. } => (Reason::CircuitOpen, last),
        Failure::GaveUp {
            reason: Reason::NotRetryable | Reason::RetriesSpent | Reason::TimeoutRetriesSpent,
            last,
            previous: None,
        } => return last.of_call(host, model),
        // The previous failure says more than that the deadline passed.
        Failure::GaveUp { last: Error::Deadline { .. }, previous: Some(previous), .. } => {
            (Reason::DeadlinePassed, previous)
        }
        Failure::GaveUp { last: last @ Error::Deadline { .. }, .. } => (Reason::Deadline, last),
        Failure::GaveUp { reason, last, .. } => (reason, last),
    };
    let (attempts, elapsed, last) = (meta.attempts, meta.elapsed, Box::new(last));
    Error::GaveUp { host: host.to_owned(), model: model.to_owned(), reason, attempts, elapsed, last }
}
