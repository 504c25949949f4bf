//! Cancellation: a flag that ends sleeps and abandons work that can't be interrupted.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// A switch that ends every sleep of a client at once and for good.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    stopped: Mutex<bool>,
    condvar: Condvar,
}

impl Cancel {
    pub(crate) fn cancel(&self) {
        *lock(&self.stopped) = true;
        self.condvar.notify_all();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        *lock(&self.stopped)
    }

    /// Sleeps for this long; says whether it slept to the end.
    pub(crate) fn sleep(&self, clock: &Clock, time: Duration) -> bool {
        let start = clock.now();
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            let left = time.saturating_sub(clock.now().saturating_duration_since(start));
            if left.is_zero() {
                return true;
            }
            stopped = clock.wait(&self.condvar, stopped, left);
        }
        false
    }
}

/// Why work done aside brought no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandoned {
    Stopped,
    TooLate,
    /// The system gave no thread.
    NoThread,
}

impl Cancel {
    /// Does work that can't be interrupted (a name look-up, a connect) on a thread of its own, and waits for it at most
    /// this long, in real time, or until the stop. An abandoned thread ends by itself; its result is dropped.
    pub(crate) fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Abandoned> {
        let slot = Arc::new(Mutex::new(None));
        let (result, stop) = (Arc::clone(&slot), Arc::clone(self));
        let thread = std::thread::Builder::new().spawn(move || {
            let done = work();
            *lock(&result) = Some(done);
            drop(lock(&stop.stopped)); // a waiter is either before its check of the slot or already waiting
            stop.condvar.notify_all();
        });
        thread.map_err(|_| Abandoned::NoThread)?;
        let clock = Clock::system();
        let start = clock.now();
        let mut stopped = lock(&self.stopped);
        loop {
            if let Some(done) = lock(&slot).take() {
                return Ok(done);
            }
            let left = limit.saturating_sub(clock.now().saturating_duration_since(start));
            if *stopped || left.is_zero() {
                return Err(if *stopped { Abandoned::Stopped } else { Abandoned::TooLate });
            }
            stopped = clock.wait(&self.condvar, stopped, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_sleep_that_has_begun_and_all_later_ones() {
        let (clock, stop) = (Clock::system(), Arc::new(Cancel::default()));
        let sleeper = std::thread::spawn({
            let (clock, stop) = (clock.clone(), Arc::clone(&stop));
            move || stop.sleep(&clock, Duration::from_secs(3600))
        });
        stop.cancel();
        assert!(!sleeper.join().unwrap());
        assert!(!stop.sleep(&clock, Duration::ZERO));
        assert!(stop.is_cancelled());
    }
}
