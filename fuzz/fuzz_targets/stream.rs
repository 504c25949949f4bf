//! Runs `holysheep_fuzz::stream` on the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holysheep_fuzz::stream(data));
