//! Streams from a scripted server: delivery, retries, timeouts, and detection of truncated streams.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Reply, Server, hang_up, reset, silence, status};
use holysheep::{
    AdaptiveConfig, ChatRequest, ChatStream, Client, Clock, Config, ConfigBuilder, Error, Jitter, Phase,
};
use holysheep::{Result, RetryConfig};

fn config(server: &Server) -> ConfigBuilder {
    let retry = RetryConfig::default().jitter(Jitter::None);
    Config::builder()
        .api_key("sk-test-0123456789")
        .base_url(server.url())
        .retry(retry)
        .adaptive(AdaptiveConfig::off())
}

fn client(server: &Server) -> (Client, Clock) {
    let clock = Clock::fake();
    (Client::new(config(server).clock(clock.clone()).build().unwrap()).unwrap(), clock)
}

fn ask(client: &Client) -> Result<ChatStream> {
    client.chat_stream(&ChatRequest::new("gpt-4.1").user("hi"))
}

fn events(body: &str) -> Reply {
    status(200).header("content-type", "text/event-stream").body(body)
}

fn delta(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    )
}

const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn whole() -> String {
    [&delta("Hel"), &delta("lo"), FINISH, USAGE, DONE].concat()
}

/// The texts of all chunks, and the error that ended the stream.
fn read(stream: &mut ChatStream) -> (Vec<String>, Option<Error>) {
    let mut texts = Vec::new();
    for chunk in stream {
        match chunk {
            Ok(chunk) => texts.push(chunk.text().to_owned()),
            Err(error) => return (texts, Some(error)),
        }
    }
    (texts, None)
}

#[test]
fn a_stream_is_delivered_in_chunks_and_assembled() {
    let server = Server::script([events(&whole()).header("x-request-id", "r1"), events(&whole())]);
    let (client, _) = client(&server);
    let mut stream = ask(&client).unwrap();
    let (texts, error) = read(&mut stream);
    assert!(error.is_none());
    assert_eq!(texts.concat(), "Hello");
    assert_eq!((stream.partial(), stream.meta().request_id.as_deref()), ("Hello", Some("r1")));
    let response = ask(&client).unwrap().into_response().unwrap();
    assert_eq!((response.text(), response.finish_reason()), ("Hello", Some("stop")));
    assert_eq!(response.usage.as_ref().unwrap().total_tokens, Some(3));
    assert_eq!((response.meta().attempts, response.meta().status), (1, 200));
    let body: serde_json::Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&true.into(), &true.into()));
    assert_eq!(server.connections(), 1, "the first body was read to its end, so its connection is reused");
}

#[test]
fn a_failure_before_the_first_delta_is_retried() {
    let failing = "data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\n";
    let only_filter = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
    for first in [
        status(429),
        status(503),
        reset(),
        hang_up(),
        events(failing),
        events(""),
        events(": ping\n\n"),
        events(only_filter),
        events(&[only_filter, failing].concat()),
        events(&whole()).cut_after(7),
    ] {
        let server = Server::script([first.clone(), events(&whole())]);
        let (client, _) = client(&server);
        let response =
            ask(&client).unwrap_or_else(|error| panic!("{first:?}: {error:?}")).into_response().unwrap();
        assert_eq!((response.text(), response.meta().attempts), ("Hello", 2), "{first:?}");
    }
}

