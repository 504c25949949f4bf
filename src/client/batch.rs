//! Batches: a bounded pool of workers sends the calls; those that wait for a permit or a retry occupy no worker.

mod pool;
mod queue;
mod request;
mod state;

use std::fmt;
use std::sync::Arc;

use self::pool::WorkerPool;
use self::request::Sendable;
use self::state::Limits;
use crate::api::{ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse};
use crate::client::Client;
use crate::error::Result;
use crate::http::options::MAX_IDLE;

/// The default number of calls in flight: enough for most quotas, and no burden on a small self-hosted server.
const CONCURRENCY: usize = 8;

/// The maximum number of calls in flight: as many as idle connections are kept by default.
const MAX_CONCURRENCY: usize = MAX_IDLE;

/// Threads at the start. Each call that succeeds without having waited for a permit adds at most one more, so their
/// number at most doubles in the time of a call, until the service slows the calls down or there are enough.
const FIRST_THREADS: usize = CONCURRENCY;

/// Results that may be queued for each call in flight: one, so that no worker waits for a consumer that is briefly
/// busy; more if they must come in order, so that one slow call doesn't block all others.
const QUEUED: usize = 1;
const QUEUED_IN_ORDER: usize = 8;

/// Calls that may wait for a permit or a retry for each call in flight: enough to find one for another model, or one
/// that needs no retry, behind them.
const WAITING: usize = 8;

/// A request that [`Client::batch`] can send: a [`ChatRequest`] or an [`EmbeddingRequest`].
pub trait BatchRequest:
    Sendable<Answer = <Self as BatchRequest>::Response> + fmt::Debug + Send + 'static
{
    /// The answer.
    type Response: fmt::Debug + Send + 'static;
}

impl BatchRequest for ChatRequest {
    type Response = ChatResponse;
}

impl BatchRequest for EmbeddingRequest {
    type Response = EmbeddingResponse;
}

/// A batch of requests, not yet sent. Created by [`Client::batch`].
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let client = Client::from_env()?;
/// let requests = (1..=1000).map(|n| ChatRequest::new("gpt-4.1").user(format!("A fact about {n}?")));
/// let batch = client.batch(requests).concurrency(32).in_order(true);
/// for item in batch.run() {
///     println!("{}: {}", item.index, item.result?.text());
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
#[must_use = "nothing is sent before run()"]
pub struct Batch<I> {
    client: Client,
    requests: I,
    concurrency: usize,
    in_order: bool,
}

/// The outcome of one request of a batch.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let requests = ["a", "b"].map(|text| ChatRequest::new("gpt-4.1").user(text));
/// let mut failed = Vec::new();
/// for item in Client::from_env()?.batch(requests).run() {
///     match item.result {
///         Ok(answer) => println!("{}: {}", item.index, answer.text()),
///         Err(error) if error.is_retryable() => failed.push(item.request), // for a later batch
///         Err(error) => eprintln!("{}: {error}", item.index),
///     }
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchItem<R: BatchRequest = ChatRequest> {
    /// The position of the request in the input, from 0.
    pub index: usize,
    /// The request.
    pub request: R,
    /// The answer, or the error of the call.
    pub result: Result<R::Response>,
}

impl Client {
    /// Sends many chat or embedding requests concurrently.
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
    /// Each request becomes one [`BatchItem`], unless the batch is dropped. After the client was shut down, drained or
    /// cancelled, no further requests are pulled, and those that were pulled and not sent end with that error; but a
    /// request that the iterator is just returning may be lost, because the batch doesn't wait for it. Requests
    /// are pulled one by one, on the threads that make the calls, when there is room for them, so that memory is bounded
    /// for an input of any length.
    ///
    /// The calls are those of [`chat`](Client::chat) and [`embeddings`](Client::embeddings), but more persistent, because no
    /// caller waits for a single one:
    ///
    /// - While the circuit breaker is open they wait, instead of failing one after the other. Probing whether the service is
    ///   back consumes none of a call's retries, up to 30 times. That is about ten minutes of an outage with one call in
    ///   flight, and more than an hour with eight.
    /// - An empty retry budget doesn't end them: a retry replaces a new call. They still spend the budget, so that
    ///   single calls of the same client have no retries left while a batch is failing.
    /// - Their deadlines stand still while they wait for a permit.
    /// - A call that waits for a permit or for a retry doesn't count as in flight: others proceed, also for another
    ///   model. Up to eight calls may wait for each call in flight.
    /// - A call that is refused twice is queued behind the others: it may be larger than the quota, and the others would
    ///   wait for a call that never succeeds.
    ///
    /// A server that asks for a longer wait than [`status_max_delay`](crate::RetryConfig::status_max_delay) allows fails the
    /// item at once, as it does for single calls. Raise that limit for jobs that have the time.
    pub fn batch<I>(&self, requests: I) -> Batch<I::IntoIter>
    where
        I: IntoIterator,
        I::Item: BatchRequest,
        I::IntoIter: Send + 'static,
    {
        let requests = requests.into_iter();
        Batch { client: self.clone(), requests, concurrency: CONCURRENCY, in_order: false }
    }
}

