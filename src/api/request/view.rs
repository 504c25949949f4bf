//! A read-only view of a chat request.

use std::fmt;

use serde_json::{Map, Value};

use crate::api::message::Message;
use crate::api::request::ChatRequest;
use crate::api::response_format::ResponseFormat;
use crate::api::tools::{Tool, ToolChoice};

/// A read-only view of a [`ChatRequest`], returned by [`ChatRequest::view`].
///
/// Fields have their JSON names. Unset fields are `None` or empty.
///
/// ```
/// use holysheep::{ChatRequest, Role};
///
/// let request = ChatRequest::new("gpt-4.1").user("Capital of France?").temperature(0.7);
/// let view = request.view();
/// assert_eq!((view.model, view.temperature, view.max_tokens), ("gpt-4.1", Some(0.7), None));
/// assert_eq!(view.messages[0].role, Role::User);
/// ```
#[derive(Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ChatRequestView<'a> {
    /// The requested model.
    pub model: &'a str,
    /// The conversation.
    pub messages: &'a [Message],
    /// The sampling temperature.
    pub temperature: Option<f64>,
    /// The probability mass that tokens are sampled from.
    pub top_p: Option<f64>,
    /// The penalty for tokens that occurred before.
    pub presence_penalty: Option<f64>,
    /// The penalty for tokens in proportion to how often they occurred before.
    pub frequency_penalty: Option<f64>,
    /// The maximum number of tokens in the answer.
    pub max_tokens: Option<u64>,
    /// The maximum number of tokens in reasoning and answer together.
    pub max_completion_tokens: Option<u64>,
    /// The number of answers.
    pub n: Option<u64>,
    /// Stop sequences.
    pub stop: &'a [String],
    /// The seed for sampling.
    pub seed: Option<i64>,
    /// The tools that the model may call.
    pub tools: &'a [Tool],
    /// Whether the model has to call a tool, and which.
    pub tool_choice: Option<&'a ToolChoice>,
    /// Whether the model may request several tool calls in one answer.
    pub parallel_tool_calls: Option<bool>,
    /// The format of the answer.
    pub response_format: Option<&'a ResponseFormat>,
    /// How much the model reasons.
    pub reasoning_effort: Option<&'a str>,
    /// Whether to return log probabilities.
    pub logprobs: Option<bool>,
    /// The number of most likely tokens to return at each position.
    pub top_logprobs: Option<u64>,
    /// The id of the end user on whose behalf the request is made.
    pub user: Option<&'a str>,
    /// All other fields. A field with a name from above overrides that field.
    pub extra: &'a Map<String, Value>,
}

impl ChatRequest {
    /// A read-only view of the fields.
    pub fn view(&self) -> ChatRequestView<'_> {
        ChatRequestView {
            model: &self.model,
            messages: &self.messages,
            temperature: self.temperature,
            top_p: self.top_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            max_tokens: self.max_tokens,
            max_completion_tokens: self.max_completion_tokens,
            n: self.n,
            stop: &self.stop,
            seed: self.seed,
            tools: &self.tools,
            tool_choice: self.tool_choice.as_ref(),
            parallel_tool_calls: self.parallel_tool_calls,
            response_format: self.response_format.as_ref(),
            reasoning_effort: self.reasoning_effort.as_deref(),
            logprobs: self.logprobs,
            top_logprobs: self.top_logprobs,
            user: self.user.as_deref(),
            extra: &self.extra,
        }
    }
}

impl fmt::Debug for ChatRequestView<'_> {
    /// Omits content, because debug output is often logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequestView")
            .field("model", &self.model)
            .field("messages", &self.messages.len())
            .field("tools", &self.tools.len())
            .finish_non_exhaustive()
    }
}