#[test]
fn a_refused_stream_is_not_retried() {
    let inside = "data: {\"error\":{\"message\":\"no\",\"code\":400}}\n\n";
    let json = status(200).json(&serde_json::json!({"error": {"message": "no", "code": 401}}));
    for (reply, code) in [(status(404), 404), (events(inside), 400), (json, 401)] {
        let server = Server::script([reply]);
        assert_eq!(ask(&client(&server).0).unwrap_err().status(), Some(code));
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_stream_cut_anywhere_is_never_complete() {
    let body = whole();
    let reply = events(&body);
    let finish = body.find(FINISH).unwrap() + FINISH.len() - 2; // the line with the finish reason has arrived
    let first = delta("Hel").len();
    for kept in (first..body.len()).step_by(7) {
        for reply in [reply.clone().cut_after(kept), events(&body[..kept]).until_close()] {
            let server = Server::script([reply]);
            let mut stream = ask(&client(&server).0).unwrap();
            let (texts, error) = read(&mut stream);
            let arrived = if kept < first + delta("lo").len() - 2 { "Hel" } else { "Hello" };
            assert_eq!((texts.concat().as_str(), stream.partial()), (arrived, arrived), "{kept}");
            if kept >= finish {
                assert!(error.is_none(), "{kept}: the finish reason had arrived: {error:?}");
                continue;
            }
            let Some(Error::StreamTruncated { received, .. }) = error else { panic!("{kept}: {error:?}") };
            assert_eq!(received, arrived);
            assert!(stream.next().is_none() && stream.into_response().is_err());
        }
    }
}

#[test]
fn an_error_after_the_first_delta_is_returned_and_not_retried() {
    let failing = "data: {\"error\":{\"message\":\"fell over\",\"code\":503}}\n\n";
    let server = Server::script([events(&[&delta("Hel"), failing].concat())]);
    let mut stream = ask(&client(&server).0).unwrap();
    let (texts, error) = read(&mut stream);
    assert_eq!((texts.concat().as_str(), error.unwrap().status()), ("Hel", Some(503)));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(stream.into_response().unwrap_err().status(), Some(503));
}

#[test]
fn the_first_chunk_does_not_wait_for_the_second() {
    let body = delta("now") + &delta("later");
    let server = Server::script([events(&body).stall_after_events(1)]);
    let (client, _) = client(&server);
    let mut stream = ask(&client).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().text(), "now");
    assert_eq!(stream.partial(), "now");
}

#[test]
fn a_stream_without_content_times_out_despite_pings() {
    let timeout = Duration::from_millis(200);
    let first = delta("Hel").len();
    let pings = events(&(delta("Hel") + &": ping\n\n".repeat(200)));
    let pinging = pings.trickle_after(first, Duration::from_millis(5));
    for reply in [events(&whole()).stall_after(first), pinging] {
        let server = Server::script([reply]);
        let client = Client::new(config(&server).timeout(timeout).build().unwrap()).unwrap();
        let start = Instant::now();
        let (texts, error) = read(&mut ask(&client).unwrap());
        assert_eq!(texts, ["Hel"]);
        assert!(matches!(error, Some(Error::Timeout { phase: Phase::Reading, .. })), "{error:?}");
        assert!(start.elapsed() < 3 * timeout, "{:?}", start.elapsed());
    }
    let server = Server::script([silence()]);
    let short_timeout = config(&server).timeout(timeout).retry(RetryConfig::default().max_retries(0));
    let error = ask(&Client::new(short_timeout.build().unwrap()).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Timeout { phase: Phase::Waiting, .. }), "{error:?}");
}

