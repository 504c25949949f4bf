//! Many calls: a bounded pool of workers pulls requests and queues results, in order of completion or of input.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::api::{ChatRequest, ChatResponse};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::http::options::MAX_IDLE;
use crate::runtime::sync::{lock, wait};

/// Calls in flight by default: enough for most quotas, and no burden on a small self-hosted server.
const CONCURRENCY: usize = 8;

/// Calls in flight at most: as many as idle connections are kept by default.
const MAX_CONCURRENCY: usize = MAX_IDLE;

/// Threads at the start. More are added while calls succeed without having waited for their turn: each such call adds at
/// most one, so that their number at most doubles in the time of a call, until the service slows them or there are enough.
const FIRST_THREADS: usize = CONCURRENCY;

/// Results that may be queued for each call in flight: one, so that no worker waits for a consumer that is just busy; more
/// where they must come in order, so that one slow call doesn't block all others.
const QUEUED: usize = 1;
const QUEUED_IN_ORDER: usize = 8;

/// Many chat requests, not yet sent. Made by [`Client::batch`].
#[must_use = "nothing is sent before run()"]
pub struct Batch<I> {
    client: Client,
    requests: I,
    concurrency: usize,
    in_order: bool,
}

/// The outcome of one request of a batch.
#[derive(Debug)]
pub struct BatchItem {
    /// The position of the request in the input, from 0.
    pub index: usize,
    /// The request.
    pub request: ChatRequest,
    /// The answer, or the error of the call.
    pub result: Result<ChatResponse>,
}

impl Client {
    /// Sends many chat requests, several at the same time.
    ///
    /// ```no_run
    /// use holysheep::{ChatRequest, Client};
    ///
    /// let client = Client::from_env()?;
    /// let cities = ["Lima", "Oslo", "Rome"];
    /// let requests = cities.map(|city| ChatRequest::new("gpt-4.1").user(format!("What to see in {city}?")));
    /// for item in client.batch(requests).concurrency(64).run() {
    ///     match item.result {
    ///         Ok(answer) => println!("{}: {}", cities[item.index], answer.text()),
    ///         Err(error) => eprintln!("{}: {error}", cities[item.index]),
    ///     }
    /// }
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    ///
    /// Each request becomes one [`BatchItem`], unless the batch is dropped or the client shut down or drained. Requests are
    /// pulled one by one, on the threads that make the calls, when there is room for them: an input of any length needs no
    /// more memory than one of a few thousand.
    ///
    /// The calls are those of [`chat`](Client::chat), but more persistent, because no caller waits for a single one:
    ///
    /// - While the circuit breaker is open they wait, instead of failing one after the other. Probing whether the service is
    ///   back consumes none of a call's retries, up to 30 times. That is about ten minutes of an outage with one call in
    ///   flight, and more than an hour with eight.
    /// - An empty retry budget doesn't end them: a retry replaces a new call. They do spend the budget, so that single calls
    ///   of the same client have no retries left while a batch is in trouble.
    /// - Their deadlines stand still while they wait for their turn.
    ///
    /// A server that asks for a longer wait than [`status_max_delay`](crate::RetryConfig::status_max_delay) allows fails the
    /// item at once, as it does for single calls. Raise that limit for jobs that have the time.
    pub fn batch<I>(&self, requests: I) -> Batch<I::IntoIter>
    where
        I: IntoIterator<Item = ChatRequest>,
        I::IntoIter: Send + 'static,
    {
        let requests = requests.into_iter();
        Batch { client: self.clone(), requests, concurrency: CONCURRENCY, in_order: false }
    }
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> Batch<I> {
    /// Calls in flight at the same time: 1 to 4,096, 8 by default.
    ///
    /// More than a quota allows do no harm: threads are added only while calls needn't wait for their turn. Each has a
    /// connection, though, and so needs an open file: more than `ulimit -n` allows makes calls fail.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.clamp(1, MAX_CONCURRENCY);
        self
    }

