//! A whole answer: what was read is read again from what is written.
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
use wire::chat::ChatResponse;

fuzz_target!(|data: &[u8]| {
    let Ok(answer) = ChatResponse::decode(data) else { return };
    let written = serde_json::to_vec(&answer).unwrap();
    let again = ChatResponse::decode(&written).unwrap();
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
});
