//! The workers of a batch: they pull requests, send calls that have a permit, and queue results.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::{Next, Task};
use super::request::Sendable as _;
use super::state::{Limits, State};
use super::{BatchItem, BatchRequest};
use crate::adaptive::Acquired;
use crate::client::Client;
use crate::client::call::Progressed;
use crate::error::Error;
use crate::meta::Attempt;
use crate::runtime::sync::{lock, wait};

/// State that the workers of a batch share.
pub(super) struct WorkerPool<I: Iterator>
where
    I::Item: BatchRequest,
{
    pub(super) client: Client,
    input: Mutex<Input<I>>,
    shared: Arc<Shared<I::Item>>,
}

struct Input<I> {
    /// `None` once exhausted.
    requests: Option<I>,
    pulled: usize,
}

/// The state, and the condition variables for changes to it.
struct Shared<R: BatchRequest> {
    state: Mutex<State<R>>,
    workers: Condvar,
    consumer: Condvar,
}

impl<R: BatchRequest> Shared<R> {
    fn wake_all(&self) {
        let _state = lock(&self.state); // so that each thread either sees the change or is already waiting
        self.workers.notify_all();
        self.consumer.notify_all();
    }

    /// Lets a worker look for work, because a handler may admit a call earlier than it said.
    fn reconsider(&self) {
        let mut state = lock(&self.state);
        state.waiting.reconsider();
        self.wake_worker(&state);
    }

    /// Wakes an idle worker, if there is one.
    fn wake_worker(&self, state: &State<R>) {
        if state.idle > 0 {
            self.workers.notify_one();
        }
    }
}

/// What a worker does next.
enum Work<R> {
    Send(Task<R>, Acquired),
    Pull,
    /// Ends a waiting call, because the client was shut down, drained or cancelled.
    Abandon(Task<R>),
    Nothing,
}

