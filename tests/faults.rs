//! How each kind of call ends at each fault of a server, as a table, and that the same client's next call succeeds. No fault
//! puts a secret or a prompt into an error, an event or a log record of any crate, down to the level trace.
//! `docs/faults.md` holds the table; `UPDATE=1 cargo test --test faults` writes it.
#![cfg(feature = "rustls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/pki.rs"]
mod pki;
mod support;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use holysheep::test_server::{Reply, Request, Server, hang_up, ok, raw, reset, silence, status, stream};
use holysheep::{ChatRequest, Client, Config, EmbeddingRequest, Error, RetryConfig};
use hostile::{Identity, RawServer};
use pki::Authority;
use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};
use serde_json::{Value, json};

/// The inactivity timeout, the deadline, and the longest that a call may take on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(800);
const DEADLINE: Duration = Duration::from_secs(4);
const MOST: Duration = Duration::from_secs(7);

/// Larger than the answers here, and small enough to exceed.
const MAX_RESPONSE: u64 = 100_000;

/// The bytes of the text of a large request.
const LARGE: usize = 2_000_000;

/// What must not be shown: the key, a header's value, and the text of each request.
const HIDDEN: [&str; 3] = ["sk-0123456789abcdef", "tenant-secret-4711", "a-prompt-of-the-user"];

/// A fault: its name, what it makes of a good reply, and how a chat, a stream, embeddings and a `get` end.
type Fault = (&'static str, fn(&Reply) -> Reply, [&'static str; 4]);

const CALLS: [&str; 4] = ["chat", "chat_stream", "embeddings", "get"];

/// A class is a variant of `Error`; a few have more.
const FAULTS: [Fault; 27] = [
    ("connection reset before the response", |_| reset(), ["Transport"; 4]),
    ("connection closed before the response", |_| hang_up(), ["Transport"; 4]),
    (
        "connection closed in the head",
        |_| raw("HTTP/1.1 200 OK\r\ncontent-le").then_close(),
        ["Transport"; 4],
    ),
    ("connection closed after the head", |good| good.clone().cut_after(0), ["Transport"; 4]),
    ("connection closed in the body", |good| good.clone().cut_after(10), ["Transport"; 4]),
    (
        "connection closed before the last byte",
        cut_before_the_end,
        ["Transport", "success", "Transport", "Transport"],
    ),
    (
        "connection closed in the middle of the body",
        cut_in_the_middle,
        ["Transport", "StreamTruncated", "Transport", "Transport"],
    ),
    ("connection closed in a chunked body", |good| good.clone().chunked(16).cut_after(30), ["Transport"; 4]),
    ("no response", |_| silence(), [WAITING; 4]),
    ("head not completed", |_| raw("HTTP/1.1 200 OK\r\ncontent-type: a").stall_after(31), [WAITING; 4]),
    ("body not completed", |good| good.clone().stall_after(10), STALLED),
    ("no end of the connection after a whole answer", unclosed, [READING, "success", READING, READING]),
    (
        "a byte of the body in each 100 ms",
        |good| good.clone().trickle_after(0, Duration::from_millis(100)),
        ["Deadline", WAITING, "Deadline", "Deadline"],
    ),
    (
        "`Content-Length` beyond the body",
        |good| with_length(good, "9999").then_close(),
        ["Transport", "success", "Transport", "Transport"],
    ),
    (
        "`Content-Length` short of the body",
        |good| with_length(good, "12").then_close(),
        ["Transport", "StreamTruncated", "Transport", "Transport"],
    ),
    (
        "two different `Content-Length`s",
        |good| with_length(good, "12\r\ncontent-length: 50").then_close(),
        ["Decode"; 4],
    ),
    (
        "unreadable chunk length",
        |_| raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}").then_close(),
        ["Transport"; 4],
    ),
    ("unreadable status line", |_| raw("SSH-2.0-OpenSSH_9.6\r\n").then_close(), ["Transport"; 4]),
    (
        "unreadable head, a byte in each 50 ms",
        |_| {
            let head = b"HTTP/1.1 200 OK\r\nbad\0name: b\r\n";
            let endless = [&head[..], &[b'x'; 400]].concat();
            raw(endless).trickle_after(head.len(), Duration::from_millis(50))
        },
        ["Decode"; 4],
    ),
    ("head beyond 64 KiB", |good| good.clone().header("x-large", &"x".repeat(70_000)), ["TooLarge"; 4]),
    (
        "body beyond `max_response_bytes`",
        |_| status(200).body(format!("{{\"a\": \"{}", "x".repeat(200_000))),
        ["TooLarge"; 4],
    ),
    (
        "unrequested `Content-Encoding: gzip`",
        |good| good.clone().header("content-encoding", "gzip"),
        ["Decode"; 4],
    ),
    ("100 interim responses (103)", interim, ["success"; 4]),
    ("HTML with status 200", |_| status(200).body("<html><title>Log in</title></html>"), ["Decode"; 4]),
    ("empty body with status 200", |_| status(200), ["NoAnswer"; 4]),
    (
        "error with status 200",
        |_| status(200).body(r#"{"error": {"code": 429, "message": "slow down"}}"#),
        ["Api 429"; 4],
    ),
    (
        "413 before a large request was sent",
        |_| status(413).header("connection", "close").early(),
        ["Api 413"; 4],
    ),
];

