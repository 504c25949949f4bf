//! Parses bytes from servers into values of `api`, and redacts secrets in them. No I/O.

pub(crate) mod accumulate;
pub(crate) mod base_url;
pub(crate) mod completion;
pub(crate) mod date;
mod deserialize;
mod encoded_secret;
pub(crate) mod error_body;
pub(crate) mod headers;
pub(crate) mod rate_limit_headers;
pub(crate) mod raw_head;
pub(crate) mod secrets;
pub(crate) mod sse;
pub(crate) mod stream_event;
pub(crate) mod success;
mod usage;
