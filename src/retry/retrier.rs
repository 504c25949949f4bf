//! The state of one call, and the decision about its next step. Pure: no clock, no lock, no sleep, no I/O.
//!
//! ```text
//!   ┌── granted, the attempt succeeded or was the last ────────┐
//!   │                                                          ▼
//! WaitForTurn ── rejected ──────────────────────────────────► Done
//!   ▲ │  ▲                                                     ▲
//!   │ │  └── granted, the attempt failed, retry at once        │
//!   │ └───── granted, the attempt failed ──► WaitUntil ────────┘
//!   └─────── the wait is over ───────────────────┘ interrupted
//! ```

use std::time::{Duration, Instant};

use crate::adaptive::{RetryDelay, Tries};
use crate::error::{Error, Reason};
use crate::policy::classify::{Classification, Immediate, Verdict};
use crate::policy::later;

/// The number of circuit breaker probes that a background call may make without being charged for a retry: at up to 30
/// s each that is about ten minutes for one worker, and more than an hour for eight, which take turns. It is limited
/// because the call itself may be what breaks the service.
const FREE_PROBES: u32 = 30;

/// The next step of a call.
#[derive(Debug)]
pub(crate) enum Step<T, E> {
    /// Acquire a permit from the handler, and make an attempt.
    WaitForTurn,
    /// Wait until this moment, then acquire a permit.
    WaitUntil(Instant),
    /// The call has ended.
    ///
    /// The failure is boxed, because it holds up to three errors, and a success would be as large.
    Done(Result<T, Box<Failure<E>>>),
}

/// The progress of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallState {
    pub(crate) started: Instant,
    /// Requests made.
    pub(crate) attempts: u32,
    /// The time spent waiting for permits and between attempts, including the whole wait that ends at `waits_until`.
    waited: Duration,
    waits_until: Option<Instant>,
    /// The time allowed for the whole call.
    pub(crate) deadline: Option<Duration>,
    /// When the whole call must be over.
    pub(crate) due: Option<Instant>,
    /// The next attempt must not use a pooled connection, because that of the last one was stale.
    pub(crate) fresh_connection: bool,
    /// Attempts that timed out while waiting for or reading the response.
    pub(crate) timeouts: u32,
    /// The service refused an optional part of the request, which is left out from now on.
    pub(crate) fallback: bool,
    /// The last attempt failed, and the retry that follows hasn't been announced yet.
    pub(crate) is_unannounced: bool,
    /// The service rejected the key, and the call was retried with a new one.
    pub(crate) new_key: bool,
    /// Attempts that were refused because of the rate or the load.
    pub(crate) refusals: u32,
}

impl CallState {
    /// The time spent waiting until now: a wait may have been ended early.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        let left = self.waits_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.waited.saturating_sub(left)
    }
}

/// One call: its state, its limits and its last failure.
#[derive(Debug)]
pub(crate) struct Retrier<E> {
    pub(crate) state: CallState,
    /// No caller waits for this call, only a worker: it waits while the breaker is open, needs no retry budget, isn't
    /// charged for probes, and its deadline stands still while it waits for a permit.
    background: bool,
    fresh_connection_used: bool,
    /// The attempt probes whether the service is back, and isn't charged.
    is_probe: bool,
    probes: u32,
    tries: Tries,
    /// The maximum number of retries after timeouts of responses.
    max_timeout_retries: u32,
    /// The failure of the last attempt.
    last: Option<E>,
}

/// How a call failed.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    /// There is no further attempt after the last failure.
    GaveUp {
        reason: Reason,
        last: E,
        /// The failure of the attempt before the last.
        previous: Option<E>,
    },
    /// The next attempt wasn't permitted: shutdown, deadline or an open breaker.
    Rejected {
        by: Error,
        /// The failure of the last attempt; `None` if nothing was sent.
        last: Option<E>,
    },
}

