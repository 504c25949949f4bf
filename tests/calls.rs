//! Calls to a scripted server: which failures are retried, after which wait, and with which error a call ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/captured_log.rs"]
mod captured_log;
mod support;

use std::cell::RefCell;
use std::error::Error as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use holysheep::{
    AdaptiveConfig, AdaptiveHandler, BreakerState, ChatRequest, ChatResponse, Client, Clock, Config,
};
use holysheep::{ConfigBuilder, Error, Event, Jitter, Phase, Reason, Result, RetryConfig};
use support::{Reply, Server, full_message, hang_up, ok, reset, silence, status};

const KEY: &str = "sk-test-0123456789abcdef";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config(server: &Server, clock: &Clock) -> ConfigBuilder {
    Config::builder().api_key(KEY).base_url(server.url()).clock(clock.clone())
}

/// A client with exact waits on a fake clock: without jitter and without pacing.
fn client(server: &Server) -> (Client, Clock) {
    let clock = Clock::fake();
    let retry = RetryConfig::default().jitter(Jitter::None);
    let config = config(server, &clock).retry(retry).adaptive(AdaptiveConfig::off());
    (Client::new(config.build().unwrap()).unwrap(), clock)
}

/// A client with the default settings, on a fake clock.
fn adaptive(server: &Server) -> (Client, Clock) {
    let clock = Clock::fake();
    (Client::new(config(server, &clock).build().unwrap()).unwrap(), clock)
}

/// A client with a timeout of 150 ms and one retry.
fn short_timeout(server: &Server) -> Client {
    let retry = RetryConfig::default().jitter(Jitter::None).max_retries(1);
    let config = config(server, &Clock::fake()).retry(retry).timeout(Duration::from_millis(150));
    Client::new(config.build().unwrap()).unwrap()
}

fn request() -> ChatRequest {
    ChatRequest::new("gpt-4.1").system("You are terse.").user("Say hello.").temperature(0.7)
}

fn ask(client: &Client) -> Result<ChatResponse> {
    client.chat(&request())
}

#[track_caller]
fn succeeds_after(replies: impl IntoIterator<Item = Reply>, waits: &[u64]) -> Server {
    let server = Server::script(replies);
    let (client, clock) = client(&server);
    let answer = ask(&client).unwrap();
    assert_eq!(answer.text(), "hi");
    assert_eq!(clock.sleeps(), waits.iter().map(|wait| secs(*wait)).collect::<Vec<_>>());
    assert_eq!(answer.meta().attempts as usize, server.requests().len());
    assert_eq!(answer.meta().waited, secs(waits.iter().sum()));
    server
}

#[track_caller]
fn fails_without_retry(reply: Reply) -> Error {
    let server = Server::script([reply]);
    let (client, clock) = client(&server);
    let error = ask(&client).unwrap_err();
    assert_eq!((server.requests().len(), clock.sleeps()), (1, vec![]), "{error}");
    error
}

#[test]
fn a_call_sends_the_request_and_reads_the_answer() {
    let server = Server::script([ok("hello").header("x-request-id", "req-1")]);
    let (client, _) = client(&server);
    let answer = ask(&client).unwrap();
    assert_eq!((answer.text(), answer.finish_reason()), ("hello", Some("stop")));
    assert_eq!(answer.usage.as_ref().unwrap().total_tokens, Some(12));
    let meta = answer.meta();
    assert_eq!((meta.attempts, meta.status, meta.request_id.as_deref()), (1, 200, Some("req-1")));

    let request = &server.requests()[0];
    assert_eq!((&*request.method, &*request.path), ("POST", "/v1/chat/completions"));
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {KEY}")));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(request.header("user-agent").unwrap().starts_with("holysheep-rust/"));
    assert_eq!(
        request.body,
        r#"{"model":"gpt-4.1","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"Say hello."}],"temperature":0.7}"#
    );
}

#[test]
fn every_retryable_status_is_retried_with_exponential_backoff() {
    for code in [408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529] {
        succeeds_after([status(code), status(code), status(code), ok("hi")], &[1, 2, 4]);
    }
}

#[test]
fn an_unreadable_body_does_not_change_the_classification_of_a_status() {
    let html = "<html><head><title>502 Bad Gateway</title></head></html>";
    succeeds_after([status(502).body(html), ok("hi")], &[1]);
    succeeds_after([status(429), ok("hi")], &[1]);
    let cut = status(503).body("{\"error\": {\"mess");
    succeeds_after([cut.cut_after(5), ok("hi")], &[1]);
}

