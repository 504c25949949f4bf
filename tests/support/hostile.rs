//! A raw server with or without TLS, for faults that a scripted reply can't express, and clients, replies and helpers that tests
//! share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::{env, fs, thread};

use holysheep::{
    AdaptiveConfig, ChatRequest, ChatResponse, ChatStream, Client, Clock, Config, ConfigBuilder, Error,
    Jitter, Result, RetryConfig,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::support::{Reply, Request, status};

pub(crate) const KEY: &str = "sk-test-0123456789abcdef";

pub(crate) const FINISH: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
pub(crate) const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n";
pub(crate) const DONE: &str = "data: [DONE]\n\n";
pub(crate) const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";

/// The status line and headers of a chunked event stream.
pub(crate) const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A chunk of a chunked body.
pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A reply whose body is a stream of events.
pub(crate) fn events(body: &str) -> Reply {
    status(200).header("content-type", "text/event-stream").body(body)
}

/// An event with a delta of text.
pub(crate) fn delta(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

/// The events of the answer "Hello".
pub(crate) fn whole() -> String {
    [ROLE, &delta("Hel"), &delta("lo"), FINISH, USAGE, DONE].concat()
}

/// The JSON document of the answer "Hello".
pub(crate) const HELLO: &str = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}"#;

pub(crate) fn config(url: impl Into<String>) -> ConfigBuilder {
    Config::builder().api_key(KEY).base_url(url).no_proxy()
}

pub(crate) fn build(config: ConfigBuilder) -> Client {
    Client::new(config.build().unwrap()).unwrap()
}

/// A client on a fake clock with exact waits: no jitter, no pacing, no breaker, no retry budget.
pub(crate) fn exact(url: impl Into<String>) -> (Client, Clock) {
    let clock = Clock::fake();
    let retry = RetryConfig::default().jitter(Jitter::None);
    (build(config(url).clock(clock.clone()).retry(retry).adaptive(AdaptiveConfig::off())), clock)
}

/// A client on a fake clock with the default settings.
pub(crate) fn adaptive(url: impl Into<String>) -> (Client, Clock) {
    let clock = Clock::fake();
    (build(config(url).clock(clock.clone()).adaptive(AdaptiveConfig::default().seed(1))), clock)
}

/// A client in real time that waits a millisecond between attempts, with this inactivity timeout.
pub(crate) fn hasty(url: impl Into<String>, timeout: Duration) -> Client {
    let retry = RetryConfig::default().jitter(Jitter::None).base_delay(Duration::from_millis(1));
    let retry = retry.max_delay(Duration::from_millis(1));
    build(config(url).retry(retry).timeout(timeout).adaptive(AdaptiveConfig::off()))
}

pub(crate) fn request() -> ChatRequest {
    ChatRequest::new("gpt-4.1").user("Say hello.")
}

pub(crate) fn ask(client: &Client) -> Result<ChatResponse> {
    client.chat(&request())
}

pub(crate) fn stream(client: &Client) -> Result<ChatStream> {
    client.chat_stream(&request())
}

/// A chat by a stream, assembled.
pub(crate) fn streamed(client: &Client) -> Result<ChatResponse> {
    stream(client)?.into_response()
}

/// A method of the client that makes a chat call, with its name for messages.
pub(crate) type Way = (&'static str, fn(&Client) -> Result<ChatResponse>);

pub(crate) const WAYS: [Way; 2] = [("chat", ask), ("chat_stream", streamed)];

/// The text of all chunks, and the error that ended the stream.
pub(crate) fn read(stream: &mut ChatStream) -> (String, Option<Error>) {
    let mut text = String::new();
    for chunk in stream {
        match chunk {
            Ok(chunk) => text += chunk.text(),
            Err(error) => return (text, Some(error)),
        }
    }
    (text, None)
}

/// The name of the innermost error's variant.
pub(crate) fn kind(error: &Error) -> String {
    match error {
        Error::GaveUp { last, .. } => kind(last),
        error => format!("{error:?}").split([' ', '{', '(']).next().unwrap().to_owned(),
    }
}

/// A server that passes each connection to a function, which reads and writes its bytes.
pub(crate) struct RawServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    over: Mutex<bool>,
    ended: Condvar,
}

pub(crate) trait Transport: Read + Write + Send {}

impl<T: Read + Write + Send> Transport for T {}

/// A connection to a [`RawServer`].
pub(crate) struct Connection {
    pub(crate) transport: BufReader<Box<dyn Transport>>,
    socket: TcpStream,
    number: usize,
    shared: Arc<Shared>,
}

impl RawServer {
    pub(crate) fn new(serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> RawServer {
        RawServer::start(None, serve)
    }

    /// A server with TLS.
    pub(crate) fn tls(
        identity: &Identity,
        serve: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> RawServer {
        RawServer::start(Some(Arc::clone(&identity.config)), serve)
    }

    /// A server that speaks TLS with these settings, where there are any.
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        serve: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> RawServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (serve, server) = (Arc::new(serve), Arc::clone(&shared));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if *server.over.lock().unwrap() {
                    return;
                }
                socket.set_nodelay(true).unwrap(); // an early answer must not wait for an acknowledgement
                let number = server.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let transport: Box<dyn Transport> = match &tls {
                    None => Box::new(socket.try_clone().unwrap()),
                    Some(config) => {
                        let session = ServerConnection::new(Arc::clone(config)).unwrap();
                        Box::new(StreamOwned::new(session, socket.try_clone().unwrap()))
                    }
                };
                let (transport, shared, serve) =
                    (BufReader::new(transport), Arc::clone(&server), Arc::clone(&serve));
                let mut connection = Connection { transport, socket, number, shared };
                thread::spawn(move || serve(&mut connection));
            }
        });
        RawServer { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The URL with the host name for which an [`Identity`] is issued.
    pub(crate) fn tls_url(&self) -> String {
        format!("https://localhost:{}/v1", self.address.port())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        *self.shared.over.lock().unwrap() = true;
        self.shared.ended.notify_all();
        let _ = TcpStream::connect(self.address); // wakes the acceptor
    }
}

impl Connection {
    /// Reads the head of a request; returns the number of earlier requests to the server, and the length of the body.
    pub(crate) fn head(&mut self) -> Option<(usize, usize)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.transport.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut request = Request::parse(&head)?;
        request.connection = self.number;
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut requests = self.shared.requests.lock().unwrap();
        requests.push(request);
        Some((requests.len() - 1, length))
    }

    /// Reads a request; returns the number of earlier requests to the server.
    pub(crate) fn request(&mut self) -> Option<usize> {
        let (number, length) = self.head()?;
        let mut body = vec![0; length];
        self.transport.read_exact(&mut body).ok()?;
        self.shared.requests.lock().unwrap()[number].body = String::from_utf8_lossy(&body).into_owned();
        Some(number)
    }

    /// Returns whether the bytes could be sent.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let transport = self.transport.get_mut();
        transport.write_all(bytes.as_ref()).and_then(|()| transport.flush()).is_ok()
    }

    /// Waits; returns whether the server still exists afterwards.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let over = self.shared.over.lock().unwrap();
        self.shared.ended.wait_timeout_while(over, time, |over| !*over).unwrap().1.timed_out()
    }

    /// Holds the connection until the server is dropped.
    pub(crate) fn hold(&self) {
        let over = self.shared.over.lock().unwrap();
        drop(self.shared.ended.wait_while(over, |over| !*over).unwrap());
    }

    /// Shuts down the sending side, and reads until the client has closed the connection.
    pub(crate) fn linger(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut self.socket, &mut std::io::sink());
    }

    /// Makes the connection end with a reset.
    pub(crate) fn reset(&self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A self-signed certificate for `localhost`, and the settings of a server that uses it.
pub(crate) struct Identity {
    pub(crate) pem: String,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// A certificate with changed parameters.
    pub(crate) fn new(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Identity {
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut parameters);
        let pair = rcgen::KeyPair::generate().unwrap();
        let made = parameters.self_signed(&pair).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![made.der().clone()], key).unwrap();
        Identity { pem: made.pem(), config: Arc::new(config) }
    }

    /// Writes the certificate to a file.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        let file = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.pem", std::process::id()));
        fs::write(&file, &self.pem).unwrap();
        file
    }
}

/// Runs an ignored test of this binary in a child process, without proxy and certificate variables of the environment.
pub(crate) fn child(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("running 0 tests"), "no test is named {test}");
    output
}

/// The number of threads of this process.
pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// The number of sockets of this process.
pub(crate) fn sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Runs a test for each case, and fails after the last one with the messages of all cases that failed.
#[track_caller]
pub(crate) fn each<T>(cases: impl IntoIterator<Item = T>, test: impl Fn(T)) {
    let mut failures = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(case))) else { continue };
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        failures.push(format!("case {number}: {}", message.unwrap_or_default()));
    }
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}
