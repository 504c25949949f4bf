//! A service on a loopback port that fails at a given rate, in five different ways, and counts its requests and answers.
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
    counts: Mutex<Counts>,
    changed: Condvar,
}

/// The service's counts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) requests: usize,
    /// Requests in flight: the current number and its maximum.
    pub(crate) in_flight: usize,
    pub(crate) most_in_flight: usize,
    /// Complete answers, by prompt.
    pub(crate) answered: BTreeMap<String, usize>,
    pub(crate) failures: BTreeMap<&'static str, usize>,
    /// The idempotency keys of all attempts, by prompt.
    pub(crate) keys: BTreeMap<String, BTreeSet<String>>,
}

const FAILURES: [&str; 5] = ["429", "500", "reset", "stall", "cut"];

impl Service {
    pub(crate) fn new(failing: f64, latency: Duration) -> Service {
        let (counts, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { failing, latency, counts, changed });
        let server = Server::respond({
            let shared = Arc::clone(&shared);
            move |request| shared.respond(request)
        });
        Service { server, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap().clone()
    }

    /// Waits until this many requests were handled, or until `over` returns true; `over` is polled.
    pub(crate) fn wait_for(&self, requests: usize, mut over: impl FnMut() -> bool) {
        let mut counts = self.shared.counts.lock().unwrap();
        while counts.requests < requests && !over() {
            counts = self.shared.changed.wait_timeout(counts, Duration::from_millis(20)).unwrap().0;
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
        self.end(failure, prompt); // before the reply is sent, so that it is counted when the client receives it
        reply
    }

    fn begin(&self, prompt: &str, key: Option<&str>) {
        let mut counts = self.counts.lock().unwrap();
        if self.failing > 0.0 {
            // Without failures there are no retries, and storing the keys would distort measurements of speed.
            counts.keys.entry(prompt.to_owned()).or_default().insert(key.unwrap_or_default().to_owned());
        }
        counts.in_flight += 1;
        counts.most_in_flight = counts.most_in_flight.max(counts.in_flight);
    }

    fn end(&self, failure: Option<&'static str>, prompt: String) {
        let mut counts = self.counts.lock().unwrap();
        counts.requests += 1;
        counts.in_flight -= 1;
        match failure {
            Some(failure) => *counts.failures.entry(failure).or_default() += 1,
            None => *counts.answered.entry(prompt).or_default() += 1,
        }
        drop(counts);
        self.changed.notify_all();
    }
}
