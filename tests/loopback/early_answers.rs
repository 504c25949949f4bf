//! Servers that answer before a large request is completely sent: the client reads the answer, with and without TLS.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::hostile::{Connection, Identity, RawServer, build, config, each};
use crate::support::full_message;
use holysheep::{AdaptiveConfig, ChatRequest, Client, Clock, Error, Jitter, Phase, RetryConfig};

/// Larger than the socket buffers, so that sending it blocks.
const LARGE: usize = 10_000_000;

fn large() -> ChatRequest {
    ChatRequest::new("gpt-4.1").user("x".repeat(LARGE))
}

/// What the server does after its early answer.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Closes without reading the rest of the request, which resets the connection.
    Close,
    /// Shuts down its sending side and reads the rest of the request, as nginx and HAProxy do.
    Linger,
    /// Keeps the connection open without reading.
    Hold,
}

fn reply(code: u16) -> String {
    let body = r#"{"error":{"message":"the words"}}"#;
    let (length, retry_after) = (body.len(), if code == 429 { "retry-after: 7\r\n" } else { "" });
    format!(
        "HTTP/1.1 {code} Early\r\n{retry_after}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Reads only the first `part` bytes of the body of a request and then answers with `code`. With 429, only the first request
/// is refused, and all others succeed.
fn refuse_early(connection: &mut Connection, code: u16, part: usize, then: Then) {
    let Some((number, length)) = connection.head() else { return };
    let first = number == 0 || code != 429;
    let read = if first { part } else { length };
    if connection.transport.read_exact(&mut vec![0; read]).is_err() {
        return;
    }
    if !first {
        connection.send(crate::support::ok("hi").bytes());
        return connection.hold();
    }
    connection.send(reply(code));
    match then {
        Then::Close => {}
        Then::Linger => connection.linger(),
        Then::Hold => connection.hold(),
    }
}

/// A server with or without TLS, its URL, and the file with its certificate.
fn server(
    tls: bool,
    serve: impl Fn(&mut Connection) + Send + Sync + 'static,
) -> (RawServer, String, Option<PathBuf>) {
    if !tls {
        let server = RawServer::new(serve);
        let url = server.url();
        return (server, url, None);
    }
    let identity = Identity::new(|_| {});
    let server = RawServer::tls(&identity, serve);
    let (url, file) = (server.tls_url(), identity.file(&format!("early-{}", server.address().port())));
    (server, url, Some(file))
}

fn client(url: String, ca_file: Option<&PathBuf>, timeout: Duration) -> (Client, Clock) {
    let (clock, retry) = (Clock::fake(), RetryConfig::default().jitter(Jitter::None).max_retries(2));
    let config =
        config(url).clock(clock.clone()).retry(retry).timeout(timeout).adaptive(AdaptiveConfig::off());
    (build(ca_file.iter().fold(config, |config, file| config.ca_file(file))), clock)
}

const PARTS: [usize; 3] = [0, 20_000, 3_000_000];

fn refusals() -> Vec<(bool, Then, usize, u16)> {
    let mut cases = Vec::new();
    for tls in [false, true] {
        for then in [Then::Close, Then::Linger] {
            for part in PARTS {
                cases.extend([401, 403, 413].map(|code| (tls, then, part, code)));
            }
        }
        cases.push((tls, Then::Hold, 20_000, 413));
    }
    cases
}

#[test]
fn an_early_refusal_of_a_large_request_is_read_and_not_retried() {
    each(refusals(), |(tls, then, part, code)| {
        let what = format!("TLS {tls}, {then:?} after {part} bytes, {code}");
        let (server, url, file) = server(tls, move |connection| refuse_early(connection, code, part, then));
        let (client, _) = client(url, file.as_ref(), Duration::from_millis(300));
        let error = client.chat(&large()).unwrap_err();
        assert_eq!(error.status(), Some(code), "{what}: {}", full_message(&error));
        assert!(full_message(&error).contains("the words"), "{what}: {}", full_message(&error));
        assert_eq!((error.attempts(), server.requests().len()), (1, 1), "{what}: {error:?}");
    });
}

#[test]
fn an_early_429_is_retried_after_its_delay_and_reaches_the_handler() {
    let cases = [false, true].into_iter().flat_map(|tls| [(tls, Then::Close), (tls, Then::Linger)]);
    each(cases, |(tls, then)| {
        let what = format!("TLS {tls}, {then:?}");
        let (server, url, file) = server(tls, move |connection| refuse_early(connection, 429, 20_000, then));
        let (client, clock) = client(url, file.as_ref(), Duration::from_secs(5));
        let answer = client.chat(&large()).map_err(|error| full_message(&error));
        assert_eq!(answer.map(|answer| answer.meta().attempts), Ok(2), "{what}");
        assert_eq!(clock.sleeps(), [Duration::from_secs(7)], "{what}");
        assert_eq!(server.requests().len(), 2, "{what}");
        assert_eq!(client.handler("gpt-4.1").snapshot().throttles, 1, "{what}");
    });
}

#[test]
fn an_early_refusal_of_a_stream_request_is_read() {
    each([false, true], |tls| {
        let (_server, url, file) =
            server(tls, |connection| refuse_early(connection, 413, 20_000, Then::Close));
        let (client, _) = client(url, file.as_ref(), Duration::from_secs(5));
        let error = client.chat_stream(&large()).unwrap_err();
        assert_eq!((error.status(), error.attempts()), (Some(413), 1), "TLS {tls}: {}", full_message(&error));
    });
}

#[test]
fn an_upload_that_is_reset_without_an_answer_is_a_transport_error() {
    each([false, true], |tls| {
        let (_server, url, file) = server(tls, |connection| {
            if connection.head().is_some() {
                connection.reset();
            }
        });
        let (client, _) = client(url, file.as_ref(), Duration::from_secs(5));
        let error = client.chat(&large()).unwrap_err();
        let Error::GaveUp { last, .. } = &error else { panic!("TLS {tls}: {error:?}") };
        assert!(matches!(**last, Error::Transport { answered: false, .. }), "TLS {tls}: {error:?}");
    });
}

#[test]
fn an_upload_that_the_server_does_not_read_times_out_while_sending() {
    each([false, true], |tls| {
        let (_server, url, file) = server(tls, |connection| {
            connection.head();
            connection.hold();
        });
        let (client, _) = client(url, file.as_ref(), Duration::from_millis(100));
        let client = client.with_retry(RetryConfig::default().max_retries(0));
        let started = Instant::now();
        let error = client.chat(&large()).unwrap_err();
        assert!(matches!(error, Error::Timeout { phase: Phase::Sending, .. }), "TLS {tls}: {error:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "TLS {tls}: {:?}", started.elapsed());
    });
}