impl<I> Batch<I>
where
    I: Iterator + Send + 'static,
    I::Item: BatchRequest,
{
    /// The number of calls in flight: 1 to 4,096, 8 by default. Any other number becomes the nearest of these.
    ///
    /// More than a quota allows do no harm: threads are added only while calls needn't wait for permits. But each call
    /// needs a connection, and so an open file: if `ulimit -n` is too low, calls fail.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.clamp(1, MAX_CONCURRENCY);
        self
    }

    /// Whether the items come in the order of the requests; by default they come in the order of completion.
    ///
    /// This is slower if some calls take much longer than others, because at most eight results for each call in flight
    /// are queued.
    pub fn in_order(mut self, yes: bool) -> Self {
        self.in_order = yes;
        self
    }

    /// Starts the batch on threads and connections of its own, and returns its items. The batch pauses while no item is
    /// taken.
    ///
    /// Dropping the iterator ends all its calls at once. After a [`shutdown`](Client::shutdown) the calls that had begun
    /// return [`Error::Shutdown`](crate::Error::Shutdown), then the iterator ends; after a [`drain`](Client::drain) the
    /// requests in flight finish.
    ///
    /// A panic in a call, which only the program's own [`on_event`](crate::ConfigBuilder::on_event) can cause, becomes that
    /// item's [`Error::Panicked`](crate::Error::Panicked). A panic in the requests' iterator ends the input, and is resumed
    /// when all calls that had begun are finished.
    pub fn run(self) -> impl Iterator<Item = BatchItem<I::Item>> + Send {
        self.start(FIRST_THREADS)
    }

    /// Starts the batch with so many threads. Without any, taking its items makes the calls.
    pub(super) fn start(self, threads: usize) -> Run<I> {
        let Batch { client, requests, concurrency, in_order } = self;
        let limits = Limits {
            threads: concurrency,
            results: concurrency * if in_order { QUEUED_IN_ORDER } else { QUEUED },
            waiting: concurrency * WAITING,
        };
        let pool = WorkerPool::new(&client, requests, limits, in_order);
        for _ in 0..threads {
            pool.spawn_worker();
        }
        Run { pool }
    }
}

/// The items of a running batch.
pub(super) struct Run<I>
where
    I: Iterator + Send + 'static,
    I::Item: BatchRequest,
{
    pool: Arc<WorkerPool<I>>,
}

impl<I> Iterator for Run<I>
where
    I: Iterator + Send + 'static,
    I::Item: BatchRequest,
{
    type Item = BatchItem<I::Item>;

    fn next(&mut self) -> Option<BatchItem<I::Item>> {
        self.pool.take()
    }
}

impl<I> Drop for Run<I>
where
    I: Iterator + Send + 'static,
    I::Item: BatchRequest,
{
    fn drop(&mut self) {
        self.pool.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Config;

    #[test]
    fn the_number_of_threads_is_limited() {
        let config = Config::builder().api_key("sk-test-0123456789").base_url("http://127.0.0.1:1/v1");
        let client = Client::new(config.build().unwrap()).unwrap();
        let concurrency = |calls| client.batch([ChatRequest::new("m")]).concurrency(calls).concurrency;
        assert_eq!([0, 1, 4096, usize::MAX].map(concurrency), [1, 1, 4096, 4096]);
    }
}
