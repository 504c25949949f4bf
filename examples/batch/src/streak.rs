//! Consecutive failures of one kind. Their lines are held back, because many such failures mean that all items would fail, and
//! then none of them counts as done.

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
    /// The number of consecutive failures after which all further items are expected to fail, too.
    limit: usize,
    /// The number of consecutive answers that ends the streak. Fewer may belong to requests sent before the first failure.
    answers_to_end: usize,
}

impl Streak {
    pub(crate) fn new(limit: usize, answers_to_end: usize) -> Streak {
        let (kind, held) = (String::new(), Vec::new());
        Streak { kind, scope: Scope::Item, length: 0, held, answers: 0, limit, answers_to_end }
    }

    /// Adds a failure. If its kind is another one, ends the streak and returns the lines that were held back.
    pub(crate) fn add_failure(&mut self, failure: &ItemFailure) -> Vec<Vec<u8>> {
        let ended = if self.kind == failure.kind { Vec::new() } else { self.end() };
        self.kind.clone_from(&failure.kind);
        self.scope = failure.scope;
        (self.length, self.answers) = (self.length + 1, 0);
        ended
    }

    /// Adds an answer. If it ends the streak, returns the lines that were held back.
    pub(crate) fn add_answer(&mut self) -> Vec<Vec<u8>> {
        (self.length, self.answers) = (0, self.answers + 1);
        let is_over = self.answers >= self.answers_to_end || self.held.len() >= self.limit;
        if is_over { self.end() } else { Vec::new() }
    }

    /// Holds back the line of the latest failure.
    pub(crate) fn hold(&mut self, line: Vec<u8>) {
        self.held.push(line);
    }

    /// Ends the streak. Returns the lines that were held back.
    pub(crate) fn end(&mut self) -> Vec<Vec<u8>> {
        std::mem::replace(self, Streak::new(self.limit, self.answers_to_end)).held
    }

    /// Whether a long streak would mean that all further items fail. Faults of single requests mean that only if no item was
    /// ever answered.
    pub(crate) fn may_be_hopeless(&self, ever_answered: bool) -> bool {
        self.scope == Scope::Service || !ever_answered
    }

    pub(crate) fn is_hopeless(&self, ever_answered: bool) -> bool {
        self.length >= self.limit && self.may_be_hopeless(ever_answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: &str, scope: Scope) -> ItemFailure {
        let (kind, message) = (kind.to_owned(), String::new());
        ItemFailure { kind, message, status: None, retryable: false, scope }
    }

    #[test]
    fn late_answers_do_not_end_it_but_enough_of_them_do() {
        let (mut streak, forbidden) = (Streak::new(3, 2), failure("status 403", Scope::Service));
        let fail = |streak: &mut Streak| {
            assert!(streak.add_failure(&forbidden).is_empty());
            streak.hold(b"line".to_vec());
        };
        fail(&mut streak);
        assert!(streak.add_answer().is_empty());
        (0..2).for_each(|_| fail(&mut streak));
        assert!(!streak.is_hopeless(true));
        fail(&mut streak);
        assert!(streak.is_hopeless(true));
        assert_eq!(streak.end().len(), 4);
        fail(&mut streak);
        assert!(streak.add_answer().is_empty());
        assert_eq!(streak.add_answer().len(), 1);
        assert!(streak.add_answer().is_empty());
    }

    #[test]
    fn it_holds_back_a_bounded_number_of_lines() {
        let (mut streak, forbidden) = (Streak::new(3, 100), failure("status 403", Scope::Service));
        for round in 1..=9 {
            streak.add_failure(&forbidden);
            streak.hold(Vec::new());
            assert_eq!(streak.add_answer().len(), if round % 3 == 0 { 3 } else { 0 });
        }
    }

    #[test]
    fn another_kind_ends_it() {
        let mut streak = Streak::new(2, 9);
        streak.add_failure(&failure("status 403", Scope::Service));
        streak.hold(Vec::new());
        let bad = failure("status 400", Scope::Item);
        assert_eq!(streak.add_failure(&bad).len(), 1);
        streak.add_failure(&bad);
        assert!(streak.is_hopeless(false) && !streak.is_hopeless(true));
    }
}