#[test]
fn a_refused_request_is_not_retried() {
    for code in [400, 401, 403, 404, 405, 413, 422, 501, 418] {
        let error = fails_without_retry(
            status(code).body(r#"{"error":{"message":"no","code":"c","type":"t","param":"p"}}"#),
        );
        assert_eq!((error.status(), error.attempts(), error.is_retryable()), (Some(code), 1, false));
        assert_eq!(error.is_auth(), code == 401 || code == 403);
        let Error::Api { code: Some(word), kind: Some(kind), param: Some(param), .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!((word.as_str(), kind.as_str(), param.as_str()), ("c", "t", "p"));
    }
}

/// The text of an error that ended a call, without the model and the host that it begins with.
fn message(error: &Error) -> String {
    let target = format!("{} at {}: ", error.model().unwrap(), error.host().unwrap());
    error.to_string().strip_prefix(&target).unwrap_or_else(|| panic!("{error}")).to_owned()
}

#[test]
fn the_errors_for_401_and_403_explain_what_is_wrong_with_the_key() {
    let said = |code| message(&fails_without_retry(status(code).body(r#"{"error":"no"}"#)));
    let unknown =
        "the service answered 401: no; the key is missing, mistyped, revoked or for another service";
    assert_eq!(said(401), unknown);
    assert_eq!(
        said(403),
        "the service answered 403: no; the key may be invalid, or may lack access to this model or from this region"
    );
}

#[test]
fn an_exhausted_quota_is_final_but_a_message_that_mentions_quota_is_not() {
    let with = |code: &str, kind: &str| {
        status(429)
            .body(format!(r#"{{"error":{{"message":"check quota","code":"{code}","type":"{kind}"}}}}"#))
    };
    for reply in [
        with("insufficient_quota", "x"),
        with("x", "insufficient_quota"),
        with("billing_hard_limit_reached", ""),
        with("InsufficientBalance", ""),
        with("out_of_credits", ""),
        status(402),
    ] {
        fails_without_retry(reply);
    }
    succeeds_after([with("rate_limit_exceeded", "tokens"), ok("hi")], &[1]);
    succeeds_after([with("429", "RESOURCE_EXHAUSTED"), ok("hi")], &[1]);
}

#[test]
fn x_should_retry_overrides_the_retryable_statuses() {
    succeeds_after([status(400).header("x-should-retry", "true"), ok("hi")], &[1]);
    succeeds_after([status(402).header("x-should-retry", "true"), ok("hi")], &[1]);
    fails_without_retry(status(503).header("x-should-retry", "false"));
    let mut replies = vec![status(400).header("x-should-retry", "true"); 6];
    let server = Server::script(replies.drain(..));
    let error = ask(&client(&server).0).unwrap_err();
    assert!(
        matches!(error, Error::GaveUp { reason: Reason::RetriesSpent, attempts: 6, .. }),
        "max_retries still applies"
    );
}

#[test]
fn retry_after_decides_the_wait() {
    succeeds_after([status(429).retry_after(20), ok("hi")], &[20]);
    succeeds_after([status(503).header("retry-after-ms", "7000"), ok("hi")], &[7]);
    let date = |second| format!("Fri, 29 Sep 2023 16:26:{second} GMT");
    let dated = status(429).header("date", &date(10)).header("retry-after", &date(40));
    succeeds_after([dated, ok("hi")], &[30]);
    succeeds_after([status(429).header("retry-after", "soon"), ok("hi")], &[1]);
    succeeds_after([status(429).header("retry-after", "-5"), ok("hi")], &[1]);
    let upfront = ok("hi").retry_after(3600);
    succeeds_after([upfront], &[]); // ignored on a success
}

#[test]
fn a_retry_after_beyond_the_longest_wait_fails_the_call_at_once() {
    for (code, most) in [(429, 120), (500, 64), (502, 64), (503, 128), (504, 64), (408, 60), (529, 60)] {
        succeeds_after([status(code).header("retry-after", &most.to_string()), ok("hi")], &[most]);
        let error = fails_without_retry(status(code).header("retry-after", &(most + 1).to_string()));
        assert!(matches!(error, Error::GaveUp { reason: Reason::WaitTooLong, attempts: 1, .. }), "{error:?}");
        assert_eq!(error.retry_after(), Some(secs(most + 1)));
    }
}

#[test]
fn jitter_never_shortens_retry_after() {
    for _ in 0..20 {
        let server = Server::script([status(429).retry_after(10), ok("hi")]);
        let clock = Clock::fake();
        ask(&Client::new(config(&server, &clock).build().unwrap()).unwrap()).unwrap();
        // The call waits for the Retry-After. Jitter and the rate limiter may add up to a quarter.
        let wait: Duration = clock.sleeps().iter().sum();
        assert!(wait >= secs(10) && wait <= Duration::from_millis(12_500), "{wait:?}");
    }
}

#[test]
fn max_retries_bounds_the_requests() {
    succeeds_after(
        [status(500), status(500), status(500), status(500), status(500), ok("hi")],
        &[1, 2, 4, 8, 16],
    );
    let server = Server::script(vec![status(503).body(r#"{"error":{"message":"busy"}}"#); 20]);
    let (client, clock) = client(&server);
    let error = ask(&client).unwrap_err();
    assert_eq!((server.requests().len(), error.attempts()), (6, 6));
    assert_eq!((error.elapsed(), clock.sleeps().len()), (Some(secs(31)), 5));
    let failure = "gave up after 6 attempts in 31.0 s: no retries left: the service answered 503: busy";
    assert_eq!(full_message(&error), format!("gpt-4.1 at {}: {failure}", server.address()));
    assert!(error.is_retryable(), "it may succeed later");
}

#[test]
fn a_refusal_after_retries_reports_all_attempts() {
    let server = Server::script([status(503), status(401)]);
    let error = ask(&client(&server).0).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::NotRetryable, attempts: 2, .. }));
    assert!(error.is_auth() && !error.is_retryable());
}

#[test]
fn a_lost_connection_is_retried_once_immediately_and_then_with_backoff() {
    let server = succeeds_after([reset(), ok("hi")], &[]);
    assert_eq!(server.connections(), 2);
    succeeds_after([hang_up(), ok("hi")], &[]);
    succeeds_after([reset(), reset(), hang_up(), ok("hi")], &[2, 4]);
}

#[test]
fn a_stale_pooled_connection_is_replaced_without_a_wait() {
    let server = Server::script([ok("one"), reset(), ok("two")]);
    let (client, clock) = client(&server);
    ask(&client).unwrap();
    assert_eq!(ask(&client).unwrap().text(), "two");
    assert!(clock.sleeps().is_empty(), "{:?}", clock.sleeps());
    let connections: Vec<usize> = server.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [1, 1, 2]);
}

#[test]
fn connections_are_reused_unless_the_server_closed_them() {
    let server = Server::script([ok("a"), ok("b"), ok("c").then_close(), ok("d")]);
    let (client, clock) = client(&server);
    for text in ["a", "b", "c", "d"] {
        assert_eq!(ask(&client).unwrap().text(), text);
    }
    assert!(clock.sleeps().is_empty(), "{:?}", clock.sleeps());
    assert_eq!(server.connections(), 2);
}

#[test]
fn an_answer_with_a_truncated_body_is_retried() {
    for reply in [ok("hi"), ok("hi").until_close()] {
        succeeds_after([reply.cut_after(40), ok("hi")], &[1]);
    }
}

#[test]
fn a_refused_connection_is_retried_and_reported() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let clock = Clock::fake();
    let config = Config::builder().api_key(KEY).base_url(format!("http://{address}/v1")).clock(clock.clone());
    let retry = RetryConfig::default().jitter(Jitter::None).max_retries(2);
    let error = ask(&Client::new(config.retry(retry).build().unwrap()).unwrap()).unwrap_err();
    assert_eq!(clock.sleeps(), [secs(1), secs(2)]);
    let text = full_message(&error);
    let failure = format!("gave up after 3 attempts in 3.0 s: no retries left: can't connect to {address}: ");
    let start = format!("gpt-4.1 at {address}: {failure}");
    assert!(text.starts_with(&start), "{text}");
}

/// A label of 64 bytes is longer than DNS allows (RFC 1035 section 2.3.4), so the resolver fails without asking a server.
#[test]
fn an_unresolvable_host_is_a_connect_error() {
    let host = format!("{}.test", "a".repeat(64));
    let clock = Clock::fake();
    let config = Config::builder().api_key(KEY).base_url(format!("http://{host}/v1")).allow_plain_http(true);
    let config = config.no_proxy().clock(clock.clone());
    let error = ask(&Client::new(config.build().unwrap()).unwrap()).unwrap_err();
    assert_eq!((error.attempts(), clock.sleeps().len()), (6, 5));
    assert!(full_message(&error).contains(&format!("can't connect to {host}")), "{}", full_message(&error));
}

#[test]
fn a_refusing_proxy_is_a_connect_error() {
    let proxy = Server::script([status(403).then_close(), status(403).then_close()]);
    let clock = Clock::fake();
    let config = Config::builder().api_key(KEY).base_url("http://api.example/v1").allow_plain_http(true);
    let config = config.proxy(format!("http://{}", proxy.address())).clock(clock.clone());
    let retry = RetryConfig::default().jitter(Jitter::None).max_retries(1);
    let error = ask(&Client::new(config.retry(retry).build().unwrap()).unwrap()).unwrap_err();
    assert!(full_message(&error).contains("can't connect to api.example"), "{}", full_message(&error));
    assert_eq!(clock.sleeps(), [secs(1)]);
}

#[test]
fn a_timeout_reports_its_phase() {
    let waiting = Server::script([silence(), silence()]);
    let reading = Server::script([ok("hi").stall_after(3), ok("hi").stall_after(3)]);
    for (server, phase) in [(waiting, Phase::Waiting), (reading, Phase::Reading)] {
        let error = ask(&short_timeout(&server)).unwrap_err();
        let Error::GaveUp { last, attempts: 2, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(**last, Error::Timeout { phase: found, .. } if found == phase), "{error:?}");
        assert!(error.is_timeout());
    }
    // A header that arrives byte by byte doesn't count as progress.
    let trickle = Server::script([ok("hi").trickle(Duration::from_millis(40)), ok("hi")]);
    assert_eq!(ask(&short_timeout(&trickle)).unwrap().meta().attempts, 2);
}

/// The message of an error after the model and the host.
#[track_caller]
fn without_target(error: &Error) -> String {
    let target = format!("{} at {}: ", error.model().unwrap(), error.host().unwrap());
    error.to_string().strip_prefix(&target).unwrap().to_owned()
}

#[test]
fn timeouts_are_not_retried_with_retry_timeouts_off() {
    let server = Server::script([silence(), ok("hi")]);
    let client = short_timeout(&server).with_retry(RetryConfig::default().retry_timeouts(false));
    let error = ask(&client).unwrap_err();
    assert!(matches!(error, Error::Timeout { phase: Phase::Waiting, .. }), "{error:?}");
    assert_eq!(
        without_target(&error),
        "no progress in 150ms while waiting for the answer; raise timeout if that is too short"
    );
}

#[test]
fn an_error_inside_a_200_has_the_status_of_its_code() {
    let inside = |code: &str| status(200).body(format!(r#"{{"error":{{"message":"no","code":{code}}}}}"#));
    succeeds_after([inside("429"), inside("\"503\""), inside("\"overloaded\""), ok("hi")], &[1, 2, 4]);
    assert_eq!(fails_without_retry(inside("400")).status(), Some(400));
    assert_eq!(fails_without_retry(inside("402")).status(), Some(402));
    succeeds_after([inside("429").retry_after(3600), ok("hi")], &[1]);
}

#[test]
fn a_redirect_is_reported_and_not_followed() {
    let error = fails_without_retry(status(307).header("location", "https://elsewhere.example/v1"));
    assert_eq!(
        message(&error),
        "the service answered 307: redirected to https://elsewhere.example/v1; \
         the key is never sent to another address, so set base_url to it"
    );
}

#[test]
fn a_status_without_a_message_has_its_usual_name() {
    let retry = RetryConfig::default().max_retries(0);
    for (code, name) in [
        (304, "neither an answer nor an error"),
        (399, "neither an answer nor an error"),
        (302, "a redirect without an address"),
        (400, "bad request"),
        (401, "unauthorized; the key is missing, mistyped, revoked or for another service"),
        (402, "payment required"),
        (403, "forbidden; the key may be invalid, or may lack access to this model or from this region"),
        (404, "not found"),
        (408, "request timeout"),
        (409, "conflict"),
        (413, "the request is too large"),
        (418, "the request was refused"),
        (422, "the request can't be processed"),
        (429, "too many requests"),
        (499, "the request was refused"),
        (500, "internal server error"),
        (501, "the server failed"),
        (502, "bad gateway"),
        (503, "service unavailable"),
        (504, "gateway timeout"),
        (529, "overloaded"),
        (599, "the server failed"),
    ] {
        let server = Server::script([status(code)]);
        let client = client(&server).0.with_retry(retry.clone());
        let text = format!("the service answered {code}: {name}");
        assert_eq!(message(&ask(&client).unwrap_err()), text);
    }
}

#[test]
fn a_404_without_a_path_in_base_url_hints_at_v1() {
    let not_found = || status(404).body(r#"{"error":{"message":"no such route"}}"#);
    let server = Server::always(not_found());
    let clock = Clock::fake();
    for (base_url, hint) in [
        (format!("http://{}", server.address()), "; base_url has no path, and most services need /v1 there"),
        (format!("http://{}/", server.address()), "; base_url has no path, and most services need /v1 there"),
        (server.url(), ""),
    ] {
        let client = Client::new(config(&server, &clock).base_url(&base_url).build().unwrap()).unwrap();
        let text = format!("the service answered 404: no such route{hint}");
        assert_eq!(message(&ask(&client).unwrap_err()), text, "{base_url}");
    }
}

#[test]
fn an_unreadable_answer_is_an_error_with_an_excerpt() {
    let error = fails_without_retry(status(200).body("<html>Welcome to the hotel's network</html>"));
    assert!(matches!(error, Error::Decode { status: 200, .. }));
    let text = "can't read the answer (status 200) at byte 0 of 43: an HTML page in place of JSON, so base_url may be a \
                website's and not the API's: `<html>Welcome to the hotel's network</html>`";
    assert_eq!(message(&error), text);
    assert_eq!(
        error.source().unwrap().to_string(),
        "the page says: <html>Welcome to the hotel's network</html>"
    );
    let text = "can't read the answer (status 200) at byte 0 of 4: `oops`";
    for kind in ["application/json", "text/plain", "text/event-stream"] {
        let error = fails_without_retry(status(200).header("content-type", kind).body("oops"));
        assert_eq!(message(&error), text, "{kind}");
    }
    let garbage = fails_without_retry(status(200).body(vec![0xf5; 10_000_000]));
    assert!(garbage.to_string().len() < 2_000, "{} bytes", garbage.to_string().len());
}

#[test]
fn an_oversized_answer_is_an_error() {
    let client = |server: &Server| {
        let config = config(server, &Clock::fake()).max_response_bytes(1000);
        Client::new(config.build().unwrap()).unwrap()
    };
    let fits = |extra: usize| ok(&"x".repeat(1000 - (ok("").body_len() + extra)));
    assert!(ask(&client(&Server::script([fits(0)]))).is_ok(), "exactly the limit fits");
    let large = Server::script([ok(&"x".repeat(1000))]);
    let error = ask(&client(&large)).unwrap_err();
    assert_eq!(without_target(&error), "the body of the answer is larger than 1000 bytes");
    let blank = |length: usize| status(200).header("content-type", "text/plain").body(" ".repeat(length));
    let error = ask(&client(&Server::script(vec![blank(1000); 6]))).unwrap_err();
    assert!(error.to_string().contains("sent no answer"), "{error}");
    let error = ask(&client(&Server::script([blank(1001)]))).unwrap_err();
    assert!(matches!(error, Error::TooLarge { part: "body", .. }), "{error:?}");
    let headers = Server::script([ok("hi").header("x-long", &"x".repeat(70_000))]);
    let error = ask(&client(&headers)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { part: "header", .. }), "{error:?}");
}

#[test]
fn the_idempotency_key_is_the_same_for_all_attempts_and_unique_per_call() {
    let server = Server::script([status(500), status(500), ok("hi"), ok("hi"), ok("hi")]);
    let (first, _) = client(&server);
    ask(&first).unwrap();
    ask(&first).unwrap();
    let silent =
        Client::new(config(&server, &Clock::fake()).idempotency_key(false).build().unwrap()).unwrap();
    ask(&silent).unwrap();
    let requests = server.requests();
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    assert!(keys[0].is_some() && keys[0] == keys[1] && keys[1] == keys[2]);
    assert!(keys[3].is_some() && keys[3] != keys[0]);
    assert_eq!(keys[4], None);
    assert_eq!(requests[0].body, requests[2].body);
}

#[test]
fn a_wait_that_would_cross_the_deadline_fails_the_call_at_once() {
    let server = Server::script([status(503), status(503), ok("hi")]);
    let (client, clock) = client(&server);
    let error = ask(&client.with_deadline(Some(Duration::from_millis(2500)))).unwrap_err();
    assert_eq!(clock.sleeps(), [secs(1)], "1 s fits, 2 s more don't");
    assert!(matches!(error, Error::GaveUp { reason: Reason::Deadline, attempts: 2, .. }), "{error:?}");
    assert_eq!((error.status(), error.is_timeout()), (Some(503), true));
    let none_left = ask(&client.with_deadline(Some(Duration::ZERO))).unwrap_err();
    assert_eq!(without_target(&none_left), "the deadline of 0ns passed");
    assert_eq!(server.requests().len(), 2, "nothing is sent after the deadline");
}

#[test]
fn a_shutdown_ends_waits_and_calls_of_all_clones_immediately() {
    let server = Server::script([status(503).retry_after(100), silence()]);
    let config = config(&server, &Clock::system()).adaptive(AdaptiveConfig::off());
    let client = Client::new(config.build().unwrap()).unwrap();
    let waiting = thread::spawn({
        let client = client.clone();
        move || ask(&client)
    });
    server.wait_for_requests(1);
    let calling = thread::spawn({
        let client = client.clone();
        move || ask(&client)
    });
    server.wait_for_requests(2);
    client.shutdown();
    for ended in [waiting.join().unwrap(), calling.join().unwrap(), ask(&client)] {
        assert!(matches!(ended, Err(Error::Shutdown)), "{ended:?}");
    }
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn events_report_attempts_answers_and_retries() {
    let server = Server::script([status(429).retry_after(2), reset(), ok("hi")]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let clock = Clock::fake();
    let retry = RetryConfig::default().jitter(Jitter::None);
    let config = config(&server, &clock).retry(retry).adaptive(AdaptiveConfig::off()).on_event({
        let seen = Arc::clone(&seen);
        move |event| {
            seen.lock().unwrap().push(match event {
                Event::Attempt { attempt, .. } => format!("attempt {attempt}"),
                Event::Answer { attempt, status, .. } => format!("answer {attempt} {status:?}"),
                Event::Retry { attempt, status, wait, why, .. } => {
                    let why = why.to_string();
                    let why = why.split(": Connection reset").next().unwrap_or(&why);
                    format!("retry {attempt} {status:?} {wait:?} {why}")
                }
                Event::End { attempts, status, error, .. } => format!("end {attempts} {status:?} {error:?}"),
                other => format!("{other:?}"),
            });
        }
    });
    ask(&Client::new(config.build().unwrap()).unwrap()).unwrap();
    let lost = "the connection broke before the answer; the request may have been processed";
    let expected = [
        "attempt 1",
        "answer 1 Some(429)",
        "retry 1 Some(429) 2s status 429",
        "attempt 2",
        "answer 2 None",
        &format!("retry 2 None 0ns {lost}"),
        "attempt 3",
        "answer 3 Some(200)",
        "end 3 Some(200) None",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn invalid_settings_of_a_clone_are_replaced_by_the_nearest_valid_ones() {
    let server = Server::script([status(503), ok("hi")]);
    let (client, clock) = client(&server);
    // The base delay is lowered to its cap, and the deadline to a day.
    let exact = RetryConfig::default().jitter(Jitter::None).base_delay(secs(99));
    ask(&client.with_retry(exact)).unwrap();
    assert_eq!(clock.sleeps(), [secs(32)]);
    let day = secs(24 * 3600);
    let server = Server::always(status(503).retry_after(86399));
    let (client, clock) = self::client(&server);
    let retry = RetryConfig::default().jitter(Jitter::None).status_max_delay(503, secs(48 * 3600));
    let error = ask(&client.with_retry(retry).with_deadline(Some(day + secs(3600)))).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::Deadline, attempts: 2, .. }), "{error:?}");
    assert_eq!(clock.sleeps(), [secs(86_399)]);
}

#[test]
fn an_invalid_request_is_not_sent() {
    let server = Server::script([]);
    let (client, _) = client(&server);
    let said = |request: ChatRequest| client.chat(&request).unwrap_err().to_string();
    let finite = "temperature: is not a finite number, which JSON can't represent";
    assert_eq!(said(request().temperature(f64::NAN)), finite);
    assert_eq!(said(ChatRequest::new("gpt-4.1")), "messages: is empty; add a message with user(…)");
    assert_eq!(said(ChatRequest::new(" ").user("hi")), "model: is empty; name a model, such as gpt-4.1");
    for path in ["https://elsewhere.example/v1", "/../admin", "/a b"] {
        assert!(
            matches!(client.get::<serde_json::Value>(path), Err(Error::Config { setting: "path", .. })),
            "{path}"
        );
    }
    assert!(server.requests().is_empty());
}

#[test]
fn other_endpoints_can_be_reached() {
    let models = serde_json::json!({"object": "list", "data": [{"id": "gpt-4.1", "owned_by": "openai"}]});
    let server = Server::script([
        status(200).json(&models),
        status(200).json(&models["data"]),
        status(200).json(&serde_json::json!({"answer": 42})),
        status(200).json(&serde_json::json!([1, 2])),
    ]);
    let (client, _) = client(&server);
    for _ in 0..2 {
        let models = client.models().unwrap();
        assert_eq!((models[0].id.as_str(), &models[0].extra["owned_by"]), ("gpt-4.1", &"openai".into()));
    }
    let answer: serde_json::Value = client.post("moderations", &serde_json::json!({"input": "x"})).unwrap();
    assert_eq!(answer["answer"], 42);
    assert_eq!(client.get::<Vec<u32>>("/numbers").unwrap(), [1, 2]);
    let requests = server.requests();
    let sent: Vec<_> = requests.iter().map(|request| (&*request.method, &*request.path)).collect();
    assert_eq!(sent[2..], [("POST", "/v1/moderations"), ("GET", "/v1/numbers")]);
    assert_eq!(requests[3].header("idempotency-key"), None);
}

#[test]
fn a_key_is_valid_if_the_models_can_be_listed() {
    let server =
        Server::script([status(200).json(&serde_json::json!({"data": []})), status(401), status(503)]);
    let (client, clock) = client(&server);
    client.validate_api_key().unwrap();
    assert!(matches!(client.validate_api_key(), Err(Error::Api { status: 401, .. })));
    assert!(
        matches!(client.validate_api_key(), Err(Error::Api { status: 503, .. })),
        "a 503 doesn't say whether the key is valid"
    );
    assert_eq!((server.requests().len(), clock.sleeps().len()), (3, 0), "one attempt each");
    let request = &server.requests()[0];
    assert_eq!((&*request.method, &*request.path), ("GET", "/v1/models"));

    let short = Client::new(Config::builder().api_key("sk-short").build().unwrap()).unwrap();
    assert_eq!(
        short.validate_api_key().unwrap_err().to_string(),
        "api_key: is too short for HolySheep: 8 of at least 20 characters; copy it from https://www.holysheep.ai/register"
    );
    // The header has another key, which may be valid.
    let other = short.with_header("Authorization", KEY).unwrap().with_deadline(Some(Duration::ZERO));
    assert!(matches!(other.validate_api_key(), Err(Error::Deadline { .. })));
}

#[test]
fn the_api_key_is_redacted_even_where_the_server_echoes_it() {
    let echo = format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}."}}}}"#);
    let error = fails_without_retry(status(401).body(echo));
    let server = Server::script([]);
    let (client, _) = client(&server);
    let config = config(&server, &Clock::fake()).header("x-secret", KEY);
    let shown = [
        full_message(&error),
        format!("{error:?}"),
        format!("{client:?}"),
        format!("{config:?}"),
        format!("{:?}", config.build().unwrap()),
        format!("{:?}", request().user(KEY)),
    ];
    for text in shown {
        assert!(!text.contains(KEY), "{text}");
    }
}

#[test]
fn a_throttled_model_is_paced_and_others_are_not() {
    let server = Server::script([status(429), ok("hi"), ok("hi")]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let clock = Clock::fake();
    let config = config(&server, &clock).adaptive(AdaptiveConfig::default().seed(1)).on_event({
        let seen = Arc::clone(&seen);
        move |event| seen.lock().unwrap().push(event.clone())
    });
    let client = Client::new(config.build().unwrap()).unwrap();
    let answer = ask(&client).unwrap();
    // The pause after the first 429 is one to two intervals of the rate that the server accepted.
    assert_eq!(answer.meta().attempts, 2);
    assert!(answer.meta().waited >= secs(1) && answer.meta().waited <= secs(4), "{:?}", answer.meta());
    assert_eq!(clock.sleeps().iter().sum::<Duration>(), answer.meta().waited);
    let snapshot = client.handler("gpt-4.1").snapshot();
    assert_eq!((snapshot.successes, snapshot.throttles), (1, 1));
    assert!(snapshot.rate_per_minute.is_some());
    let seen = seen.lock().unwrap().clone();
    assert!(
        seen.iter().any(|event| matches!(event, Event::Rate { model, .. } if model == "gpt-4.1")),
        "{seen:?}"
    );
    assert!(seen.iter().any(|event| matches!(event, Event::Paced { attempt: 2, .. })), "{seen:?}");

    assert_eq!(client.handler("gpt-4.1-mini").snapshot().rate_per_minute, None);
    let slept = clock.sleeps().len();
    client.chat(&ChatRequest::new("gpt-4.1-mini").user("hi")).unwrap();
    assert_eq!(clock.sleeps().len(), slept, "another model is not paced");
}

#[test]
fn a_throttled_call_has_twice_as_many_retries() {
    let server = Server::script(vec![status(429); 20]);
    let error = ask(&adaptive(&server).0).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::RetriesSpent, attempts: 11, .. }), "{error:?}");
}

#[test]
fn the_circuit_breaker_opens_when_the_service_is_down() {
    let server = Server::script(vec![status(503); 40]);
    let (client, clock) = adaptive(&server);
    let steady = RetryConfig::default().base_delay(Duration::from_millis(300)).exponential_base(1.0);
    let client = client.with_retry(steady.jitter(Jitter::None));
    let mut ends = Vec::new();
    while !matches!(ends.last(), Some(Error::CircuitOpen { .. })) {
        ends.push(ask(&client).unwrap_err());
        clock.advance(Duration::from_millis(10));
    }
    assert!(server.requests().len() <= 12, "{} requests", server.requests().len());
    let Some(Error::CircuitOpen { retry_in, .. }) = ends.last() else { panic!() };
    assert!(*retry_in > Duration::ZERO && *retry_in <= secs(30), "{retry_in:?}");
    assert!(
        ends.iter().any(|end| matches!(end, Error::GaveUp { reason: Reason::CircuitOpen, .. })),
        "{ends:?}"
    );
    assert_eq!(client.handler("gpt-4.1").snapshot().breaker, BreakerState::Open);

    // After the wait, a probe succeeds and closes the breaker.
    let back = Server::script([ok("hi")]);
    let handler = client.handler("gpt-4.1");
    let shared = Client::new(config(&back, &clock).handler(handler).build().unwrap()).unwrap();
    clock.advance(*retry_in);
    assert_eq!(ask(&shared).unwrap().text(), "hi");
    assert_eq!(shared.handler("any").snapshot().breaker, BreakerState::Closed);
}

#[test]
fn wait_when_open_waits_for_the_circuit_breaker_within_the_deadline() {
    let server = Server::script(vec![status(503); 12]);
    let clock = Clock::fake();
    let patient = AdaptiveConfig::default().wait_when_open(true).seed(5);
    let client = Client::new(config(&server, &clock).adaptive(patient).build().unwrap()).unwrap();
    while client.handler("gpt-4.1").snapshot().openings == 0 {
        let _ = ask(&client.with_deadline(Some(secs(3))));
    }
    let open = ask(&client.with_deadline(Some(Duration::from_millis(100)))).unwrap_err();
    let message = without_target(&open);
    assert!(message.starts_with("not sent: the open circuit breaker would admit the call in "), "{message}");
    assert!(message.ends_with(" s, after the deadline of 100ms"), "{message}");
    let asked = server.requests().len();
    server.add(vec![ok("hi"); 12]);
    let answer = ask(&client).unwrap();
    assert!(answer.meta().waited > Duration::ZERO && server.requests().len() > asked);
}

#[test]
fn a_shutdown_ends_the_wait_for_a_permit() {
    let server = Server::script([status(429).retry_after(100)]);
    let handler = AdaptiveHandler::new(AdaptiveConfig::default());
    let client = Client::new(config(&server, &Clock::system()).handler(handler).build().unwrap()).unwrap();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            thread::spawn(move || ask(&client))
        })
        .collect();
    while client.handler("").snapshot().throttles == 0 {
        thread::yield_now();
    }
    client.shutdown();
    for caller in callers {
        assert!(matches!(caller.join().unwrap(), Err(Error::Shutdown) | Err(Error::Api { status: 418, .. })));
    }
}

#[test]
fn billing_errors_and_refused_requests_do_not_affect_the_limiter() {
    let money = r#"{"error":{"message":"pay","code":"insufficient_quota"}}"#;
    let server =
        Server::script([status(429).body(money), status(401), status(404), status(200).body("oops")]);
    let (client, _) = adaptive(&server);
    for _ in 0..4 {
        ask(&client).unwrap_err();
    }
    let snapshot = client.handler("gpt-4.1").snapshot();
    assert_eq!((snapshot.throttles, snapshot.failures, snapshot.consecutive_errors), (0, 0, 0));
    assert_eq!(snapshot.rate_per_minute, None);
}

#[test]
fn limits_in_headers_reach_the_handler_and_the_caller() {
    let nearly_used_up = ok("hi")
        .header("x-ratelimit-limit-requests", "100")
        .header("x-ratelimit-remaining-requests", "1")
        .header("x-ratelimit-reset-requests", "20s");
    let server = Server::script([nearly_used_up, ok("hi"), ok("hi")]);
    let (client, clock) = adaptive(&server);
    let answer = ask(&client).unwrap();
    let limit = answer.meta().rate_limits.requests.unwrap();
    assert_eq!((limit.limit, limit.remaining, limit.reset), (100, 1, secs(20)));
    ask(&client).unwrap();
    ask(&client).unwrap();
    let slept: Duration = clock.sleeps().iter().sum();
    assert!(
        slept >= secs(20) && slept <= secs(22),
        "the remaining requests are spread over the time to the reset: {slept:?}"
    );
}

thread_local! {
    /// What all crates log on this thread, at every level.
    static LOGGED: RefCell<String> = const { RefCell::new(String::new()) };
}

#[test]
fn no_crate_logs_the_key() {
    captured_log::install(|text| LOGGED.with_borrow_mut(|logged| *logged += text));
    let server = Server::script([status(429).retry_after(1), ok("hi")]);
    let config = config(&server, &Clock::fake()).header("api-key", "another-secret-0123456789");
    ask(&Client::new(config.build().unwrap()).unwrap()).unwrap();
    let sent = &server.requests()[1];
    assert_eq!(sent.header("authorization"), Some(&*format!("Bearer {KEY}")), "the key is sent");
    assert_eq!(sent.header("api-key"), Some("another-secret-0123456789"));
    let logged = LOGGED.take();
    for seen in ["POST./v1/chat/completions", "authorization:.", "api-key:.", "attempt 1"] {
        assert!(logged.contains(seen), "the test captures the log: {seen}");
    }
    for secret in [KEY, &KEY[3..], "another-secret", "Say hello"] {
        assert!(!logged.contains(secret), "{secret}");
    }
}

#[test]
fn secrets_that_the_server_echoes_are_redacted() {
    const OTHER: &str = "another-secret-0123456789";
    let echo = |code: u16, body: &str| status(code).header("x-request-id", KEY).body(body.replace('$', KEY));
    let server = Server::script([
        echo(503, r#"{"error":{"code":"$","type":"$","param":"$","message":"$"}}"#),
        ok("hi"),
        echo(401, &format!("{}$", " ".repeat(500))),
        echo(200, "not JSON: $"),
        echo(200, r#"{"choices":"$"}"#),
        echo(400, &format!("{{\"error\":\"{OTHER}\"}}")),
    ]);
    let events = Arc::new(Mutex::new(Vec::new()));
    let config = config(&server, &Clock::fake()).header("api-key", OTHER).on_event({
        let events = Arc::clone(&events);
        move |event| events.lock().unwrap().push(format!("{event:?}"))
    });
    let client = Client::new(config.build().unwrap()).unwrap();
    ask(&client).unwrap();
    let mut shown = Vec::new();
    for _ in 0..4 {
        let error = ask(&client).unwrap_err();
        shown.push(format!("{error:?} {}", full_message(&error)));
    }
    shown.extend(events.lock().unwrap().iter().cloned());
    for text in shown {
        assert!(!text.contains(&KEY[..12]) && !text.contains(OTHER), "{text}");
    }
}

#[test]
fn a_deadline_that_ends_an_attempt_keeps_the_previous_error() {
    let failed = status(503).header("x-request-id", "r1");
    let server = Server::script([ok("hi"), failed, silence()]);
    let retry = RetryConfig::default().base_delay(Duration::from_millis(1));
    let client = Client::new(config(&server, &Clock::system()).retry(retry).build().unwrap()).unwrap();
    ask(&client.with_deadline(Some(Duration::MAX))).unwrap();
    let error = ask(&client.with_deadline(Some(Duration::from_millis(200)))).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::DeadlinePassed, attempts: 2, .. }), "{error:?}");
    assert_eq!((error.status(), error.request_id(), error.is_timeout()), (Some(503), Some("r1"), true));
    let text = "the deadline passed during the last attempt; the one before failed: the service answered 503";
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn an_answer_sent_before_the_request_ends_is_read() {
    assert_eq!(fails_without_retry(status(413).early()).status(), Some(413));
}

#[test]
fn a_slow_proxy_cannot_extend_a_deadline() {
    let head = "x: y\r\n".repeat(200);
    let proxy = Server::always(status(200).header("x-long", &head).trickle(Duration::from_millis(20)));
    let config = Config::builder().api_key(KEY).base_url("http://api.example/v1").allow_plain_http(true);
    let config =
        config.proxy(format!("http://{}", proxy.address())).deadline(Some(Duration::from_millis(300)));
    let start = std::time::Instant::now();
    let error = ask(&Client::new(config.build().unwrap()).unwrap()).unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_captive_portal_does_not_make_a_key_valid() {
    let server = Server::script([status(200).body("<html>Welcome</html>")]);
    assert!(client(&server).0.validate_api_key().is_err());
}

#[test]
fn an_answer_that_is_not_http_is_not_retried_immediately() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 2048]);
            let _ = std::io::Write::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
        }
    });
    let clock = Clock::fake();
    let retry = RetryConfig::default().max_retries(1).jitter(Jitter::None);
    let config = Config::builder().api_key(KEY).base_url(format!("http://{address}/v1")).clock(clock.clone());
    let error = ask(&Client::new(config.retry(retry).build().unwrap()).unwrap()).unwrap_err();
    assert!(
        matches!(&error, Error::GaveUp { last, .. } if matches!(**last, Error::Transport { answered: true, .. })),
        "{error:?}"
    );
    assert_eq!(clock.sleeps(), [secs(1)], "no immediate retry");
}
