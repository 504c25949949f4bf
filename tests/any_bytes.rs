//! Any bytes from a server, and any text as a setting: no panic, no long wait, and no key in an error.
//! `PROPTEST_CASES=20000 cargo test --test any_bytes` tries more of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

mod support;

use std::time::{Duration, Instant};

use holysheep::test_server::{Server, ok, raw, stream};
use holysheep::{ChatRequest, Client, Config, Error, RetryConfig};
use proptest::prelude::*;

/// The longest time that a call may take. Nothing is longer than a few timeouts, of 200 ms each.
const MOST: Duration = Duration::from_secs(3);

/// What is put into a response: bytes that mean something to a parser of heads, chunks, events or JSON.
const WORDS: [&[u8]; 20] = [
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"data: ",
    b"data: [DONE]\n\n",
    b"error: ",
    b"content-length: 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"content-encoding: gzip\r\n",
    b"retry-after: 1\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"{\"error\":{\"code\":429}}",
    b"null",
    b"[[[[[[[[",
    b"\\ud83e",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
];

/// A change of a response at a place given as a fraction of its length.
#[derive(Debug, Clone)]
enum Change {
    Insert(f64, &'static [u8]),
    Set(f64, u8),
    Remove(f64, usize),
    Repeat(f64, usize),
    Cut(f64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = || 0.0..1.0;
    let change = prop_oneof![
        (at(), prop::sample::select(WORDS.to_vec())).prop_map(|(at, word)| Change::Insert(at, word)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..200_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        at().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 0..6)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        let index = |at: f64| (at * length as f64) as usize;
        match *change {
            Change::Insert(at, word) => drop(bytes.splice(index(at)..index(at), word.iter().copied())),
            Change::Set(at, byte) if length > 0 => bytes[index(at)] = byte,
            Change::Set(..) => {}
            Change::Remove(at, count) => drop(bytes.drain(index(at)..(index(at) + count).min(length))),
            Change::Repeat(at, count) => {
                let part = bytes[index(at)..(index(at) + count).min(length)].to_vec();
                bytes.splice(index(at)..index(at), part);
            }
            Change::Cut(at) => bytes.truncate(index(at)),
        }
    }
    bytes
}

fn client(url: &str) -> Client {
    let config = Config::builder()
        .api_key("sk-0123456789abcdef")
        .base_url(url)
        .timeout(Duration::from_millis(200))
        .retry(RetryConfig::default().max_retries(0));
    Client::new(config.build().unwrap()).unwrap()
}

/// An error can be printed and asked everything.
fn check_error(error: &Error) {
    let texts = format!("{error} {error:?} {}", support::full_message(error));
    assert!(!texts.contains("sk-0123456789abcdef"), "{texts}");
    let _ = (error.status(), error.attempts(), error.retry_after(), error.request_id().map(str::len));
    let _ = (error.is_retryable(), error.is_timeout(), error.is_auth(), error.is_rate_limited());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_response_ends_each_call_soon(changes in changes(), streams in any::<bool>(), echo in any::<bool>()) {
        let reply = if streams { stream(["Hel", "lo ", "sk-0123456789abcdef"]) } else { ok("Hello") };
        let reply = if echo { reply.header("x-request-id", "sk-0123456789abcdef") } else { reply };
        let server = Server::always(raw(changed(reply.bytes(), &changes)).then_close());
        let (client, request) = (client(&server.url()), ChatRequest::new("m").user("hi"));
        let started = Instant::now();
        match client.chat(&request) {
            Ok(answer) => {
                let meta = format!("{:?}", answer.meta());
                prop_assert!(!meta.contains("sk-0123456789abcdef"), "{}", meta);
            }
            Err(error) => check_error(&error),
        }
        match client.chat_stream(&request) {
            Ok(stream) => stream.filter_map(Result::err).for_each(|error| check_error(&error)),
            Err(error) => check_error(&error),
        }
        if let Err(error) = client.models() {
            check_error(&error);
        }
        prop_assert!(started.elapsed() < MOST, "{:?}", started.elapsed());
    }
}

/// Text of the characters that mean something in addresses, lists and header fields.
const TEXT: &str = "[a-z0-9.:/@?#%&=,*\\[\\]{}\"' \\\\\t\r\nĀ🦀-]{0,60}";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_setting_is_taken_or_refused(scheme in "(|http://|https://|HTTP:|socks5://)", text in TEXT, name in TEXT) {
        let address = scheme + &text;
        let build = |config: holysheep::ConfigBuilder| config.build().and_then(Client::new);
        let base = || Config::builder().base_url("http://127.0.0.1:9/v1").api_key("k");
        for result in [
            build(base().base_url(&address)),
            build(base().proxy(&address)),
            build(base().api_key(&text)),
            build(base().header(&name, &text)),
            build(base().user_agent(&text)),
        ] {
            if let Err(error) = result {
                prop_assert!(matches!(error, Error::Config { .. }), "{:?}", error);
                check_error(&error);
            }
        }
        if let Ok(client) = build(base().base_url(&address)) {
            let _ = client.with_header(&name, &text).map_err(|error| check_error(&error));
        }
    }
}
