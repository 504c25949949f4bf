//! The adaptive handler: one lock around the policies, shared by all threads, admits calls and learns from their
//! outcomes.

mod call;
mod change;
mod config;
mod controller;
mod latencies;
mod registry;
mod request;
mod state;
mod stream_place;
mod wait;
mod wait_queue;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use call::CallError;
pub(crate) use call::valid;
pub(crate) use change::{Change, Learned};
pub use config::AdaptiveConfig;
pub use controller::RefusalCause;
pub(crate) use registry::HandlerRegistry;
pub(crate) use request::{AcquireRequest, Acquired, Expected, Wake};
pub use state::{Snapshot, Tries};
pub(crate) use stream_place::StreamPlace;
use wait::Charge;
pub(crate) use wait::{RetryDelay, Wait};

use crate::error::{Reason, Result, WaitCause};
use crate::policy::backoff::RetryConfig;
use crate::policy::concurrency::Reader;
use crate::policy::outcome::{Admitted, Outcome};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;
use controller::Decision;
use state::State;
use wait_queue::WaitQueue;

/// Limits the rate of calls and stops them while a service is down, based on the outcomes of earlier calls. Clones share
/// their state.
///
/// Nothing is limited until the service refuses a call. The handler then determines the cause and reacts only to that:
///
/// * **Too many calls in flight.** The call was refused while more calls were in flight than during nearly every granted
///   one. Their number becomes a cap. Now and then the cap is raised by one, and lowered again if that leads to a
///   refusal. Timeouts lower it too, except a few among many granted calls that are
///   much faster. If no call begins or ends at the cap for half a minute, or for twice the duration of
///   the longest recent call, one is presumed lost and another is admitted. A stream of a client counts until its end, as
///   long as it is read.
/// * **Chance.** A limit that has just refused a call can't grant several calls a moment later; a server that refuses
///   at random can. If refusals don't depend on the rate, the handler sends a volley of four calls at once. After three
///   volleys without a failure it ignores such refusals and returns to the former rate. A failed volley costs up to
///   four refusals, so volleys become rare once a limit is found. None is sent after a `Retry-After` other than one
///   second, or if `max_rate` is set.
/// * **Too fast.** The rate is cut to a value between the granted and the attempted rate, and calls pause for one to
///   two slots, doubled with each further round trip of refusals. From then on the rate doubles every 16 calls until
///   the next refusal. Later it grows slowly at first and then steeply, so that a raised quota is found after two
///   minutes.
/// * **An outage.** Ten consecutive failures over at least two seconds, or five pauses for bare 503s without a success,
///   open the circuit breaker. It stays open for 2.5 to 5 s at first and for up to 30 s later. One call then probes
///   whether the service is back. Afterwards the rate from before the outage applies again.
///
/// A 503 or 529 without a `Retry-After` may have any of these causes. One is ignored for every five successes; further
/// ones are tested as above. Their retries cost no budget, but back off after five consecutive ones.
///
/// The refused call waits for the whole `Retry-After`. All other calls wait for it too, unless it is one second, which
/// may be a fraction of a second rounded up. Rate limit headers spread the last fifth of a limit over the time until
/// its reset. They are ignored once three calls were granted although the headers left none, until a refusal confirms
/// them.
///
/// Limitations: each process learns on its own, and a faster one keeps its lead for some minutes. With 15 % random
/// refusals, 60 % of the capacity is used. If half of all calls fail with a 503, the handler slows down to a third and
/// needs two minutes to recover.
///
/// [`snapshot`](AdaptiveHandler::snapshot) shows the assumed cause of the last refusals, and what is limited because of
/// it. A line of the log, of level `info`, shows the same whenever it changes.
///
/// The handler also works without this crate's client: acquire a permit, make the call, record its outcome.
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
    /// The model and a colon, as a prefix for log lines; empty if the handler is not for a single model.
    name: String,
    wait_when_open: bool,
    clock: Clock,
}

struct Inner {
    /// Calls of batches that wait for a permit without blocking a thread.
    waiting_in_batches: usize,
    /// Why the call at the head of the queue last had to wait.
    head_waits_for: WaitCause,
    /// Wakes the batches that were refused a permit since the last outcome.
    batches: Vec<Wake>,
    state: State,
    queue: WaitQueue,
}

