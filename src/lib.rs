//! Calls HolySheep AI and every other OpenAI-compatible chat API, and makes the calls succeed.
#![doc = include_str!("../README.md")]

mod adaptive;
mod answer;
mod batch;
mod call;
mod client;
mod config;
mod error;
mod event;
mod io;
mod limits;
mod meta;
mod policy;
mod retry;
mod stream;
mod wire;

pub use adaptive::{AdaptiveConfig, AdaptiveHandler, Admission, Permit, Snapshot, Tries};
pub use batch::{Batch, BatchItem};
pub use client::Client;
pub use config::{Config, ConfigBuilder};
pub use error::{EXCERPT, Error, Phase, Reason, Result};
pub use event::Event;
pub use io::clock::Clock;
pub use limits::{Limit, RateLimits};
pub use meta::Meta;
pub use policy::backoff::{Jitter, RetryConfig};
pub use policy::breaker::BreakerState;
pub use policy::outcome::Outcome;
pub use policy::verdict::{Retryable, Verdict};
pub use retry::{retry, retry_if};
pub use stream::ChatStream;
pub use wire::chat::{
    ChatChunk, ChatRequest, ChatResponse, Choice, ChunkChoice, Content, Delta, FunctionCall, FunctionDelta,
    Logprobs, Message, Part, Price, ResponseFormat, Role, TokenLogprob, Tool, ToolCall, ToolCallDelta,
    ToolChoice, Usage, UsageDetails,
};
pub use wire::embeddings::{Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse};
pub use wire::extra::Extra;
pub use wire::models::Model;
