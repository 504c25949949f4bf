//! A blocking client for HolySheep AI and every other OpenAI-compatible chat API, built so that calls succeed.
//!
//! ```no_run
//! use holysheep::{ChatRequest, Client};
//!
//! let client = Client::from_env()?; // HOLYSHEEP_API_KEY, and HOLYSHEEP_BASE_URL for another service
//! let answer = client.chat(&ChatRequest::new("gpt-4.1").user("What is full jitter?"))?;
//! println!("{}", answer.text());
//! # Ok::<_, holysheep::Error>(())
//! ```
//!
//! Calls are retried after rate limits, overload and lost connections, honouring the server's `Retry-After` within the
//! limits that you set. There is no async runtime, and there are five dependencies.
//!
//! | to | use |
//! |---|---|
//! | make a call | [`Client::chat`], [`Client::chat_stream`], [`Client::embeddings`], [`Client::models`] |
//! | make many calls | [`Client::batch`] |
//! | configure a client | [`Config::builder`], [`RetryConfig`], [`AdaptiveConfig`] |
//! | end calls early | [`Cancel`], [`Client::with_deadline`], [`Client::drain`], [`Client::shutdown`] |
//! | handle errors | [`Error`] |
//! | observe calls | [`Meta`], [`Event`], [`AdaptiveHandler::snapshot`] |
//! | retry anything else | [`retry()`], [`retry_if`], [`AdaptiveHandler`] |
//! | test a program | [`Clock::fake`], and the module `test_server` of the feature `test-server` |
//!
//! The [`guide`] explains [retries](guide::retrying), the [adaptive handler](guide::adaptive_handler),
//! [streams](guide::streams), [batches](guide::batches), [errors by symptom](guide::errors_by_symptom),
//! [testing](guide::testing), and has [recipes](guide::recipes) for other services, proxies, static binaries and more.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod adaptive;
mod api;
mod client;
mod error;
pub mod guide;
mod http;
mod json;
mod limits;
mod meta;
mod policy;
mod retry;
mod runtime;
#[cfg(feature = "test-server")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-server")))]
pub mod test_server;
mod wire;

pub use adaptive::{
    AdaptiveConfig, AdaptiveHandler, Admission, CallError, Permit, RefusalCause, Snapshot, Tries,
};
pub use api::{
    ChatChunk, ChatRequest, ChatRequestView, ChatResponse, Choice, ChunkChoice, Content, Delta, Embedding,
    EmbeddingInput, EmbeddingRequest, EmbeddingRequestView, EmbeddingResponse, FunctionCall, FunctionDelta,
    Logprobs, Message, Model, Part, Price, ResponseFormat, Role, TokenLogprob, Tool, ToolCall, ToolCallDelta,
    ToolChoice, Usage, UsageDetails,
};
pub use client::Client;
pub use client::batch::{Batch, BatchItem, BatchRequest};
pub use client::config::{Config, ConfigBuilder};
pub use client::event::Event;
pub use client::stream::ChatStream;
pub use error::{EXCERPT, Error, Phase, Reason, Result, Target, WaitCause};
pub use json::extra::Extra;
pub use limits::{Limit, RateLimits};
pub use meta::Meta;
pub use policy::backoff::{Jitter, RetryConfig};
pub use policy::circuit_breaker::BreakerState;
pub use policy::classify::{Retryable, Verdict};
pub use policy::outcome::Outcome;
pub use retry::{Retry, retry, retry_if};
pub use runtime::cancel::Cancel;
pub use runtime::clock::Clock;