    /// Whether the items come in the order of the requests; by default they come in the order of completion.
    ///
    /// It costs speed where single calls take much longer than others, because at most eight results for each call in flight
    /// are queued.
    pub fn in_order(mut self, yes: bool) -> Self {
        self.in_order = yes;
        self
    }

    /// Starts the batch on threads and connections of its own, and returns its items. It pauses while no item is taken.
    ///
    /// Dropping the iterator ends all its calls at once. After a [`shutdown`](Client::shutdown) the calls that had begun
    /// return [`Error::Shutdown`], then the iterator ends; after a [`drain`](Client::drain) the requests in flight finish.
    ///
    /// A panic in a call, which only the program's own [`on_event`](crate::ConfigBuilder::on_event) can cause, becomes that
    /// item's [`Error::Panicked`]. A panic in the requests' iterator ends the input, and is resumed when all calls that had
    /// begun are finished.
    pub fn run(self) -> impl Iterator<Item = BatchItem> + Send {
        let Batch { client, requests, concurrency, in_order } = self;
        let queued = concurrency * if in_order { QUEUED_IN_ORDER } else { QUEUED };
        let state = Mutex::new(State { max_threads: concurrency, ..State::default() });
        let results = Arc::new(ResultQueue {
            in_order,
            capacity: concurrency + queued,
            state,
            ..ResultQueue::default()
        });
        let ended = {
            let results = Arc::clone(&results);
            move || results.wake()
        };
        let input = Mutex::new(Input { requests: Some(requests), pulled: 0 });
        let pool = Arc::new(WorkerPool { client: client.child(ended), input, results });
        for _ in 0..FIRST_THREADS {
            pool.spawn_worker();
        }
        Run { pool }
    }
}

/// The items of a running batch.
struct Run<I: Iterator<Item = ChatRequest> + Send + 'static> {
    pool: Arc<WorkerPool<I>>,
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> Iterator for Run<I> {
    type Item = BatchItem;

    fn next(&mut self) -> Option<BatchItem> {
        let WorkerPool { client, results, .. } = &*self.pool;
        if lock(&results.state).threads == 0 {
            // The system provided no thread, so this one does the work.
            if let Some(item) = self.pool.call_next() {
                results.push(item);
            }
        }
        results.take(client)
    }
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> Drop for Run<I> {
    fn drop(&mut self) {
        self.pool.client.shutdown();
    }
}

/// What the workers of a batch share.
struct WorkerPool<I> {
    client: Client,
    input: Mutex<Input<I>>,
    results: Arc<ResultQueue>,
}

struct Input<I> {
    /// None at its end.
    requests: Option<I>,
    pulled: usize,
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> WorkerPool<I> {
    /// Adds a worker, unless there are enough. If the system provides no thread, it isn't asked again.
    fn spawn_worker(self: &Arc<Self>) {
        let mut state = lock(&self.results.state);
        if state.threads >= state.max_threads {
            return;
        }
        state.threads += 1;
        drop(state);
        let pool = Arc::clone(self);
        let work = move || {
            while let Some(item) = pool.call_next() {
                let unpaced = item.result.as_ref().is_ok_and(|answer| answer.meta().waited.is_zero());
                let needs_worker = pool.results.push(item);
                if unpaced && needs_worker {
                    pool.spawn_worker();
                }
            }
        };
        if let Err(error) = thread::Builder::new().spawn(work) {
            let mut state = lock(&self.results.state);
            state.threads -= 1;
            state.max_threads = state.threads;
            log::warn!(
                "the batch continues with {} threads, because the system provides no more: {error}",
                state.threads
            );
        }
    }

    /// Makes the next call; none when there is no further request.
    fn call_next(&self) -> Option<BatchItem> {
        let (index, request) = self.next_request()?;
        let call = || self.client.chat(&request);
        let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Error::Panicked));
        Some(BatchItem { index, request, result })
    }

    /// Pulls the next request when there is room for its result. One thread at a time, so that the room is still there when
    /// the input returns, however long that takes.
    fn next_request(&self) -> Option<(usize, ChatRequest)> {
        let mut input = lock(&self.input);
        if !self.results.wait_for_room(&self.client) {
            return None;
        }
        let requests = input.requests.as_mut()?;
        match catch_unwind(AssertUnwindSafe(|| requests.next())) {
            Ok(Some(request)) => {
                let mut state = lock(&self.results.state);
                if self.client.is_drained() {
                    return None; // the consumer may have seen that nothing is running
                }
                state.running += 1;
                let index = input.pulled;
                input.pulled += 1;
                Some((index, request))
            }
            end => {
                self.results.end(end.err());
                drop(input.requests.take());
                None
            }
        }
    }
}

