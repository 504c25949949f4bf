//! Chat completions: the request as data, the answer as data.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::meta::Meta;

/// A request for a chat completion, built as a chain.
///
/// ```
/// use holysheep::ChatRequest;
///
/// let request = ChatRequest::new("gpt-4.1").system("Answer in one word.").user("Capital of France?").temperature(0.7);
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// One message of a conversation.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what a service adds to these.
    pub role: String,
    /// What is said: a string in most messages.
    #[serde(default)]
    pub content: Value,
}

/// A chat completion.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChatResponse {
    /// The service's name for this completion.
    #[serde(default)]
    pub id: String,
    /// The model that answered.
    #[serde(default)]
    pub model: String,
    /// The answers: one unless more were asked for.
    pub choices: Vec<Choice>,
    /// The tokens used, where the service says so.
    #[serde(default)]
    pub usage: Option<Usage>,
    #[serde(skip)]
    pub(crate) meta: Meta,
}

/// One of the answers in a chat completion.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Choice {
    /// The answer.
    pub message: Message,
    /// Why it ended: `stop`, `length`, `tool_calls`, `content_filter` or what a service adds to these.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// The tokens that a call used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the request.
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(default)]
    pub completion_tokens: Option<u64>,
    /// All tokens.
    #[serde(default)]
    pub total_tokens: Option<u64>,
}

impl ChatRequest {
    /// A request to this model, without messages yet.
    pub fn new(model: impl Into<String>) -> ChatRequest {
        ChatRequest {
            model: model.into(),
            messages: Vec::new(),
            temperature: None,
            top_p: None,
            max_tokens: None,
            seed: None,
            extra: Map::new(),
        }
    }

    /// Adds an instruction that comes before the conversation.
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::system(text))
    }

    /// Adds what the user says.
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::user(text))
    }

    /// Adds what the assistant said before.
    pub fn assistant(self, text: impl Into<String>) -> Self {
        self.message(Message::assistant(text))
    }

    /// Adds a message.
    pub fn message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// How freely the next token is chosen: from 0, mostly up to 2.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// The share of probability that tokens are chosen from: 0 to 1.
    pub fn top_p(mut self, share: f64) -> Self {
        self.top_p = Some(share);
        self
    }

    /// The most tokens that the answer may have.
    pub fn max_tokens(mut self, tokens: u64) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Asks for the same answer each time, as far as the service can.
    pub fn seed(mut self, seed: i64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets a field that has no method here.
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// The model asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Says what would make every service refuse the request.
    pub(crate) fn check(&self) -> Result<()> {
        if self.model.trim().is_empty() {
            return Err(Error::config("model", "is empty; name a model, such as gpt-4.1"));
        }
        if self.messages.is_empty() {
            return Err(Error::config("messages", "there are none; add one with user(…)"));
        }
        for (name, number) in [("temperature", self.temperature), ("top_p", self.top_p)] {
            if number.is_some_and(|number| !number.is_finite()) {
                return Err(Error::config(name, "is not a finite number, and JSON has no other ones"));
            }
        }
        Ok(())
    }
}

impl Message {
    fn new(role: &str, text: impl Into<String>) -> Message {
        Message { role: role.to_owned(), content: Value::String(text.into()) }
    }

    /// An instruction.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new("system", text)
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new("user", text)
    }

    /// What the assistant said.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new("assistant", text)
    }
}

impl ChatResponse {
    /// The text of the first answer; empty where it has none.
    pub fn text(&self) -> &str {
        self.choices.first().and_then(|choice| choice.message.content.as_str()).unwrap_or_default()
    }

    /// Why the first answer ended.
    pub fn finish_reason(&self) -> Option<&str> {
        self.choices.first()?.finish_reason.as_deref()
    }

    /// How the call went.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl std::fmt::Debug for ChatRequest {
    /// Shows what may be logged: no message.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatRequest")
            .field("model", &self.model)
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Message {
    /// Shows what may be logged: not what is said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("role", &self.role).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Choice {
    /// Shows what may be logged: not what is said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Choice").field("finish_reason", &self.finish_reason).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ChatResponse {
    /// Shows what may be logged: not what is said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatResponse")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("finish_reason", &self.finish_reason())
            .field("usage", &self.usage)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}
