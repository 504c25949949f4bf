//! The HTTP transport, based on ureq: connections, requests, bodies. Retries are decided elsewhere.

mod addresses;
mod answer_headers;
pub(crate) mod body;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod client_cert;
mod connection;
mod connections;
mod connector;
mod dns_cache;
mod early_answer;
mod exact_timeout;
mod exchange;
mod failure;
pub(crate) mod options;
mod proxy;
mod redaction;
pub(crate) mod request;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod tls;
pub(crate) mod transport;
