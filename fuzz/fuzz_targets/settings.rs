//! Runs `holysheep_fuzz::settings` on the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holysheep_fuzz::settings(data));
