//! The headers of an answer: a line for each.
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

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use wire::headers::Headers;

fuzz_target!(|data: &[u8]| {
    let fields = data.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
    });
    let _ = Headers::read(fields, || UNIX_EPOCH + Duration::from_secs(1_764_000_000));
});