const WAITING: &str = "Timeout (waiting for the answer)";
const READING: &str = "Timeout (reading the answer)";

/// A stream waits for its answer until its first content.
const STALLED: [&str; 4] = [READING, WAITING, READING, READING];

fn cut_in_the_middle(good: &Reply) -> Reply {
    let length = good.body_len();
    good.clone().cut_after(length / 2)
}

fn cut_before_the_end(good: &Reply) -> Reply {
    let length = good.body_len();
    good.clone().cut_after(length - 1)
}

fn unclosed(good: &Reply) -> Reply {
    let length = good.body_len();
    with_length(good, "9999").stall_after(length + 200)
}

/// The bytes of a reply with another length.
fn with_length(good: &Reply, length: &str) -> Reply {
    let text = String::from_utf8(good.bytes()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let fields = head.split("\r\n").filter(|field| !field.starts_with("content-length"));
    let head: String = fields.map(|field| format!("{field}\r\n")).collect();
    raw(format!("{head}content-length: {length}\r\n\r\n{body}"))
}

fn interim(good: &Reply) -> Reply {
    raw([b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100), good.bytes()].concat())
}

/// The right reply to a request.
fn good(request: &Request) -> Reply {
    match request.path.as_str() {
        path if path.ends_with("/embeddings") => {
            status(200).json(&json!({"data": [{"index": 0, "embedding": [0.5, 0.25]}]}))
        }
        path if path.ends_with("/things") => {
            status(200).json(&json!({"name": "Hello, a thing with a long name"}))
        }
        _ if request.json()["stream"] == true => stream(["Hel", "lo"]),
        _ => ok("Hello"),
    }
}

/// The faults while connecting, and how each kind of call ends.
const CONNECT_FAULTS: [(&str, &str); 8] = [
    ("connection refused", "Connect"),
    ("TLS: handshake not answered", "Timeout (connecting)"),
    ("TLS: a server that doesn't speak it", "Config"),
    ("TLS: a certificate of an unknown CA", "Config"),
    ("TLS: a certificate for another host", "Config"),
    ("TLS: an expired certificate", "Config"),
    ("TLS: the certificate of a CA as the server's", "Config"),
    ("TLS: no client certificate, and the server requires one", "Config"),
];

/// A service that can't be connected to: its URL, the file with the CA that the client trusts, and its server, if there is one.
fn unreachable(fault: &str, call: &str) -> (String, Option<PathBuf>, Option<RawServer>) {
    let change: fn(&mut CertificateParams) = match fault {
        "connection refused" => {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            return (format!("http://{address}/v1"), None, None);
        }
        "TLS: handshake not answered" => {
            let server = RawServer::new(|connection| connection.hold());
            return (server.tls_url(), None, Some(server));
        }
        "TLS: a server that doesn't speak it" => {
            let server = RawServer::new(|connection| _ = connection.send(ok("no TLS").bytes()));
            return (server.tls_url(), None, Some(server));
        }
        "TLS: no client certificate, and the server requires one" => {
            let (own, clients) = (Authority::new("server CA"), Authority::new("client CA"));
            let config = own.server(&clients, &rustls::version::TLS13);
            let server = RawServer::start(Some(config), |connection| {
                connection.request();
            });
            return (server.tls_url(), Some(pki::file(own.pem())), Some(server));
        }
        "TLS: a certificate for another host" => {
            |made| made.subject_alt_names = vec![SanType::DnsName("llm.example".try_into().unwrap())]
        }
        "TLS: an expired certificate" => |made| made.not_after = rcgen::date_time_ymd(2021, 1, 1),
        "TLS: the certificate of a CA as the server's" => {
            |made| made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        }
        _ => |_| (),
    };
    let identity = Identity::new(change);
    let server = RawServer::tls(&identity, |connection| {
        connection.request();
    });
    let trusted =
        (!fault.contains("unknown")).then(|| identity.file(&format!("{fault} {call}").replace(' ', "-")));
    (server.tls_url(), trusted, Some(server))
}

