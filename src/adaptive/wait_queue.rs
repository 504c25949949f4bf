//! The queue of threads that wait for a permit: first in, first out, with retries ahead of first attempts.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};

/// The waiting threads. Each has its own condition variable, so that only the thread at the head is woken.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    retries: VecDeque<Ticket>,
    firsts: VecDeque<Ticket>,
    /// The number of the newest ticket.
    last: u64,
}

/// A place in the queue.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    number: u64,
    pub(super) condvar: Arc<Condvar>,
}

impl WaitQueue {
    /// Appends a ticket to the retries or to the first attempts.
    pub(super) fn join(&mut self, retry: bool) -> Ticket {
        self.last += 1;
        let ticket = Ticket { number: self.last, condvar: Arc::new(Condvar::new()) };
        let lane = if retry { &mut self.retries } else { &mut self.firsts };
        lane.push_back(ticket.clone());
        ticket
    }

    /// Whether this ticket is at the head, or, without a ticket, whether a thread may pass without joining the queue.
    pub(super) fn is_first(&self, ticket: Option<&Ticket>, retry: bool) -> bool {
        match ticket {
            Some(ticket) => self.head().is_some_and(|head| head.number == ticket.number),
            None => self.retries.is_empty() && (retry || self.firsts.is_empty()),
        }
    }

    /// Removes a ticket from any position.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        for lane in [&mut self.retries, &mut self.firsts] {
            lane.retain(|other| other.number != ticket.number);
        }
    }

    /// Wakes the thread at the head.
    pub(super) fn notify_head(&self) {
        if let Some(head) = self.head() {
            head.condvar.notify_one();
        }
    }

    /// Wakes every waiting thread.
    pub(super) fn notify_all(&self) {
        for ticket in self.retries.iter().chain(&self.firsts) {
            ticket.condvar.notify_one();
        }
    }

    /// The number of waiting threads.
    pub(super) fn len(&self) -> usize {
        self.retries.len() + self.firsts.len()
    }

    fn head(&self) -> Option<&Ticket> {
        self.retries.front().or(self.firsts.front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_the_oldest_retry_or_else_the_oldest_first_attempt() {
        let mut queue = WaitQueue::default();
        assert!(queue.is_first(None, false) && queue.is_first(None, true), "the queue is empty");
        let (first, second) = (queue.join(false), queue.join(false));
        assert!(queue.is_first(Some(&first), false) && !queue.is_first(Some(&second), false));
        assert!(!queue.is_first(None, false), "a first attempt does not overtake");
        assert!(queue.is_first(None, true), "a retry does");
        let retry = queue.join(true);
        assert!(queue.is_first(Some(&retry), true) && !queue.is_first(Some(&first), false));
        assert!(!queue.is_first(None, true), "a retry does not overtake another retry");
        queue.leave(&retry);
        queue.leave(&first);
        queue.leave(&first);
        assert!(queue.is_first(Some(&second), false));
        assert_eq!(queue.len(), 1);
    }
}
