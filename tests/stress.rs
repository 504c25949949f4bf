//! Cancellations, drains and shutdowns at random moments, while many threads make calls, streams and batches: every call ends,
//! with its own answer or the right error, and no permit is kept.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use holysheep::test_server::{Server, cut_after, ok, reset, status, stream};
use holysheep::{AdaptiveConfig, Cancel, ChatRequest, Client, Clock, Config, Error, RetryConfig};

const THREADS: usize = 200;

/// Rounds, unless the environment variable `ROUNDS` has another number.
const ROUNDS: u64 = 4;

/// The longest that a round may take, in real time: the clock is fake.
const MOST: Duration = Duration::from_secs(60);

/// The calls that a thread makes at most.
const CALLS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Cancel,
    Drain,
    Shutdown,
}

/// A service that often fails.
fn service(seed: u64) -> Server {
    let random = Mutex::new(fastrand::Rng::with_seed(seed));
    Server::respond(move |request| match random.lock().unwrap().u8(0..20) {
        0 => status(429).retry_after(1),
        1 => status(503),
        2 => reset(),
        3 => cut_after(120),
        _ if request.json()["stream"] == true => stream(["Hel", "lo"]),
        _ => ok("Hello"),
    })
}

fn client(server: &Server, seed: u64) -> Client {
    let config = Config::builder()
        .api_key("sk-0123456789abcdef")
        .base_url(server.url())
        .clock(Clock::fake())
        .timeout(Duration::from_secs(5))
        .retry(RetryConfig::default().max_retries(3))
        .adaptive(AdaptiveConfig::default().seed(seed).wait_when_open(seed % 2 == 0));
    Client::new(config.build().unwrap()).unwrap()
}

/// Whether a call may end so.
#[track_caller]
fn check(text: Result<String, Error>, is_whole: bool, interruption: Interruption) -> bool {
    match text {
        Ok(text) => {
            assert!(if is_whole { text == "Hello" } else { "Hello".starts_with(&text) }, "{text:?}");
            false
        }
        Err(Error::Shutdown) => {
            assert_ne!(interruption, Interruption::Cancel, "other calls continue");
            true
        }
        Err(Error::Cancelled) => {
            assert_eq!(interruption, Interruption::Cancel);
            true
        }
        Err(_) => false,
    }
}

/// Makes calls of all kinds until one is ended by the interruption.
fn make_calls(client: &Client, seed: u64, interruption: Interruption, made: &AtomicUsize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let request = ChatRequest::new("m").user("hi");
    for _ in 0..CALLS {
        made.fetch_add(1, Ordering::Relaxed);
        let has_ended = match random.u8(0..5) {
            0 | 1 => {
                let answer = client.chat(&request).map(|answer| answer.text().to_owned());
                check(answer, true, interruption)
            }
            2 => {
                let answer = client.chat_stream(&request).and_then(|stream| stream.into_response());
                check(answer.map(|answer| answer.text().to_owned()), true, interruption)
            }
            3 => {
                // Dropped in the middle.
                let first = client.chat_stream(&request).and_then(|mut stream| stream.next().transpose());
                let text = first.map(|chunk| chunk.map_or(String::new(), |chunk| chunk.text().to_owned()));
                check(text, false, interruption)
            }
            _ => {
                let batch = client.batch(vec![request.clone(); 4]).concurrency(2).run();
                let ends: Vec<bool> = batch
                    .map(|item| {
                        let answer = item.result.map(|answer| answer.text().to_owned());
                        check(answer, true, interruption)
                    })
                    .collect();
                ends.contains(&true)
            }
        };
        if has_ended {
            return;
        }
    }
}

fn round(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let server = service(random.u64(..));
    let client = client(&server, seed);
    let interruption =
        [Interruption::Cancel, Interruption::Drain, Interruption::Shutdown][random.usize(0..3)];
    let (cancel, made, moment) = (Cancel::new(), AtomicUsize::new(0), random.usize(0..2 * THREADS));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let clone = if interruption == Interruption::Cancel && thread % 2 == 0 {
                client.with_cancel(&cancel)
            } else {
                client.clone()
            };
            let (seed, made) = (random.u64(..), &made);
            scope.spawn(move || make_calls(&clone, seed, interruption, made));
        }
        while made.load(Ordering::Relaxed) < moment {
            thread::yield_now();
        }
        match interruption {
            Interruption::Cancel => cancel.cancel(),
            Interruption::Drain => client.drain(),
            Interruption::Shutdown => client.shutdown(),
        }
    });
    let snapshot = client.handler("m").snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0), "seed {seed}: {interruption:?}");
    let after = client.chat(&ChatRequest::new("m").user("hi"));
    match interruption {
        Interruption::Cancel => assert!(!matches!(after, Err(Error::Cancelled | Error::Shutdown))),
        _ => assert!(matches!(after, Err(Error::Shutdown)), "seed {seed}: {after:?}"),
    }
}

#[test]
fn every_call_ends_when_others_are_ended_at_random_moments() {
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let (progress, done) = mpsc::channel();
    let runner = thread::spawn(move || {
        for seed in 0..rounds {
            round(seed);
            progress.send(seed).unwrap();
        }
    });
    let mut last = None;
    loop {
        match done.recv_timeout(MOST) {
            Ok(seed) => last = Some(seed),
            Err(RecvTimeoutError::Timeout) => panic!("the round after {last:?} hangs"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    runner.join().unwrap();
}
