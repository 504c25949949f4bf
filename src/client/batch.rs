//! Many calls: requests are pulled when there is room for them, and answers handed out as they come or in their order.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::api::{ChatRequest, ChatResponse};
use crate::client::Client;
use crate::client::config::MAX_IDLE;
use crate::error::{Error, Result};
use crate::runtime::sync::{lock, wait};

/// Calls at the same time by default: enough for most quotas, and no burden on a small server of one's own.
const CONCURRENCY: usize = 8;

/// Calls at the same time at most: as many as idle connections are kept by default.
const MOST_CONCURRENCY: usize = MAX_IDLE;

/// Threads to begin with. More are added while calls succeed without having waited for their turn: each that does adds one
/// at most, so that their number up to doubles in the time of a call, until the service slows them or there are enough.
const FIRST_THREADS: usize = CONCURRENCY;

/// Answers that may wait to be taken, for each call at the same time: one, so that no thread waits for a reader which is
/// just busy; more where they must come in order, so that one slow call doesn't hold up all others.
const WAITING: usize = 1;
const WAITING_IN_ORDER: usize = 8;

/// Many chats, yet to be made. Made by [`Client::batch`].
#[must_use = "nothing is called before run()"]
pub struct Batch<I> {
    client: Client,
    requests: I,
    concurrency: usize,
    in_order: bool,
}

/// What became of one request of a batch.
#[derive(Debug)]
pub struct BatchItem {
    /// The number of the request among those of the batch, from 0.
    pub index: usize,
    /// The request.
    pub request: ChatRequest,
    /// Its answer, or what the last attempt failed with.
    pub result: Result<ChatResponse>,
}

impl Client {
    /// Many chats, several at the same time.
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
    /// Each request becomes one [`BatchItem`], unless the batch is dropped or the client shut down or drained. They are
    /// pulled one by one, from the threads that make the calls, when there is room for them: an input of any length needs no
    /// more memory than one of a few thousand.
    ///
    /// The calls are those of [`chat`](Client::chat), but more background, because nobody waits for one of them:
    ///
    /// - While the breaker is open they wait, instead of failing one after the other, and trying whether the service is back
    ///   uses up none of a call's retries, up to 30 times. That is ten minutes of an outage with one call at a time, and
    ///   more than an hour with eight.
    /// - The budget of retries doesn't end them: a retry takes the place of a new call. They do spend it, so that single
    ///   calls of the same client have no retries left while a batch is in trouble.
    /// - Their deadlines stand still while they wait for their turn.
    ///
    /// A server that asks for a longer wait than [`status_max_delay`](crate::RetryConfig::status_max_delay) allows fails the
    /// item at once, here too. Who has the time raises that.
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
    /// Calls at the same time: at least 1, at most 4,096, 8 by default.
    ///
    /// More than a quota feeds do no harm: threads are added only while calls needn't wait for their turn. Each has a
    /// connection, though, and so needs an open file: more than `ulimit -n` allows makes calls fail.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.clamp(1, MOST_CONCURRENCY);
        self
    }

    /// Whether the items come in the order of the requests; off by default, so that they come as they are finished.
    ///
    /// It costs speed where single calls take much longer than others, because only so many finished ones are kept: eight
    /// times as many as there may be calls at the same time.
    pub fn in_order(mut self, yes: bool) -> Self {
        self.in_order = yes;
        self
    }

    /// Begins, on threads and connections of its own, and hands out the items. It pauses while nobody takes them.
    ///
    /// Dropping the iterator ends all its calls at once; after a [`shutdown`](Client::shutdown) those that had begun come
    /// with [`Error::Shutdown`], then it ends; after a [`drain`](Client::drain) those on the wire come as they are.
    ///
    /// A panic in a call, which only the program's own [`on_event`](crate::ConfigBuilder::on_event) can bring about, is that
    /// item's [`Error::Panicked`]; one in the requests' iterator ends the input, and is passed on when all that had begun are
    /// finished.
    pub fn run(self) -> impl Iterator<Item = BatchItem> + Send {
        let Batch { client, requests, concurrency, in_order } = self;
        let waiting = concurrency * if in_order { WAITING_IN_ORDER } else { WAITING };
        let state = Mutex::new(State { most_threads: concurrency, ..State::default() });
        let desk = Arc::new(Desk { in_order, most: concurrency + waiting, state, ..Desk::default() });
        let ended = {
            let desk = Arc::clone(&desk);
            move || desk.wake()
        };
        let input = Mutex::new(Input { requests: Some(requests), pulled: 0 });
        let crew = Arc::new(Crew { client: client.part(ended), input, desk });
        for _ in 0..FIRST_THREADS {
            crew.hire();
        }
        Run { crew }
    }
}

