//! Batches on the system's clock: idle workers are woken as soon as calls may go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use holysheep::{
    AdaptiveConfig, AdaptiveHandler, Admission, ChatRequest, Client, Config, Event, Outcome, Permit,
    RetryConfig,
};
use support::{Server, ok, status};

const CALLS: usize = 12;
const WORKERS: usize = 4;

/// Far more than a worker needs to wake up, and less than the time for which the open circuit breaker holds the calls back.
const TOO_LONG: Duration = Duration::from_secs(10);

/// A handler whose circuit breaker had opened a minute ago, so that the next call is its probe.
fn after_outage(config: AdaptiveConfig) -> AdaptiveHandler {
    let handler = AdaptiveHandler::new(config.seed(1));
    let long_ago = Instant::now() - Duration::from_secs(60);
    for nth in 0..10 {
        let then = long_ago + Duration::from_secs(nth);
        handler.record(then, admit(&handler, then), Outcome::failed());
    }
    handler
}

fn admit(handler: &AdaptiveHandler, now: Instant) -> Permit {
    match handler.admit(now) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// A number that threads wait for.
#[derive(Default)]
struct Count(Mutex<usize>, Condvar);

impl Count {
    fn increment(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }

    /// Returns whether it reached this number in time.
    fn reaches(&self, number: usize) -> bool {
        let count = self.0.lock().unwrap();
        let (count, _) = self.1.wait_timeout_while(count, TOO_LONG, |count| *count < number).unwrap();
        *count >= number
    }
}

/// Runs a batch. Returns the calls that succeeded, each with the time that it waited.
fn run(server: &Server, handler: &AdaptiveHandler, pulled: &Arc<Count>) -> Vec<Duration> {
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url());
    let client = Client::new(config.handler(handler.clone()).build().unwrap()).unwrap();
    let pulled = Arc::clone(pulled);
    let requests =
        (0..CALLS).map(move |_| ChatRequest::new("gpt-4.1").user("hi")).inspect(move |_| pulled.increment());
    let items = client.batch(requests).concurrency(WORKERS).run();
    items.filter_map(|item| Some(item.result.ok()?.meta().waited)).collect()
}

#[test]
fn all_workers_send_once_the_probe_of_one_has_closed_the_circuit_breaker() {
    let handler = after_outage(AdaptiveConfig::default());
    let (pulled, arrived) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let server = Server::respond({
        let (pulled, arrived) = (Arc::clone(&pulled), Arc::clone(&arrived));
        let number = AtomicUsize::new(0);
        move |_| {
            // The first request is the probe, which is answered when all other calls wait. Of the others, none is
            // answered before there is one from each worker.
            let in_time = if number.fetch_add(1, Ordering::SeqCst) == 0 {
                pulled.reaches(CALLS)
            } else {
                arrived.increment();
                arrived.reaches(WORKERS)
            };
            if in_time { ok("hi") } else { status(400) }
        }
    });
    assert_eq!(run(&server, &handler, &pulled).len(), CALLS);
}

/// Runs a batch that waits for the outcome of a probe that isn't one of its calls. Returns how many calls waited and
/// succeeded.
fn run_after(end_probe: fn(&AdaptiveHandler, Permit), config: AdaptiveConfig) -> usize {
    let handler = after_outage(config);
    let probe = admit(&handler, Instant::now());
    let pulled = Arc::new(Count::default());
    let server = Server::always(ok("hi"));
    let other_call = thread::spawn({
        let (handler, pulled) = (handler.clone(), Arc::clone(&pulled));
        move || {
            assert!(pulled.reaches(CALLS));
            while handler.snapshot().waiting < CALLS {
                thread::yield_now();
            }
            end_probe(&handler, probe);
        }
    });
    let waits = run(&server, &handler, &pulled);
    other_call.join().unwrap();
    waits.iter().filter(|wait| !wait.is_zero()).count()
}

#[test]
fn a_batch_is_woken_by_the_outcome_of_another_call() {
    let started = Instant::now();
    let succeed =
        |handler: &AdaptiveHandler, probe| handler.record(Instant::now(), probe, Outcome::success());
    assert_eq!(run_after(succeed, AdaptiveConfig::default()), CALLS);
    // Then calls may go one by one: each time a worker has to wait, but not as long as while the breaker was open.
    assert_eq!(run_after(succeed, AdaptiveConfig::default().max_rate(6000.0)), CALLS);
    assert_eq!(run_after(|_, probe| drop(probe), AdaptiveConfig::default()), CALLS);
    assert!(started.elapsed() < TOO_LONG, "{:?}", started.elapsed());
}

/// Which worker is woken is up to the system, so it is tried repeatedly.
#[test]
fn a_worker_waits_for_an_earlier_retry_than_the_one_that_another_worker_waits_for() {
    (0..10).for_each(|_| retry_earlier_than_another());
}

fn retry_earlier_than_another() {
    let (arrived, refused) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let server = Server::respond({
        let (arrived, refused) = (Arc::clone(&arrived), Arc::clone(&refused));
        move |request| {
            arrived.increment();
            let in_time = arrived.reaches(2);
            match request.body.contains("\"slow\"") {
                true => status(429).retry_after(60),
                // The first answer comes when the other call waits for its retry.
                false if *arrived.0.lock().unwrap() == 2 && in_time && refused.reaches(1) => status(500),
                false => ok("hi"),
            }
        }
    });
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url());
    let retry = RetryConfig::default().base_delay(Duration::from_millis(10));
    let config = config.retry(retry).on_event(move |event| {
        if matches!(event, Event::Retry { .. }) && event.model() == "slow" {
            refused.increment();
        }
    });
    let client = Client::new(config.build().unwrap()).unwrap();
    let requests = ["slow", "quick"].map(|model| ChatRequest::new(model).user("hi"));
    let started = Instant::now();
    let first = client.batch(requests).concurrency(WORKERS).run().next().unwrap();
    assert_eq!((first.index, first.result.unwrap().meta().attempts), (1, 2));
    assert!(started.elapsed() < TOO_LONG, "{:?}", started.elapsed());
}
