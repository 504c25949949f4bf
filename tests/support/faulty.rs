//! A service on a loopback port that fails at a given rate, in five different ways, and counts what it did.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::support::{Reply, Request, Server, ok, reset, silence, status};

pub(crate) struct Service {
    server: Server,
    shared: Arc<Shared>,
}

struct Shared {
    /// The share of requests that fail.
    failing: f64,
    latency: Duration,
    books: Mutex<Books>,
    changed: Condvar,
}

/// The service's counts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Books {
    pub(crate) requests: usize,
    /// Requests in flight, now and at most.
    pub(crate) now: usize,
    pub(crate) most: usize,
    /// Complete answers, by prompt.
    pub(crate) answered: BTreeMap<String, usize>,
    pub(crate) failures: BTreeMap<&'static str, usize>,
    /// The idempotency keys of all attempts, by prompt.
    pub(crate) keys: BTreeMap<String, BTreeSet<String>>,
}

const FAILURES: [&str; 5] = ["429", "500", "reset", "stall", "cut"];

impl Service {
    pub(crate) fn new(failing: f64, latency: Duration) -> Service {
        let (books, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { failing, latency, books, changed });
        let server = Server::respond({
            let shared = Arc::clone(&shared);
            move |request| shared.respond(request)
        });
        Service { server, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn books(&self) -> Books {
        self.shared.books.lock().unwrap().clone()
    }

    /// Waits until it has received this many requests, or until `over` returns true; `over` is polled.
    pub(crate) fn wait_for(&self, requests: usize, mut over: impl FnMut() -> bool) {
        let mut books = self.shared.books.lock().unwrap();
        while books.requests < requests && !over() {
            books = self.shared.changed.wait_timeout(books, Duration::from_millis(20)).unwrap().0;
        }
    }
}

impl Shared {
    fn respond(&self, request: &Request) -> Reply {
        let fails = fastrand::f64() < self.failing;
        let failure = fails.then(|| FAILURES[fastrand::usize(..FAILURES.len())]);
        let prompt = request.json()["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        self.begin(&prompt, request.header("idempotency-key"));
        let answer = ok(&prompt);
        let length = answer.body_len();
        let reply = match failure {
            Some("429") => status(429),
            Some("500") => status(500),
            Some("reset") => reset(),
            Some("stall") => silence(),
            Some("cut") => answer.cut_after(length - 20),
            _ => answer,
        };
        if !self.latency.is_zero() {
            thread::sleep(self.latency);
        }
        self.note(failure, prompt); // before it is sent, so that it is counted when the client has the answer
        reply
    }

    fn begin(&self, prompt: &str, key: Option<&str>) {
        let mut books = self.books.lock().unwrap();
        if self.failing > 0.0 {
            // Without failures there are no retries, and keeping the keys would distort measurements of speed.
            books.keys.entry(prompt.to_owned()).or_default().insert(key.unwrap_or_default().to_owned());
        }
        books.now += 1;
        books.most = books.most.max(books.now);
    }

    fn note(&self, failure: Option<&'static str>, prompt: String) {
        let mut books = self.books.lock().unwrap();
        books.requests += 1;
        books.now -= 1;
        match failure {
            Some(failure) => *books.failures.entry(failure).or_default() += 1,
            None => *books.answered.entry(prompt).or_default() += 1,
        }
        drop(books);
        self.changed.notify_all();
    }
}
