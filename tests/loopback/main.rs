//! Calls over loopback sockets: what the client sends, and what it makes of each answer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "../support/hostile.rs"]
mod hostile;
#[path = "../support/observed.rs"]
mod observed;
#[path = "../support/mod.rs"]
mod support;

mod batch;
mod breaker;
mod cancel;
mod capacity;
mod checked_answers;
mod corpora;
#[cfg(feature = "rustls")]
mod early_answers;
mod handler;
mod heads;
mod llamacpp;
mod lost_answers;
mod meta;
mod paid_too_often;
#[cfg(feature = "rustls")]
mod proxies_and_certificates;
mod quirks;
mod refusals;
mod streams;
mod test_server;
#[cfg(feature = "rustls")]
mod tls;
mod wrong_success;