/// The items of a batch that runs.
struct Run<I: Iterator<Item = ChatRequest> + Send + 'static> {
    crew: Arc<Crew<I>>,
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> Iterator for Run<I> {
    type Item = BatchItem;

    fn next(&mut self) -> Option<BatchItem> {
        let Crew { client, desk, .. } = &*self.crew;
        if lock(&desk.state).threads == 0 {
            // The system gave none, so this one does the work.
            if let Some(item) = self.crew.step() {
                desk.put(item);
            }
        }
        desk.take(client)
    }
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> Drop for Run<I> {
    fn drop(&mut self) {
        self.crew.client.shutdown();
    }
}

/// What the threads of a batch share.
struct Crew<I> {
    client: Client,
    input: Mutex<Input<I>>,
    desk: Arc<Desk>,
}

struct Input<I> {
    /// None at its end.
    requests: Option<I>,
    pulled: usize,
}

impl<I: Iterator<Item = ChatRequest> + Send + 'static> Crew<I> {
    /// Adds a thread, unless there are enough. If the system has none, it isn't asked again.
    fn hire(self: &Arc<Self>) {
        let mut state = lock(&self.desk.state);
        if state.threads >= state.most_threads {
            return;
        }
        state.threads += 1;
        drop(state);
        let crew = Arc::clone(self);
        let work = move || {
            while let Some(item) = crew.step() {
                let swift = item.result.as_ref().is_ok_and(|answer| answer.meta().waited.is_zero());
                let short_of_threads = crew.desk.put(item);
                if swift && short_of_threads {
                    crew.hire();
                }
            }
        };
        if let Err(error) = thread::Builder::new().spawn(work) {
            let mut state = lock(&self.desk.state);
            state.threads -= 1;
            state.most_threads = state.threads;
            log::warn!("a batch goes on with {} threads, the system gives no more: {error}", state.threads);
        }
    }

    /// Makes the next call; none when there is nothing more to do.
    fn step(&self) -> Option<BatchItem> {
        let (index, request) = self.pull()?;
        let call = || self.client.chat(&request);
        let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Error::Panicked));
        Some(BatchItem { index, request, result })
    }

    /// Takes the next request, when there is room for its answer. One thread at a time, so that the room is still there when
    /// the request has come, which may take as long as it likes.
    fn pull(&self) -> Option<(usize, ChatRequest)> {
        let mut input = lock(&self.input);
        if !self.desk.wait_for_room(&self.client) {
            return None;
        }
        let requests = input.requests.as_mut()?;
        match catch_unwind(AssertUnwindSafe(|| requests.next())) {
            Ok(Some(request)) => {
                let mut state = lock(&self.desk.state);
                if self.client.is_drained() {
                    return None; // who takes may have seen that nothing runs
                }
                state.running += 1;
                let index = input.pulled;
                input.pulled += 1;
                Some((index, request))
            }
            end => {
                self.desk.end(end.err());
                drop(input.requests.take());
                None
            }
        }
    }
}

/// Where finished items are put and taken.
#[derive(Default)]
struct Desk {
    in_order: bool,
    /// Items that may be here or running.
    most: usize,
    state: Mutex<State>,
    /// Rung when an item was put, or nothing more will be.
    put: Condvar,
    /// Rung when an item was taken.
    taken: Condvar,
}

#[derive(Default)]
struct State {
    /// By the number that says when it is their turn.
    finished: BTreeMap<usize, BatchItem>,
    /// Whose turn it is.
    next: usize,
    /// Items finished so far: where their order doesn't matter, their turn.
    count: usize,
    running: usize,
    /// Who waits: a bell that nobody hears would still cost a system call.
    reader_waits: bool,
    lacks_room: bool,
    threads: usize,
    most_threads: usize,
    input_ended: bool,
    panic: Option<Box<dyn Any + Send>>,
}

impl Desk {
    /// Waits until one more item may be begun; false if none will.
    fn wait_for_room(&self, client: &Client) -> bool {
        let mut state = lock(&self.state);
        while !client.is_drained() && state.running + state.finished.len() >= self.most {
            state.lacks_room = true;
            state = wait(&self.taken, state);
            state.lacks_room = false;
        }
        !client.is_drained()
    }

    /// Puts a finished item there. Says whether another thread would find something to do: all that there are have, but for
    /// the one that puts this.
    fn put(&self, item: BatchItem) -> bool {
        let mut state = lock(&self.state);
        let turn = if self.in_order { item.index } else { state.count };
        state.finished.insert(turn, item);
        state.count += 1;
        state.running -= 1;
        let more =
            !state.input_ended && state.threads < state.most_threads && state.running + 1 >= state.threads;
        let awaited = state.reader_waits && turn == state.next;
        drop(state); // who is woken finds it free
        if awaited {
            self.put.notify_one();
        }
        more
    }

    /// Takes the next item, or waits for it; none when there will be no more.
    fn take(&self, client: &Client) -> Option<BatchItem> {
        let mut state = lock(&self.state);
        loop {
            let turn = state.next;
            if let Some(item) = state.finished.remove(&turn) {
                state.next += 1;
                if state.lacks_room {
                    self.taken.notify_one();
                }
                return Some(item);
            }
            if state.running == 0 && (state.input_ended || client.is_drained()) {
                let panic = state.panic.take();
                drop(state);
                return panic.and_then(|panic| resume_unwind(panic));
            }
            state.reader_waits = true;
            state = wait(&self.put, state);
            state.reader_waits = false;
        }
    }

    /// There are no more requests.
    fn end(&self, panic: Option<Box<dyn Any + Send>>) {
        let mut state = lock(&self.state);
        (state.input_ended, state.panic) = (true, panic);
        self.put.notify_one();
    }

    /// The client was shut down or drained.
    fn wake(&self) {
        let _state = lock(&self.state); // who looks at it is either waiting already or sees the shutdown
        self.put.notify_one();
        self.taken.notify_one();
    }
}
