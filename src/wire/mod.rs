//! The rooms that say: what goes over the wire and comes back, as bytes and values. No I/O.

pub(crate) mod api_key;
pub(crate) mod assemble;
pub(crate) mod base64;
pub(crate) mod base_url;
pub(crate) mod chat;
mod corpora;
pub(crate) mod date;
pub(crate) mod embeddings;
pub(crate) mod error_body;
pub(crate) mod extra;
pub(crate) mod headers;
pub(crate) mod json;
pub(crate) mod lenient;
pub(crate) mod models;
pub(crate) mod piece;
pub(crate) mod ratelimits;
pub(crate) mod scan;
pub(crate) mod secrets;
pub(crate) mod sse;

/// Says that a test is skipped, past the capture of what tests print.
#[cfg(test)]
pub(crate) fn skipped(missing: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: there is no {missing}");
}
