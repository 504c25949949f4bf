//! Acquires permits: waits for one, or takes one only if it is available now.

use std::result::Result as StdResult;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adaptive::controller::Decision;
use crate::adaptive::state::State;
use crate::adaptive::wait_queue::Ticket;
use crate::adaptive::{AdaptiveHandler, Inner, Permit, Wait};
use crate::error::{Error, Result, WaitCause};
use crate::policy::circuit_breaker::BreakerState;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;
use crate::runtime::thread_number::thread_number;

/// When a caller that can't block asks once more while others are ahead of it in the queue: short compared with the usual
/// pace of calls, and long enough to cost nothing.
const QUEUED_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Wakes a batch. Called without the handler's lock.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// A request for a permit.
pub(crate) struct AcquireRequest<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) cancel: &'a Cancel,
    pub(crate) deadline: Option<Instant>,
    /// Whether the attempt is a retry, which is admitted before all first attempts.
    pub(crate) retry: bool,
    /// Whether to wait while the breaker is open, regardless of the configuration.
    pub(crate) background: bool,
}

/// A permit, and what happened while it was acquired.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) permit: Permit,
    /// The wait for the permit. `None` for a call that was admitted on its first check.
    pub(crate) wait: Option<Wait>,
    /// The breaker's new state, if admitting this call changed it (to half open, with this call as the probe).
    pub(crate) breaker: Option<BreakerState>,
    /// The call is the breaker's probe.
    pub(crate) is_probe: bool,
}

/// The expected wait for a permit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// `None` if it isn't known: while others are ahead in the queue, or the end of another call is awaited.
    pub(crate) time: Option<Duration>,
    pub(crate) cause: WaitCause,
}

impl AdaptiveHandler {
    /// Waits for a permit. After cancelling the request, call [`wake`](AdaptiveHandler::wake).
    ///
    /// # Errors
    /// [`Error::Shutdown`] after a cancellation, [`Error::Deadline`] and [`Error::CircuitOpen`] as in `acquire`.
    pub(crate) fn enter(&self, request: &AcquireRequest<'_>) -> Result<Acquired> {
        let clock = request.clock;
        let mut inner = lock(&self.shared.inner);
        let started = clock.now();
        let mut now = started;
        let mut ticket: Option<Ticket> = None;
        let result = loop {
            if request.cancel.is_cancelled() {
                break Err(Error::Shutdown);
            }
            if request.exceeds_deadline(now, Duration::ZERO) {
                let waiting_for = ticket.as_ref().map(|_| inner.head_waits_for);
                break Err(request.deadline_error(started, waiting_for, None));
            }
            let mut wait = None;
            if inner.queue.is_first(ticket.as_ref(), request.retry) {
                match self.try_admit(&mut inner.state, now) {
                    Ok(acquired) => {
                        let time = now.saturating_duration_since(started);
                        let wait = ticket.as_ref().map(|_| Wait { time, cause: inner.head_waits_for });
                        break Ok(Acquired { wait, ..acquired });
                    }
                    Err(Wait { time, cause: WaitCause::CircuitOpen }) if self.rejects_when_open(request) => {
                        break Err(Error::circuit_open(time));
                    }
                    Err(Wait { time, cause }) => {
                        inner.head_waits_for = cause;
                        // A wait that another call may end fails only once the deadline has passed.
                        if inner.state.is_certain(cause) && request.exceeds_deadline(now, time) {
                            break Err(request.deadline_error(started, Some(cause), Some(time)));
                        }
                        wait = Some(request.left(now).map_or(time, |left| left.min(time)));
                    }
                }
            }
            // A thread that waits reads no stream, so that it must not wait for the places of its own.
            if ticket.is_none()
                && inner
                    .state
                    .controller()
                    .is_some_and(|controller| controller.concurrency.release_of_thread(thread_number()))
            {
                inner.queue.notify_head();
                continue;
            }
            let condvar = Arc::clone(&ticket.get_or_insert_with(|| inner.queue.join(request.retry)).condvar);
            inner = match wait {
                Some(time) => clock.wait(&condvar, inner, time),
                None => clock.wait_behind(&condvar, inner, request.left(now)),
            };
            now = clock.now();
        };
        if let Some(ticket) = ticket {
            inner.queue.leave(&ticket);
        }
        inner.queue.notify_head();
        result
    }

