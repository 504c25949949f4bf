//! Request and response types.

/// Implements `Debug` with the listed fields only. Content is left out, because debug output is often logged.
macro_rules! debug_without_content {
    ($type:ident, $value:ident => $($name:ident: $shown:expr),*) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let $value = self;
                f.debug_struct(stringify!($type))$(.field(stringify!($name), &$shown))*.finish_non_exhaustive()
            }
        }
    };
}

pub(crate) mod chunk;
mod content;
pub(crate) mod delta;
pub(crate) mod embeddings;
mod logprobs;
mod message;
pub(crate) mod models;
mod origin;
mod request;
pub(crate) mod response;
mod response_format;
pub(crate) mod tool_calls;
mod tools;
mod usage;

pub use chunk::ChatChunk;
pub use content::{Content, Part};
pub use delta::{ChunkChoice, Delta};
pub use embeddings::{Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingRequestView, EmbeddingResponse};
pub use logprobs::{Logprobs, TokenLogprob};
pub use message::{Message, Role};
pub use models::Model;
pub use request::{ChatRequest, ChatRequestView};
pub use response::{ChatResponse, Choice};
pub use response_format::ResponseFormat;
pub use tool_calls::{FunctionCall, FunctionDelta, ToolCall, ToolCallDelta};
pub use tools::{Tool, ToolChoice};
pub use usage::{Price, Usage, UsageDetails};
