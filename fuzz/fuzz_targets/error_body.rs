//! Runs `holysheep_fuzz::error_body` on the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holysheep_fuzz::error_body(data));