/// How a call ends if its service can't be connected to.
fn connect_end(fault: &str, call: &str) -> String {
    let (url, ca_file, _server) = unreachable(fault, call);
    let config = Config::builder()
        .api_key(HIDDEN[0])
        .base_url(&url)
        .connect_timeout(TIMEOUT)
        .retry(RetryConfig::default().max_retries(0));
    let config = match ca_file {
        Some(file) => config.ca_file(file),
        None => config,
    };
    let client = Client::new(config.build().unwrap()).unwrap();
    let started = Instant::now();
    let error = make(&client, call, false).unwrap_err();
    assert!(started.elapsed() < MOST, "{fault}: {call}: {:?}", started.elapsed());
    let host = url.trim_end_matches("/v1").split("//").nth(1).unwrap();
    assert!(error.to_string().contains(host), "{fault}: {call}: {error}");
    class(&error)
}

/// Makes a call of this kind, with a large request if there is one.
fn make(client: &Client, call: &str, is_large: bool) -> Result<(), Error> {
    let text = HIDDEN[2].to_owned() + &"x".repeat(if is_large { LARGE } else { 5 });
    let request = ChatRequest::new("m").user(&*text);
    let expect = |text: &str| assert_eq!(text, "Hello", "{call}");
    match call {
        "chat" => client.chat(&request).map(|answer| expect(answer.text())),
        "chat_stream" => {
            let chunks: Result<Vec<_>, _> = client.chat_stream(&request)?.collect();
            chunks.map(|chunks| expect(&chunks.iter().map(|chunk| chunk.text()).collect::<String>()))
        }
        "embeddings" => client
            .embeddings(&EmbeddingRequest::new("m", text))
            .map(|response| assert_eq!(response.data[0].embedding, [0.5, 0.25])),
        _ => client
            .get::<Value>("/things")
            .map(|thing| assert_eq!(thing["name"], "Hello, a thing with a long name")),
    }
}

