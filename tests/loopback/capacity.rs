//! What a call takes from the capacity of a service: its tokens, and a place among the calls in flight.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Reply, Server, ok, status, stream};
use holysheep::{
    AdaptiveConfig, AdaptiveHandler, Admission, ChatRequest, ChatStream, Client, Clock, Config,
    ConfigBuilder, EmbeddingRequest, Outcome, Permit,
};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

/// The inactivity timeout of the clients with a handler that was made for them.
const TIMEOUT: Duration = Duration::from_secs(10);

fn config(server: &Server, clock: &Clock) -> ConfigBuilder {
    Config::builder().api_key("sk-test-0123456789").base_url(server.url()).clock(clock.clone())
}

fn client(server: &Server) -> (Client, Clock) {
    let clock = Clock::fake();
    (Client::new(config(server, &clock).build().unwrap()).unwrap(), clock)
}

fn request() -> ChatRequest {
    ChatRequest::new("gpt-4.1").user("hi")
}

/// This answer with a limit on tokens of which this many remain for a minute.
fn tokens_left(reply: Reply, remaining: u32) -> Reply {
    let limit = [("limit", "1000"), ("remaining", &remaining.to_string()), ("reset", "60s")];
    limit
        .iter()
        .fold(reply, |reply, (name, value)| reply.header(&format!("x-ratelimit-{name}-tokens"), value))
}

#[test]
fn tokens_that_remain_are_divided_among_calls_of_the_size_that_usage_tells() {
    let chat = |client: &Client| drop(client.chat(&request()).unwrap());
    let read = |client: &Client| drop(client.chat_stream(&request()).unwrap().into_response().unwrap());
    let embeddings = |client: &Client| {
        let request = EmbeddingRequest::new("gpt-4.1", "text");
        drop(client.embeddings(&request).unwrap());
    };
    let batch = |client: &Client| client.batch([request()]).run().for_each(|item| drop(item.result.unwrap()));
    let vector = json!({"data": [{"index": 0, "embedding": [1]}], "usage": {"prompt_tokens": 12}});
    type Ask = fn(&Client);
    for (name, reply, call) in [
        ("chat", ok("hi"), chat as Ask),
        ("stream", stream(["Hello!", " How", " are", " you?"]), read),
        ("stream that comes as a whole", ok("hi"), read),
        ("embeddings", status(200).json(&vector), embeddings),
        ("batch", ok("hi"), batch),
    ] {
        // Two calls of 12 tokens: after a third of the time each, because one is added to those that remain.
        let server = Server::script([tokens_left(reply.clone(), 24), reply]);
        let (client, clock) = client(&server);
        call(&client);
        assert!(clock.sleeps().is_empty(), "{name}");
        call(&client);
        assert_eq!(clock.sleeps(), [20 * SECOND], "{name}");
    }
}

/// A client whose handler permits so many calls in flight, because more of them had timed out.
fn capped(server: &Server, cap: u32) -> (Client, AdaptiveHandler, Clock) {
    let clock = Clock::fake();
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1).clock(clock.clone()));
    let now = Instant::now();
    let admit = || match handler.admit(now) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    };
    let mut permits: Vec<Permit> = (0..=cap).map(|_| admit()).collect();
    handler.record(now + 60 * SECOND, permits.remove(0), Outcome::failed());
    drop(permits);
    let snapshot = handler.snapshot();
    assert_eq!((snapshot.max_in_flight, snapshot.in_flight), (Some(cap), 0));
    let config = config(server, &clock).timeout(TIMEOUT).handler(handler.clone());
    (Client::new(config.build().unwrap()).unwrap(), handler, clock)
}

/// How long a call on another thread waits for its turn.
fn wait_of_another_thread(client: &Client) -> Duration {
    let client = client.clone();
    thread::spawn(move || client.chat(&request()).unwrap().meta().waited).join().unwrap()
}

fn open(client: &Client) -> ChatStream {
    client.chat_stream(&request()).unwrap()
}

/// Answers each request for a stream with one of which some is left to be read when its first chunk was.
fn streaming() -> Server {
    Server::respond(|request| match request.body.contains("\"stream\":true") {
        true => stream(["word "; 2000]),
        false => ok("hi"),
    })
}

#[test]
fn a_stream_holds_its_place_until_its_end() {
    let server = streaming();
    type Finish = fn(ChatStream);
    for (name, finish) in [
        ("read to its end", (|stream| assert!(stream.map(Result::unwrap).count() > 2000)) as Finish),
        ("assembled", |stream| drop(stream.into_response().unwrap())),
        ("dropped", |mut stream| drop(stream.next())),
        ("dropped unread", drop),
    ] {
        let (client, handler, clock) = capped(&server, 1);
        let stream = open(&client);
        assert_eq!(handler.snapshot().in_flight, 1, "{name}");
        finish(stream);
        assert_eq!(handler.snapshot().in_flight, 0, "{name}");
        assert_eq!((wait_of_another_thread(&client), clock.sleeps().len()), (Duration::ZERO, 0), "{name}");
    }
}

#[test]
fn a_stream_loses_its_place_when_it_is_not_read_for_the_timeout() {
    let server = streaming();
    let (client, handler, clock) = capped(&server, 1);
    let mut stream = open(&client);
    assert_eq!(wait_of_another_thread(&client), TIMEOUT);
    assert_eq!(handler.snapshot().in_flight, 0, "the stream is taken for abandoned");
    // Chunks that have arrived are read without asking for more.
    let read_on = |stream: &mut ChatStream| {
        while handler.snapshot().in_flight == 0 {
            stream.next().unwrap().unwrap();
        }
    };
    read_on(&mut stream);
    clock.advance(4 * SECOND);
    assert_eq!(wait_of_another_thread(&client), 6 * SECOND, "since it was read");
    drop(stream);
    assert_eq!(handler.snapshot().in_flight, 0);

    let abandoned = open(&client);
    std::mem::forget(abandoned);
    assert_eq!(wait_of_another_thread(&client), TIMEOUT);
}

#[test]
fn a_thread_does_not_wait_for_its_own_streams() {
    let server = streaming();
    let (client, handler, clock) = capped(&server, 2);
    let mut streams = [open(&client), open(&client)];
    assert_eq!(client.chat(&request()).unwrap().meta().waited, Duration::ZERO);
    streams.iter_mut().for_each(|stream| drop(stream.next().unwrap().unwrap()));
    let more = [open(&client), open(&client), open(&client)];
    assert!(clock.sleeps().is_empty());
    drop((streams, more));
    assert_eq!(handler.snapshot().in_flight, 0);
}
