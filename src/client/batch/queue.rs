//! The waiting calls of a batch: for a permit of their model, retries first, or for the time of a retry. Workers poll
//! the queue, so that no waiting call blocks a thread.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::adaptive::{Acquired, AdaptiveHandler, HandlerRegistry, Wait, Wake};
use crate::client::call::Call;
use crate::error::WaitCause;
use crate::policy::later;

/// The number of refusals after which a call is queued behind the others. It may be larger than the limit, and would then
/// be refused even if all others waited for it.
const MAX_FIRST_REFUSALS: u32 = 2;

/// The number of models above which one without waiting calls is forgotten: each occupies memory, and is asked for a permit.
const MAX_IDLE_MODELS: usize = 64;

/// A call of a batch.
pub(super) struct Task<R> {
    pub(super) index: usize,
    pub(super) request: R,
    pub(super) call: Call<'static>,
    /// When it began to wait for a permit.
    pub(super) since: Instant,
}

/// The next work in the queue.
#[expect(
    clippy::large_enum_variant,
    reason = "it is matched at once; a box would cost each call an allocation"
)]
pub(super) enum Next<R> {
    /// A call with its permit.
    Admitted(Task<R>, Acquired),
    /// Nothing before this moment.
    NotBefore(Instant),
    /// There are no waiting calls.
    Empty,
}

/// The waiting calls.
pub(super) struct WaitingCalls<R> {
    models: BTreeMap<String, ModelQueue<R>>,
    /// Calls that wait for the time of their retry, by that time and a number that makes it unique.
    timers: BTreeMap<(Instant, u64), Task<R>>,
    last_timer: u64,
    count: usize,
    wake: Wake,
}

/// The calls that wait for a permit of one model.
struct ModelQueue<R> {
    handler: AdaptiveHandler,
    /// The number of its waiting calls, including those that wait for the time of their retry.
    count: usize,
    retries: VecDeque<Task<R>>,
    firsts: VecDeque<Task<R>>,
    /// The handler grants no permit before this moment, unless an outcome changes that.
    not_before: Option<Instant>,
    /// When the handler last refused a permit, or would have: calls queued before that have waited.
    refused: Option<Instant>,
    /// Why it last refused one.
    waits_for: WaitCause,
}

impl<R> WaitingCalls<R> {
    /// An empty queue. Handlers call `wake` when they may have changed their decision.
    pub(super) fn new(wake: Wake) -> WaitingCalls<R> {
        WaitingCalls { models: BTreeMap::new(), timers: BTreeMap::new(), last_timer: 0, count: 0, wake }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a call that waits for a permit, after this moment if there is one.
    pub(super) fn push(&mut self, task: Task<R>, until: Option<Instant>, handlers: &HandlerRegistry) {
        self.count += 1;
        if let Some(queue) = self.models.get_mut(task.call.model()) {
            queue.count += 1;
        } else {
            let queue = ModelQueue {
                handler: handlers.get(task.call.model()),
                count: 1,
                retries: VecDeque::new(),
                firsts: VecDeque::new(),
                not_before: None,
                refused: None,
                waits_for: WaitCause::Rate,
            };
            self.models.insert(task.call.model().to_owned(), queue);
        }
        match until {
            Some(at) => {
                self.last_timer += 1;
                self.timers.insert((at, self.last_timer), task);
            }
            None => self.queue(task),
        }
    }

    /// Whether a call waits for a permit that was refused, or for the time of its retry.
    pub(super) fn is_delayed(&self) -> bool {
        let is_refused = |queue: &ModelQueue<R>| {
            let firsts = [queue.retries.front(), queue.firsts.front()];
            firsts.into_iter().flatten().any(|task| queue.has_waited(task))
        };
        !self.timers.is_empty() || self.models.values().any(is_refused)
    }

    /// Asks all handlers again, because an outcome may have changed their decision.
    pub(super) fn reconsider(&mut self) {
        self.models.values_mut().for_each(|queue| queue.not_before = None);
    }

    /// The call that has waited the longest, of those that get a permit.
    pub(super) fn next(&mut self, now: Instant) -> Next<R> {
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            let mut task = timer.remove();
            task.since = now;
            self.queue(task);
        }
        for queue in self.models.values_mut() {
            if queue.not_before.is_some_and(|at| at > now) {
                queue.refused = Some(now); // without asking
            }
        }
        loop {
            let ready = |queue: &&mut ModelQueue<R>| queue.not_before.is_none_or(|at| at <= now);
            let waiting = self.models.values_mut().filter(|queue| queue.head().is_some()).filter(ready);
            let Some(queue) = waiting.min_by_key(|queue| queue.head()) else { break };
            if let Some((task, acquired)) = queue.admit(now, &self.wake) {
                self.removed(&task);
                return Next::Admitted(task, acquired);
            }
        }
        let timer = self.timers.keys().next().map(|(at, _)| *at);
        let turns = self.models.values().filter(|queue| queue.head().is_some());
        let turn = turns.filter_map(|queue| queue.not_before).min();
        match timer.into_iter().chain(turn).min() {
            Some(at) => Next::NotBefore(at),
            None => Next::Empty,
        }
    }

    /// Removes any call, so that it can be ended.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Task<R>> {
        let of_models = self.models.values_mut().find_map(ModelQueue::pop).map(|mut task| {
            task.call.waited_without_permit(now.saturating_duration_since(task.since));
            task
        });
        let task = of_models.or_else(|| self.timers.pop_first().map(|(_, task)| task))?;
        self.removed(&task);
        Some(task)
    }

    /// Counts a call that waits no longer.
    fn removed(&mut self, task: &Task<R>) {
        self.count -= 1;
        let model = task.call.model();
        if let Some(queue) = self.models.get_mut(model) {
            queue.count -= 1;
            if queue.count == 0 && self.models.len() > MAX_IDLE_MODELS {
                self.models.remove(model);
            }
        }
    }

    fn queue(&mut self, task: Task<R>) {
        if let Some(queue) = self.models.get_mut(task.call.model()) {
            let goes_first = task.call.is_retry() && task.call.refusals() < MAX_FIRST_REFUSALS;
            let lane = if goes_first { &mut queue.retries } else { &mut queue.firsts };
            lane.push_back(task);
            queue.handler.count_waiting(true);
        }
    }
}

impl<R> ModelQueue<R> {
    /// When the first call in this queue began to wait: retries go first.
    fn head(&self) -> Option<Instant> {
        self.retries.front().or(self.firsts.front()).map(|task| task.since)
    }

    fn pop(&mut self) -> Option<Task<R>> {
        let task = self.retries.pop_front().or_else(|| self.firsts.pop_front());
        if task.is_some() {
            self.handler.count_waiting(false);
        }
        task
    }

    /// Whether the handler refused a permit since this call is in the queue.
    fn has_waited(&self, task: &Task<R>) -> bool {
        self.refused.is_some_and(|refused| refused >= task.since)
    }

    /// The first call with its permit, if the handler grants one now.
    fn admit(&mut self, now: Instant, wake: &Wake) -> Option<(Task<R>, Acquired)> {
        match self.handler.try_enter(now, !self.retries.is_empty(), wake) {
            Ok(acquired) => {
                let task = self.pop()?;
                let time = now.saturating_duration_since(task.since);
                let wait = Some(Wait { time, cause: self.waits_for }).filter(|_| self.has_waited(&task));
                Some((task, Acquired { wait, ..acquired }))
            }
            Err(Wait { time, cause }) => {
                (self.not_before, self.refused) = (Some(later(now, time)), Some(now));
                self.waits_for = cause;
                None
            }
        }
    }
}
