//! The memory of a parsed answer is bounded by its size in bytes and by the number of its choices and tool calls.
//!
//! Measured is the peak of the bytes allocated on the calling thread, which includes the body itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::time::{Duration, Instant};

use holysheep::{ChatResponse, Client, EmbeddingRequest, Result};
use hostile::{DONE, FINISH, ask, each, events, exact, kind, streamed};
use support::{Reply, Server, status};

const MIB: u64 = 1024 * 1024;

/// The memory limit of an answer: `FACTOR` times the size of its body, plus `ALLOWANCE`.
const FACTOR: u64 = 8;
const ALLOWANCE: u64 = 32 * MIB;

/// The size of bodies whose entries cost hundreds of bytes each, enough to exceed the limit if they weren't bounded.
const SIZE: usize = 3_000_000;

/// The size of bodies whose entries have two bytes and cost at most 32 bytes each.
const LARGE: usize = 6_000_000;

/// A list of about `bytes` bytes that repeats this entry.
fn list(entry: &str, bytes: usize) -> String {
    let count = bytes / (entry.len() + 1);
    let mut list = String::with_capacity(bytes + 2);
    list.push('[');
    for number in 0..count {
        list.push_str(if number == 0 { "" } else { "," });
        list.push_str(entry);
    }
    list + "]"
}

/// Short fields of an object, about `bytes` bytes in total.
fn fields(bytes: usize) -> String {
    let fields: Vec<String> = (0..bytes / 12).map(|number| format!("\"{number:07}\":0")).collect();
    fields.join(",")
}

/// The peak of allocated memory during a call, its duration, and the kind of its error.
fn peak<T>(reply: Reply, call: impl FnOnce(&Client) -> Result<T>) -> (u64, Duration, Option<String>) {
    let server = Server::script([reply]);
    let (client, _) = exact(server.url());
    let (started, mut error) = (Instant::now(), None);
    let measured = allocation_counter::measure(|| {
        error = call(&client).err().map(|error| kind(&error));
    });
    (measured.bytes_max, started.elapsed(), error)
}

#[track_caller]
fn is_bounded<T>(what: &str, body: String, call: impl FnOnce(&Client) -> Result<T>) {
    let bytes = body.len() as u64;
    let reply = if body.starts_with("data:") { events(&body) } else { status(200).body(body) };
    let (peak, time, error) = peak(reply, call);
    let bound = FACTOR * bytes + ALLOWANCE;
    println!("{what}: {} MB of {} MB, {time:.1?}, {error:?}", peak / 1_000_000, bytes / 1_000_000);
    assert!(peak <= bound, "{what}: {} MB for {} MB", peak / 1_000_000, bytes / 1_000_000);
}

