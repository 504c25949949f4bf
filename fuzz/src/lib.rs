//! The checks of the fuzz targets. The parsers are private, so this package includes the crate's pure modules and the
//! modules of the batch tool by path.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "the targets use a part of the modules")]

mod batch_files;
mod public;

// The path is the directory of the modules in the block.
#[path = "../../src"]
mod pure {
    pub mod api;
    pub mod error;
    pub mod json;
    pub mod limits;
    pub mod meta;
    pub mod wire;
}

#[path = "../../src/http/proxy.rs"]
mod proxy;

#[path = "../../examples/batch/src"]
mod tool {
    pub mod budget;
    pub mod dry_run;
    pub mod endpoint;
    pub mod help;
    pub mod input;
    pub mod job;
    pub mod judge;
    pub mod open_files;
    pub mod options;
    pub mod output;
    pub mod report;
    pub mod resume;
    pub mod run;
    pub mod signals;
    pub mod streak;
    pub mod tokens;
    pub mod writer;
}

// The modules refer to each other by these paths from the crate root.
pub use error::Error;
use pure::{api, error, json, limits, meta, wire};
use tool::{
    budget, endpoint, help, input, job, judge, open_files, options, output, report, resume, run, signals,
    streak, tokens, writer,
};

pub use batch_files::{batch_input, batch_output};
pub use public::{no_proxy, response, settings};

pub(crate) type RunError = Box<dyn std::error::Error + Send + Sync>;

/// As in the batch tool, like `chain`.
pub(crate) const BROKEN: u8 = 2;

pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    error.to_string()
}

use std::time::{Duration, UNIX_EPOCH};

use api::models::ModelList;
use api::{ChatRequest, EmbeddingResponse};
use json::budget::Budget;
use json::{parse, parse_bounded};
use wire::accumulate::Accumulator;
use wire::completion::decode_response;
use wire::error_body::ErrorBody;
use wire::headers::Headers;
use wire::sse::{Decoder, Event};
use wire::stream_event::StreamEvent;
use wire::success::error_instead_of_answer;

/// A complete answer survives a round trip: it can be serialized, and parsing that gives the same answer. When it is written, a
/// field of `extra` replaces the known field of the same name, which an input has twice.
pub fn chat(data: &[u8]) {
    let Ok(answer) = decode_response(data, &Budget::of_answer(data)) else { return };
    let written = serde_json::to_vec(&answer).unwrap();
    let again = decode_response(&written, &Budget::unlimited()).unwrap();
    let known = ["content", "reasoning", "reasoning_content", "refusal", "tool_calls", "finish_reason"];
    let is_twice = |extra: &json::extra::Extra| known.iter().any(|name| extra.contains_key(*name));
    if answer.choices.iter().any(|choice| is_twice(&choice.extra) || is_twice(&choice.message.extra)) {
        return;
    }
    assert_eq!(
        (again.text(), again.reasoning(), again.refusal()),
        (answer.text(), answer.reasoning(), answer.refusal())
    );
    assert_eq!((again.finish_reason(), again.choices.len()), (answer.finish_reason(), answer.choices.len()));
    assert_eq!(
        (again.tool_calls().len(), &again.id, &again.model),
        (answer.tool_calls().len(), &answer.id, &answer.model)
    );
    let _ = (answer.extra.len(), answer.json::<serde_json::Value>(), format!("{answer:?}"));
    for call in answer.tool_calls() {
        let _ = call.arguments::<serde_json::Value>();
    }
}

/// An error body, with an error status or a 200, has a valid status and a message of bounded length.
pub fn error_body(data: &[u8]) {
    for error in [Some(ErrorBody::parse(data)), error_instead_of_answer(data)].into_iter().flatten() {
        assert!(error.status().is_none_or(|status| (100..600).contains(&status)));
        assert!(error.message.is_none_or(|words| words.len() <= error::EXCERPT + 8));
    }
}

/// Response headers, one in each line, are parsed without a panic.
pub fn headers(data: &[u8]) {
    let fields = data.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
    });
    let _ = Headers::parse(fields, || UNIX_EPOCH + Duration::from_secs(1_764_000_000));
}

/// Embeddings and lists of models are parsed without a panic; saved requests survive a round trip.
pub fn lists(data: &[u8]) {
    let budget = Budget::of_answer(data);
    let _ = parse_bounded::<EmbeddingResponse>(data, &budget).map(|answer| answer.vectors().count());
    let _ = parse_bounded::<ModelList>(data, &budget).map(ModelList::into_vec);
    if let Ok(request) = parse::<ChatRequest>(data) {
        let _ = (request.check(), serde_json::to_vec(&request.stream_body(true)), format!("{request:?}"));
        let written = serde_json::to_vec(&request).unwrap();
        // The bytes aren't compared, because serde_json rounds numbers with more digits than a float has.
        let again = serde_json::from_slice::<ChatRequest>(&written).unwrap();
        assert_eq!((again.model(), again.check().is_ok()), (request.model(), request.check().is_ok()));
    }
}

/// The event decoder returns the same events for the whole input and for pieces. The first byte sets the size of the pieces.
pub fn sse(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = events(bytes, usize::MAX);
    assert_eq!(events(bytes, 1 + usize::from(*size)), whole);
    assert_eq!(events(bytes, 1), whole);
}

fn events(bytes: &[u8], size: usize) -> Vec<Event> {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for mut piece in bytes.chunks(size) {
        while let Ok(Some(event)) = decoder.next(&mut piece) {
            events.push(event);
        }
    }
    events.extend(decoder.finish().ok().flatten());
    events
}

/// A stream is decoded and assembled without a panic. The bytes are read as events, and then each line as the JSON of a chunk.
pub fn stream(data: &[u8]) {
    let mut accumulator = Accumulator::new();
    let mut decoder = Decoder::new();
    let mut rest = data;
    while let Ok(Some(event)) = decoder.next(&mut rest) {
        decode_and_add(&mut accumulator, event);
    }
    for line in data.split(|byte| *byte == b'\n') {
        decode_and_add(&mut accumulator, Event { kind: String::new(), data: line.to_vec() });
    }
    let text = accumulator.partial().to_owned();
    let answer = accumulator.into_response();
    assert_eq!(answer.text(), text);
    let _ = (answer.json::<serde_json::Value>(), answer.reasoning(), format!("{answer:?}"));
}

fn decode_and_add(accumulator: &mut Accumulator, event: Event) {
    let budget = Budget::of_chunk(&event.data);
    match StreamEvent::decode(event, &budget) {
        Ok(StreamEvent::Chunk(mut chunk)) => {
            let _ = accumulator.add(&mut chunk);
            let data = serde_json::to_vec(&chunk).unwrap();
            let event = Event { kind: String::new(), data };
            if let Ok(StreamEvent::Chunk(again)) = StreamEvent::decode(event, &Budget::unlimited()) {
                assert_eq!(again.text(), chunk.text());
            }
        }
        Ok(StreamEvent::Done) => drop(accumulator.end()),
        Ok(StreamEvent::Failure(error)) => drop((error.status(), error.message)),
        Ok(StreamEvent::Ignored) | Err(_) => {}
    }
}
