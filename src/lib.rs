//! Calls HolySheep AI and every other OpenAI-compatible chat API, and makes the calls succeed.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod adaptive;
mod api;
mod client;
mod error;
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
pub use error::{EXCERPT, Error, Phase, Reason, Result};
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
