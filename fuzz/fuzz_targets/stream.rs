//! A whole stream: events, pieces, assembly. The bytes are a stream, or the chunks of one, a line each.
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
use wire::assemble::Assembler;
use wire::piece::Piece;
use wire::sse::{Decoder, Event};

fn take(assembler: &mut Assembler, event: Event) {
    match Piece::read(event) {
        Ok(Piece::Chunk(chunk)) => {
            let _ = assembler.add(&chunk);
            let again = serde_json::to_vec(&chunk).unwrap();
            let Ok(Piece::Chunk(again)) = Piece::read(Event { kind: String::new(), data: again }) else {
                return;
            };
            assert_eq!(again.text(), chunk.text());
        }
        Ok(Piece::Done) => assembler.end(),
        Ok(Piece::Failure(error)) => drop((error.status(), error.message)),
        Ok(Piece::Nothing) | Err(_) => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let mut assembler = Assembler::new();
    let mut decoder = Decoder::new();
    let mut rest = data;
    while let Ok(Some(event)) = decoder.next(&mut rest) {
        take(&mut assembler, event);
    }
    for line in data.split(|byte| *byte == b'\n') {
        take(&mut assembler, Event { kind: String::new(), data: line.to_vec() });
    }
    let text = assembler.partial().to_owned();
    let answer = assembler.into_response();
    assert_eq!(answer.text(), text);
    let _ = (answer.json::<serde_json::Value>(), answer.reasoning(), format!("{answer:?}"));
});