/// The result of [`AdaptiveHandler::admit`].
#[derive(Debug)]
#[must_use = "a dropped permit counts as a call with an unknown outcome"]
pub enum Admission {
    /// The call may be sent now.
    Go(Permit),
    /// The call has to wait this long. Then call `admit` again: other outcomes may have changed the result.
    Wait(Duration),
    /// The circuit breaker rejects the call: it is open, or a probe is in flight. Call `admit` again after `retry_in`.
    Open {
        /// The time until an open breaker admits a probe; while a probe is in flight, an estimate of at most 5 s, because its
        /// outcome may admit calls earlier.
        retry_in: Duration,
    },
}

/// Permission to make one call.
///
/// Return it with [`AdaptiveHandler::record`]. If it is dropped instead, the handler learns nothing; if the call was the
/// circuit breaker's probe, another call may become the probe.
#[must_use = "a dropped permit counts as a call with an unknown outcome"]
pub struct Permit {
    shared: Arc<Shared>,
    call: Admitted,
    recorded: bool,
}

impl AdaptiveHandler {
    /// Creates a handler without any history. Invalid settings are replaced by the nearest valid ones, with a warning in
    /// the log.
    pub fn new(config: AdaptiveConfig) -> AdaptiveHandler {
        AdaptiveHandler::named(String::new(), config)
    }

    fn named(name: String, config: AdaptiveConfig) -> AdaptiveHandler {
        if let Err(error) = config.check() {
            log::warn!("{error}; continuing with the nearest allowed value");
        }
        let config = config.clamped();
        let (state, queue) = (State::new(&config), WaitQueue::default());
        let (batches, head_waits_for) = (Vec::new(), WaitCause::Rate);
        let inner = Inner { waiting_in_batches: 0, head_waits_for, batches, state, queue };
        let AdaptiveConfig { wait_when_open, clock, .. } = config;
        AdaptiveHandler { shared: Arc::new(Shared { inner: Mutex::new(inner), name, wait_when_open, clock }) }
    }

    /// Requests permission for a call at the time `now`. Never blocks, and ignores the threads that wait in
    /// [`acquire`](AdaptiveHandler::acquire).
    pub fn admit(&self, now: Instant) -> Admission {
        match lock(&self.shared.inner).state.admit(now) {
            Decision::Go(call) => Admission::Go(self.permit(call)),
            Decision::Wait(Wait { time, cause: WaitCause::CircuitOpen }) => {
                Admission::Open { retry_in: time }
            }
            Decision::Wait(wait) => Admission::Wait(wait.until_next_check()),
        }
    }

    /// Records the outcome of a call that ended at the time `now`. A permit from another handler is dropped.
    pub fn record(&self, now: Instant, permit: Permit, outcome: Outcome) {
        self.record_outcome(now, permit, &outcome);
    }

    /// Like [`record`](AdaptiveHandler::record), and returns what changed.
    pub(crate) fn record_outcome(&self, now: Instant, permit: Permit, outcome: &Outcome) -> Change {
        self.learn(now, permit, outcome, None)
    }

    fn learn(&self, now: Instant, mut permit: Permit, outcome: &Outcome, reader: Option<Reader>) -> Change {
        if !Arc::ptr_eq(&permit.shared, &self.shared) {
            return Change::default();
        }
        permit.recorded = true;
        let change = self.shared.change(|state| state.record(now, &permit.call, outcome, reader));
        if let Some(learned) = change.learned {
            log::info!("{}{learned}", self.shared.name);
        }
        change
    }

    /// Returns the delay before the next attempt of a call with this outcome, or `None` to give up. Counts the attempt in
    /// `tries`.
    ///
    /// After an error it is the backoff of `retry`, or longer if the service asked for that. After a 429 without a
    /// `Retry-After` it is 0, because the rate limiter delays the next permit. It is `None` when `tries` has used up
    /// the retries that `retry` allows after errors or after 429s; when the service asks for a longer wait than `retry`
    /// allows; when the retry budget that all calls share is empty, unless
    /// [`wait_when_open`](AdaptiveConfig::wait_when_open) is set; and when the outcome is not retryable. Invalid settings
    /// are replaced by the nearest valid ones.
    pub fn retry_delay(&self, retry: &RetryConfig, tries: &mut Tries, outcome: &Outcome) -> Option<Duration> {
        let charge = if self.shared.wait_when_open { Charge::Optional } else { Charge::Needed };
        lock(&self.shared.inner).state.retry_delay(&valid(Cow::Borrowed(retry)), tries, outcome, charge).ok()
    }

