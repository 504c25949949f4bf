//! Response headers in `Meta`, for every kind of call.

use crate::support::{Reply, Server, ok, status};
use holysheep::{ChatRequest, Client, Clock, Config, EmbeddingRequest, Meta};
use serde_json::json;

const KEY: &str = "sk-test-0123456789";
const OTHER: &str = "another-secret-0123456789";

/// A client whose requests carry two secrets, one of them only in this clone.
fn client(server: &Server) -> Client {
    let config = Config::builder().api_key(KEY).base_url(server.url()).clock(Clock::fake());
    Client::new(config.build().unwrap()).unwrap().with_header("x-other", OTHER).unwrap()
}

fn events() -> Reply {
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]});
    status(200).header("content-type", "text/event-stream").body(format!("data: {chunk}\n\ndata: [DONE]\n\n"))
}

/// The `Meta` of each kind of call, answered with these headers.
fn metas(headers: &[(&str, &str)]) -> Vec<Meta> {
    let embedding = json!({"data": [{"index": 0, "embedding": [1.0]}]});
    let replies = [ok("hi"), events(), events(), ok("hi"), status(200).json(&embedding)];
    let server = Server::script(
        replies.map(|reply| headers.iter().fold(reply, |reply, (name, value)| reply.header(name, value))),
    );
    let client = client(&server);
    let request = ChatRequest::new("gpt-4.1").user("hi");
    let stream = || client.chat_stream(&request).unwrap();
    vec![
        client.chat(&request).unwrap().meta().clone(),
        stream().meta().clone(),
        stream().into_response().unwrap().meta().clone(),
        stream().meta().clone(), // JSON instead of the requested events
        client.embeddings(&EmbeddingRequest::new("m", "text")).unwrap().meta().clone(),
    ]
}

#[test]
fn the_headers_of_every_answer_can_be_read() {
    for meta in metas(&[("OpenAI-Processing-Ms", "412"), ("x-twice", "1"), ("x-twice", "2")]) {
        assert_eq!(meta.header("openai-processing-ms"), Some("412"));
        assert_eq!((meta.header("X-Twice"), meta.header("x-none")), (Some("1"), None));
    }
}

#[test]
fn a_header_that_repeats_a_secret_is_withheld() {
    let bearer = format!("Bearer {KEY}");
    for meta in metas(&[("x-a", KEY), ("x-b", &bearer), ("x-c", &format!("key={OTHER}&x")), ("x-d", "ok")]) {
        assert_eq!(
            ["x-a", "x-b", "x-c", "x-d"].map(|name| meta.header(name)),
            [None, None, None, Some("ok")]
        );
        let shown = format!("{meta:?}");
        assert!(!shown.contains(KEY) && !shown.contains(OTHER), "{shown}");
    }
}

#[test]
fn the_headers_are_those_of_the_last_attempt() {
    let server = Server::script([status(503).header("x-node", "a"), ok("hi").header("x-node", "b")]);
    let answer = client(&server).chat(&ChatRequest::new("gpt-4.1").user("hi")).unwrap();
    assert_eq!((answer.meta().attempts, answer.meta().header("x-node")), (2, Some("b")));
}

#[test]
fn meta_is_unwind_safe_and_thread_safe() {
    fn crosses<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe + Send + Sync>() {}
    crosses::<Meta>();
}
