//! The state of the service as seen in the client's events: attempts, the last failure, and the wait that it requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holysheep::Event;

/// Longer waits are reported: the service requested them, or refused so many requests that the next one has to wait.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Service(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    attempts: u64,
    retries: u64,
    last_failure: Option<String>,
    /// Until when a request waits.
    held_until: Option<Instant>,
    /// It answered something that isn't a fault of its own, a refusal included.
    has_answered: bool,
    failing_since: Option<Instant>,
}

impl Service {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from an event of the client.
    pub(crate) fn learn(&self, event: &Event) {
        match event {
            Event::Attempt { attempt, .. } => {
                let mut state = self.lock();
                state.attempts += 1;
                state.retries += u64::from(*attempt > 1);
            }
            Event::Answer { status: Some(..500), .. } => self.lock().has_answered = true,
            Event::Retry { wait, why, .. } => {
                let (mut state, now) = (self.lock(), Instant::now());
                state.last_failure = Some(why.clone());
                state.failing_since.get_or_insert(now);
                if *wait > LONG_WAIT {
                    state.held_until = state.held_until.max(now.checked_add(*wait));
                }
            }
            _ => {}
        }
    }

    /// Requests that were sent, and how many of them were retries.
    pub(crate) fn attempts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.attempts, state.retries)
    }

    /// Why requests last failed and were retried.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.lock().last_failure.clone()
    }

    /// How much longer a request waits, if that is long.
    pub(crate) fn hold(&self) -> Option<Duration> {
        self.lock().held_until?.checked_duration_since(Instant::now())
    }

    /// How long it has failed, if it never answered.
    pub(crate) fn never_answered_for(&self) -> Option<Duration> {
        let state = self.lock();
        state.failing_since.filter(|_| !state.has_answered).map(|since| since.elapsed())
    }
}
