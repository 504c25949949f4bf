//! Cancellation tokens: they interrupt sleeps, notify subscribers, and abandon work that can't be interrupted.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// A cancellation token, for Ctrl-C handlers, user interfaces and per-user requests. Clones share their state. A
/// cancelled token stays cancelled.
///
/// [`Client::with_cancel`](crate::Client::with_cancel) ties calls to a token.
///
/// ```
/// use holysheep::Cancel;
///
/// let cancel = Cancel::new();
/// let elsewhere = cancel.clone();
/// std::thread::spawn(move || elsewhere.cancel()).join().unwrap();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone, Default)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    listeners: Mutex<Listeners>,
    /// Notified when the token is cancelled and when work on another thread is done.
    condvar: Condvar,
    /// The subscriptions by which this token is cancelled together with others.
    _parents: Vec<Subscription>,
}

type Listener = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Listeners {
    next_id: u64,
    active: Vec<(u64, Listener)>,
}

/// Keeps a function subscribed to a token; dropping it unsubscribes.
#[must_use = "dropping a subscription unsubscribes"]
pub(crate) struct Subscription {
    /// The token and the listener's id; `None` if the token had already been cancelled.
    from: Option<(Weak<Shared>, u64)>,
}

/// Why [`Cancel::run_cancellable`] returned no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandoned {
    Cancelled,
    TimedOut,
    /// The thread could not be started.
    NoThread,
}

impl Cancel {
    /// A token that isn't cancelled yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// A token that is cancelled together with any of `parents`, or on its own.
    pub(crate) fn child_of(parents: &[&Cancel]) -> Cancel {
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let subscribe = |parent: &&Cancel| {
                let child = Weak::clone(shared);
                parent.subscribe(move || {
                    if let Some(child) = child.upgrade() {
                        child.cancel();
                    }
                })
            };
            Shared { _parents: parents.iter().map(subscribe).collect(), ..Shared::default() }
        });
        let child = Cancel { shared };
        // The listener of a parent that was already cancelled ran before the child could be upgraded.
        if parents.iter().any(|parent| parent.is_cancelled()) {
            child.cancel();
        }
        child
    }

    /// Cancels everything that is tied to this token. Returns once all waits and connections have been notified.
    pub fn cancel(&self) {
        self.shared.cancel();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    /// Calls `listener` when this token is cancelled, or at once, on this thread, if it already is.
    pub(crate) fn subscribe(&self, listener: impl Fn() + Send + Sync + 'static) -> Subscription {
        let mut listeners = lock(&self.shared.listeners);
        if self.is_cancelled() {
            drop(listeners);
            listener();
            return Subscription { from: None };
        }
        let id = listeners.next_id;
        listeners.next_id += 1;
        listeners.active.push((id, Arc::new(listener)));
        Subscription { from: Some((Arc::downgrade(&self.shared), id)) }
    }

    /// Sleeps until `end`. Returns false if it was cancelled before.
    pub(crate) fn sleep_until(&self, clock: &Clock, end: Instant) -> bool {
        let mut listeners = lock(&self.shared.listeners);
        while !self.is_cancelled() {
            let remaining = end.saturating_duration_since(clock.now());
            if remaining.is_zero() {
                return true;
            }
            listeners = clock.wait(&self.shared.condvar, listeners, remaining);
        }
        false
    }

    /// Runs work that can't be interrupted (a DNS lookup, a connect) on a thread of its own. Waits for at most `limit`,
    /// in real time, or until the token is cancelled. An abandoned thread ends by itself; its result is dropped.
    pub(crate) fn run_cancellable<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Abandoned> {
        let slot = Arc::new(Mutex::new(None));
        let (result, shared) = (Arc::clone(&slot), Arc::clone(&self.shared));
        let thread = std::thread::Builder::new().spawn(move || {
            let done = work();
            *lock(&result) = Some(done);
            drop(lock(&shared.listeners)); // so that a waiter either sees the result or is already waiting
            shared.condvar.notify_all();
        });
        thread.map_err(|_| Abandoned::NoThread)?;
        let clock = Clock::system();
        let end = clock.now().checked_add(limit);
        let mut listeners = lock(&self.shared.listeners);
        loop {
            if let Some(done) = lock(&slot).take() {
                return Ok(done);
            }
            let remaining = end.map_or(limit, |end| end.saturating_duration_since(clock.now()));
            if self.is_cancelled() {
                return Err(Abandoned::Cancelled);
            }
            if remaining.is_zero() {
                return Err(Abandoned::TimedOut);
            }
            listeners = clock.wait(&self.shared.condvar, listeners, remaining);
        }
    }
}

impl Shared {
    fn cancel(&self) {
        let mut listeners = lock(&self.listeners);
        if self.cancelled.swap(true, Ordering::AcqRel) {
            return;
        }
        let active = std::mem::take(&mut listeners.active);
        drop(listeners);
        self.condvar.notify_all();
        // Without the lock: a listener may subscribe, unsubscribe or cancel another token.
        active.iter().for_each(|(_, listener)| listener());
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some((shared, id)) = self.from.take() {
            if let Some(shared) = shared.upgrade() {
                lock(&shared.listeners).active.retain(|(other, _)| *other != id);
            }
        }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("is_cancelled", &self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn cancelling_ends_a_sleep_that_has_begun_and_all_later_ones() {
        let (clock, cancel) = (Clock::system(), Cancel::default());
        let end = clock.now() + Duration::from_secs(3600);
        let sleeper = std::thread::spawn({
            let (clock, cancel) = (clock.clone(), cancel.clone());
            move || cancel.sleep_until(&clock, end)
        });
        cancel.cancel();
        assert!(!sleeper.join().unwrap());
        assert!(!cancel.sleep_until(&clock, clock.now()));
        assert!(cancel.is_cancelled());
    }

    #[test]
    fn a_child_is_cancelled_with_any_parent_and_alone_without_them() {
        let (first, second) = (Cancel::default(), Cancel::default());
        let (alone, with_second) = (Cancel::child_of(&[&first]), Cancel::child_of(&[&first, &second]));
        alone.cancel();
        assert!(alone.is_cancelled() && !first.is_cancelled() && !with_second.is_cancelled());
        second.cancel();
        assert!(with_second.is_cancelled() && !first.is_cancelled());
        assert!(Cancel::child_of(&[&second]).is_cancelled(), "the parent is already cancelled");
    }

    #[test]
    fn subscribers_are_called_once_and_dropped_ones_never() {
        let (cancel, calls) = (Cancel::default(), Arc::new(AtomicU32::new(0)));
        let count = |calls: &Arc<AtomicU32>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let _kept = cancel.subscribe(count(&calls));
        drop(cancel.subscribe(count(&calls)));
        drop(Cancel::child_of(&[&cancel]));
        assert_eq!(lock(&cancel.shared.listeners).active.len(), 1, "dropped subscriptions are removed");
        cancel.cancel();
        cancel.cancel();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let _late = cancel.subscribe(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2, "at once");
    }

    #[test]
    fn work_is_abandoned_when_cancelled() {
        let cancel = Cancel::default();
        assert_eq!(cancel.run_cancellable(Duration::MAX, || 7), Ok(7));
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let token = cancel.clone();
        let work = move || {
            token.cancel();
            let _ = blocked.recv();
        };
        assert_eq!(cancel.run_cancellable(Duration::from_secs(3600), work), Err(Abandoned::Cancelled));
        drop(release);
        assert_eq!(
            Cancel::default().run_cancellable(Duration::ZERO, std::thread::park),
            Err(Abandoned::TimedOut)
        );
    }
}