impl<E> Retrier<E> {
    /// A call that begins now. Its first step is [`Step::WaitForTurn`].
    pub(crate) fn new(
        now: Instant,
        deadline: Option<Duration>,
        background: bool,
        max_timeout_retries: u32,
    ) -> Retrier<E> {
        let state = CallState {
            started: now,
            attempts: 0,
            waited: Duration::ZERO,
            waits_until: None,
            deadline,
            due: deadline.and_then(|deadline| now.checked_add(deadline)),
            fresh_connection: false,
            timeouts: 0,
            fallback: false,
            is_unannounced: false,
            new_key: false,
            refusals: 0,
        };
        let (fresh_connection_used, is_probe, probes) = (false, false, 0);
        let tries = Tries::default();
        Retrier {
            state,
            background,
            fresh_connection_used,
            is_probe,
            probes,
            tries,
            max_timeout_retries,
            last: None,
        }
    }

    /// The handler granted a permit after this wait, and the attempt follows; `probes` says that it probes a service that
    /// was down.
    pub(crate) fn granted(&mut self, waited: Duration, probes: bool) {
        if self.background {
            self.state.due = self.state.due.and_then(|due| due.checked_add(waited));
        }
        self.is_probe = self.background && probes && self.probes < FREE_PROBES;
        self.probes += u32::from(self.is_probe);
        self.state.waited += waited;
        self.state.waits_until = None;
        self.state.attempts += 1;
    }

    /// The call waited for a permit and got none.
    pub(crate) fn waited_without_permit(&mut self, waited: Duration) {
        self.state.waited += waited;
    }

    /// The next attempt isn't permitted.
    pub(crate) fn rejected<T>(&mut self, by: Error) -> Step<T, E> {
        Step::Done(Err(Box::new(Failure::Rejected { by, last: self.last.take() })))
    }

    /// The attempt that was granted a permit isn't made.
    pub(crate) fn withdrawn<T>(&mut self, by: Error) -> Step<T, E> {
        self.state.attempts -= 1;
        self.rejected(by)
    }

    /// The immediate retry that may follow this failure, if it wasn't made before.
    pub(crate) fn immediate_retry(&self, failure: &Classification) -> Option<Immediate> {
        failure.immediate.filter(|retry| match retry {
            Immediate::FreshConnection => !self.fresh_connection_used,
            Immediate::Fallback => !self.state.fallback,
            Immediate::NewKey => !self.state.new_key,
        })
    }

    /// The attempt failed. `retry_delay` returns the wait before a retry that is charged, or why there is none.
    pub(crate) fn failed<T>(
        &mut self,
        now: Instant,
        error: E,
        failure: &Classification,
        retry_delay: impl FnOnce(&mut Tries) -> Result<RetryDelay, Reason>,
    ) -> Step<T, E> {
        let previous = self.last.take();
        let wait = match self.next_wait(now, failure, retry_delay) {
            Ok(wait) => wait,
            Err(reason) => {
                return Step::Done(Err(Box::new(Failure::GaveUp { reason, last: error, previous })));
            }
        };
        self.last = Some(error);
        self.state.is_unannounced = true;
        self.state.refusals += u32::from(failure.outcome.is_refusal());
        if wait.is_zero() {
            return Step::WaitForTurn;
        }
        self.state.waited += wait;
        let until = later(now, wait);
        self.state.waits_until = Some(until);
        Step::WaitUntil(until)
    }

    /// The failure of the last attempt.
    pub(crate) fn last(&self) -> Option<&E> {
        self.last.as_ref()
    }

    fn next_wait(
        &mut self,
        now: Instant,
        failure: &Classification,
        retry_delay: impl FnOnce(&mut Tries) -> Result<RetryDelay, Reason>,
    ) -> Result<Duration, Reason> {
        let immediate = self.immediate_retry(failure);
        let delay = match immediate {
            Some(Immediate::Fallback | Immediate::NewKey) => RetryDelay::default(),
            None if failure.verdict == Verdict::GiveUp => return Err(Reason::NotRetryable),
            None if failure.answer_timeout && self.state.timeouts == self.max_timeout_retries => {
                return Err(Reason::TimeoutRetriesSpent);
            }
            _ if self.is_probe => retry_delay(&mut Tries::default())?,
            _ => retry_delay(&mut self.tries)?,
        };
        let wait = if immediate.is_some() { Duration::ZERO } else { delay.wait };
        if wait < delay.rejected_for {
            return Err(Reason::CircuitOpen);
        }
        // The deadline of a background call stands still while it waits for a permit.
        let until_sent = if self.background { wait } else { wait.max(delay.admitted_in) };
        if self.state.due.is_some_and(|due| due.saturating_duration_since(now) <= until_sent) {
            return Err(Reason::Deadline);
        }
        self.state.timeouts += u32::from(failure.answer_timeout);
        self.state.fresh_connection = immediate == Some(Immediate::FreshConnection);
        self.fresh_connection_used |= self.state.fresh_connection;
        self.state.fallback |= immediate == Some(Immediate::Fallback);
        self.state.new_key |= immediate == Some(Immediate::NewKey);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::classify::Feedback;

    const SECOND: Duration = Duration::from_secs(1);

    type Ended = Step<(), &'static str>;

    fn failure(verdict: Verdict, immediate: Option<Immediate>) -> Classification {
        Classification { immediate, ..Classification::new(verdict, Feedback::Outcome) }
    }

    /// A call with a deadline of 10 s that was granted a permit.
    fn sent(now: Instant, background: bool) -> Retrier<&'static str> {
        let mut call = Retrier::new(now, Some(10 * SECOND), background, 2);
        call.granted(Duration::ZERO, false);
        call
    }