/// The variant of an error, with the phase or the status.
fn class(error: &Error) -> String {
    match error {
        Error::Timeout { phase, .. } => format!("Timeout ({phase})"),
        Error::Api { status, .. } => format!("Api {status}"),
        error => {
            let debug = format!("{error:?}");
            debug.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

/// The log records of all crates that show what they must not.
static INDISCREET: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The bytes in a row of ureq's dumps at the level trace, which end with them as text.
const ROW: usize = 16;

thread_local! {
    /// The end of the dump that this thread writes.
    static DUMP: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = format!("{} {}: {}", record.level(), record.target(), record.args());
        if shows_hidden(&text) {
            INDISCREET.lock().unwrap().push(text);
        } else if record.target().starts_with("ureq_proto") && text.len() > ROW {
            DUMP.with_borrow_mut(|dump| {
                dump.extend(text.chars().skip(text.chars().count() - ROW));
                if shows_hidden(dump) {
                    INDISCREET.lock().unwrap().push(dump.clone());
                }
                let kept = dump.len().saturating_sub(2 * ROW);
                dump.drain(..kept);
            });
        }
    }

    fn flush(&self) {}
}

fn shows_hidden(text: &str) -> bool {
    HIDDEN.iter().any(|hidden| text.contains(hidden))
}

/// How a call ends at a fault. The next one, without the fault, must succeed.
fn end(fault: fn(&Reply) -> Reply, call: &str, is_large: bool) -> String {
    let faults = Mutex::new(Some(fault));
    let server = Server::respond(move |request| {
        // A server may repeat what it was sent.
        let reply = good(request).header("x-request-id", HIDDEN[0]).header("x-tenant", HIDDEN[1]);
        faults.lock().unwrap().take().map_or_else(|| reply.clone(), |fault| fault(&reply))
    });
    let events = Arc::new(Mutex::new(String::new()));
    let config = Config::builder()
        .api_key(HIDDEN[0])
        .header("x-tenant", HIDDEN[1])
        .base_url(server.url())
        .timeout(TIMEOUT)
        .deadline(Some(DEADLINE))
        .max_response_bytes(MAX_RESPONSE)
        .retry(RetryConfig::default().max_retries(0))
        .on_event({
            let events = Arc::clone(&events);
            move |event| *events.lock().unwrap() += &format!("{event:?}\n")
        });
    let client = Client::new(config.build().unwrap()).unwrap();
    let started = Instant::now();
    let ended = make(&client, call, is_large);
    assert!(started.elapsed() < MOST, "{call}: {:?}", started.elapsed());
    if let Err(error) = &ended {
        let model = if call == "get" { "" } else { "m at " };
        let target = format!("{model}{}: ", error.host().unwrap_or("no host"));
        assert!(error.to_string().starts_with(&target), "{call}: {error}");
        let texts = [error.to_string(), format!("{error:?}"), support::full_message(error)];
        assert!(!texts.iter().any(|text| shows_hidden(text)), "{call}: {texts:?}");
    }
    let ended = ended.map_or_else(|error| class(&error), |()| "success".to_owned());
    let next = make(&client, call, false);
    let shown = format!("{}{client:?}", events.lock().unwrap());
    assert!(shown.contains("End") && !shows_hidden(&shown), "{shown}");
    match next {
        Ok(()) => ended,
        Err(error) => format!("{ended}, and the next call with {error:?}"),
    }
}

fn ends_of_all() -> Vec<[String; 4]> {
    thread::scope(|scope| {
        let running = FAULTS.map(|(name, fault, _)| {
            CALLS.map(|call| scope.spawn(move || end(fault, call, name.starts_with("413"))))
        });
        running.map(|calls| calls.map(|call| call.join().unwrap())).into()
    })
}

#[test]
fn each_fault_ends_each_call_with_its_class_and_the_next_call_succeeds() {
    let ends = ends_of_all();
    let mut wrong = Vec::new();
    let mut table =
        format!("| fault | {} |\n|---|---|---|---|---|\n", CALLS.map(|call| format!("`{call}`")).join(" | "));
    for ((name, _, expected), ended) in FAULTS.iter().zip(&ends) {
        for ((call, expected), ended) in CALLS.iter().zip(expected).zip(ended) {
            if expected != ended {
                wrong.push(format!("{name}: {call} ended with {ended}, not {expected}"));
            }
        }
        let _ = writeln!(table, "| {name} | {} |", ended.join(" | "));
    }
    table += &format!("\n{CONNECTING}\n| fault | every call |\n|---|---|\n");
    for (fault, expected) in CONNECT_FAULTS {
        let _ = writeln!(table, "| {fault} | {expected} |");
        let ends = thread::scope(|scope| {
            CALLS.map(|call| scope.spawn(move || connect_end(fault, call))).map(|call| call.join().unwrap())
        });
        wrong.extend(ends.into_iter().filter(|end| end != expected).map(|end| format!("{fault}: {end}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let page = format!("{HEAD}\n{table}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");
    if env::var_os("UPDATE").is_some() {
        fs::write(path, &page).unwrap();
    }
    let is_current = fs::read_to_string(path).is_ok_and(|text| text == page);
    assert!(is_current, "docs/faults.md is out of date; run UPDATE=1 cargo test --test faults");
    // Once more with all logs, which slow the calls down, so that some end otherwise.
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    ends_of_all();
    let indiscreet = INDISCREET.lock().unwrap();
    assert!(indiscreet.is_empty(), "{:#?}", &indiscreet[..indiscreet.len().min(5)]);
}

const HEAD: &str = "# Faults

How a call ends at each fault of a server, with `max_retries(0)`: the variant of `Error`, or success. With more retries, the call is
repeated after `Transport`, `Timeout` and `NoAnswer`, after `Api` if the status is retryable, and after `StreamTruncated` if the
stream has returned no text.

The timeout was 0.8 s and the deadline 4 s. Each call ended in time, and the next call of the same client, to the same server
without the fault, succeeded. No error, event or log record of any crate, down to the level trace, showed the key, the value
of a header or the prompt.

`tests/faults.rs` makes these calls and checks this page; `UPDATE=1 cargo test --test faults` writes it.
";

const CONNECTING: &str = "## Connecting

With a connect timeout of 0.8 s. `Connect` and `Timeout` are repeated if there are retries; `Config` isn't, and says what to change.
Client certificates have more tests, in `tests/client_cert.rs`.
";
