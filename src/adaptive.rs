//! The one lock around the policies: one handler for all threads, which says when a call may go and learns from each answer.

mod config;
mod registry;

mod state;
mod wait_queue;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use config::AdaptiveConfig;
pub(crate) use registry::HandlerRegistry;
pub(crate) use state::Change;
pub use state::{Snapshot, Tries};

use crate::error::{Error, Reason, Result};
use crate::policy::backoff::RetryConfig;
use crate::policy::circuit_breaker::BreakerState;
use crate::policy::outcome::Outcome;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;
use state::{Decision, State};
use wait_queue::{Ticket, WaitQueue};

/// Paces calls, stops them while a service is down, and learns both from the answers. Clones share what they know.
///
/// It needs no client: ask for a permit, make the call, say what became of it.
///
/// ```
/// use holysheep::{AdaptiveConfig, AdaptiveHandler, Outcome, RetryConfig, Tries};
/// use std::time::Instant;
///
/// let handler = AdaptiveHandler::new(AdaptiveConfig::default());
/// let (retry, mut tries) = (RetryConfig::default(), Tries::default());
/// loop {
///     let permit = handler.acquire(None)?;
///     let outcome = Outcome::success(); // make the call here
///     handler.record(Instant::now(), permit, outcome);
///     match handler.retry_delay(&retry, &mut tries, &outcome) {
///         Some(delay) => std::thread::sleep(delay),
///         None => break,
///     }
/// }
/// assert_eq!(handler.snapshot().successes, 1);
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone)]
pub struct AdaptiveHandler {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    wait_when_open: bool,
    clock: Clock,
}

struct Inner {
    state: State,
    line: WaitQueue,
}

/// What [`AdaptiveHandler::admit`] says.
#[derive(Debug)]
#[must_use = "a permit that is dropped counts as a call whose outcome nobody knows"]
pub enum Admission {
    /// The call may go now.
    Go(Permit),
    /// Not before this time has passed. Ask again then; other answers may have changed it.
    Wait(Duration),
    /// The service is down, and nothing may go before `retry_in` has passed.
    Open {
        /// The time until the breaker lets one call go, to try.
        retry_in: Duration,
    },
}

/// The leave to make one call.
///
/// Give it back with [`AdaptiveHandler::record`]. Dropping it instead is no news: the handler learns nothing, and if the
/// call was the one that tries whether the service is back, another one may try.
#[must_use = "a permit that is dropped counts as a call whose outcome nobody knows"]
pub struct Permit {
    shared: Arc<Shared>,
    call: u64,
    sent: Instant,
    recorded: bool,
}

/// Who waits for a permit, and how.
pub(crate) struct AcquireRequest<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) stop: &'a Cancel,
    pub(crate) deadline: Option<Instant>,
    /// It is not the call's first attempt, so that it goes before those whose first it is.
    pub(crate) retry: bool,
    /// Waits while the breaker is open, whatever the configuration says.
    pub(crate) background: bool,
}

/// A permit, and how it was got.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) permit: Permit,
    pub(crate) waited: Duration,
    /// The breaker's new state, where this call changed it: half open, and the call is the one that tries.
    pub(crate) breaker: Option<BreakerState>,
    /// The call tries whether the service is back.
    pub(crate) is_probe: bool,
}

impl AdaptiveHandler {
    /// A handler that knows nothing yet. Settings that can't work are taken as the nearest that can.
    pub fn new(config: AdaptiveConfig) -> AdaptiveHandler {
        let config = config.clamped();
        let inner = Inner { state: State::new(&config), line: WaitQueue::default() };
        let AdaptiveConfig { wait_when_open, clock, .. } = config;
        AdaptiveHandler { shared: Arc::new(Shared { inner: Mutex::new(inner), wait_when_open, clock }) }
    }

    /// Asks at the moment `now` whether a call may go. Never blocks, and passes by those who wait in
    /// [`acquire`](AdaptiveHandler::acquire).
    pub fn admit(&self, now: Instant) -> Admission {
        match lock(&self.shared.inner).state.admit(now) {
            Decision::Go(call) => Admission::Go(self.permit(call, now)),
            Decision::Wait(wait) => Admission::Wait(wait),
            Decision::Open(retry_in) => Admission::Open { retry_in },
        }
    }

    /// Learns what became of a call, whose answer came at the moment `now`. A permit of another handler is dropped.
    pub fn record(&self, now: Instant, permit: Permit, outcome: Outcome) {
        self.record_outcome(now, permit, &outcome);
    }

