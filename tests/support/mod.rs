//! A scripted HTTP server on a loopback port: it sends the replies of its script byte for byte and records the requests.
#![allow(dead_code, unreachable_pub, reason = "each test binary and example uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a broken test server must fail the test")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Closes all its connections when it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    script: VecDeque<Reply>,
    /// The reply to every request after the end of the script.
    otherwise: Option<Reply>,
    requests: Vec<Request>,
    connections: usize,
    over: bool,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Counted from 1.
    pub connection: usize,
}

/// What the server does with one request.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The most bytes of the reply that are sent.
    cut: usize,
    /// The wait before each byte after the first `unpaced` bytes.
    pace: Option<Duration>,
    unpaced: usize,
    /// The size of the chunks of a body with `transfer-encoding: chunked`.
    chunk: Option<usize>,
    /// The bytes by which `content-length` exceeds the body.
    missing: usize,
    after: After,
    length: bool,
    early: bool,
    latency: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    KeepOpen,
    Close,
    Stall,
    Reset,
}

/// A reply with this status and no body.
pub fn status(status: u16) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: Vec::new(),
        cut: usize::MAX,
        pace: None,
        unpaced: 0,
        chunk: None,
        missing: 0,
        after: After::KeepOpen,
        length: true,
        early: false,
        latency: Duration::ZERO,
    }
}

/// A chat completion with this text.
pub fn ok(text: &str) -> Reply {
    status(200).json(&serde_json::json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4.1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }))
}

/// Resets the connection after reading the head of the request.
pub fn reset() -> Reply {
    Reply { after: After::Reset, cut: 0, ..status(200) }
}

/// Closes the connection without an answer.
pub fn hang_up() -> Reply {
    status(200).cut(0)
}

/// Reads the request and never answers.
pub fn silence() -> Reply {
    status(200).stall_after(0)
}

impl Reply {
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets `Retry-After` to this many seconds.
    pub fn retry_after(self, seconds: u64) -> Reply {
        self.header("retry-after", &seconds.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    pub fn json(self, body: &serde_json::Value) -> Reply {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Closes the connection after this many bytes.
    pub fn cut(self, bytes: usize) -> Reply {
        Reply { cut: bytes, after: After::Close, ..self }
    }

    /// Stops sending after this many bytes and keeps the connection open.
    pub fn stall_after(self, bytes: usize) -> Reply {
        Reply { cut: bytes, after: After::Stall, ..self }
    }

    /// Sends one byte at a time.
    pub fn trickle(self, pace: Duration) -> Reply {
        Reply { pace: Some(pace), ..self }
    }

    /// Waits this long before the first byte.
    pub fn after(self, latency: Duration) -> Reply {
        Reply { latency, ..self }
    }

    /// Sends the first bytes without waiting.
    pub fn skip_pace(self, bytes: usize) -> Reply {
        Reply { unpaced: bytes, ..self }
    }

    /// Announces a body that is longer than what is sent.
    pub fn longer_by(self, bytes: usize) -> Reply {
        Reply { missing: bytes, ..self }
    }

    /// Leaves out `content-length`: the body ends with the connection.
    pub fn until_close(self) -> Reply {
        Reply { length: false, after: After::Close, ..self }
    }

    /// Sends the body in chunks of this size (`transfer-encoding: chunked`).
    pub fn chunked(self, size: usize) -> Reply {
        Reply { chunk: Some(size), length: false, ..self }
    }

    /// Closes the connection after the complete reply.
    pub fn then_close(self) -> Reply {
        Reply { after: After::Close, ..self }
    }

    /// Answers before reading the body of the request.
    pub fn early(self) -> Reply {
        Reply { early: true, ..self }
    }

    /// The number of bytes before the body.
    pub fn head_len(&self) -> usize {
        self.head().len()
    }

    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// All bytes of the reply.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        match self.chunk {
            None => bytes.extend_from_slice(&self.body),
            Some(size) => {
                for chunk in self.body.chunks(size) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.length {
            head += &format!("content-length: {}\r\n", self.body.len() + self.missing);
        }
        if self.chunk.is_some() {
            head += "transfer-encoding: chunked\r\n";
        }
        (head + "\r\n").into_bytes()
    }
}

impl Server {
    /// Answers the requests in order; every request after the end of the script is answered with 418.
    pub fn script(replies: impl IntoIterator<Item = Reply>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.state.lock().unwrap().script.extend(replies);
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Server { address, shared }
    }

    /// Answers every request with the same reply.
    pub fn always(reply: Reply) -> Server {
        let server = Server::script([]);
        server.shared.state.lock().unwrap().otherwise = Some(reply);
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn add(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().unwrap().script.extend(replies);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.state.lock().unwrap().connections
    }

    /// Waits until this many requests have arrived.
    pub fn wait_for_requests(&self, count: usize) {
        let state = self.shared.state.lock().unwrap();
        drop(self.shared.changed.wait_while(state, |state| state.requests.len() < count).unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().over = true;
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address); // wakes the acceptor
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        let mut state = shared.state.lock().unwrap();
        if state.over {
            return;
        }
        state.connections += 1;
        let number = state.connections;
        drop(state);
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(stream, number, &shared));
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, number: usize, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(mut request) = read_head(&mut reader, number) {
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut state = shared.state.lock().unwrap();
        let otherwise = |state: &State| state.otherwise.clone().unwrap_or_else(|| status(418));
        let reply = state.script.pop_front().unwrap_or_else(|| otherwise(&state));
        drop(state);
        let unread = reply.early || reply.after == After::Reset;
        let mut body = vec![0; if unread { 0 } else { length }];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        request.body = String::from_utf8_lossy(&body).into_owned();
        shared.state.lock().unwrap().requests.push(request);
        shared.changed.notify_all();
        if answer(&mut stream, &reply, shared) == After::KeepOpen && !unread {
            continue;
        }
        return;
    }
}

fn answer(stream: &mut TcpStream, reply: &Reply, shared: &Shared) -> After {
    let bytes = reply.bytes();
    let sent = &bytes[..bytes.len().min(reply.cut)];
    let is_over = |time: Duration| {
        let state = shared.state.lock().unwrap();
        !shared.changed.wait_timeout_while(state, time, |state| !state.over).unwrap().1.timed_out()
    };
    if !reply.latency.is_zero() && is_over(reply.latency) {
        return After::Close;
    }
    match reply.pace {
        None => drop(stream.write_all(sent)),
        Some(pace) => {
            for (index, byte) in sent.iter().enumerate() {
                if (index >= reply.unpaced && is_over(pace)) || stream.write_all(&[*byte]).is_err() {
                    return After::Close;
                }
            }
        }
    }
    if reply.after == After::Reset {
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    if reply.after == After::Stall {
        let state = shared.state.lock().unwrap();
        drop(shared.changed.wait_while(state, |state| !state.over).unwrap());
    }
    reply.after
}

pub fn read_head(reader: &mut impl BufRead, connection: usize) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let line = lines.next()?;
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(Request { line, headers: headers.collect(), body: String::new(), connection })
}
