//! Reports a run to the user: messages, progress, a summary.

pub(crate) mod progress;
pub(crate) mod service;
pub(crate) mod summary;
pub(crate) mod tally;

use std::io::{IsTerminal, Write};

/// The message when a run begins to stop.
pub(crate) const STOPPING: &str = "stopping: the requests in flight may finish, a second signal aborts them";

/// Writes a message to stderr. A closed stderr is not an error, because the answers go to the output.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// Writes a message that the progress bar shows where there is one.
pub(crate) fn tell_without_bar(text: &str) {
    if !std::io::stderr().is_terminal() {
        tell(text);
    }
}