impl<I> WorkerPool<I>
where
    I: Iterator + Send + 'static,
    I::Item: BatchRequest,
{
    /// A pool that sends requests with this client, within these limits.
    pub(super) fn new(client: &Client, requests: I, limits: Limits, in_order: bool) -> Arc<Self> {
        let shared = Arc::new_cyclic(|shared: &Weak<Shared<I::Item>>| {
            let shared = Weak::clone(shared);
            let wake = move || {
                if let Some(shared) = shared.upgrade() {
                    shared.reconsider();
                }
            };
            let state = Mutex::new(State::new(limits, in_order, Arc::new(wake)));
            Shared { state, workers: Condvar::new(), consumer: Condvar::new() }
        });
        let ended = {
            let shared = Arc::clone(&shared);
            move || shared.wake_all()
        };
        let input = Mutex::new(Input { requests: Some(requests), pulled: 0 });
        Arc::new(WorkerPool { client: client.child(ended), input, shared })
    }

    /// Adds a worker, unless there are enough. If a thread cannot be started, no more are tried.
    pub(super) fn spawn_worker(self: &Arc<Self>) {
        let mut state = lock(&self.shared.state);
        if state.threads >= state.limits.threads {
            return;
        }
        state.threads += 1;
        drop(state);
        let pool = Arc::clone(self);
        let work = move || {
            while let Some(unpaced) = pool.work() {
                if unpaced && lock(&pool.shared.state).needs_worker() {
                    pool.spawn_worker();
                }
            }
        };
        if let Err(error) = thread::Builder::new().spawn(work) {
            let mut state = lock(&self.shared.state);
            state.threads -= 1;
            state.limits.threads = state.threads.max(1);
            log::warn!(
                "the batch continues with {} threads, because no more could be started: {error}",
                state.threads
            );
        }
    }

    /// Does the next piece of work, and returns whether a call succeeded without having waited. `None` if there is no
    /// more work.
    fn work(&self) -> Option<bool> {
        match self.next_work() {
            Work::Nothing => None,
            Work::Pull => {
                self.pull();
                Some(false)
            }
            Work::Abandon(task) => {
                let abandon = || self.client.core.abandon(&task.call);
                let result = Err(catch_unwind(AssertUnwindSafe(abandon)).unwrap_or(Error::Panicked));
                self.push(BatchItem { index: task.index, request: task.request, result });
                Some(false)
            }
            Work::Send(task, acquired) => Some(self.send(task, acquired)),
        }
    }

    /// Waits for work.
    fn next_work(&self) -> Work<I::Item> {
        let clock = &self.client.core.clock;
        let mut state = lock(&self.shared.state);
        loop {
            let now = clock.now();
            if self.client.is_drained() {
                return match state.waiting.pop(now) {
                    Some(task) => {
                        state.running += 1;
                        Work::Abandon(task)
                    }
                    None => Work::Nothing,
                };
            }
            let next = state.waiting.next(now);
            match next {
                Next::Admitted(task, acquired) => {
                    state.running += 1;
                    // Another delayed call may also go now. If none may, the woken worker waits until one may.
                    if state.waiting.is_delayed() {
                        self.shared.wake_worker(&state);
                    }
                    return Work::Send(task, acquired);
                }
                _ if !state.input_ended && state.has_room() => {
                    state.pulling += 1; // reserves the room until the input returns
                    if state.timekeeper.is_none() && state.waiting.is_delayed() {
                        self.shared.wake_worker(&state);
                    }
                    return Work::Pull;
                }
                Next::Empty if state.input_ended && state.running + state.pulling == 0 => {
                    self.shared.workers.notify_all();
                    self.shared.consumer.notify_all();
                    return Work::Nothing;
                }
                Next::Empty => state = self.idle(state, None),
                Next::NotBefore(at) if state.timekeeper.is_some_and(|kept| kept <= at) => {
                    state = self.idle(state, None);
                }
                Next::NotBefore(at) => {
                    state = self.idle(state, Some((at, at.saturating_duration_since(now))));
                }
            }
        }
    }

    /// Waits for a notification, or until this moment, which is this far away.
    fn idle<'a>(
        &self,
        mut state: MutexGuard<'a, State<I::Item>>,
        until: Option<(Instant, Duration)>,
    ) -> MutexGuard<'a, State<I::Item>> {
        state.idle += 1;
        let mut state = match until {
            None => wait(&self.shared.workers, state),
            Some((at, time)) => {
                state.timekeeper = Some(at);
                let mut state = self.client.core.clock.wait(&self.shared.workers, state, time);
                // Unless another worker keeps an earlier time.
                state.timekeeper = state.timekeeper.filter(|kept| *kept != at);
                state
            }
        };
        state.idle -= 1;
        state
    }

    /// Pulls the next request, in one thread at a time.
    fn pull(&self) {
        let mut input = lock(&self.input);
        // Another worker may have waited for the input while the client was drained.
        if self.client.is_drained() {
            lock(&self.shared.state).pulling -= 1;
            return self.shared.wake_all();
        }
        let pulled =
            input.requests.as_mut().map(|requests| catch_unwind(AssertUnwindSafe(|| requests.next())));
        let request = match pulled {
            Some(Ok(Some(request))) => request,
            end => {
                let panic = end.and_then(std::result::Result::err);
                drop(input.requests.take());
                let mut state = lock(&self.shared.state);
                state.input_ended = true;
                state.pulling -= 1;
                state.panic = panic.or(state.panic.take());
                drop(state);
                self.shared.wake_all();
                return;
            }
        };
        let index = input.pulled;
        input.pulled += 1;
        drop(input);
        let mut state = lock(&self.shared.state);
        state.pulling -= 1;
        state.running += 1;
        drop(state);
        match request.begin(&self.client) {
            Ok(call) => {
                let since = self.client.core.clock.now();
                self.wait(Task { index, request, call, since }, None);
            }
            Err(error) => self.push(BatchItem { index, request, result: Err(error) }),
        }
    }

    /// Makes one attempt of a call. Returns whether it succeeded without having waited.
    fn send(&self, mut task: Task<I::Item>, acquired: Acquired) -> bool {
        let core = &self.client.core;
        let Task { request, call, .. } = &mut task;
        let attempt = || request.attempt(&self.client, call, acquired);
        let progressed = catch_unwind(AssertUnwindSafe(attempt));
        let (result, unpaced) = match progressed {
            Ok(Progressed::WaitForTurn) => {
                task.since = core.clock.now();
                self.wait(task, None);
                return false;
            }
            Ok(Progressed::WaitUntil(at)) => {
                self.wait(task, Some(at));
                return false;
            }
            Ok(Progressed::Done(Attempt { result, meta })) => {
                let unpaced = result.is_ok() && meta.waited.is_zero();
                (result.map(|response| I::Item::with_meta(*response, meta)), unpaced)
            }
            Err(_) => (Err(Error::Panicked), false),
        };
        self.push(BatchItem { index: task.index, request: task.request, result });
        unpaced
    }

    /// Queues a call for a permit, after this moment if there is one.
    fn wait(&self, task: Task<I::Item>, until: Option<Instant>) {
        let mut state = lock(&self.shared.state);
        state.running -= 1;
        state.waiting.push(task, until, &self.client.core.handlers);
        self.shared.wake_worker(&state);
    }

    /// Queues a finished item.
    fn push(&self, item: BatchItem<I::Item>) {
        let mut state = lock(&self.shared.state);
        let place = if state.in_order { item.index } else { state.count };
        state.results.insert(place, item);
        state.count += 1;
        state.running -= 1;
        let awaited = state.consumer_waits && place == state.next;
        let over = state.is_over(self.client.is_drained());
        drop(state); // before the consumer is woken, so that it finds the lock free
        if awaited {
            self.shared.consumer.notify_one();
        }
        if over {
            self.shared.wake_all();
        }
    }

    /// Takes the next item, or waits for it. `None` at the end.
    pub(super) fn take(&self) -> Option<BatchItem<I::Item>> {
        let mut state = lock(&self.shared.state);
        loop {
            let place = state.next;
            if let Some(item) = state.results.remove(&place) {
                state.next += 1;
                self.shared.wake_worker(&state);
                return Some(item);
            }
            if state.is_over(self.client.is_drained()) {
                let panic = state.panic.take();
                drop(state);
                return panic.and_then(|panic| resume_unwind(panic));
            }
            if state.threads == 0 {
                // No thread could be started, so this one does the work.
                drop(state);
                self.work();
                state = lock(&self.shared.state);
                continue;
            }
            state.consumer_waits = true;
            state = wait(&self.shared.consumer, state);
            state.consumer_waits = false;
        }
    }

    /// Ends all calls.
    pub(super) fn end(&self) {
        self.client.shutdown();
        // The workers end the waiting calls. Without any, this thread does.
        while lock(&self.shared.state).threads == 0 && self.work().is_some() {}
    }
}