#[test]
fn a_connection_left_open_after_done_does_not_delay_the_end() {
    let server = Server::script([events(&(whole() + "\n")).stall_after(whole().len())]);
    let client = Client::new(config(&server).build().unwrap()).unwrap();
    let start = Instant::now();
    assert_eq!(ask(&client).unwrap().into_response().unwrap().text(), "Hello");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_finish_reason_without_done_completes_a_stream() {
    let reply = events(&[&delta("Hello"), FINISH].concat());
    let server = Server::script([reply.clone().until_close(), reply]);
    let (client, _) = client(&server);
    for _ in 0..2 {
        assert_eq!(ask(&client).unwrap().into_response().unwrap().text(), "Hello");
    }
}

#[test]
fn a_shutdown_and_a_deadline_end_a_stream() {
    let server = Server::script(vec![events(&whole()).stall_after_events(1); 2]);
    let client = Client::new(config(&server).build().unwrap()).unwrap();
    let (began, begins) = mpsc::channel();
    let reader = thread::spawn({
        let client = client.clone();
        move || {
            let mut stream = ask(&client).unwrap();
            stream.next().unwrap().unwrap();
            began.send(()).unwrap();
            read(&mut stream).1
        }
    });
    begins.recv().unwrap();
    let short_deadline = client.with_deadline(Some(Duration::from_millis(300)));
    let start = Instant::now();
    let (texts, error) = read(&mut ask(&short_deadline).unwrap());
    assert_eq!(texts, ["Hel"]);
    assert!(matches!(error, Some(Error::Deadline { .. })), "{error:?}");
    assert!(start.elapsed() < Duration::from_millis(400));
    client.shutdown();
    assert!(matches!(reader.join().unwrap(), Some(Error::Shutdown)));
}

#[test]
fn into_response_returns_the_error_that_has_ended_the_stream() {
    let cases = [
        events(&whole()).stall_after_events(1),
        events(&delta("Hel")),
        events(&whole()).cut_after(delta("Hel").len() + 5),
    ];
    for (case, reply) in cases.into_iter().enumerate() {
        let server = Server::script([reply]);
        let config = config(&server).deadline(Some(Duration::from_millis(300)));
        let mut stream = ask(&Client::new(config.build().unwrap()).unwrap()).unwrap();
        let error = stream.find_map(Result::err).unwrap();
        assert_eq!(matches!(error, Error::Deadline { .. }), case == 0, "{error:?}");
        assert_eq!(format!("{:?}", stream.into_response().unwrap_err()), format!("{error:?}"));
    }
}

#[test]
fn an_error_names_the_model_also_if_a_chunk_was_taken_before() {
    let server = Server::script([events(&delta("Hel"))]);
    let mut chunks = ask(&client(&server).0).unwrap();
    chunks.next().unwrap().unwrap();
    let error = chunks.into_response().unwrap_err();
    assert!(matches!(error, Error::StreamTruncated { .. }), "{error:?}");
    assert_eq!(error.model(), Some("gpt-4.1"), "{error}");
    let server = Server::always(events(&delta("Hel")));
    let error = ask(&client(&server).0).unwrap().into_response().unwrap_err();
    let host = server.url().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    assert_eq!(error.to_string().matches(&host).count(), 1, "{error}");
}

#[test]
fn a_service_that_refuses_stream_options_is_called_without_them() {
    let refusal =
        status(400).body(r#"{"error":{"message":"Unrecognized request argument: stream_options"}}"#);
    let server = Server::script([refusal, events(&whole())]);
    let response = ask(&client(&server).0).unwrap().into_response().unwrap();
    assert_eq!(response.text(), "Hello");
    assert!(!server.requests()[1].body.contains("stream_options"));
}

/// The fallback request is an attempt of the same call.
#[test]
fn the_fallback_without_the_option_shares_deadline_meta_and_idempotency_key() {
    let refusal = || status(400).body(r#"{"error":{"message":"stream_options is not supported"}}"#);
    let busy = || status(503).header("retry-after", "8");
    let server = Server::script([busy(), refusal(), busy(), events(&whole())]);
    let (client, clock) = client(&server);
    let error = ask(&client.with_deadline(Some(Duration::from_secs(10)))).unwrap_err();
    assert_eq!((error.status(), error.attempts()), (Some(503), 3), "{error:?}");
    assert_eq!(clock.sleeps().len(), 1, "the second wait would cross the deadline");

    let server = Server::script([busy(), refusal(), busy(), events(&whole())]);
    let (client, _) = self::client(&server);
    let client = client.with_retry(RetryConfig::default().max_retries(2));
    let stream = ask(&client).unwrap();
    assert_eq!(stream.meta().attempts, 4, "the fallback isn't charged as a retry");
    let requests = server.requests();
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert!(keys.iter().all(|key| key == &keys[0]), "{keys:?}");
    let asks: Vec<_> = requests.iter().map(|request| request.body.contains("stream_options")).collect();
    assert_eq!(asks, [true, true, false, false]);

    let server = Server::always(refusal());
    let error = ask(&self::client(&server).0).unwrap_err();
    assert_eq!((error.status(), server.requests().len()), (Some(400), 2), "there is one fallback");
}

#[test]
fn an_answer_that_is_not_a_stream_is_one_chunk() {
    let server = Server::script([crate::support::ok("all at once")]);
    let response = ask(&client(&server).0).unwrap().into_response().unwrap();
    assert_eq!((response.text(), response.finish_reason()), ("all at once", Some("stop")));
    assert_eq!(response.usage.unwrap().total_tokens, Some(12));
}

#[test]
fn streams_clients_and_errors_can_be_sent_to_other_threads() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync + Clone>() {}
    is_send::<ChatStream>();
    is_shared::<Client>();
    is_send::<Error>();
}

#[test]
fn the_format_of_an_answer_is_detected_from_the_body_not_the_content_type() {
    let error = r#"{"error":{"message":"bad key","code":401}}"#;
    let answer = r#"{"choices":[{"message":{"content":"all at once"},"finish_reason":"stop"}]}"#;
    for kind in ["text/event-stream", "text/plain", "APPLICATION/JSON"] {
        let reply = |body: &str| status(200).header("content-type", kind).body(body);
        let server = Server::script([reply(error), reply(answer), reply("<html>Log in</html>")]);
        let (client, _) = client(&server);
        assert!(ask(&client).unwrap_err().is_auth(), "{kind}");
        assert_eq!(ask(&client).unwrap().into_response().unwrap().text(), "all at once", "{kind}");
        assert!(matches!(ask(&client).unwrap_err(), Error::Decode { .. }), "{kind}");
        assert_eq!(server.requests().len(), 3, "none of them was retried");
    }
}

#[test]
fn fewer_choices_than_requested_are_not_complete() {
    let one = [&delta("Hello"), FINISH].concat();
    let server = Server::script([events(&one).until_close(), events(&[&one, DONE].concat())]);
    let (client, _) = client(&server);
    let two = ChatRequest::new("gpt-4.1").user("hi").n(2);
    let cut = client.chat_stream(&two).unwrap().find_map(Result::err);
    assert!(matches!(cut, Some(Error::StreamTruncated { .. })), "{cut:?}");
    assert!(client.chat_stream(&two).unwrap().into_response().is_ok(), "the service sent [DONE]");
}

#[test]
fn empty_chunks_count_as_inactivity_and_the_callers_own_time_does_not() {
    let timeout = Duration::from_millis(150);
    let server = Server::script([events(&whole())]);
    let client = Client::new(config(&server).timeout(timeout).build().unwrap()).unwrap();
    let mut stream = ask(&client).unwrap();
    stream.next().unwrap().unwrap();
    let (_hold, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(2 * timeout); // the caller is busy
    assert_eq!(stream.into_response().unwrap().text(), "Hello");

    let empty = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n";
    let body = delta("Hel") + &empty.repeat(100);
    let reply = events(&body).trickle_after(delta("Hel").len(), Duration::from_millis(1));
    let server = Server::script([reply]);
    let client = Client::new(config(&server).timeout(timeout).build().unwrap()).unwrap();
    let start = Instant::now();
    let (_, error) = read(&mut ask(&client).unwrap());
    assert!(matches!(error, Some(Error::Timeout { .. })), "{error:?}");
    assert!(start.elapsed() < 5 * timeout, "{:?}", start.elapsed());
}

#[test]
fn each_chunk_with_content_restarts_the_inactivity_timeout() {
    // A chunk takes about a third of a second, and all of them longer than the timeout.
    let timeout = Duration::from_secs(1);
    let body = delta("Hello").repeat(4) + DONE;
    let server = Server::script([events(&body).trickle(Duration::from_millis(4))]);
    let retry = RetryConfig::default().max_retries(0);
    let client = Client::new(config(&server).retry(retry).timeout(timeout).build().unwrap()).unwrap();
    let start = Instant::now();
    let response = ask(&client).unwrap().into_response().unwrap();
    assert_eq!(response.text(), "Hello".repeat(4));
    assert!(start.elapsed() > timeout, "{:?}", start.elapsed());
}

#[test]
fn a_shutdown_ends_open_streams_and_spares_complete_ones() {
    let server = Server::script([events(&whole()), events(&whole()).stall_after_events(1)]);
    let client = Client::new(config(&server).build().unwrap()).unwrap();
    let mut whole = ask(&client).unwrap();
    assert!(read(&mut whole).1.is_none());
    let mut going = ask(&client).unwrap();
    going.next().unwrap().unwrap();
    client.shutdown();
    assert!(matches!(going.next(), Some(Err(Error::Shutdown))));
    assert!(going.next().is_none() && whole.next().is_none());
    assert_eq!(whole.into_response().unwrap().text(), "Hello");
}

#[test]
fn many_chunks_before_the_first_delta_are_skipped() {
    let nothing = "data: {\"choices\":[]}\n\n".repeat(1000);
    let server = Server::script([events(&[nothing.as_str(), &whole()].concat())]);
    assert_eq!(ask(&client(&server).0).unwrap().into_response().unwrap().text(), "Hello");
}