    /// Like [`retry_delay`](AdaptiveHandler::retry_delay), but returns the reason for giving up, and when the handler will
    /// admit the retry. Calls that wait while the breaker is open need no budget, and neither does the retry of a request
    /// that was `not_sent`.
    pub(crate) fn next_delay(
        &self,
        now: Instant,
        retry: &RetryConfig,
        tries: &mut Tries,
        outcome: &Outcome,
        background: bool,
        not_sent: bool,
    ) -> Result<RetryDelay, Reason> {
        let waits = background || self.shared.wait_when_open;
        let charge = match (not_sent, waits) {
            (true, _) => Charge::Free,
            (false, true) => Charge::Optional,
            (false, false) => Charge::Needed,
        };
        let mut inner = lock(&self.shared.inner);
        let wait = inner.state.retry_delay(retry, tries, outcome, charge)?;
        let expected = inner.state.controller().and_then(|controller| controller.expected_wait(now));
        Ok(match expected {
            Some(Wait { time, cause: WaitCause::CircuitOpen }) if !waits => {
                RetryDelay { rejected_for: time, ..RetryDelay::of(wait) }
            }
            Some(Wait { time, .. }) => RetryDelay { admitted_in: time, ..RetryDelay::of(wait) },
            None => RetryDelay::of(wait),
        })
    }

    /// Waits for a permit. Callers are served in order, after all [retries](AdaptiveHandler::acquire_again).
    ///
    /// # Errors
    /// [`Error::Deadline`](crate::Error::Deadline) as soon as the wait would exceed the deadline, and
    /// [`Error::CircuitOpen`](crate::Error::CircuitOpen) while the breaker is open, unless
    /// [`wait_when_open`](AdaptiveConfig::wait_when_open) is set.
    pub fn acquire(&self, deadline: Option<Instant>) -> Result<Permit> {
        self.enter_uncancellable(deadline, false)
    }

    /// [`acquire`](AdaptiveHandler::acquire) for a retry, served before all first attempts.
    ///
    /// # Errors
    /// As `acquire`.
    pub fn acquire_again(&self, deadline: Option<Instant>) -> Result<Permit> {
        self.enter_uncancellable(deadline, true)
    }

    /// Returns the handler's counters and current limits.
    pub fn snapshot(&self) -> Snapshot {
        let mut inner = lock(&self.shared.inner);
        if let Some(controller) = inner.state.controller() {
            controller.concurrency.release_unread(self.shared.clock.now());
        }
        inner.state.snapshot(inner.queue.len() + inner.waiting_in_batches)
    }