    /// Takes a permit if one is available. Otherwise returns the wait for it, unless the call would be rejected.
    pub(crate) fn enter_at_once(
        &self,
        request: &AcquireRequest<'_>,
    ) -> StdResult<Acquired, Option<Expected>> {
        let now = request.clock.now();
        let mut inner = lock(&self.shared.inner);
        if request.cancel.is_cancelled() || request.exceeds_deadline(now, Duration::ZERO) {
            return Err(None);
        }
        if !inner.queue.is_first(None, request.retry) {
            return Err(Some(Expected { time: None, cause: inner.head_waits_for }));
        }
        match self.try_admit(&mut inner.state, now) {
            Ok(acquired) => {
                inner.queue.notify_head();
                Ok(acquired)
            }
            Err(Wait { cause: WaitCause::CircuitOpen, .. }) if self.rejects_when_open(request) => Err(None),
            Err(Wait { time, cause }) => {
                let time = Some(time).filter(|_| inner.state.is_certain(cause));
                let is_late = time.is_some_and(|time| request.exceeds_deadline(now, time));
                Err(Some(Expected { time, cause }).filter(|_| !is_late))
            }
        }
    }

    /// Takes a permit if one is available, for a batch; otherwise returns the wait until it should try again. Because each
    /// outcome may change that, `wake` is then called after the next one.
    pub(crate) fn try_enter(&self, now: Instant, retry: bool, wake: &Wake) -> StdResult<Acquired, Wait> {
        let mut inner = lock(&self.shared.inner);
        let result = self.try_enter_locked(&mut inner, now, retry);
        if result.is_err() && !inner.batches.iter().any(|known| Arc::ptr_eq(known, wake)) {
            inner.batches.push(Arc::clone(wake));
        }
        result
    }

    fn try_enter_locked(&self, inner: &mut Inner, now: Instant, retry: bool) -> StdResult<Acquired, Wait> {
        if !inner.queue.is_first(None, retry) {
            return Err(Wait { time: QUEUED_RETRY_INTERVAL, cause: inner.head_waits_for });
        }
        self.try_admit(&mut inner.state, now).map_err(|wait| {
            inner.head_waits_for = wait.cause;
            Wait { time: wait.until_next_check(), ..wait }
        })
    }

    /// Asks the policies to admit a call now.
    fn try_admit(&self, state: &mut State, now: Instant) -> StdResult<Acquired, Wait> {
        let before = state.breaker();
        match state.admit(now) {
            Decision::Go(call) => {
                let now = state.breaker();
                let breaker = Some(now).filter(|now| *now != before);
                let is_probe = now == BreakerState::HalfOpen;
                Ok(Acquired { permit: self.permit(call), wait: None, breaker, is_probe })
            }
            Decision::Wait(wait) => Err(wait),
        }
    }

    fn rejects_when_open(&self, request: &AcquireRequest<'_>) -> bool {
        !(request.background || self.shared.wait_when_open)
    }
}

impl AcquireRequest<'_> {
    /// The time left until the deadline.
    fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|end| end.saturating_duration_since(now))
    }

    /// Whether this wait would exceed the deadline.
    fn exceeds_deadline(&self, now: Instant, wait: Duration) -> bool {
        self.left(now).is_some_and(|left| left <= wait)
    }

    fn deadline_error(
        &self,
        started: Instant,
        waiting_for: Option<WaitCause>,
        turn_in: Option<Duration>,
    ) -> Error {
        let after = self.deadline.map(|end| end.saturating_duration_since(started));
        Error::Deadline { after: after.unwrap_or_default(), phase: None, waiting_for, turn_in, target: None }
    }
}
