//! The event decoder: the same events, whole and in pieces.
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
use wire::sse::{Decoder, Event};

fn decode(bytes: &[u8], step: usize) -> Vec<Event> {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for mut piece in bytes.chunks(step) {
        while let Ok(Some(event)) = decoder.next(&mut piece) {
            events.push(event);
        }
    }
    events.extend(decoder.finish().ok().flatten());
    events
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, 1 + usize::from(*step)), whole);
    assert_eq!(decode(bytes, 1), whole);
});