    /// [`record`](AdaptiveHandler::record), and what it changed.
    pub(crate) fn record_outcome(&self, now: Instant, mut permit: Permit, outcome: &Outcome) -> Change {
        if !Arc::ptr_eq(&permit.shared, &self.shared) {
            return Change::default();
        }
        permit.recorded = true;
        let mut inner = lock(&self.shared.inner);
        let change = inner.state.record(now, permit.call, permit.sent, outcome);
        inner.line.ring();
        change
    }

    /// The wait before the next attempt of a call with this outcome, or `None` to give up. Counts the attempt in `tries`.
    ///
    /// After an error it is the backoff of `retry`, at least what the service asked for; after a 429 it is 0, because the
    /// next permit comes when it is time. It is `None` when `tries` has used up the retries that `retry` allows after
    /// errors or twice as many after 429s, when the service asks for a longer wait than `retry` allows, when the budget
    /// that all calls share is empty, and where there is nothing to retry.
    pub fn retry_delay(&self, retry: &RetryConfig, tries: &mut Tries, outcome: &Outcome) -> Option<Duration> {
        self.next_delay(retry, tries, outcome, false).ok()
    }

    /// [`retry_delay`](AdaptiveHandler::retry_delay), and why there is none. Who is background needs no budget.
    pub(crate) fn next_delay(
        &self,
        retry: &RetryConfig,
        tries: &mut Tries,
        outcome: &Outcome,
        background: bool,
    ) -> Result<Duration, Reason> {
        lock(&self.shared.inner).state.retry_delay(retry, tries, outcome, background)
    }

    /// Waits for a permit: first come, first served, but after those who [try again](AdaptiveHandler::acquire_again).
    ///
    /// # Errors
    /// [`Error::Deadline`] as soon as the wait would last longer, and [`Error::CircuitOpen`] while the breaker is open,
    /// unless [`wait_when_open`](AdaptiveConfig::wait_when_open) is set.
    pub fn acquire(&self, deadline: Option<Instant>) -> Result<Permit> {
        self.enter_alone(deadline, false)
    }

    /// [`acquire`](AdaptiveHandler::acquire) for another attempt of a call: goes before all first attempts.
    ///
    /// # Errors
    /// As `acquire`.
    pub fn acquire_again(&self, deadline: Option<Instant>) -> Result<Permit> {
        self.enter_alone(deadline, true)
    }

    /// What the handler has seen and decided so far.
    pub fn snapshot(&self) -> Snapshot {
        let inner = lock(&self.shared.inner);
        inner.state.snapshot(inner.line.len())
    }

    /// Whether anybody but the caller has this handler.
    fn in_use(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Makes all who wait look at their [`Cancel`] and deadline again.
    pub(crate) fn wake(&self) {
        lock(&self.shared.inner).line.ring_all();
    }

    fn enter_alone(&self, deadline: Option<Instant>, retry: bool) -> Result<Permit> {
        let (clock, stop) = (&self.shared.clock, &Cancel::default());
        let entrant = AcquireRequest { clock, stop, deadline, retry, background: false };
        self.enter(&entrant).map(|entry| entry.permit)
    }

    /// Waits for a permit. Who sets the entrant's stop must [`wake`](AdaptiveHandler::wake) this handler after that.
    ///
    /// # Errors
    /// [`Error::Shutdown`] after the stop, [`Error::Deadline`] and [`Error::CircuitOpen`] as in `acquire`.
    pub(crate) fn enter(&self, entrant: &AcquireRequest<'_>) -> Result<Acquired> {
        let clock = entrant.clock;
        let started = clock.now();
        let mut inner = lock(&self.shared.inner);
        let mut place: Option<Ticket> = None;
        let result = loop {
            let now = clock.now();
            if entrant.stop.is_cancelled() {
                break Err(Error::Shutdown);
            }
            if entrant.is_late(now, Duration::ZERO) {
                break Err(entrant.too_late(started));
            }
            let mut wait = None;
            if inner.line.is_first(place.as_ref(), entrant.retry) {
                let before = inner.state.breaker();
                match inner.state.admit(now) {
                    Decision::Go(call) => {
                        let state = inner.state.breaker();
                        let breaker = Some(state).filter(|state| *state != before);
                        let is_probe = state == BreakerState::HalfOpen;
                        // Who found no line and no pause didn't wait, whatever the clock says.
                        let waited =
                            place.as_ref().map_or(Duration::ZERO, |_| now.saturating_duration_since(started));
                        break Ok(Acquired { permit: self.permit(call, now), waited, breaker, is_probe });
                    }
                    Decision::Open(retry_in) if !(entrant.background || self.shared.wait_when_open) => {
                        break Err(Error::CircuitOpen { retry_in });
                    }
                    Decision::Open(time) | Decision::Wait(time) => wait = Some(time),
                }
            }
            if entrant.is_late(now, wait.unwrap_or_default()) {
                break Err(entrant.too_late(started));
            }
            let bell = Arc::clone(&place.get_or_insert_with(|| inner.line.join(entrant.retry)).bell);
            inner = match wait {
                Some(time) => clock.wait(&bell, inner, time),
                None => clock.wait_behind(
                    &bell,
                    inner,
                    entrant.deadline.map(|end| end.saturating_duration_since(now)),
                ),
            };
        };
        if let Some(place) = place {
            inner.line.leave(&place);
        }
        inner.line.ring();
        result
    }

    fn permit(&self, call: u64, sent: Instant) -> Permit {
        Permit { shared: Arc::clone(&self.shared), call, sent, recorded: false }
    }
}

impl AcquireRequest<'_> {
    /// Whether the deadline comes before this wait is over.
    fn is_late(&self, now: Instant, wait: Duration) -> bool {
        self.deadline.is_some_and(|end| end.saturating_duration_since(now) <= wait)
    }

