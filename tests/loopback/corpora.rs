//! Recorded answers and headers of real services, served to the client. They are not in the repository, so these tests are
//! ignored by default; `quirks.rs` has a small case for each quirk in them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::observed::{Setup, request};
use crate::support::{Reply, ok, status};
use holysheep::ChatResponse;
use serde_json::{Map, Value, json};

/// Chunk sizes in which each body is sent again.
const PIECES: [usize; 3] = [1, 7, 61];

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn corpus(name: &str) -> Value {
    read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora").join(name))
}

/// The recorded answers, by name.
fn samples() -> Map<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/responses");
    let samples = fs::read_dir(folder).unwrap().map(|file| read(file.unwrap().path()));
    samples.map(|sample| (sample["name"].as_str().unwrap().to_owned(), sample)).collect()
}

fn outcomes() -> Map<String, Value> {
    let outcomes = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/outcomes.json"));
    outcomes.as_object().unwrap().clone()
}

fn body(sample: &Value) -> &str {
    sample["body"].as_str().unwrap()
}

/// The recorded answer with its status, without its headers.
fn reply(sample: &Value) -> Reply {
    // One of them was recorded without its status.
    status(sample["status"].as_u64().unwrap_or(400).try_into().unwrap()).body(body(sample))
}

impl Setup {
    /// The observation of a recorded answer that is sent as this reply.
    fn observe(&self, sample: &Value, reply: Reply) -> Value {
        if sample["kind"] == "stream" { self.stream(reply) } else { self.chat(reply) }
    }

    /// The `retry_after()` of a 429 with this `Retry-After` and this `Date`.
    fn retry_after(&self, date: &str, value: &str) -> Option<Duration> {
        self.server.add([status(429).header("date", date).header("retry-after", value)]);
        self.client.chat(&request()).unwrap_err().retry_after()
    }
}

/// Reduces an observation to what `outcomes.json` records: the length, beginning and end of long texts, and the expected
/// part of an error message.
fn reduced(mut seen: Value, expected: &Value) -> Value {
    let fields = seen.as_object_mut().unwrap();
    for name in ["text", "reasoning"] {
        if let Some(text) = fields.get(name).and_then(Value::as_str) {
            let starts: String = text.chars().take(24).collect();
            let ends: String = text.chars().skip(text.chars().count().saturating_sub(24)).collect();
            let digest = json!({"bytes": text.len(), "starts": starts, "ends": ends});
            fields.insert(name.to_owned(), digest);
        }
    }
    for name in ["kind", "param", "cached_tokens", "reasoning_tokens"] {
        if expected.get(name).is_none() {
            fields.remove(name);
        }
    }
    if let (Some(message), Some(part)) = (fields.get_mut("message"), expected["message"].as_str()) {
        if message.as_str().unwrap().contains(part) {
            *message = part.into();
        }
    }
    seen
}