/// An answer with an additional field at each of three levels.
fn with_field(field: &str) -> [(&'static str, String); 3] {
    [
        (
            "in the answer",
            format!(r#"{{"choices":[{{"message":{{"content":"hi"}},"finish_reason":"stop"}}],{field}}}"#),
        ),
        (
            "in the choice",
            format!(r#"{{"choices":[{{"message":{{"content":"hi"}},"finish_reason":"stop",{field}}}]}}"#),
        ),
        (
            "in the message",
            format!(r#"{{"choices":[{{"message":{{"content":"hi",{field}}},"finish_reason":"stop"}}]}}"#),
        ),
    ]
}

/// The same answer as an event of a complete stream.
fn as_event(body: &str) -> String {
    format!("data: {}\n\n{FINISH}{DONE}", body.replacen("\"message\":", "\"delta\":", 1))
}

/// Checks the bound for JSON and for events, each with `chat` and `chat_stream`.
fn is_bounded_everywhere(what: &str, body: &str) {
    is_bounded(&format!("chat {what}"), body.to_owned(), ask);
    is_bounded(&format!("one piece for a stream, {what}"), body.to_owned(), streamed);
    is_bounded(&format!("a chunk of a stream, {what}"), as_event(body), streamed);
    is_bounded(&format!("a chunk for chat, {what}"), as_event(body), ask);
}

#[test]
fn unknown_fields_of_an_answer_are_bounded() {
    let unknown = [
        ("numbers", format!("\"x\":{}", list("0", LARGE))),
        ("objects", format!("\"x\":{}", list("{}", SIZE))),
        ("lists", format!("\"x\":{}", list("[]", LARGE))),
        ("objects of one field", format!("\"x\":{}", list(r#"{"a":0}"#, SIZE))),
        ("fields of an object", format!("\"x\":{{{}}}", fields(LARGE))),
        ("fields", fields(LARGE)),
        ("id", format!("\"id\":{}", list("0", LARGE))),
        ("index", format!("\"index\":{}", list("0", LARGE))),
        ("usage", format!(r#""usage":{{"prompt_tokens":1,"x":{}}}"#, list("0", LARGE))),
    ];
    let cases = unknown
        .iter()
        .flat_map(|(what, field)| with_field(field).map(|(place, body)| (format!("{what} {place}"), body)));
    let everywhere = ["numbers", "fields ", "usage"]; // the others differ only in the parser of the field
    let cases = cases.filter(|(what, _)| everywhere.iter().any(|kind| what.starts_with(kind)));
    each(cases, |(what, body)| is_bounded(&what, body, ask));
    each(&unknown, |(what, field)| {
        is_bounded(&format!("{what} in a chunk"), as_event(&with_field(field)[0].1), streamed);
    });
}

#[test]
fn the_sum_of_small_chunks_is_bounded() {
    let objects = list(r#"{"a":0}"#, 60_000);
    for (what, delta) in [
        ("unknown fields", format!(r#"{{"x":{{"y":{objects}}}}}"#)),
        ("growing lists", format!(r#"{{"x":{objects}}}"#)),
        ("parts", format!(r#"{{"content":[{{"x":{objects}}}]}}"#)),
    ] {
        let chunk = format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n");
        is_bounded(what, chunk.repeat(70) + FINISH + DONE, streamed);
    }
}

#[test]
fn errors_in_a_success_are_bounded() {
    let numbers = list("0", LARGE);
    each(
        [
            ("in the error", format!(r#"{{"error":{{"message":"no","code":400,"x":{numbers}}}}}"#)),
            ("beside the error", format!(r#"{{"error":{{"message":"no","code":400}},"x":{numbers}}}"#)),
            ("JSON in a string", format!(r#"{{"error":{{"message":"{numbers}","code":400}}}}"#)),
            ("no answer", format!(r#"{{"x":{numbers}}}"#)),
            ("a list", list("{}", SIZE)),
            ("findings", format!(r#"{{"detail":{}}}"#, list(r#"{"msg":"no"}"#, SIZE))),
        ],
        |(what, body)| is_bounded_everywhere(what, &body),
    );
}

#[test]
fn embeddings_and_models_are_bounded() {
    let embed = |client: &Client| client.embeddings(&EmbeddingRequest::new("m", "one text"));
    let one = r#"{"index":0,"embedding":[0]}"#;
    each(
        [
            ("entries", format!(r#"{{"data":{}}}"#, list("{}", SIZE))),
            ("too many vectors", format!(r#"{{"data":{}}}"#, list(one, SIZE))),
            ("a long vector", format!(r#"{{"data":[{{"index":0,"embedding":{}}}]}}"#, list("0", LARGE))),
            ("unknown", format!(r#"{{"data":[{one}],"x":{}}}"#, list("0", LARGE))),
            ("unknown in an entry", format!(r#"{{"data":[{{"embedding":[0],"x":{}}}]}}"#, list("0", LARGE))),
        ],
        |(what, body)| is_bounded(&format!("embeddings, {what}"), body, embed),
    );
    each(
        [
            ("entries", format!(r#"{{"data":{}}}"#, list("{}", SIZE))),
            ("unknown", format!(r#"{{"data":[{{"id":"m","x":{}}}]}}"#, list("0", LARGE))),
        ],
        |(what, body)| is_bounded(&format!("models, {what}"), body, Client::models),
    );
}

fn choices(count: usize) -> String {
    let choice =
        |index| format!(r#"{{"index":{index},"message":{{"content":"hi"}},"finish_reason":"stop"}}"#);
    format!(r#"{{"choices":[{}]}}"#, (0..count).map(choice).collect::<Vec<_>>().join(","))
}

fn tool_calls(count: usize) -> String {
    let call = |index| {
        format!(r#"{{"index":{index},"id":"c{index}","function":{{"name":"f","arguments":"{{}}"}}}}"#)
    };
    let calls = (0..count).map(call).collect::<Vec<_>>().join(",");
    format!(r#"{{"choices":[{{"message":{{"tool_calls":[{calls}]}},"finish_reason":"tool_calls"}}]}}"#)
}

/// One event for each choice or tool call.
fn one_by_one(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    let choices = value["choices"].as_array().unwrap();
    let mut events = String::new();
    for choice in choices {
        let message = &choice["message"];
        let deltas = match message["tool_calls"].as_array() {
            Some(calls) => calls.iter().map(|call| serde_json::json!({"tool_calls": [call]})).collect(),
            None => vec![message.clone()],
        };
        for delta in deltas {
            let chunk = serde_json::json!({"choices": [{"index": choice["index"], "delta": delta}]});
            events += &format!("data: {chunk}\n\n");
        }
    }
    events + DONE
}

/// A counted list: its name, an answer whose list has the given length, and the length that was parsed.
type Counted = (&'static str, fn(usize) -> String, fn(&ChatResponse) -> usize);

/// A form of an answer: its name, the call that requests it, and the reply with a given body.
type Sent = (&'static str, fn(&Client) -> Result<ChatResponse>, fn(&str) -> Reply);

#[test]
fn more_than_128_choices_or_tool_calls_are_refused() {
    let counts: [Counted; 2] = [
        ("choices", choices, |answer| answer.choices.len()),
        ("tool calls", tool_calls, |answer| answer.tool_calls().len()),
    ];
    let ways: [Sent; 4] = [
        ("chat", ask, |body| status(200).body(body)),
        ("one piece for a stream", streamed, |body| status(200).body(body)),
        ("one chunk", streamed, |body| events(&as_event(&body.replace("\"message\":", "\"delta\":")))),
        ("many chunks", streamed, |body| events(&one_by_one(body))),
    ];
    let cases = counts.iter().flat_map(|count| ways.map(|way| (count, way)));
    each(cases, |((what, body, count), (name, way, reply))| {
        let server = Server::script([reply(&body(128)), reply(&body(129))]);
        let (client, _) = exact(server.url());
        let answer = way(&client).unwrap_or_else(|error| panic!("{name}, 128 {what}: {error:?}"));
        assert_eq!(count(&answer), 128, "{name}, 128 {what}");
        let Err(error) = way(&client) else { panic!("{name}, 129 {what}: a success") };
        assert_eq!(kind(&error), "TooLarge", "{name}, 129 {what}: {error:?}");
        assert_eq!(server.requests().len(), 2, "{name}, 129 {what}: no retry");
    });
}

#[test]
fn deeply_nested_json_does_not_overflow_the_stack() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(1_000_000);
        let _ = peak(status(200).body(deep.as_str()), ask);
        let _ = peak(status(200).body(with_field(&format!("\"x\":{deep}"))[0].1.as_str()), ask);
        let _ = peak(events(&format!("data: {deep}\n\n{DONE}")), streamed);
        let _ = peak(status(400).body(deep.as_str()), ask);
    }
}

#[test]
fn an_error_takes_precedence_over_too_many_choices() {
    let body = choices(129).replacen('{', r#"{"error":{"message":"no","code":400},"#, 1);
    let ways: [Sent; 3] = [
        ("chat", ask, |body| status(200).body(body)),
        ("one piece for a stream", streamed, |body| status(200).body(body)),
        ("a chunk", streamed, |body| events(&format!("data: {body}\n\n"))),
    ];
    for (name, way, reply) in ways {
        let server = Server::script([reply(&body)]);
        let (client, _) = exact(server.url());
        assert_eq!(way(&client).map_err(|error| error.status()).unwrap_err(), Some(400), "{name}");
    }
}