    fn too_late(&self, started: Instant) -> Error {
        let after = self.deadline.map(|end| end.saturating_duration_since(started));
        Error::Deadline { after: after.unwrap_or_default() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.recorded {
            let mut inner = lock(&self.shared.inner);
            inner.state.dropped(self.call, self.sent);
            inner.line.ring();
        }
    }
}

impl fmt::Debug for AdaptiveHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdaptiveHandler").field(&self.snapshot()).finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("call", &self.call).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    /// A handler whose breaker is half open, with the permit of the call that tries, so that who comes now waits: nobody
    /// sleeps, the record of that call wakes them.
    fn half_open(seed: u64) -> (AdaptiveHandler, Permit) {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(seed).wait_when_open(true));
        let now = Clock::system().now();
        let long_ago = now.checked_sub(Duration::from_secs(60)).unwrap();
        for nth in 0..10 {
            let Admission::Go(permit) = handler.admit(long_ago) else { panic!("closed") };
            handler.record(long_ago + Duration::from_secs(nth), permit, Outcome::failed());
        }
        let Admission::Go(probe) = handler.admit(now) else { panic!("half open") };
        assert_eq!(handler.snapshot().breaker, BreakerState::HalfOpen);
        (handler, probe)
    }

    /// Starts a thread that enters and keeps its permit, and returns when it stands in line.
    fn queue(
        handler: &AdaptiveHandler,
        retry: bool,
        stop: &Arc<Cancel>,
    ) -> thread::JoinHandle<Result<Acquired>> {
        let waiting = handler.snapshot().waiting;
        let thread = thread::spawn({
            let (handler, stop) = (handler.clone(), Arc::clone(stop));
            move || {
                let (clock, stop) = (&Clock::system(), &*stop);
                handler.enter(&AcquireRequest { clock, stop, deadline: None, retry, background: false })
            }
        });
        while handler.snapshot().waiting == waiting {
            thread::yield_now();
        }
        thread
    }

    fn answer(handler: &AdaptiveHandler, permit: Permit) {
        handler.record(Clock::system().now(), permit, Outcome::success());
    }

    #[test]
    fn first_come_first_served_but_retries_first() {
        let (handler, probe) = half_open(1);
        let stop = Arc::default();
        let order = [false, false, true, false, true, false];
        let threads: Vec<_> = order.map(|retry| queue(&handler, retry, &stop)).into();
        answer(&handler, probe);
        let calls = threads.into_iter().map(|thread| thread.join().unwrap().unwrap().permit.call);
        let calls: Vec<u64> = calls.map(|call| call - 11).collect();
        assert_eq!(calls, [3, 4, 1, 5, 2, 6]);
        assert_eq!(handler.snapshot().waiting, 0);
    }

    #[test]
    fn who_gives_up_at_the_head_or_in_the_middle_holds_nobody_up() {
        let (handler, probe) = half_open(2);
        let (stay, leave) = (Arc::default(), Arc::default());
        let threads: Vec<_> = [&leave, &stay, &leave, &stay].map(|stop| queue(&handler, false, stop)).into();
        leave.cancel();
        handler.wake();
        let mut ends = threads.into_iter();
        let mut next = || ends.next().unwrap();
        let (first, second, third, fourth) = (next(), next(), next(), next());
        assert!(matches!(first.join().unwrap(), Err(Error::Shutdown)));
        assert!(matches!(third.join().unwrap(), Err(Error::Shutdown)));
        assert_eq!(handler.snapshot().waiting, 2);
        answer(&handler, probe);
        assert_eq!(second.join().unwrap().unwrap().permit.call, 12);
        assert_eq!(fourth.join().unwrap().unwrap().permit.call, 13);
    }

    #[test]
    fn a_stop_ends_all_waits_at_once() {
        let (handler, _probe) = half_open(3);
        let stop = Arc::default();
        let threads: Vec<_> = [(); 8].map(|()| queue(&handler, false, &stop)).into();
        stop.cancel();
        handler.wake();
        for thread in threads {
            assert!(matches!(thread.join().unwrap(), Err(Error::Shutdown)));
        }
    }

    #[test]
    fn a_panic_with_the_permit_of_the_call_that_tries_lets_another_one_try() {
        let (handler, probe) = half_open(4);
        let waiting = queue(&handler, false, &Arc::default());
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _probe = probe;
            panic!("with a permit in hand");
        }));
        assert!(panicked.is_err());
        let entry = waiting.join().unwrap().unwrap();
        assert_eq!((entry.permit.call, entry.breaker), (12, Some(BreakerState::HalfOpen)));
    }

    #[test]
    fn a_poisoned_lock_still_works() {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default());
        let poisoned = catch_unwind(AssertUnwindSafe(|| {
            let _inner = handler.shared.inner.lock();
            panic!("with the lock in hand");
        }));
        assert!(poisoned.is_err());
        let permit = handler.acquire(None).unwrap();
        answer(&handler, permit);
        assert_eq!(handler.snapshot().successes, 1);
    }

    #[test]
    fn what_an_answer_changed_is_told() {
        let (handler, probe) = half_open(5);
        let now = Clock::system().now();
        let change = handler.record_outcome(now, probe, &Outcome::success());
        assert_eq!(change, Change { rate_per_minute: None, breaker: Some(BreakerState::Closed) });
        let Admission::Go(permit) = handler.admit(now) else { panic!("closed") };
        let change = handler.record_outcome(now, permit, &Outcome::throttled());
        assert_eq!(change.breaker, None);
        assert_eq!(change.rate_per_minute, handler.snapshot().rate_per_minute);
        assert!(change.rate_per_minute.is_some());
    }

    #[test]
    fn who_enters_as_the_call_that_tries_is_told() {
        let (handler, probe) = half_open(7);
        let (clock, stop) = (Clock::system(), Cancel::default());
        let entrant =
            AcquireRequest { clock: &clock, stop: &stop, deadline: None, retry: false, background: false };
        drop(probe);
        let entry = handler.enter(&entrant).unwrap();
        assert_eq!((entry.breaker, entry.waited.as_secs()), (Some(BreakerState::HalfOpen), 0));
        answer(&handler, entry.permit);
        assert_eq!(handler.enter(&entrant).unwrap().breaker, None);
    }

    #[test]
    fn a_wait_has_the_caps_of_its_status() {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(6));
        let retry = RetryConfig::default().jitter(crate::Jitter::None);
        let delay = |outcome: Outcome| handler.retry_delay(&retry, &mut Tries::default(), &outcome);
        let asked =
            |status, seconds| Outcome::failed().status(status).retry_after(Duration::from_secs(seconds));
        assert_eq!(delay(asked(503, 128)), Some(Duration::from_secs(128)));
        assert_eq!(delay(asked(503, 129)), None);
        assert_eq!(delay(asked(409, 61)), None);
        let throttled = |seconds| Outcome::throttled().retry_after(Duration::from_secs(seconds));
        assert_eq!(delay(throttled(120)), Some(Duration::ZERO));
        assert_eq!(delay(throttled(121)), None);
        let overloaded = throttled(125).status(503);
        assert_eq!(delay(overloaded), Some(Duration::from_secs(125)), "longer than the pacing believes");
    }

    #[test]
    fn the_state_is_small() {
        let ring = size_of::<Vec<Duration>>();
        assert!(size_of::<State>() - ring <= 512, "{} bytes", size_of::<State>());
    }
}
