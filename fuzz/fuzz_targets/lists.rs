//! Embeddings, models, and requests that were saved.
#![no_main]
#![allow(dead_code, unused_imports, unreachable_pub, reason = "a target uses a part of the floor")]

#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/limits.rs"]
mod limits;
#[path = "../../src/meta.rs"]
mod meta;
#[path = "../../src/wire/mod.rs"]
mod wire;

pub use error::Error;

use libfuzzer_sys::fuzz_target;
use wire::chat::ChatRequest;
use wire::embeddings::EmbeddingResponse;
use wire::json::lenient;
use wire::models::ModelList;

fuzz_target!(|data: &[u8]| {
    let _ = lenient::<EmbeddingResponse>(data).map(|answer| answer.vectors().count());
    let _ = lenient::<ModelList>(data).map(ModelList::into_vec);
    if let Ok(request) = lenient::<ChatRequest>(data) {
        let _ = (request.check(), serde_json::to_vec(&request.streamed(true)), format!("{request:?}"));
        let written = serde_json::to_vec(&request).unwrap();
        // Not compared byte by byte: serde_json rounds floats of more digits than one has.
        let again = serde_json::from_slice::<ChatRequest>(&written).unwrap();
        assert_eq!((again.model(), again.check().is_ok()), (request.model(), request.check().is_ok()));
    }
});