    fn after(
        call: &mut Retrier<&'static str>,
        now: Instant,
        failure: &Classification,
        wait: Duration,
    ) -> Ended {
        call.failed(now, "failed", failure, |_| Ok(RetryDelay::of(wait)))
    }

    fn failure_of(step: Ended) -> Failure<&'static str> {
        let Step::Done(Err(failure)) = step else { panic!("{step:?}") };
        *failure
    }

    /// Why the call gave up, if it did.
    fn reason(step: &Ended) -> Option<Reason> {
        let Step::Done(Err(failure)) = step else { return None };
        match **failure {
            Failure::GaveUp { reason, .. } => Some(reason),
            Failure::Rejected { .. } => None,
        }
    }

    #[test]
    fn a_retry_waits_and_then_acquires_a_permit() {
        let now = Instant::now();
        let mut call = sent(now, false);
        let retry = failure(Verdict::Retry, None);
        let step = after(&mut call, now, &retry, 3 * SECOND);
        assert!(matches!(step, Step::WaitUntil(at) if at == now + 3 * SECOND), "{step:?}");
        assert_eq!((call.state.waited, call.state.attempts, call.last()), (3 * SECOND, 1, Some(&"failed")));
        call.granted(SECOND, false);
        assert_eq!((call.state.waited, call.state.attempts), (4 * SECOND, 2));
        let step = after(&mut call, now, &retry, Duration::ZERO);
        assert!(matches!(step, Step::WaitForTurn), "{step:?}");
    }

    #[test]
    fn a_failed_call_ends_with_the_reason_and_both_failures() {
        let now = Instant::now();
        let mut call = sent(now, false);
        let _: Ended =
            call.failed(now, "first", &failure(Verdict::Retry, None), |_| Ok(RetryDelay::of(SECOND)));
        let step: Ended = call.failed(now, "second", &failure(Verdict::GiveUp, None), |_| unreachable!());
        let Failure::GaveUp { reason: why, last, previous } = failure_of(step) else {
            panic!("not given up")
        };
        assert_eq!((why, last, previous), (Reason::NotRetryable, "second", Some("first")));
        let step: Ended =
            sent(now, false).failed(now, "x", &failure(Verdict::Retry, None), |_| Err(Reason::BudgetSpent));
        assert_eq!(reason(&step), Some(Reason::BudgetSpent));
        let step: Ended = sent(now, false).rejected(Error::Shutdown);
        assert!(matches!(failure_of(step), Failure::Rejected { by: Error::Shutdown, last: None }));
    }

    #[test]
    fn response_timeouts_have_a_limit_of_their_own() {
        let now = Instant::now();
        let mut call = Retrier::new(now, None, false, 2);
        let timeout = Classification { answer_timeout: true, ..failure(Verdict::Retry, None) };
        let other = failure(Verdict::Retry, None);
        for failure in [&timeout, &other, &timeout, &other] {
            assert!(matches!(after(&mut call, now, failure, SECOND), Step::WaitUntil(_)));
        }
        let step = after(&mut call, now, &timeout, SECOND);
        assert_eq!(reason(&step), Some(Reason::TimeoutRetriesSpent));
        assert_eq!(call.state.timeouts, 2);
    }

    #[test]
    fn a_call_gives_up_at_once_if_the_handler_will_not_admit_its_retry_in_time() {
        let (now, failed) = (Instant::now(), failure(Verdict::Retry, None));
        let ended = |background, admitted_in: u32, rejected_for: u32| {
            let delay = RetryDelay {
                wait: 2 * SECOND,
                admitted_in: admitted_in * SECOND,
                rejected_for: rejected_for * SECOND,
            };
            let step: Ended = sent(now, background).failed(now, "failed", &failed, |_| Ok(delay));
            reason(&step)
        };
        assert_eq!(ended(false, 9, 0), None);
        assert_eq!(ended(false, 10, 0), Some(Reason::Deadline), "the deadline is 10 s away");
        assert_eq!(ended(true, 10, 0), None, "it stands still while the call waits for the permit");
        assert_eq!(ended(false, 0, 2), None, "the breaker admits a probe by then");
        assert_eq!(ended(false, 0, 3), Some(Reason::CircuitOpen));
    }

    #[test]
    fn a_wait_that_is_ended_early_counts_as_long_as_it_lasted() {
        let (now, failed) = (Instant::now(), failure(Verdict::Retry, None));
        let mut call = sent(now, false);
        call.granted(3 * SECOND, false);
        assert!(matches!(after(&mut call, now, &failed, 5 * SECOND), Step::WaitUntil(_)));
        let waited = |call: &Retrier<_>, later: u32| call.state.waited(now + later * SECOND).as_secs();
        assert_eq!([0, 2, 5, 9].map(|later| waited(&call, later)), [3, 5, 8, 8]);
        call.granted(SECOND, false);
        assert_eq!(waited(&call, 0), 9);
    }

    #[test]
    fn a_wait_that_would_cross_the_deadline_is_not_made() {
        let now = Instant::now();
        let retry = failure(Verdict::Retry, None);
        for (later, wait, ends) in [(0, 9, false), (0, 10, true), (4, 5, false), (4, 6, true), (10, 0, true)]
        {
            let mut call = sent(now, false);
            let step = after(&mut call, now + later * SECOND, &retry, wait * SECOND);
            assert_eq!(reason(&step) == Some(Reason::Deadline), ends, "{wait} s after {later} s");
        }
    }

    #[test]
    fn each_immediate_retry_is_made_once() {
        let now = Instant::now();
        let stale = failure(Verdict::Retry, Some(Immediate::FreshConnection));
        let mut call = sent(now, false);
        assert!(matches!(after(&mut call, now, &stale, SECOND), Step::WaitForTurn));
        assert!(call.state.fresh_connection);
        assert!(matches!(after(&mut call, now, &stale, SECOND), Step::WaitUntil(_)));
        assert!(!call.state.fresh_connection);

        for immediate in [Immediate::Fallback, Immediate::NewKey] {
            let refused = failure(Verdict::GiveUp, Some(immediate));
            let uncharged = |_: &mut Tries| -> Result<RetryDelay, Reason> { panic!("charged") };
            let step: Ended = call.failed(now, "refused", &refused, uncharged);
            assert!(matches!(step, Step::WaitForTurn));
            assert!(call.state.fallback && call.state.new_key == (immediate == Immediate::NewKey));
            let step: Ended = call.failed(now, "refused", &refused, uncharged);
            assert_eq!(reason(&step), Some(Reason::NotRetryable));
        }
    }

    #[test]
    fn the_deadline_of_a_background_call_stands_still_while_it_waits_for_a_permit() {
        let now = Instant::now();
        let mut call = sent(now, true);
        call.granted(5 * SECOND, false);
        assert_eq!(call.state.due, Some(now + 15 * SECOND));
        let mut call = sent(now, false);
        call.granted(5 * SECOND, false);
        assert_eq!(call.state.due, Some(now + 10 * SECOND));
    }

    #[test]
    fn a_background_call_is_not_charged_for_a_bounded_number_of_probes() {
        let now = Instant::now();
        for background in [true, false] {
            let mut call = sent(now, background);
            let uncharged = (0..2 * FREE_PROBES).filter(|_| {
                call.granted(Duration::ZERO, true);
                call.is_probe
            });
            assert_eq!(uncharged.count() as u32, if background { FREE_PROBES } else { 0 });
        }
    }
}
