//! The rooms that decide: pure functions of values, time and randomness. No clock, no lock, no I/O.

pub(crate) mod backoff;
pub(crate) mod verdict;
