//! Credentials: keys from `api_key_from`, secrets in the query of the base URL, and calls without a key.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/captured_log.rs"]
mod captured_log;
mod support;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use holysheep::{
    AdaptiveConfig, Cancel, ChatRequest, Client, Clock, Config, ConfigBuilder, Error, Event, Jitter, Result,
    RetryConfig,
};
use support::{Reply, Server, ok, status};

type Provided = Result<String, Box<dyn std::error::Error + Send + Sync>>;

/// Settings with a fake clock and exact waits.
fn config(url: impl Into<String>) -> ConfigBuilder {
    let retry = RetryConfig::default().jitter(Jitter::None);
    Config::builder()
        .base_url(url)
        .no_proxy()
        .clock(Clock::fake())
        .retry(retry)
        .adaptive(AdaptiveConfig::off())
}

fn build(config: ConfigBuilder) -> Client {
    Client::new(config.build().unwrap()).unwrap()
}

fn ask(client: &Client) -> Result<String> {
    client.chat(&ChatRequest::new("m").user("hi")).map(|answer| answer.text().to_owned())
}

fn streamed(client: &Client) -> Result<String> {
    let stream = client.chat_stream(&ChatRequest::new("m").user("hi"))?;
    stream.into_response().map(|answer| answer.text().to_owned())
}

/// A client whose `api_key_from` function returns these results in turn, and the number of calls of that function.
fn provided(server: &Server, keys: impl IntoIterator<Item = Provided>) -> (Client, Arc<AtomicU32>) {
    let (keys, asked) = (Mutex::new(VecDeque::from_iter(keys)), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&asked);
    let function = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        keys.lock().unwrap().pop_front().unwrap()
    };
    (build(config(server.url()).api_key_from(function)), asked)
}

/// A key that can be searched for in text.
fn key(number: u32) -> String {
    format!("sk-provided-{number:08}")
}

/// The first ten of these keys.
fn keys(numbers: impl IntoIterator<Item = u32>) -> Vec<Provided> {
    numbers.into_iter().take(10).map(|number| Ok(key(number))).collect()
}

/// The numbers of the keys that the server received.
fn sent(server: &Server) -> Vec<u32> {
    let number = |value: &str| value.rsplit('-').next().unwrap().parse().unwrap();
    let requests = server.requests();
    requests.iter().map(|request| number(request.header("authorization").unwrap())).collect()
}

