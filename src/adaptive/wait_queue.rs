//! The line of those who wait for a permit: first come, first served, but who tries again before who begins.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};

/// Who waits. Each has a bell of its own, so that only the one whose turn it is wakes up.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    retries: VecDeque<Ticket>,
    firsts: VecDeque<Ticket>,
    /// The number of the last place given.
    last: u64,
}

/// A place in the line.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    number: u64,
    pub(super) bell: Arc<Condvar>,
}

impl WaitQueue {
    /// Goes to the end of the retries or of the first attempts.
    pub(super) fn join(&mut self, retry: bool) -> Ticket {
        self.last += 1;
        let place = Ticket { number: self.last, bell: Arc::new(Condvar::new()) };
        let lane = if retry { &mut self.retries } else { &mut self.firsts };
        lane.push_back(place.clone());
        place
    }

    /// Whether it is the turn of this place, or of one who has none yet and needs none.
    pub(super) fn is_first(&self, place: Option<&Ticket>, retry: bool) -> bool {
        match place {
            Some(place) => self.head().is_some_and(|head| head.number == place.number),
            None => self.retries.is_empty() && (retry || self.firsts.is_empty()),
        }
    }

    /// Leaves, from wherever in the line.
    pub(super) fn leave(&mut self, place: &Ticket) {
        for lane in [&mut self.retries, &mut self.firsts] {
            lane.retain(|other| other.number != place.number);
        }
    }

    /// Wakes the one whose turn it is.
    pub(super) fn ring(&self) {
        if let Some(head) = self.head() {
            head.bell.notify_one();
        }
    }

    /// Wakes everybody.
    pub(super) fn ring_all(&self) {
        for place in self.retries.iter().chain(&self.firsts) {
            place.bell.notify_one();
        }
    }

    /// How many wait.
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
    fn the_head_is_the_oldest_retry_or_else_the_oldest_of_the_others() {
        let mut line = WaitQueue::default();
        assert!(line.is_first(None, false) && line.is_first(None, true), "nobody waits");
        let (first, second) = (line.join(false), line.join(false));
        assert!(line.is_first(Some(&first), false) && !line.is_first(Some(&second), false));
        assert!(!line.is_first(None, false), "who comes now doesn't overtake");
        assert!(line.is_first(None, true), "but for a retry");
        let retry = line.join(true);
        assert!(line.is_first(Some(&retry), true) && !line.is_first(Some(&first), false));
        assert!(!line.is_first(None, true), "a retry doesn't overtake another");
        line.leave(&retry);
        line.leave(&first);
        line.leave(&first);
        assert!(line.is_first(Some(&second), false));
        assert_eq!(line.len(), 1);
    }
}
