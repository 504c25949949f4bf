//! A scripted HTTP server on a loopback port that simulates faults, for tests of programs that use this crate.
//!
//! It needs the feature `test-server`, which belongs in the program's development dependencies:
//!
//! ```toml
//! [dev-dependencies]
//! holysheep = { version = "0.1", features = ["test-server"] }
//! ```
//!
//! [`Server::script`] takes one [`Reply`] for each request, sends them in order, byte for byte, and records the requests.
//! With a [fake clock](crate::Clock::fake) the client's waits take no time and can be asserted. This example tests an
//! application against a service that first rejects its call and then cuts off the answer:
//!
//! ```
//! use std::time::Duration;
//!
//! use holysheep::test_server::{Server, ok, status, stream};
//! use holysheep::{AdaptiveConfig, ChatRequest, Client, Clock, Config, Error, Jitter, RetryConfig};
//!
//! /// The function under test: shows an answer as it arrives, and replaces a truncated one.
//! fn show(client: &Client, question: &str, screen: &mut String) -> holysheep::Result<()> {
//!     let request = ChatRequest::new("gpt-4.1").user(question);
//!     for chunk in client.chat_stream(&request)? {
//!         match chunk {
//!             Ok(chunk) => screen.push_str(chunk.text()),
//!             Err(Error::StreamTruncated { .. }) => *screen = client.chat(&request)?.text().to_owned(),
//!             Err(error) => return Err(error),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! let server = Server::script([
//!     status(429).retry_after(2),
//!     stream(["Sheep eat ", "grass."]).cut_after_events(1),
//!     ok("Sheep eat grass."),
//! ]);
//! let clock = Clock::fake();
//! let config = Config::builder()
//!     .api_key("sk-test")
//!     .base_url(server.url())
//!     .clock(clock.clone())
//!     // Without jitter and pacing, every wait is predictable.
//!     .retry(RetryConfig::default().jitter(Jitter::None))
//!     .adaptive(AdaptiveConfig::off());
//! let client = Client::new(config.build()?)?;
//! let mut screen = String::new();
//!
//! show(&client, "What do sheep eat?", &mut screen)?;
//!
//! assert_eq!(screen, "Sheep eat grass.");
//! assert_eq!(clock.sleeps(), [Duration::from_secs(2)]); // from the 429's Retry-After
//! let requests = server.requests();
//! assert_eq!(requests.len(), 3);
//! assert_eq!(requests[2].path, "/v1/chat/completions");
//! assert_eq!(requests[2].json()["messages"][0]["content"], "What do sheep eat?");
//! # Ok::<(), Error>(())
//! ```
//!
//! If several threads make calls, the order of the requests is unpredictable: [`Server::respond`] computes each reply from
//! its request.
//!
//! The server speaks HTTP/1.1 without TLS. A request needs a `Content-Length`; one with a chunked body is answered with
//! 411. The server accepts connections from this machine only. It is bounded by [`MAX_CONNECTIONS`], [`MAX_HEAD`],
//! [`MAX_BODY`] and [`MAX_RECORDED`].

mod connection;
mod reply;
mod request;

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::{lock, wait};

pub use reply::{Reply, cut_after, hang_up, ok, raw, reset, silence, status, stream, tool_call};
pub use request::Request;

/// The maximum number of open connections, each of which has a thread. Further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 4096;

/// The maximum size of a request's head in bytes. A connection with a larger one is closed.
pub const MAX_HEAD: usize = 64 * 1024;

/// The maximum size of a request's body in bytes. A larger one is answered with 413, and the connection is closed.
pub const MAX_BODY: usize = 64 * 1024 * 1024;

/// The maximum size of all recorded requests in bytes. Further requests are answered with 507, which isn't retried.
pub const MAX_RECORDED: usize = 256 * 1024 * 1024;

/// The pause after a failure to accept a connection: the process may have too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A scripted HTTP server; see the [module](self) for an example.
///
/// Dropping it closes its port and all its connections.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when a request was recorded.
    recorded: Condvar,
    /// Computes the reply to a request after the end of the script.
    respond: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
    /// Cancelled when the server is dropped.
    stopped: Cancel,
}

#[derive(Default)]
struct State {
    script: VecDeque<Reply>,
    requests: Vec<Arc<Request>>,
    /// The size of all recorded requests in bytes.
    bytes: usize,
    /// The number of connections that were accepted.
    connections: usize,
}

impl Server {
    /// A server that sends these replies in order, one for each request.
    ///
    /// Requests after the end of the script are answered with 418, which isn't retried, and a message that says so.
    ///
    /// # Panics
    ///
    /// If the system provides no loopback port or no thread.
    #[track_caller]
    pub fn script(replies: impl IntoIterator<Item = Reply>) -> Server {
        let server = Server::respond(|_| {
            reply::refusal(418, "the script of the test server has no reply for this request")
        });
        server.add(replies);
        server
    }

