//! Runs `holysheep_fuzz::no_proxy` on the input.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holysheep_fuzz::no_proxy(data));
