//! What the fuzz targets check. The parsers are private, so this package compiles the crate's pure modules once more.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "the targets use a part of the pure modules")]

// The path is the folder of the modules in the block.
#[path = "../../src"]
mod pure {
    pub mod api;
    pub mod error;
    pub mod json;
    pub mod limits;
    pub mod meta;
    pub mod wire;
}

// The modules name each other by these paths.
pub use error::Error;
use pure::{api, error, json, limits, meta, wire};

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

/// A complete answer: what was read can be written, and is the same when it is read again.
pub fn chat(data: &[u8]) {
    let Ok(answer) = decode_response(data, &Budget::of_answer(data)) else { return };
    let written = serde_json::to_vec(&answer).unwrap();
    let again = decode_response(&written, &Budget::unlimited()).unwrap();
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

/// The body of an error, under an error status or under a 200: its status is one, and its message is bounded.
pub fn error_body(data: &[u8]) {
    for error in [Some(ErrorBody::parse(data)), error_instead_of_answer(data)].into_iter().flatten() {
        assert!(error.status().is_none_or(|status| (100..600).contains(&status)));
        assert!(error.message.is_none_or(|words| words.len() <= error::EXCERPT + 8));
    }
}

/// The headers of an answer: one in each line.
pub fn headers(data: &[u8]) {
    let fields = data.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
    });
    let _ = Headers::parse(fields, || UNIX_EPOCH + Duration::from_secs(1_764_000_000));
}

/// Embeddings, lists of models, and saved requests.
pub fn lists(data: &[u8]) {
    let budget = Budget::of_answer(data);
    let _ = parse_bounded::<EmbeddingResponse>(data, &budget).map(|answer| answer.vectors().count());
    let _ = parse_bounded::<ModelList>(data, &budget).map(ModelList::into_vec);
    if let Ok(request) = parse::<ChatRequest>(data) {
        let _ = (request.check(), serde_json::to_vec(&request.stream_body(true)), format!("{request:?}"));
        let written = serde_json::to_vec(&request).unwrap();
        // Not compared byte by byte: serde_json rounds floats of more digits than one has.
        let again = serde_json::from_slice::<ChatRequest>(&written).unwrap();
        assert_eq!((again.model(), again.check().is_ok()), (request.model(), request.check().is_ok()));
    }
}

/// The event decoder: the same events from the whole input and from pieces, of a size that the first byte says.
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

/// A whole stream: events, chunks, assembly. The bytes are read as a stream, and as the chunks of one, one in each line.
pub fn stream(data: &[u8]) {
    let mut accumulator = Accumulator::new();
    let mut decoder = Decoder::new();
    let mut rest = data;
    while let Ok(Some(event)) = decoder.next(&mut rest) {
        take(&mut accumulator, event);
    }
    for line in data.split(|byte| *byte == b'\n') {
        take(&mut accumulator, Event { kind: String::new(), data: line.to_vec() });
    }
    let text = accumulator.partial().to_owned();
    let answer = accumulator.into_response();
    assert_eq!(answer.text(), text);
    let _ = (answer.json::<serde_json::Value>(), answer.reasoning(), format!("{answer:?}"));
}

fn take(accumulator: &mut Accumulator, event: Event) {
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
