//! Chat completions: the request as data, the answer as data, whole or in pieces.

mod calls;
pub(crate) mod chunk;
mod content;
pub(crate) mod delta;
mod format;
mod logprobs;
mod message;
mod request;
mod response;
mod tools;
mod usage;

pub use calls::{FunctionCall, FunctionDelta, ToolCall, ToolCallDelta};
pub use chunk::ChatChunk;
pub use content::{Content, Part};
pub use delta::{ChunkChoice, Delta};
pub use format::ResponseFormat;
pub use logprobs::{Logprobs, TokenLogprob};
pub use message::{Message, Role};
pub use request::ChatRequest;
pub use response::{ChatResponse, Choice};
pub use tools::{Tool, ToolChoice};
pub use usage::{Price, Usage, UsageDetails};
