//! The response to a chat request.

use serde::de::DeserializeOwned;

use crate::api::delta::ChunkChoice;
use crate::api::logprobs::Logprobs;
use crate::api::message::Message;
use crate::api::origin::{Origin, decode};
use crate::api::tool_calls::ToolCall;
use crate::api::usage::Usage;
use crate::error::Result;
use crate::json::extra::Extra;
use crate::json::object::json_object;
use crate::meta::Meta;

/// The maximum number of choices, as at most services.
pub(crate) const MAX_CHOICES: usize = 128;

/// A chat completion.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let answer = Client::from_env()?.chat(&ChatRequest::new("gpt-4.1").user("hi"))?;
/// if answer.finish_reason() == Some("length") {
///     eprintln!("the answer was cut by the token limit");
/// }
/// println!("{} ({} attempts)", answer.text(), answer.meta().attempts);
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChatResponse {
    /// The service's id of this completion; empty if it sends none.
    pub id: String,
    /// The model that answered; empty if the service doesn't name it.
    pub model: String,
    /// When the completion was created; with almost every service in seconds since 1970.
    pub created: Option<u64>,
    /// The choices: one unless the request asked for more.
    pub choices: Vec<Choice>,
    /// The token usage, if the service reports it.
    pub usage: Option<Usage>,
    /// All other fields.
    pub extra: Extra,
    pub(crate) meta: Meta,
}

/// One of the answers in a chat completion.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let request = ChatRequest::new("gpt-4.1").user("A name for a sheep?").n(3);
/// for choice in Client::from_env()?.chat(&request)?.choices {
///     println!("{}: {}", choice.index, choice.message.text());
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The index of the choice, counted from 0.
    pub index: u32,
    /// The answer.
    pub message: Message,
    /// Why the answer ended: `stop`, `length`, `tool_calls`, `content_filter`, or another reason.
    pub finish_reason: Option<String>,
    /// Log probabilities of the tokens.
    pub logprobs: Option<Box<Logprobs>>,
    /// All other fields.
    pub extra: Extra,
}

impl ChatResponse {
    /// The text of the first answer; empty if it has none.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| choice.message.text())
    }

    /// The reasoning of the first answer, if the service sends it.
    pub fn reasoning(&self) -> Option<&str> {
        self.choices.first()?.message.reasoning()
    }

    /// The model's explanation of why it refuses to answer, in the first answer.
    pub fn refusal(&self) -> Option<&str> {
        self.choices.first()?.message.refusal.as_deref().filter(|refusal| !refusal.is_empty())
    }

    /// The tool calls that the first answer requests.
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.choices.first().map_or(&[], |choice| &choice.message.tool_calls)
    }

    /// Why the first answer ended.
    pub fn finish_reason(&self) -> Option<&str> {
        self.choices.first()?.finish_reason.as_deref()
    }

    /// The text of the first answer, parsed as JSON, for example after
    /// [`json_schema`](crate::api::ChatRequest::json_schema). A Markdown fence around the JSON is removed.
    ///
    /// # Errors
    /// [`Error::Incomplete`](crate::Error::Incomplete) if the answer was cut off by the token limit, filtered or refused, and
    /// [`Error::Decode`](crate::Error::Decode) if the text isn't JSON or doesn't fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let finish_reason = self.refusal().map_or(self.finish_reason(), |_| Some("refusal"));
        decode(without_fence(self.text()), finish_reason, self.meta.request_id.as_deref())
    }

    /// Metadata of the call, such as attempts and times.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Sets the metadata of the call, also in tool calls, whose errors report it.
    pub(crate) fn with_meta(mut self, meta: Meta) -> ChatResponse {
        for Choice { message, finish_reason, .. } in &mut self.choices {
            if message.tool_calls.is_empty() && message.function_call.is_none() {
                continue;
            }
            let origin = Origin::new(finish_reason.as_deref(), meta.request_id.as_deref());
            let functions = message.tool_calls.iter_mut().map(|call| &mut call.function);
            for function in functions.chain(message.function_call.as_deref_mut()) {
                function.origin = origin.clone();
            }
        }
        self.meta = meta;
        self
    }

    /// Whether any choice has a finish reason or more than a role.
    pub(crate) fn has_content(&self) -> bool {
        self.choices.iter().any(|choice| choice.finish_reason.is_some() || choice.message.has_content())
    }
}

/// The text without a Markdown code fence around it, which models often add to JSON.
fn without_fence(text: &str) -> &str {
    let inside = || {
        let fenced = text.trim().strip_prefix("```")?.strip_suffix("```")?;
        Some(fenced.split_once('\n')?.1)
    };
    inside().unwrap_or(text)
}

impl From<ChunkChoice> for Choice {
    /// Converts a choice of a chunk that contains a complete answer.
    fn from(choice: ChunkChoice) -> Choice {
        Choice {
            index: choice.index,
            message: choice.delta.into(),
            finish_reason: choice.finish_reason,
            logprobs: choice.logprobs,
            extra: choice.extra,
        }
    }
}

debug_without_content!(ChatResponse, response =>
    id: response.id, model: response.model, choices: response.choices, usage: response.usage, meta: response.meta);

debug_without_content!(Choice, choice =>
    index: choice.index, message: choice.message, finish_reason: choice.finish_reason);

json_object!(serialize ChatResponse {
    always id: "id",
    always model: "model",
    optional created: "created",
    always choices: "choices",
    optional usage: "usage",
});

json_object!(serialize Choice {
    always index: "index",
    always message: "message",
    always finish_reason: "finish_reason",
    optional logprobs: "logprobs",
});

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn response(body: &str) -> ChatResponse {
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn json_with_and_without_a_fence() {
        let of = |text: &str| response(&json!({"choices": [{"message": {"content": text}}]}).to_string());
        for text in ["{\"a\": 1}", " {\"a\": 1}\n", "```json\n{\"a\": 1}\n```", "```\n{\"a\": 1}```\n"] {
            assert_eq!(of(text).json::<Value>().unwrap(), json!({"a": 1}), "{text}");
        }
        let error = of("I'd rather not").json::<Value>().unwrap_err();
        assert!(
            matches!(error, crate::Error::Decode { .. }) && error.to_string().contains("rather not"),
            "{error}"
        );
        assert!(of("{\"a\": ").json::<Value>().is_err());
        assert!(matches!(of("").json::<Value>(), Err(crate::Error::Decode { .. })));
    }

    #[test]
    fn debug_hides_content() {
        let answer = response(
            r#"{"choices": [{"message": {"content": "secret", "reasoning": "secret", "secret": 1}}]}"#,
        );
        assert!(!format!("{answer:?}").contains("secret"), "{answer:?}");
    }
}