#[test]
#[ignore = "needs ../shared/corpora"]
fn every_recorded_answer_has_its_expected_outcome() {
    let (samples, outcomes, setup) = (samples(), outcomes(), Setup::new());
    let mut wrong = Vec::new();
    for (name, sample) in &samples {
        let expected = &outcomes[name];
        let seen = reduced(setup.observe(sample, reply(sample)), expected);
        if seen != *expected {
            wrong.push(format!("{name}\n  seen     {seen}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), samples.len(), wrong.join("\n"));
    assert_eq!((samples.len(), outcomes.len()), (202, 202));
}

#[test]
#[ignore = "needs ../shared/corpora"]
fn every_recorded_answer_is_the_same_in_pieces_of_any_size() {
    let setup = Setup::new();
    for (name, sample) in &samples() {
        let whole = setup.observe(sample, reply(sample));
        for size in PIECES {
            let pieces = setup.observe(sample, reply(sample).chunked(size));
            assert_eq!(pieces, whole, "{name} in pieces of {size}");
        }
    }
}

#[test]
#[ignore = "needs ../shared/corpora"]
fn every_recorded_answer_survives_a_round_trip() {
    let (samples, outcomes) = (samples(), outcomes());
    let is_answer = |name: &str| name.contains("-chat-") && outcomes[name]["outcome"] == "answer";
    for (name, sample) in samples.iter().filter(|(name, _)| is_answer(name)) {
        let answer: ChatResponse = serde_json::from_str(body(sample)).unwrap();
        let again: ChatResponse = serde_json::from_slice(&serde_json::to_vec(&answer).unwrap()).unwrap();
        assert_eq!(answer, again, "{name}");
        let (before, after): (Value, Value) = (serde_json::from_str(body(sample)).unwrap(), json!(answer));
        let lost = lost("", &before, &after);
        assert!(lost.is_empty(), "{name}: {lost:?}");
    }
}

/// The paths whose values are missing or different after a round trip. Nulls and empty values may be missing.
fn lost(place: &str, before: &Value, after: &Value) -> Vec<String> {
    let empty = |value: &Value| {
        value.is_null()
            || value.as_str() == Some("")
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(|fields| fields.values().all(|value| value == ""))
    };
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .flat_map(|(name, before)| {
                lost(&format!("{place}.{name}"), before, after.get(name).unwrap_or(&Value::Null))
            })
            .collect(),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            before.iter().zip(after).flat_map(|(b, a)| lost(&format!("{place}[]"), b, a)).collect()
        }
        (before, after) if before == after || (empty(before) && empty(after)) => Vec::new(),
        // The text of a legacy completion becomes the content of a message.
        (Value::String(_), Value::Null) if place == ".choices[].text" => Vec::new(),
        _ => vec![place.to_owned()],
    }
}

/// A stream is complete once its finish reason has arrived, and its text is always what has arrived.
#[test]
#[ignore = "needs ../shared/corpora"]
fn a_recorded_stream_cut_at_any_byte_is_not_reported_complete_too_early() {
    let (samples, setup) = (samples(), Setup::new());
    for name in ["openai-stream-03", "openrouter-stream-01", "mistral-stream-04"] {
        let body = body(&samples[name]);
        let full = setup.observe(&samples[name], status(200).body(body))["text"].clone();
        let full = full.as_str().unwrap();
        // The event with the finish reason is read as soon as its line has arrived.
        let reason = body.find("\"finish_reason\":\"").unwrap();
        let complete_from = reason + body[reason..].find('\n').unwrap();
        let mut longest = 0;
        for cut in 0..body.len() {
            let seen = setup.observe(&samples[name], status(200).body(&body.as_bytes()[..cut]));
            let complete = seen["outcome"] == "answer";
            assert_eq!(complete, cut >= complete_from, "{name} cut at {cut}: {seen}");
            let text = seen["text"].as_str().unwrap_or_default();
            assert!(full.starts_with(text) && text.len() >= longest, "{name} cut at {cut}: {text}");
            longest = text.len();
        }
        assert_eq!(longest, full.len(), "{name}");
    }
}

/// The rows of a table of `retry_after.json`.
fn rows(name: &str) -> Vec<Value> {
    let corpus = corpus("retry_after.json");
    let tables = corpus["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap()["rows"].as_array().unwrap().clone()
}

#[test]
#[ignore = "needs ../shared/corpora"]
fn every_collected_form_of_retry_after_is_read() {
    let setup = Setup::new();
    for row in rows("httpdate_valid") {
        let wait = setup.retry_after("Thu, 01 Jan 1970 00:00:00 GMT", row["date"].as_str().unwrap());
        assert_eq!(wait.map(|wait| wait.as_secs()), row["epoch"].as_u64(), "{row}");
    }
    let now = "Fri, 29 Sep 2023 16:26:37 GMT"; // second 1696004797
    for row in rows("urllib3_valid") {
        let wait = setup.retry_after(now, row["retry_after"].as_str().unwrap());
        assert_eq!(wait.map(|wait| wait.as_secs()), row["wait_s"].as_u64(), "{row}");
    }
    for row in rows("openai_python") {
        let wait = setup.retry_after(now, row["retry_after"].as_str().unwrap());
        let expected = row["wait_s"].as_f64().unwrap();
        // That library waits 8 s or less where it can't read the header or doesn't follow it.
        assert!(expected <= 8.0 || wait.map(|wait| wait.as_secs_f64()) == Some(expected), "{row}: {wait:?}");
    }
}

#[test]
#[ignore = "needs ../shared/corpora"]
fn every_collected_form_of_a_reset_is_read() {
    let setup = Setup::new();
    for row in rows("ratelimit_reset_forms").iter().filter(|row| row["seconds"].is_number()) {
        let reply = ok("hi").header("ratelimit-limit", "9").header("ratelimit-remaining", "9");
        setup.server.add([reply.header("ratelimit-reset", row["value"].as_str().unwrap())]);
        let answer = setup.client.chat(&request()).unwrap();
        let reset = answer.meta().rate_limits.requests.map(|limit| limit.reset.as_secs_f64());
        assert_eq!(reset, row["seconds"].as_f64(), "{row}");
    }
}

/// Each vendor's headers with the first recorded value of each.
#[test]
#[ignore = "needs ../shared/corpora"]
fn every_vendors_recorded_limits_are_read() {
    let (setup, corpus) = (Setup::new(), corpus("ratelimit_headers.json"));
    let hosts = corpus["hosts"].as_object().unwrap();
    for (host, fields) in hosts {
        let first = |name: &str| Some(fields[name][0].as_str()?.parse::<u64>().unwrap());
        let reply = fields
            .as_object()
            .unwrap()
            .iter()
            .fold(ok("hi"), |reply, (name, values)| reply.header(name, values[0].as_str().unwrap()));
        setup.server.add([reply]);
        let answer = setup.client.chat(&request()).unwrap();
        let limits = answer.meta().rate_limits;
        let requests = [
            "x-ratelimit-limit-requests",
            "x-ratelimit-limit",
            "x-ratelimit-limit-req-10-second",
            "anthropic-ratelimit-requests-limit",
        ];
        let expected = requests.into_iter().find_map(first);
        assert_eq!(limits.requests.map(|limit| limit.limit), expected, "{host}");
        let has_tokens = fields.as_object().unwrap().keys().any(|name| name.contains("tokens"));
        assert_eq!(limits.tokens.is_some(), has_tokens, "{host}");
    }
    assert_eq!(hosts.len(), 6);
}
