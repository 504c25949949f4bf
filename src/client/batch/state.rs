//! The progress and the limits of a batch, shared by its workers.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Instant;

use super::queue::WaitingCalls;
use super::{BatchItem, BatchRequest};
use crate::adaptive::Wake;

pub(super) struct State<R: BatchRequest> {
    /// Finished items by their position in the output.
    pub(super) results: BTreeMap<usize, BatchItem<R>>,
    /// The position of the next item to be taken.
    pub(super) next: usize,
    /// Items finished so far: without ordering, the position of the next one.
    pub(super) count: usize,
    /// Requests that are being sent.
    pub(super) running: usize,
    /// Requests that are being pulled.
    pub(super) pulling: usize,
    pub(super) waiting: WaitingCalls<R>,
    pub(super) limits: Limits,
    pub(super) in_order: bool,
    pub(super) threads: usize,
    /// Workers that wait for work.
    pub(super) idle: usize,
    /// When one of them looks for work without being notified; the others wait only for notifications.
    pub(super) timekeeper: Option<Instant>,
    pub(super) consumer_waits: bool,
    pub(super) input_ended: bool,
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

/// The limits of a batch.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// Results that no consumer has taken.
    pub(super) results: usize,
    /// Calls that wait for a permit or a retry.
    pub(super) waiting: usize,
}

impl<R: BatchRequest> State<R> {
    pub(super) fn new(limits: Limits, in_order: bool, wake: Wake) -> State<R> {
        State {
            results: BTreeMap::new(),
            next: 0,
            count: 0,
            running: 0,
            pulling: 0,
            waiting: WaitingCalls::new(wake),
            limits,
            in_order,
            threads: 0,
            idle: 0,
            timekeeper: None,
            consumer_waits: false,
            input_ended: false,
            panic: None,
        }
    }

    /// Whether no further item will be finished. A drained client doesn't wait for its input, which may block.
    pub(super) fn is_over(&self, drained: bool) -> bool {
        let no_input = drained || (self.input_ended && self.pulling == 0);
        no_input && self.running == 0 && self.waiting.len() == 0
    }

    /// Whether there is room for a further request.
    pub(super) fn has_room(&self) -> bool {
        let limit = self.limits.threads + self.limits.results;
        self.running + self.pulling + self.results.len() < limit && self.waiting.len() < self.limits.waiting
    }

    /// Whether another worker would find work: all others are busy.
    pub(super) fn needs_worker(&self) -> bool {
        !self.input_ended && self.idle == 0 && self.threads < self.limits.threads
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::ChatRequest;

    #[test]
    fn a_worker_is_needed_while_all_others_are_busy_and_there_is_input() {
        let limits = Limits { threads: 2, results: 8, waiting: 8 };
        let mut state = State::<ChatRequest>::new(limits, false, Arc::new(|| ()));
        state.threads = 1;
        assert!(state.needs_worker());
        state.idle = 1;
        assert!(!state.needs_worker(), "one has no work");
        (state.idle, state.threads) = (0, 2);
        assert!(!state.needs_worker(), "there are enough");
        (state.threads, state.input_ended) = (1, true);
        assert!(!state.needs_worker(), "no more work comes");
    }
}
