//! Requests and answers as data: what a caller builds, and what a service sends back.

pub(crate) mod base64;
pub(crate) mod chunk;
mod content;
pub(crate) mod delta;
pub(crate) mod embeddings;
mod logprobs;
mod message;
pub(crate) mod models;
mod request;
mod response;
mod response_format;
mod tool_calls;
mod tools;
mod usage;

pub use chunk::ChatChunk;
pub use content::{Content, Part};
pub use delta::{ChunkChoice, Delta};
pub use embeddings::{Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse};
pub use logprobs::{Logprobs, TokenLogprob};
pub use message::{Message, Role};
pub use models::Model;
pub use request::ChatRequest;
pub use response::{ChatResponse, Choice};
pub use response_format::ResponseFormat;
pub use tool_calls::{FunctionCall, FunctionDelta, ToolCall, ToolCallDelta};
pub use tools::{Tool, ToolChoice};
pub use usage::{Price, Usage, UsageDetails};
