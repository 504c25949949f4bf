//! Bytes and text from a server into values, and secrets out of them. No I/O.

pub(crate) mod accumulate;
pub(crate) mod api_key;
pub(crate) mod base_url;
pub(crate) mod date;
pub(crate) mod error_body;
pub(crate) mod headers;
pub(crate) mod rate_limit_headers;
pub(crate) mod raw_head;
pub(crate) mod secrets;
pub(crate) mod sse;
pub(crate) mod stream_event;