fn expired() -> Reply {
    status(401).body(r#"{"error":{"message":"expired"}}"#)
}

#[test]
fn the_function_is_called_before_each_attempt() {
    let server = Server::script([ok("a"), status(503), ok("b")]);
    let (client, asked) = provided(&server, keys(1..));
    assert_eq!((ask(&client).unwrap(), ask(&client).unwrap()), ("a".to_owned(), "b".to_owned()));
    assert_eq!((sent(&server), asked.load(Ordering::SeqCst)), (vec![1, 2, 3], 3));
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer sk-provided-00000001"));
}

#[test]
fn a_refused_key_is_replaced_once_and_not_charged_as_a_retry() {
    for way in [ask as fn(&Client) -> Result<String>, streamed] {
        let server = Server::script([expired(), ok("hi")]);
        let (client, asked) = provided(&server, keys(1..));
        let client = client.with_retry(RetryConfig::default().max_retries(0));
        assert_eq!(way(&client).unwrap(), "hi");
        assert_eq!((sent(&server), asked.load(Ordering::SeqCst)), (vec![1, 2], 2));
        assert_eq!(server.connections(), 1, "on the same connection");
    }
    let server = Server::script([expired(), expired(), ok("too late")]);
    let (client, asked) = provided(&server, keys(1..));
    let error = ask(&client).unwrap_err();
    assert!(error.is_auth() && error.attempts() == 2, "{error}");
    assert_eq!((sent(&server), asked.load(Ordering::SeqCst)), (vec![1, 2], 2));
}

#[test]
fn a_401_inside_a_200_counts_as_a_refused_key() {
    let inside = status(200).body(r#"{"error":{"message":"expired","code":401}}"#);
    let server = Server::script([inside, ok("hi")]);
    let (client, _) = provided(&server, keys(1..));
    assert_eq!(ask(&client).unwrap(), "hi");
    assert_eq!(sent(&server), [1, 2]);
}

#[test]
fn the_same_key_is_not_sent_again() {
    let server = Server::always(expired());
    let (client, asked) = provided(&server, keys([7, 7]));
    let error = ask(&client).unwrap_err();
    assert!(error.is_auth(), "{error}");
    assert_eq!((sent(&server), asked.load(Ordering::SeqCst)), (vec![7], 2));
}

#[test]
fn a_refused_fixed_key_is_not_retried() {
    let server = Server::always(expired());
    ask(&build(config(server.url()).api_key(key(1)))).unwrap_err();
    assert_eq!(sent(&server), [1]);
}

#[test]
fn the_last_key_setting_wins_and_an_authorization_header_overrides_it() {
    let server = Server::always(ok("hi"));
    let function = || Ok(key(2));
    ask(&build(config(server.url()).api_key(key(1)).api_key_from(function))).unwrap();
    ask(&build(config(server.url()).api_key_from(function).api_key(key(1)))).unwrap();
    let own = format!("Own {}", key(3));
    ask(&build(config(server.url()).api_key_from(function).header("Authorization", &own))).unwrap();
    let client = build(config(server.url()).api_key_from(function));
    ask(&client.with_header("authorization", &format!("Own {}", key(4))).unwrap()).unwrap();
    ask(&client.with_header("x-trace", "5").unwrap()).unwrap();
    assert_eq!(sent(&server), [2, 1, 3, 4, 2]);
}

#[test]
fn a_failure_of_the_function_is_a_configuration_error_and_is_not_retried() {
    let server = Server::script([status(503)]);
    let failing = || Err(io::Error::other(format!("vault refused {}", key(1))).into());
    let failures = [Ok(key(1)), failing(), failing(), Ok(String::new()), Ok("a\u{1}b".to_owned())];
    let (client, asked) = provided(&server, failures);
    let expected = [
        "api_key_from: the function failed: vault refused …", // after a 503
        "api_key_from: the function failed: vault refused …",
        "api_key_from: the function returned an empty key",
        "api_key_from: the function returned a key that holds a control character, such as a line break; copy the key again",
    ];
    for text in expected {
        let error = ask(&client).unwrap_err();
        assert!(matches!(error, Error::Config { setting: "api_key_from", .. }), "{error:?}");
        assert_eq!((error.to_string().as_str(), error.attempts(), error.is_retryable()), (text, 0, false));
        assert!(!format!("{error:?}").contains("sk-provided"), "{error:?}");
    }
    assert_eq!((server.requests().len(), asked.load(Ordering::SeqCst)), (1, 5));
}

#[test]
fn a_failure_of_the_function_is_not_counted_as_an_attempt() {
    let server = Server::script([status(503)]);
    let (ends, answers) = (Arc::<Mutex<Vec<u32>>>::default(), Mutex::new(vec![Ok(key(1))].into_iter()));
    let function = move || answers.lock().unwrap().next().unwrap_or(Err("vault is sealed".into()));
    let seen = Arc::clone(&ends);
    let client = build(config(server.url()).api_key_from(function).on_event(move |event| {
        if let Event::End { attempts, .. } = event {
            seen.lock().unwrap().push(*attempts);
        }
    }));
    ask(&client).unwrap_err();
    ask(&client).unwrap_err();
    assert_eq!(*ends.lock().unwrap(), [1, 0], "one after a 503");
}

#[test]
fn a_failure_to_renew_a_refused_key_is_reported_with_the_refusal() {
    let server = Server::always(expired());
    let (client, _) = provided(&server, [Ok(key(1)), Err("vault is sealed".into())]);
    let error = ask(&client).unwrap_err();
    assert!(error.is_auth(), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("expired") && text.contains("api_key_from: the function failed: vault is sealed"),
        "{text}"
    );
}

/// A function that blocks until the sender is dropped, and the receiver of a message for each of its calls.
fn blocking() -> (impl Fn() -> Provided + Send + Sync + 'static, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begun, begins) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (begun, released) = (Mutex::new(begun), Mutex::new(released));
    let function = move || {
        let _ = begun.lock().unwrap().send(());
        let _ = released.lock().unwrap().recv();
        Ok(key(1))
    };
    (function, begins, release)
}

#[test]
fn deadline_timeout_and_cancellation_end_the_wait_for_a_blocked_function() {
    let server = Server::always(ok("hi"));
    let (function, begins, release) = blocking();
    let client = build(config(server.url()).api_key_from(function));
    let error = ask(&client.with_deadline(Some(Duration::from_millis(1)))).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && error.attempts() == 0, "{error:?}");
    let error = ask(&client.with_timeout(Duration::from_millis(1))).unwrap_err();
    let text = "api_key_from: the function did not return within the timeout of 1ms; give it a shorter timeout of its own";
    assert_eq!(error.to_string(), text);
    begins.recv().unwrap();

    let cancel = Cancel::new();
    let call = std::thread::spawn({
        let client = client.with_cancel(&cancel);
        move || ask(&client)
    });
    cancel.cancel();
    assert!(matches!(call.join().unwrap(), Err(Error::Cancelled)));
    let call = std::thread::spawn({
        let client = client.clone();
        move || ask(&client)
    });
    client.drain();
    assert!(matches!(call.join().unwrap(), Err(Error::Shutdown)));
    assert!(begins.try_recv().is_err() && server.requests().is_empty(), "called once, and nothing sent");
    drop(release);
}

#[test]
fn replaced_keys_stay_redacted() {
    let echo = |number| {
        let text =
            format!(r#"{{"error":{{"message":"not {} nor {}","code":"{}"}}}}"#, key(1), key(2), key(1));
        status(number).body(text).header("x-request-id", &key(1))
    };
    let server = Server::script([ok("a"), echo(400), echo(401), echo(401)]);
    let events = Arc::new(Mutex::new(String::new()));
    let shown = Arc::clone(&events);
    let keys = Mutex::new(VecDeque::from([1, 2, 2, 3]));
    let client = build(
        config(server.url())
            .api_key_from(move || Ok(key(keys.lock().unwrap().pop_front().unwrap())))
            .on_event(move |event: &Event| *shown.lock().unwrap() += &format!("{event:?}")),
    );
    ask(&client).unwrap();
    for _ in 0..2 {
        let error = ask(&client).unwrap_err();
        let said = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let said: Vec<String> = said.map(ToString::to_string).collect();
        let text = format!("{said:?} {error:?} {:?} {}", error.request_id(), events.lock().unwrap());
        assert!(text.contains("not … nor …") && !text.contains("provided"), "{text}");
    }
    assert_eq!(sent(&server), [1, 2, 2, 3]);
}

#[test]
fn a_batch_continues_when_its_keys_expire() {
    // Each key expires after ten requests: the 11th gets a 401, and the function is called again for that request.
    let replies = (1..=43).map(|number| if number % 11 == 0 { expired() } else { ok("hi") });
    let server = Server::script(replies);
    let asked = AtomicU32::new(0);
    let client = build(config(server.url()).api_key_from(move || {
        let before = asked.fetch_add(1, Ordering::SeqCst);
        Ok(key(1 + before / 11))
    }));
    let items = client.batch((0..40).map(|_| ChatRequest::new("m").user("hi"))).concurrency(1).run();
    assert!(items.map(|item| item.result).all(|result| result.is_ok()));
    let distinct = |mut keys: Vec<u32>| {
        keys.dedup();
        keys
    };
    assert_eq!(distinct(sent(&server)), [1, 2, 3, 4]);
}

/// What all crates log on all threads, at every level.
static LOGGED: Mutex<String> = Mutex::new(String::new());

const QUERY: &str = "api-version=2024-10-21&key=q5ery-s3cret%2Fvalue";

#[test]
fn a_query_is_sent_with_every_request_and_redacted() {
    captured_log::install(|text| LOGGED.lock().unwrap().push_str(text));
    let models = || status(200).body(r#"{"data":[]}"#);
    let server = Server::script([ok("a"), models(), models(), models()]);
    let config = config(format!("{}/?{QUERY}", server.url()));
    assert!(!format!("{:?}", config.clone().build().unwrap()).contains("s3cret"));
    let client = build(config);
    ask(&client).unwrap();
    client.models().unwrap();
    client.get::<serde_json::Value>("/models?limit=5").unwrap();
    client
        .with_header("x-own", "an-own-secret")
        .unwrap()
        .get::<serde_json::Value>("m?api-version=next")
        .unwrap();
    let targets: Vec<String> = server.requests().iter().map(|request| request.path.clone()).collect();
    let expected = [
        format!("/v1/chat/completions?{QUERY}"),
        format!("/v1/models?{QUERY}"),
        format!("/v1/models?{QUERY}&limit=5"),
        "/v1/m?key=q5ery-s3cret%2Fvalue&api-version=next".to_owned(),
    ];
    assert_eq!(targets, expected);
    assert!(!format!("{client:?}").contains("s3cret"));
    let logged = LOGGED.lock().unwrap().clone();
    assert!(logged.contains("/v1/models?api-version="), "the test captures the log");
    for secret in ["q5ery", "s3cret", "2024-10-21", "own-secret"] {
        assert!(!logged.contains(secret), "{secret}");
    }
}

#[test]
fn a_query_echoed_by_the_service_is_redacted() {
    let echo = r#"{"error":{"message":"wrong key echoed/value, or echoed%2Fvalue"}}"#;
    let server = Server::always(status(400).body(echo));
    let error = ask(&build(config(format!("{}?key=echoed%2Fvalue", server.url())))).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("wrong key …, or …") && !text.contains("echoed"), "{text}");
}

#[test]
fn no_authorization_is_sent_without_a_key() {
    let server = Server::always(ok("hi"));
    ask(&build(config(server.url()))).unwrap();
    ask(&build(config(server.url()).header("api-key", "own-0123456789"))).unwrap();
    let client = build(config(server.url()).api_key(" \"sk-quoted\" "));
    ask(&client).unwrap();
    let headers: Vec<_> = server
        .requests()
        .iter()
        .map(|request| ["authorization", "api-key"].map(|name| request.header(name).map(str::to_owned)))
        .collect();
    let own = Some("own-0123456789".to_owned());
    assert_eq!(headers, [[None, None], [None, own], [Some("Bearer sk-quoted".to_owned()), None]]);
}
