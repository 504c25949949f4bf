//! Runs `holysheep_fuzz::response` on the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holysheep_fuzz::response(data));
