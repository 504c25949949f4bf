//! The place of a stream among the calls in flight, from its first piece to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adaptive::{AdaptiveHandler, Change, Permit, Shared};
use crate::policy::concurrency::Reader;
use crate::policy::outcome::Outcome;
use crate::runtime::sync::lock;
use crate::runtime::thread_number::thread_number;

/// The place of a stream. It is lost while the stream isn't read, and returned when this is dropped.
#[must_use = "the stream loses its place when this is dropped"]
pub(crate) struct StreamPlace {
    shared: Arc<Shared>,
    call: u64,
    timeout: Duration,
}

impl AdaptiveHandler {
    /// Records the outcome of a call whose answer is still arriving, for this thread to read. The stream loses its place when
    /// it isn't read for `timeout`, or when the thread that read it last waits for another call.
    pub(crate) fn record_stream(
        &self,
        now: Instant,
        permit: Permit,
        outcome: &Outcome,
        timeout: Duration,
    ) -> (Change, StreamPlace) {
        let (shared, call) = (Arc::clone(&self.shared), permit.call.number);
        let change = self.learn(now, permit, outcome, Some(reader(timeout)));
        (change, StreamPlace { shared, call, timeout })
    }
}

impl StreamPlace {
    /// This thread reads the stream now.
    pub(crate) fn read(&self, now: Instant) {
        if let Some(controller) = lock(&self.shared.inner).state.controller() {
            controller.concurrency.read_stream(now, self.call, reader(self.timeout));
        }
    }

    /// The stream ended, and its call used so many tokens if that is known.
    pub(crate) fn end(self, tokens: Option<u64>) {
        if let Some((tokens, controller)) = tokens.zip(lock(&self.shared.inner).state.controller()) {
            controller.tokens.used(tokens);
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.shared.change(|state| {
            if let Some(controller) = state.controller() {
                controller.concurrency.ended_stream(self.call);
            }
        });
    }
}

fn reader(timeout: Duration) -> Reader {
    Reader { thread: thread_number(), timeout }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::adaptive::{AdaptiveConfig, Admission};
    use crate::runtime::clock::Clock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn admit(handler: &AdaptiveHandler, now: Instant) -> Permit {
        match handler.admit(now) {
            Admission::Go(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    /// A handler that permits one call in flight, because of two one timed out, and a stream of this thread that has the
    /// place. On the system's clock a call that nobody wakes waits for two minutes.
    fn one_stream() -> (AdaptiveHandler, StreamPlace) {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
        let now = Clock::system().now();
        let (first, _second) = (admit(&handler, now - MINUTE), admit(&handler, now - MINUTE));
        handler.record(now, first, Outcome::failed());
        drop(_second);
        let (_, place) = handler.record_stream(now, admit(&handler, now), &Outcome::success(), MINUTE);
        let snapshot = handler.snapshot();
        assert_eq!((snapshot.max_in_flight, snapshot.in_flight, snapshot.successes), (Some(1), 1, 1));
        (handler, place)
    }

    /// Starts a thread that waits for a permit and returns it at once. Returns when the thread is in the queue.
    fn wait_in_queue(handler: &AdaptiveHandler) -> thread::JoinHandle<Duration> {
        let waiting = handler.clone();
        let thread = thread::spawn(move || {
            let started = Clock::system().now();
            drop(waiting.acquire(None).unwrap());
            Clock::system().now() - started
        });
        while handler.snapshot().waiting == 0 {
            thread::yield_now();
        }
        thread
    }

    #[test]
    fn the_end_of_a_stream_wakes_who_waits_for_its_place() {
        let (handler, place) = one_stream();
        let thread = wait_in_queue(&handler);
        place.end(Some(5));
        assert!(thread.join().unwrap() < MINUTE / 4);
        assert_eq!(handler.snapshot().in_flight, 0);
    }

    #[test]
    fn a_thread_that_joins_the_queue_gives_up_its_place_to_the_head() {
        let (handler, place) = one_stream();
        let thread = wait_in_queue(&handler);
        let permit = handler.acquire(None).unwrap();
        assert!(thread.join().unwrap() < MINUTE / 4);
        drop(permit);
        place.read(Clock::system().now());
        assert_eq!(handler.snapshot().in_flight, 1, "it has its place again");
    }
}
