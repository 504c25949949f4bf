//! Acquires permits: waits for one, or takes one only if it is available now.

use std::result::Result as StdResult;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adaptive::controller::Decision;
use crate::adaptive::state::State;
use crate::adaptive::wait_queue::Ticket;
use crate::adaptive::{AdaptiveHandler, FULL_RETRY_INTERVAL, Inner, Permit};
use crate::error::{Error, Result};
use crate::policy::circuit_breaker::BreakerState;
use crate::policy::later;
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
    pub(crate) stop: &'a Cancel,
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
    pub(crate) waited: Duration,
    /// The breaker's new state, if admitting this call changed it (to half open, with this call as the probe).
    pub(crate) breaker: Option<BreakerState>,
    /// The call is the breaker's probe.
    pub(crate) is_probe: bool,
}

/// Why a call isn't admitted now.
enum NotAdmitted {
    /// It has to wait for this long.
    Wait(Duration),
    /// It has to wait until another call ends, but no longer than this.
    Full(Duration),
    /// The circuit breaker is open for this long.
    Open(Duration),
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
            if request.stop.is_cancelled() {
                break Err(Error::Shutdown);
            }
            if request.exceeds_deadline(now, Duration::ZERO) {
                break Err(request.deadline_error(started));
            }
            let (mut wait, mut full) = (None, None);
            if inner.queue.is_first(ticket.as_ref(), request.retry) {
                match self.try_admit(&mut inner.state, now) {
                    Ok(acquired) => {
                        // A call that was admitted on its first check did not wait.
                        let waited = ticket
                            .as_ref()
                            .map_or(Duration::ZERO, |_| now.saturating_duration_since(started));
                        break Ok(Acquired { waited, ..acquired });
                    }
                    Err(NotAdmitted::Open(retry_in)) if self.rejects_when_open(request) => {
                        break Err(Error::CircuitOpen { retry_in });
                    }
                    Err(NotAdmitted::Open(time) | NotAdmitted::Wait(time)) => wait = Some(time),
                    // Any call may end and make room, so this wait fails only once the deadline has passed.
                    Err(NotAdmitted::Full(time)) => {
                        full = Some(request.left(now).map_or(time, |left| left.min(time)));
                    }
                }
            }
            if request.exceeds_deadline(now, wait.unwrap_or_default()) {
                break Err(request.deadline_error(started));
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
            inner = match wait.or(full) {
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

    /// Takes a permit if one is available. Otherwise returns how long [`enter`](AdaptiveHandler::enter) will wait for
    /// it, if that is known: not while the cap on calls in flight is reached or others are ahead in the queue, and not
    /// if the call would be rejected.
    pub(crate) fn enter_at_once(
        &self,
        request: &AcquireRequest<'_>,
    ) -> StdResult<Acquired, Option<Duration>> {
        let now = request.clock.now();
        let mut inner = lock(&self.shared.inner);
        let is_over = request.stop.is_cancelled() || request.exceeds_deadline(now, Duration::ZERO);
        if is_over || !inner.queue.is_first(None, request.retry) {
            return Err(None);
        }
        match self.try_admit(&mut inner.state, now) {
            Ok(acquired) => {
                inner.queue.notify_head();
                Ok(acquired)
            }
            Err(NotAdmitted::Full(_)) => Err(None),
            Err(NotAdmitted::Open(_)) if self.rejects_when_open(request) => Err(None),
            Err(NotAdmitted::Open(wait) | NotAdmitted::Wait(wait)) => {
                Err(Some(wait).filter(|wait| !request.exceeds_deadline(now, *wait)))
            }
        }
    }

    /// Takes a permit if one is available, for a batch; otherwise returns when to try again. Because each outcome may change
    /// that, `wake` is then called after the next one.
    pub(crate) fn try_enter(&self, now: Instant, retry: bool, wake: &Wake) -> StdResult<Acquired, Instant> {
        let mut inner = lock(&self.shared.inner);
        let result = self.try_enter_locked(&mut inner, now, retry);
        if result.is_err() && !inner.batches.iter().any(|known| Arc::ptr_eq(known, wake)) {
            inner.batches.push(Arc::clone(wake));
        }
        result
    }

    fn try_enter_locked(&self, inner: &mut Inner, now: Instant, retry: bool) -> StdResult<Acquired, Instant> {
        if !inner.queue.is_first(None, retry) {
            return Err(later(now, QUEUED_RETRY_INTERVAL));
        }
        self.try_admit(&mut inner.state, now).map_err(|not_admitted| match not_admitted {
            NotAdmitted::Full(wait) => later(now, wait.min(FULL_RETRY_INTERVAL)),
            NotAdmitted::Open(wait) | NotAdmitted::Wait(wait) => later(now, wait),
        })
    }

    /// Asks the policies to admit a call now.
    fn try_admit(&self, state: &mut State, now: Instant) -> StdResult<Acquired, NotAdmitted> {
        let before = state.breaker();
        match state.admit(now) {
            Decision::Go(call) => {
                let now = state.breaker();
                let breaker = Some(now).filter(|now| *now != before);
                let is_probe = now == BreakerState::HalfOpen;
                Ok(Acquired { permit: self.permit(call), waited: Duration::ZERO, breaker, is_probe })
            }
            Decision::Wait(wait) => Err(NotAdmitted::Wait(wait)),
            Decision::Full(wait) => Err(NotAdmitted::Full(wait)),
            Decision::Open(wait) => Err(NotAdmitted::Open(wait)),
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

    fn deadline_error(&self, started: Instant) -> Error {
        let after = self.deadline.map(|end| end.saturating_duration_since(started));
        Error::Deadline { after: after.unwrap_or_default() }
    }
}
