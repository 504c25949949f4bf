//! A service on a loopback port that fails at a given rate, in five different ways, and counts what it did.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::support::{Reply, ok, read_head, status};

/// Serves until the process ends.
pub(crate) struct Service {
    address: SocketAddr,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (books, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { failing, latency, books, changed });
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().flatten() {
                    let shared = Arc::clone(&shared);
                    let serve = move || serve(stream, &shared);
                    drop(thread::Builder::new().stack_size(128 * 1024).spawn(serve));
                }
            }
        });
        Service { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
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

fn serve(mut stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_head(&mut reader, 0) {
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let fails = fastrand::f64() < shared.failing;
        let failure = fails.then(|| FAILURES[fastrand::usize(..FAILURES.len())]);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let prompt = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        shared.begin(&prompt, request.header("idempotency-key"));
        let reply: Reply = match failure {
            Some("429") => status(429),
            Some("500") => status(500),
            _ => ok(&prompt),
        };
        if !shared.latency.is_zero() {
            thread::sleep(shared.latency);
        }
        let bytes = reply.bytes();
        let sent = match failure {
            Some("reset" | "stall") => &[],
            Some("cut") => &bytes[..bytes.len() - 20],
            _ => &bytes[..],
        };
        shared.note(failure, prompt); // before it is sent, so that it is counted when the client has the answer
        if stream.write_all(sent).is_err() {
            return;
        }
        match failure {
            Some("reset") => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Some("stall") => {
                let _ = reader.read(&mut [0]); // until the client closes the connection
                return;
            }
            Some("cut") => return,
            _ => {}
        }
    }
}