    /// A server that answers every request with this reply.
    ///
    /// # Panics
    ///
    /// If the system provides no loopback port or no thread.
    #[track_caller]
    pub fn always(reply: Reply) -> Server {
        Server::respond(move |_| reply.clone())
    }

    /// A server that computes its replies.
    ///
    /// The function is called on the threads of the connections and may block. If it panics, its connection is closed.
    ///
    /// ```
    /// use holysheep::test_server::{Server, ok, status};
    ///
    /// let server = Server::respond(|request| match request.json()["model"].as_str() {
    ///     Some("gpt-4.1") => ok("hi"),
    ///     _ => status(404),
    /// });
    /// assert!(server.url().starts_with("http://127.0.0.1:"));
    /// ```
    ///
    /// # Panics
    ///
    /// If the system provides no loopback port or no thread.
    #[track_caller]
    #[expect(clippy::panic, reason = "documented: the server is for tests, which can't continue without it")]
    pub fn respond(respond: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            recorded: Condvar::new(),
            respond: Box::new(respond),
            stopped: Cancel::default(),
        });
        let accepting = Arc::clone(&shared);
        let started = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| {
            let address = listener.local_addr()?;
            let accept = move || accept(&listener, &accepting);
            Ok((address, thread::Builder::new().name("test-server".to_owned()).spawn(accept)?))
        });
        match started {
            Ok((address, acceptor)) => Server { address, shared, acceptor: Some(acceptor) },
            Err(error) => panic!("can't start a test server on a loopback port: {error}"),
        }
    }

    /// The base URL for the client: `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds replies at the end of the script. They come before those of [`always`](Server::always) and
    /// [`respond`](Server::respond).
    pub fn add(&self, replies: impl IntoIterator<Item = Reply>) {
        let replies: Vec<Reply> = replies.into_iter().collect(); // before locking: the iterator may block or use this server
        lock(&self.shared.state).script.extend(replies);
    }

    /// The requests received so far, whether answered yet or not, in the order of their replies.
    pub fn requests(&self) -> Vec<Request> {
        let requests = lock(&self.shared.state).requests.clone();
        requests.iter().map(|request| Request::clone(request)).collect()
    }

    /// The number of connections that were opened so far.
    pub fn connections(&self) -> usize {
        lock(&self.shared.state).connections
    }

    /// Waits until this many requests were received, whether answered yet or not, and without a timeout: for tests of
    /// cancellation and shutdown.
    pub fn wait_for_requests(&self, count: usize) {
        let mut state = lock(&self.shared.state);
        while state.requests.len() < count {
            state = wait(&self.shared.recorded, state);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
        // The connection wakes the acceptor. If it fails, joining the acceptor could block forever.
        if let (Ok(_), Some(acceptor)) = (TcpStream::connect(self.address), self.acceptor.take()) {
            let _ = acceptor.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Shared {
    /// Records a request and returns the reply to it. The first recorded request gets the first reply of the script.
    fn reply_to(&self, request: Request) -> Reply {
        let request = Arc::new(request);
        let mut state = lock(&self.state);
        if state.bytes.saturating_add(request.size()) > MAX_RECORDED {
            return reply::refusal(507, "the test server has reached its limit on recorded bytes");
        }
        state.bytes += request.size();
        state.requests.push(Arc::clone(&request));
        let scripted = state.script.pop_front();
        drop(state);
        self.recorded.notify_all();
        scripted.unwrap_or_else(|| (self.respond)(&request))
    }

    /// Sleeps; returns whether the server still exists afterwards.
    fn sleep(&self, time: Duration) -> bool {
        let clock = Clock::system();
        let now = clock.now();
        self.stopped.sleep_until(&clock, now.checked_add(time).unwrap_or(now))
    }
}

/// Accepts connections until the server is dropped.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut open: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if shared.stopped.is_cancelled() {
            return;
        }
        let Ok(stream) = stream else {
            shared.sleep(ACCEPT_PAUSE);
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS {
            continue;
        }
        let number = {
            let mut state = lock(&shared.state);
            state.connections += 1;
            state.connections
        };
        let shared = Arc::clone(shared);
        // If no thread can be spawned, the connection is closed.
        open.extend(thread::Builder::new().spawn(move || connection::serve(stream, number, &shared)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_beyond_the_recorded_bytes_is_refused_and_not_recorded() {
        let shared = Shared {
            state: Mutex::default(),
            recorded: Condvar::new(),
            respond: Box::new(|_| ok("hi")),
            stopped: Cancel::default(),
        };
        let request = Request::parse("GET / HTTP/1.1").unwrap();
        lock(&shared.state).bytes = MAX_RECORDED - request.size();
        for (status, recorded) in [("HTTP/1.1 200", 1), ("HTTP/1.1 507", 1)] {
            let reply = shared.reply_to(request.clone());
            assert!(reply.bytes().starts_with(status.as_bytes()), "{reply:?}");
            assert_eq!(lock(&shared.state).requests.len(), recorded);
        }
    }
}
