//! What a call takes from the capacity of a service: its tokens, and a place among the calls in flight.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

mod support;

use std::time::Duration;

use holysheep::{ChatRequest, Client, Clock, Config, EmbeddingRequest};
use serde_json::json;
use support::{Reply, Server, ok, status};

fn client(server: &Server) -> (Client, Clock) {
    let clock = Clock::fake();
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url()).clock(clock.clone());
    (Client::new(config.build().unwrap()).unwrap(), clock)
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
    let stream = |client: &Client| drop(client.chat_stream(&request()).unwrap().into_response().unwrap());
    let embeddings = |client: &Client| {
        let request = EmbeddingRequest::new("gpt-4.1", "text");
        drop(client.embeddings(&request).unwrap());
    };
    let batch = |client: &Client| client.batch([request()]).run().for_each(|item| drop(item.result.unwrap()));
    let vector = json!({"data": [{"index": 0, "embedding": [1]}], "usage": {"prompt_tokens": 12}});
    type Ask = fn(&Client);
    for (name, reply, call) in [
        ("chat", ok("hi"), chat as Ask),
        ("stream", ok("hi"), stream),
        ("embeddings", status(200).json(&vector), embeddings),
        ("batch", ok("hi"), batch),
    ] {
        // Two calls of 12 tokens: after a third of the time each, because one is added to those that remain.
        let server = Server::script([tokens_left(reply.clone(), 24), reply]);
        let (client, clock) = client(&server);
        call(&client);
        assert!(clock.sleeps().is_empty(), "{name}");
        call(&client);
        assert_eq!(clock.sleeps(), [Duration::from_secs(20)], "{name}");
    }
}
