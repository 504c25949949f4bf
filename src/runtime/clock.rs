//! The only place where time is read and slept, on the system clock or a fake one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::runtime::sync::{lock, wait};

/// The clock that a client reads and sleeps on.
///
/// The [fake](Clock::fake) one is for tests of programs that use this crate: its sleeps return at once and advance it,
/// so that an hour of backoff takes no time and can be asserted.
///
/// ```
/// use holysheep::Clock;
///
/// let clock = Clock::fake();
/// assert!(clock.sleeps().is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Mutex<Fake>>>);

#[derive(Debug)]
struct Fake {
    now: Instant,
    wall: SystemTime,
    sleeps: Vec<Duration>,
}

impl Clock {
    /// The system clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that advances only by its own sleeps, which return at once, and by [`advance`](Clock::advance).
    pub fn fake() -> Clock {
        let fake = Fake { now: Instant::now(), wall: SystemTime::now(), sleeps: Vec::new() };
        Clock(Some(Arc::new(Mutex::new(fake))))
    }

    /// The sleeps made so far on a fake clock, in order; empty for the system clock.
    pub fn sleeps(&self) -> Vec<Duration> {
        self.0.as_ref().map(|fake| lock(fake).sleeps.clone()).unwrap_or_default()
    }

    /// Advances a fake clock as a sleep would, without listing it; has no effect on the system clock.
    pub fn advance(&self, time: Duration) {
        if let Some(fake) = &self.0 {
            lock(fake).advance(time);
        }
    }

    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            Some(fake) => lock(fake).now,
            None => Instant::now(),
        }
    }

    /// The wall-clock time, for dates that a server sends.
    pub(crate) fn wall(&self) -> SystemTime {
        match &self.0 {
            Some(fake) => lock(fake).wall,
            None => SystemTime::now(),
        }
    }

    /// Waits for a notification, at most this long. May wake spuriously.
    pub(crate) fn wait<'a, T>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> MutexGuard<'a, T> {
        match &self.0 {
            Some(fake) => {
                let mut fake = lock(fake);
                fake.advance(time);
                fake.sleeps.push(time);
                guard
            }
            None => condvar.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// Like [`wait`](Clock::wait), behind others in a queue. Only the head of the queue advances a fake clock, so on a
    /// fake clock only a notification ends this wait.
    pub(crate) fn wait_behind<'a, T>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        match time {
            Some(time) if self.0.is_none() => self.wait(condvar, guard, time),
            _ => wait(condvar, guard),
        }
    }
}

impl Fake {
    fn advance(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).unwrap_or(self.now);
        self.wall = self.wall.checked_add(time).unwrap_or(self.wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_sleep_ends_at_once_moves_the_clock_and_is_listed() {
        let (clock, cancel) = (Clock::fake(), crate::runtime::cancel::Cancel::default());
        let start = clock.now();
        assert!(cancel.sleep_until(&clock, start + Duration::from_secs(3600)));
        assert_eq!(clock.now() - start, Duration::from_secs(3600));
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now() - start, Duration::from_secs(3605));
        assert_eq!(clock.sleeps(), [Duration::from_secs(3600)]);
    }
}