    /// Whether another clone of this handler exists.
    fn in_use(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Makes all waiting threads check their [`Cancel`] and deadline again.
    pub(crate) fn wake(&self) {
        lock(&self.shared.inner).queue.notify_all();
    }

    fn enter_uncancellable(&self, deadline: Option<Instant>, retry: bool) -> Result<Permit> {
        let (clock, cancel) = (&self.shared.clock, &Cancel::default());
        let request = AcquireRequest { clock, cancel, deadline, retry, background: false };
        self.enter(&request).map(|acquired| acquired.permit)
    }

    /// Adds or removes a waiting call of a batch, for the snapshot.
    pub(crate) fn count_waiting(&self, waits: bool) {
        let count = &mut lock(&self.shared.inner).waiting_in_batches;
        *count = if waits { *count + 1 } else { count.saturating_sub(1) };
    }

    fn permit(&self, call: Admitted) -> Permit {
        Permit { shared: Arc::clone(&self.shared), call, recorded: false }
    }
}

impl Shared {
    /// Changes the state, and wakes whoever may be admitted because of that.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = lock(&self.inner);
        let result = change(&mut inner.state);
        inner.queue.notify_head();
        let batches = std::mem::take(&mut inner.batches);
        drop(inner); // a batch asks for permits while it holds its own lock
        batches.iter().for_each(|wake| wake());
        result
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.recorded {
            self.shared.change(|state| state.dropped(&self.call));
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
        f.debug_struct("Permit").field("call", &self.call.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;
    use crate::error::Error;
    use crate::policy::circuit_breaker::BreakerState;

    /// A handler whose breaker is half open, with the probe's permit. Further calls wait without sleeping until the
    /// probe's outcome is recorded.
    fn half_open(seed: u64) -> (AdaptiveHandler, Permit) {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(seed).wait_when_open(true));
        let now = Clock::system().now();
        let long_ago = now.checked_sub(Duration::from_secs(60)).unwrap();
        for nth in 0..10 {
            let then = long_ago + Duration::from_secs(nth);
            let Admission::Go(permit) = handler.admit(then) else { panic!("closed") };
            handler.record(then, permit, Outcome::failed());
        }
        let Admission::Go(probe) = handler.admit(now) else { panic!("half open") };
        assert_eq!(handler.snapshot().breaker, BreakerState::HalfOpen);
        (handler, probe)
    }

    /// Starts a thread that acquires a permit and keeps it. Returns when the thread is in the queue.
    fn queue(
        handler: &AdaptiveHandler,
        retry: bool,
        cancel: &Arc<Cancel>,
    ) -> thread::JoinHandle<Result<Acquired>> {
        let waiting = handler.snapshot().waiting;
        let thread = thread::spawn({
            let (handler, cancel) = (handler.clone(), Arc::clone(cancel));
            move || {
                let (clock, cancel) = (&Clock::system(), &*cancel);
                handler.enter(&AcquireRequest { clock, cancel, deadline: None, retry, background: false })
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
    fn waiters_are_served_in_order_with_retries_first() {
        let (handler, probe) = half_open(1);
        let cancel = Arc::default();
        let order = [false, false, true, false, true, false];
        let threads: Vec<_> = order.map(|retry| queue(&handler, retry, &cancel)).into();
        answer(&handler, probe);
        let calls = threads.into_iter().map(|thread| thread.join().unwrap().unwrap().permit.call.number);
        let calls: Vec<u64> = calls.map(|call| call - 11).collect();
        assert_eq!(calls, [3, 4, 1, 5, 2, 6]);
        assert_eq!(handler.snapshot().waiting, 0);
    }

    #[test]
    fn a_cancelled_waiter_does_not_block_the_others() {
        let (handler, probe) = half_open(2);
        let (stays, cancelled) = (Arc::default(), Arc::default());
        let threads: Vec<_> =
            [&cancelled, &stays, &cancelled, &stays].map(|cancel| queue(&handler, false, cancel)).into();
        cancelled.cancel();
        handler.wake();
        let mut ends = threads.into_iter();
        let mut next = || ends.next().unwrap();
        let (first, second, third, fourth) = (next(), next(), next(), next());
        assert!(matches!(first.join().unwrap(), Err(Error::Shutdown)));
        assert!(matches!(third.join().unwrap(), Err(Error::Shutdown)));
        assert_eq!(handler.snapshot().waiting, 2);
        answer(&handler, probe);
        assert_eq!(second.join().unwrap().unwrap().permit.call.number, 12);
        assert_eq!(fourth.join().unwrap().unwrap().permit.call.number, 13);
    }

    #[test]
    fn a_cancellation_ends_all_waits_at_once() {
        let (handler, _probe) = half_open(3);
        let cancel = Arc::default();
        let threads: Vec<_> = [(); 8].map(|()| queue(&handler, false, &cancel)).into();
        cancel.cancel();
        handler.wake();
        for thread in threads {
            assert!(matches!(thread.join().unwrap(), Err(Error::Shutdown)));
        }
    }

    #[test]
    fn a_panic_that_drops_the_probes_permit_admits_another_probe() {
        let (handler, probe) = half_open(4);
        let waiting = queue(&handler, false, &Arc::default());
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _probe = probe;
            panic!("while holding a permit");
        }));
        assert!(panicked.is_err());
        let acquired = waiting.join().unwrap().unwrap();
        assert_eq!((acquired.permit.call.number, acquired.breaker), (12, Some(BreakerState::HalfOpen)));
    }

    #[test]
    fn a_permit_is_printed_with_the_number_of_its_call() {
        let permit = AdaptiveHandler::new(AdaptiveConfig::off()).acquire(None).unwrap();
        assert_eq!(format!("{permit:?}"), "Permit { call: 1, .. }");
    }

    #[test]
    fn a_poisoned_lock_still_works() {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default());
        let poisoned = catch_unwind(AssertUnwindSafe(|| {
            let _inner = handler.shared.inner.lock();
            panic!("while holding the lock");
        }));
        assert!(poisoned.is_err());
        let permit = handler.acquire(None).unwrap();
        answer(&handler, permit);
        assert_eq!(handler.snapshot().successes, 1);
    }

    #[test]
    fn recording_returns_what_changed() {
        let (handler, probe) = half_open(5);
        let now = Clock::system().now();
        let change = handler.record_outcome(now, probe, &Outcome::success());
        assert_eq!(change, Change { breaker: Some(BreakerState::Closed), ..Change::default() });
        let Admission::Go(permit) = handler.admit(now) else { panic!("closed") };
        let change = handler.record_outcome(now, permit, &Outcome::throttled());
        assert_eq!(change.breaker, None);
        assert_eq!(change.rate_per_minute, handler.snapshot().rate_per_minute);
        assert!(change.rate_per_minute.is_some());
        let learned = change.learned.unwrap();
        assert_eq!(learned.rate_per_minute, change.rate_per_minute);
        assert_eq!(learned.refused_for, Some(RefusalCause::Rate));
    }

    #[test]
    fn a_limit_that_is_lifted_on_admission_is_reported_with_the_next_outcome() {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
        let mut now = Clock::system().now();
        let admit = |now: &mut Instant| loop {
            match handler.admit(*now) {
                Admission::Go(permit) => return permit,
                Admission::Wait(wait) | Admission::Open { retry_in: wait } => *now += wait,
            }
        };
        handler.record(now, admit(&mut now), Outcome::success());
        handler.record(now, admit(&mut now), Outcome::throttled());
        let is_limited = || handler.snapshot().rate_per_minute.is_some();
        assert!(is_limited());
        // Once more bare 503s came than are forgiven, a volley begins. It ends when a call asks for admission.
        let change = (0..100).find_map(|_| {
            handler.record(now, admit(&mut now), Outcome::failed().status(503));
            let volley = [admit(&mut now), admit(&mut now)];
            now += Duration::from_secs(1);
            let last = admit(&mut now);
            let is_lifted = !is_limited();
            let change = handler.record_outcome(now, last, &Outcome::success());
            volley.into_iter().for_each(|permit| handler.record(now, permit, Outcome::success()));
            is_lifted.then_some(change)
        });
        let learned = change.unwrap().learned.unwrap();
        assert_eq!((learned.refused_for, learned.rate_per_minute), (Some(RefusalCause::Chance), None));
    }

    #[test]
    fn the_permit_of_the_probe_reports_the_half_open_breaker() {
        let (handler, probe) = half_open(7);
        let (clock, cancel) = (Clock::system(), Cancel::default());
        let request = AcquireRequest {
            clock: &clock,
            cancel: &cancel,
            deadline: None,
            retry: false,
            background: false,
        };
        drop(probe);
        let acquired = handler.enter(&request).unwrap();
        assert_eq!(acquired.breaker, Some(BreakerState::HalfOpen));
        assert!(acquired.wait.is_none(), "{acquired:?}");
        answer(&handler, acquired.permit);
        assert_eq!(handler.enter(&request).unwrap().breaker, None);
    }

    #[test]
    fn the_expected_wait_is_known_unless_other_calls_decide_it() {
        let (clock, cancel, second) = (Clock::fake(), Cancel::default(), Duration::from_secs(1));
        let now = clock.now();
        let expected = |handler: &AdaptiveHandler, deadline| {
            let (clock, cancel) = (&clock, &cancel);
            let request = AcquireRequest { clock, cancel, deadline, retry: false, background: false };
            let expected = handler.enter_at_once(&request).unwrap_err();
            expected.map(|Expected { time, cause }| (time, cause))
        };
        let admit = |handler: &AdaptiveHandler| match handler.admit(now) {
            Admission::Go(permit) => permit,
            refused => panic!("{refused:?}"),
        };
        let config = AdaptiveConfig::default().seed(1);
        let paced = AdaptiveHandler::new(config.clone().initial_rate(60.0).max_rate(60.0));
        drop(admit(&paced));
        assert_eq!(expected(&paced, None), Some((Some(second), WaitCause::Rate)));
        assert_eq!(expected(&paced, Some(now + second)), None, "it ends with an error");

        let capped = AdaptiveHandler::new(config.clone());
        let [first, _second] = [admit(&capped), admit(&capped)];
        capped.record(now + 60 * second, first, Outcome::failed()); // a timeout
        assert_eq!(expected(&capped, None), Some((None, WaitCause::Concurrency)));

        for wait_when_open in [false, true] {
            let down = AdaptiveHandler::new(config.clone().error_threshold(1).wait_when_open(wait_when_open));
            let [first, last] = [admit(&down), admit(&down)];
            down.record(now - 5 * second, first, Outcome::failed());
            down.record(now, last, Outcome::failed());
            let cause = expected(&down, None).map(|(_, cause)| cause);
            assert_eq!(cause, wait_when_open.then_some(WaitCause::CircuitOpen));
        }
    }

    #[test]
    fn a_call_waits_for_the_outcome_of_a_probe_as_long_as_its_deadline_allows() {
        let (handler, probe) = half_open(9);
        let deadline = Clock::system().now() + Duration::from_secs(60);
        let waiting = handler.clone();
        let thread = thread::spawn(move || waiting.acquire(Some(deadline)));
        while handler.snapshot().waiting == 0 && !thread.is_finished() {
            thread::yield_now();
        }
        assert!(
            matches!(handler.admit(Clock::system().now()), Admission::Open { retry_in } if retry_in.as_secs() <= 5)
        );
        answer(&handler, probe);
        drop(thread.join().unwrap().unwrap());

        let (handler, _probe) = half_open(9);
        let (clock, cancel) = (Clock::fake(), Cancel::default());
        let deadline = Some(clock.now() + Duration::from_secs(12));
        let request =
            AcquireRequest { clock: &clock, cancel: &cancel, deadline, retry: false, background: false };
        let error = handler.enter(&request).unwrap_err();
        let expected =
            "not sent: the deadline of 12s passed while the call waited for the open circuit breaker";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_call_that_waits_while_the_breaker_is_open_needs_no_retry_budget() {
        for wait_when_open in [false, true] {
            let config = AdaptiveConfig::default().seed(1).wait_when_open(wait_when_open);
            let (handler, retry) = (AdaptiveHandler::new(config), RetryConfig::default());
            let mut delays =
                (0..30).map(|_| handler.retry_delay(&retry, &mut Tries::default(), &Outcome::failed()));
            assert_eq!(delays.all(|delay| delay.is_some()), wait_when_open);
            assert_eq!(handler.snapshot().budget, 0);
        }
    }

    #[test]
    fn a_retry_delay_is_capped_by_status() {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(6));
        let retry = RetryConfig::default().jitter(crate::Jitter::None);
        let delay = |outcome: Outcome| handler.retry_delay(&retry, &mut Tries::default(), &outcome);
        let asked =
            |status, seconds| Outcome::failed().status(status).retry_after(Duration::from_secs(seconds));
        assert_eq!(delay(asked(503, 128)), Some(Duration::from_secs(128)));
        assert_eq!(delay(asked(503, 129)), None);
        assert_eq!(delay(asked(409, 61)), None);
        let throttled = |seconds| Outcome::throttled().retry_after(Duration::from_secs(seconds));
        assert_eq!(delay(throttled(120)), Some(Duration::from_secs(120)), "the call itself waits as asked");
        assert_eq!(delay(throttled(121)), None);
        let overloaded = throttled(125).status(503);
        assert_eq!(delay(overloaded), Some(Duration::from_secs(125)), "a 503 with Retry-After");
    }

    #[test]
    fn the_state_is_small() {
        let bytes = size_of::<State>() + size_of::<controller::Controller>();
        assert!(bytes <= 2048, "{bytes} bytes");
    }
}
