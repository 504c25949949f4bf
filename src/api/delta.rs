//! The choices of a chunk and their deltas.

use crate::api::content::Content;
use crate::api::logprobs::Logprobs;
use crate::api::message::{Message, Role, find_reasoning};
use crate::api::tool_calls::{FunctionDelta, ToolCall, ToolCallDelta};
use crate::json::extra::Extra;
use crate::json::lenient::is_filled;
use crate::json::object::json_object;

/// The next part of one choice.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChunkChoice {
    /// The index of the choice, counted from 0.
    pub index: u32,
    /// The next part of the message.
    pub delta: Delta,
    /// Why the answer ended; `None` while it continues.
    pub finish_reason: Option<String>,
    /// Log probabilities of the tokens.
    pub logprobs: Option<Box<Logprobs>>,
    /// All other fields.
    pub extra: Extra,
    /// The delta is a `message`, which may repeat all deltas before it.
    pub(crate) is_message: bool,
}

/// The next part of a message.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// The author, usually in the first delta only.
    pub role: Option<Role>,
    /// The next part of the content.
    pub content: Option<Content>,
    /// The next part of a refusal.
    pub refusal: Option<String>,
    /// The next parts of tool calls.
    pub tool_calls: Vec<ToolCallDelta>,
    /// The next part of a function call, in the deprecated form that tool calls replaced.
    pub function_call: Option<Box<FunctionDelta>>,
    /// All other fields.
    pub extra: Extra,
    pub(crate) reasoning: Option<String>,
    pub(crate) reasoning_content: Option<String>,
}

impl ChunkChoice {
    /// Whether there is more than a role: content or a finish reason.
    #[inline]
    pub(crate) fn has_content(&self) -> bool {
        self.finish_reason.is_some() || self.delta.has_content()
    }
}

impl Delta {
    #[inline]
    pub(crate) fn has_content(&self) -> bool {
        let Delta {
            role: _,
            content,
            refusal,
            tool_calls,
            function_call,
            extra,
            reasoning,
            reasoning_content,
        } = self;
        content.as_ref().is_some_and(|content| !content.is_empty())
            || [reasoning_content, reasoning, refusal].into_iter().flatten().any(|text| !text.is_empty())
            || !tool_calls.is_empty()
            || function_call.is_some()
            || has_other_content(extra)
    }

    /// The next part of the text; empty if there is none.
    pub fn text(&self) -> &str {
        self.content.as_ref().map_or("", Content::text)
    }

    /// The next part of the model's reasoning, from whichever field the service uses.
    pub fn reasoning(&self) -> Option<&str> {
        find_reasoning(&self.reasoning, &self.reasoning_content, &self.content)
    }
}

/// Whether any unknown field of a message has content, such as an image or audio.
pub(crate) fn has_other_content(extra: &Extra) -> bool {
    !extra.is_unset() && extra.values().any(is_filled)
}

json_object!(serialize ChunkChoice {
    always index: "index",
    always delta: "delta",
    always finish_reason: "finish_reason",
    optional logprobs: "logprobs",
});

json_object!(serialize Delta {
    optional role: "role",
    optional content: "content",
    optional reasoning: "reasoning",
    optional reasoning_content: "reasoning_content",
    optional refusal: "refusal",
    optional tool_calls: "tool_calls",
    optional function_call: "function_call",
});

impl From<Delta> for Message {
    /// Converts a delta that contains a complete message.
    fn from(delta: Delta) -> Message {
        Message {
            role: delta.role.unwrap_or_default(),
            content: delta.content,
            refusal: delta.refusal,
            tool_calls: delta.tool_calls.into_iter().map(ToolCall::from).collect(),
            tool_call_id: None,
            function_call: delta.function_call.map(|call| Box::new((*call).into())),
            reasoning: delta.reasoning,
            reasoning_content: delta.reasoning_content,
            extra: delta.extra,
        }
    }
}

debug_without_content!(ChunkChoice, choice =>
    index: choice.index, delta: choice.delta, finish_reason: choice.finish_reason);

debug_without_content!(Delta, delta => bytes: delta.text().len(), tool_calls: delta.tool_calls.len());
