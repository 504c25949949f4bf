//! Vendor quirks: answers, streams, errors and headers as real services send them, served to the client.
//!
//! The cases are in `tests/data`. Each has a name, the services where it was seen, what the server sends, and the expected
//! observation.

use std::fs;
use std::path::Path;

use crate::observed::{Setup, request};
use crate::support::{Reply, ok, status};
use holysheep::{ChatResponse, Limit};
use serde_json::{Value, json};

/// Chunk sizes in which each body is sent again.
const PIECES: [usize; 3] = [1, 7, 61];

/// The cases of a file in `tests/data`.
fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The body of a case: a string is sent unchanged, anything else as JSON.
fn body(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The body of a stream: a string is sent unchanged, anything else as JSON in an event of its own.
fn events(case: &Value) -> String {
    let event = |event: &Value| event.as_str().map_or_else(|| format!("data: {event}\n\n"), str::to_owned);
    case["events"].as_array().unwrap().iter().map(event).collect()
}

/// The reply with the headers of a case.
fn with_headers(reply: Reply, case: &Value) -> Reply {
    let headers = case["headers"].as_object().unwrap().iter();
    headers.fold(reply, |reply, (name, value)| reply.header(name, value.as_str().unwrap()))
}

/// Asserts that the observation is the expected one, for the whole body and for each chunk size.
#[track_caller]
fn assert_seen(case: &Value, expected: &Value, reply: &Reply, see: impl Fn(Reply) -> Value) {
    assert_eq!(see(reply.clone()), *expected, "{} ({})", case["name"], case["seen_at"]);
    for size in PIECES {
        let pieces = see(reply.clone().chunked(size));
        assert_eq!(pieces, *expected, "{} ({}), in pieces of {size}", case["name"], case["seen_at"]);
    }
}

#[test]
fn every_form_of_a_chat_answer_is_read() {
    let setup = Setup::new();
    for case in cases("chats.json") {
        let reply = status(200).body(body(&case["body"]));
        assert_seen(&case, &case["expect"], &reply, |reply| setup.chat(reply));
    }
}

#[test]
fn every_form_of_a_chat_answer_survives_a_round_trip() {
    for case in cases("chats.json").iter().filter(|case| case["expect"]["outcome"] == "answer") {
        let answer: ChatResponse = serde_json::from_str(&body(&case["body"])).unwrap();
        let again: ChatResponse = serde_json::from_slice(&serde_json::to_vec(&answer).unwrap()).unwrap();
        assert_eq!(answer, again, "{}", case["name"]);
    }
}

#[test]
fn unknown_fields_at_every_level_survive_a_round_trip() {
    let cases = cases("chats.json");
    let case = cases.iter().find(|case| case["name"] == "unknown fields at every level").unwrap();
    let answer: ChatResponse = serde_json::from_value(case["body"].clone()).unwrap();
    let written = json!(answer);
    for (name, value) in case["body"].as_object().unwrap().iter().filter(|(name, _)| *name != "choices") {
        assert_eq!(written[name], *value, "{name}");
    }
    let (choice, before) = (&written["choices"][0], &case["body"]["choices"][0]);
    assert_eq!(choice["seed"], before["seed"]);
    for name in ["executed_tools", "annotations"] {
        assert_eq!(choice["message"][name], before["message"][name], "{name}");
    }
}

#[test]
fn every_form_of_a_stream_is_read() {
    let setup = Setup::new();
    for case in cases("streams.json") {
        let reply = status(200).header("content-type", "text/event-stream").body(events(&case));
        assert_seen(&case, &case["expect"], &reply, |reply| setup.stream(reply));
    }
}

/// A stream is complete once the finish reason of every choice, or `[DONE]`, has arrived.
#[test]
fn a_stream_cut_at_any_byte_is_not_reported_complete_too_early() {
    let setup = Setup::new();
    for case in cases("streams.json").iter().filter(|case| case["expect"]["outcome"] == "answer") {
        let (body, expected) = (events(case), case["expect"]["text"].as_str().unwrap_or_default());
        let complete_from = complete_from(&body);
        let mut longest = 0;
        for cut in 0..body.len() {
            let seen = setup.stream(status(200).body(&body.as_bytes()[..cut]));
            let complete = seen["outcome"] == "answer";
            assert_eq!(complete, cut >= complete_from, "{} cut at {cut}: {seen}", case["name"]);
            let text = seen["text"].as_str().unwrap_or_default();
            let grows = expected.starts_with(text) && text.len() >= longest;
            assert!(grows, "{} cut at {cut}: {text:?}", case["name"]);
            longest = text.len();
        }
        assert_eq!(longest, expected.len(), "{}", case["name"]);
    }
}

/// The number of bytes after which a stream is complete: the end of the line with its first finish reason, or with `[DONE]`
/// if there is none.
fn complete_from(body: &str) -> usize {
    let reason = body.find("\"finish_reason\":\"").unwrap_or_else(|| body.find("[DONE]").unwrap());
    reason + body[reason..].find(['\r', '\n']).unwrap_or(body.len() - reason)
}

#[test]
fn every_form_of_an_error_is_read_and_classified() {
    let setup = Setup::new();
    for case in cases("errors.json") {
        let code: u16 = case["status"].as_u64().unwrap().try_into().unwrap();
        let mut expected = case["expect"].clone();
        expected["outcome"] = "error".into();
        expected["status"] = code.into();
        let reply = status(code).body(body(&case["body"]));
        assert_seen(&case, &expected, &reply, |reply| setup.chat(reply));
        setup.server.add([reply]);
        let error = setup.client.chat(&request()).unwrap_err();
        assert_eq!(Value::from(error.is_retryable()), case["retryable"], "{}", case["name"]);
    }
}

#[test]
fn every_form_of_retry_after_is_read() {
    let setup = Setup::new();
    for case in cases("retry_after.json") {
        setup.server.add([with_headers(status(429), &case)]);
        let wait = setup.client.chat(&request()).unwrap_err().retry_after();
        assert_eq!(wait.map(|wait| wait.as_secs_f64()), case["seconds"].as_f64(), "{}", case["name"]);
    }
}

#[test]
fn every_vendors_form_of_rate_limits_is_read() {
    let setup = Setup::new();
    for case in cases("rate_limits.json") {
        setup.server.add([with_headers(ok("hi"), &case)]);
        let limits = setup.client.chat(&request()).unwrap().meta().rate_limits;
        let numbers = |limit: Limit| json!([limit.limit, limit.remaining, limit.reset.as_secs_f64()]);
        for (kind, limit) in [("requests", limits.requests), ("tokens", limits.tokens)] {
            let expected =
                case.get(kind).map(|limit| json!([limit[0].as_u64(), limit[1].as_u64(), limit[2].as_f64()]));
            assert_eq!(limit.map(numbers), expected, "{}, {kind}", case["name"]);
        }
    }
}
