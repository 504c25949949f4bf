//! The body of an error, be it under an error status or under a 200.
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
use wire::error_body::{ErrorBody, inside_success};

fuzz_target!(|data: &[u8]| {
    for error in [Some(ErrorBody::read(data)), inside_success(data)].into_iter().flatten() {
        assert!(error.status().is_none_or(|status| (100..600).contains(&status)));
        assert!(error.message.is_none_or(|words| words.len() <= error::EXCERPT + 8));
    }
});
