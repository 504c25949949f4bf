//! Runs `holysheep_fuzz::batch_input` on the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holysheep_fuzz::batch_input(data));
