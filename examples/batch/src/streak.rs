//! Failures of one kind in a row. They are held back from the output, because so many of them mean that something is wrong
//! with all items, and then none of them is done.

use crate::judge::{ItemFailure, Scope};

/// The latest failures of one kind.
pub(crate) struct Streak {
    kind: String,
    scope: Scope,
    /// Failures since the last answer.
    length: usize,
    /// The lines of failures that aren't written yet.
    held: Vec<Vec<u8>>,
    /// Answers since the last failure.
    answers: usize,
    /// So many answers in a row end it. Answers of requests that were sent before the first failure come later.
    answers_to_end: usize,
}

impl Streak {
    pub(crate) fn new(answers_to_end: usize) -> Streak {
        let (kind, held) = (String::new(), Vec::new());
        Streak { kind, scope: Scope::Item, length: 0, held, answers: 0, answers_to_end }
    }

    /// Adds a failure. Returns the lines of another kind that it ended.
    pub(crate) fn add_failure(&mut self, failure: &ItemFailure) -> Vec<Vec<u8>> {
        let ended = if self.kind == failure.kind { Vec::new() } else { self.end() };
        self.kind.clone_from(&failure.kind);
        self.scope = failure.scope;
        (self.length, self.answers) = (self.length + 1, 0);
        ended
    }

    /// Adds an answer. Returns the lines that are to be written, now that the failures are over.
    pub(crate) fn add_answer(&mut self) -> Vec<Vec<u8>> {
        (self.length, self.answers) = (0, self.answers + 1);
        if self.answers >= self.answers_to_end { self.end() } else { Vec::new() }
    }

    /// Holds back the line of the latest failure.
    pub(crate) fn hold(&mut self, line: Vec<u8>) {
        self.held.push(line);
    }

    /// Ends it. Returns the lines that were held back.
    pub(crate) fn end(&mut self) -> Vec<Vec<u8>> {
        std::mem::replace(self, Streak::new(self.answers_to_end)).held
    }

    /// Whether the failures mean that all further items would fail, too. A request's own fault means that only if no item
    /// was ever answered.
    pub(crate) fn is_hopeless(&self, limit: usize, ever_answered: bool) -> bool {
        self.length >= limit && (self.scope == Scope::Service || !ever_answered)
    }
}