/// Finished items, from the workers to the consumer.
#[derive(Default)]
struct ResultQueue {
    in_order: bool,
    /// Items that may be running or queued.
    capacity: usize,
    state: Mutex<State>,
    /// Notified when an item was queued, or none will be any more.
    queued: Condvar,
    /// Notified when an item was taken.
    taken: Condvar,
}

#[derive(Default)]
struct State {
    /// By their place in the output.
    finished: BTreeMap<usize, BatchItem>,
    /// The place of the next item to be taken.
    next: usize,
    /// Items finished so far: where order doesn't matter, the place of the next one.
    count: usize,
    running: usize,
    /// Whether the consumer or a worker is waiting: a notification that none receives would still cost a system call.
    consumer_waits: bool,
    worker_waits: bool,
    threads: usize,
    max_threads: usize,
    input_ended: bool,
    panic: Option<Box<dyn Any + Send>>,
}

impl ResultQueue {
    /// Waits until one more item may be started; false if none may.
    fn wait_for_room(&self, client: &Client) -> bool {
        let mut state = lock(&self.state);
        while !client.is_drained() && state.running + state.finished.len() >= self.capacity {
            state.worker_waits = true;
            state = wait(&self.taken, state);
            state.worker_waits = false;
        }
        !client.is_drained()
    }

    /// Queues a finished item. Returns whether another worker would find something to do: all others are busy.
    fn push(&self, item: BatchItem) -> bool {
        let mut state = lock(&self.state);
        let place = if self.in_order { item.index } else { state.count };
        state.finished.insert(place, item);
        state.count += 1;
        state.running -= 1;
        let more =
            !state.input_ended && state.threads < state.max_threads && state.running + 1 >= state.threads;
        let awaited = state.consumer_waits && place == state.next;
        drop(state); // the consumer finds the lock free
        if awaited {
            self.queued.notify_one();
        }
        more
    }

    /// Takes the next item, or waits for it; none at the end.
    fn take(&self, client: &Client) -> Option<BatchItem> {
        let mut state = lock(&self.state);
        loop {
            let place = state.next;
            if let Some(item) = state.finished.remove(&place) {
                state.next += 1;
                if state.worker_waits {
                    self.taken.notify_one();
                }
                return Some(item);
            }
            if state.running == 0 && (state.input_ended || client.is_drained()) {
                let panic = state.panic.take();
                drop(state);
                return panic.and_then(|panic| resume_unwind(panic));
            }
            state.consumer_waits = true;
            state = wait(&self.queued, state);
            state.consumer_waits = false;
        }
    }

    /// The input has ended.
    fn end(&self, panic: Option<Box<dyn Any + Send>>) {
        let mut state = lock(&self.state);
        (state.input_ended, state.panic) = (true, panic);
        self.queued.notify_one();
    }

    /// Wakes the consumer and a worker after the client was shut down or drained.
    fn wake(&self) {
        let _state = lock(&self.state); // a thread under this lock is either waiting already or sees the shutdown
        self.queued.notify_one();
        self.taken.notify_one();
    }
}
