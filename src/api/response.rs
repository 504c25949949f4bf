//! The answer to a chat request.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::api::chunk::unreadable;
use crate::api::delta::{ChunkChoice, Completion};
use crate::api::logprobs::Logprobs;
use crate::api::message::Message;
use crate::api::tool_calls::ToolCall;
use crate::api::usage::Usage;
use crate::error::Result;
use crate::json;
use crate::json::cursor::{RawValue, SyntaxError};
use crate::json::extra::Extra;
use crate::json::lenient::says_something;
use crate::json::lenient::{Fields, text};
use crate::meta::Meta;

/// A chat completion.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChatResponse {
    /// The service's name for this completion; empty where it gives none.
    pub id: String,
    /// The model that answered; empty where the service doesn't say.
    pub model: String,
    /// When it was made, in seconds since 1970 at almost every service.
    pub created: Option<u64>,
    /// The answers: one unless more were asked for.
    pub choices: Vec<Choice>,
    /// The tokens used, where the service says so.
    pub usage: Option<Usage>,
    /// Fields beyond these.
    pub extra: Extra,
    pub(crate) meta: Meta,
}

/// One of the answers in a chat completion.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// Which of the answers this is, counted from 0.
    pub index: u32,
    /// The answer.
    pub message: Message,
    /// Why it ended: `stop`, `length`, `tool_calls`, `content_filter` or what a service adds to these.
    pub finish_reason: Option<String>,
    /// How likely the tokens were.
    pub logprobs: Option<Box<Logprobs>>,
    /// Fields beyond these.
    pub extra: Extra,
}

impl ChatResponse {
    /// The text of the first answer; empty where it has none.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| choice.message.text())
    }

    /// What the model thought before the first answer, where the service shows it.
    pub fn reasoning(&self) -> Option<&str> {
        self.choices.first()?.message.reasoning()
    }

    /// Why the model wouldn't give the first answer.
    pub fn refusal(&self) -> Option<&str> {
        self.choices.first()?.message.refusal.as_deref().filter(|words| !words.is_empty())
    }

    /// The tools that the first answer wants to be called.
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.choices.first().map_or(&[], |choice| &choice.message.tool_calls)
    }

    /// Why the first answer ended.
    pub fn finish_reason(&self) -> Option<&str> {
        self.choices.first()?.finish_reason.as_deref()
    }

    /// The text of the first answer read as JSON, for example one made with
    /// [`json_schema`](crate::api::ChatRequest::json_schema). A fence of backticks around it is passed over.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) where the text is no JSON or not what `T` needs.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        json::read_words(without_fence(self.text()))
    }

    /// How the call went.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Reads the body of an answer. An answer without choices is none, and neither is one with an error in it.
    pub(crate) fn decode(body: &[u8]) -> serde_json::Result<ChatResponse> {
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
        let read = Completion::read(body).map_err(|SyntaxError| unreadable(body))?;
        if read.failure.as_ref().is_some_and(says_something) {
            return Err(serde::de::Error::custom("there is an error in it"));
        }
        let extra = Extra::new(body.to_vec(), read.known());
        let choices = read.choices.ok_or_else(|| serde::de::Error::custom("there are no choices"))?;
        let word = |cut: Option<RawValue<'_>>| -> Option<String> {
            let cut = cut?;
            cut.text().ok()?.map(Cow::into_owned).or_else(|| text(cut.value().ok()?).ok())
        };
        Ok(ChatResponse {
            id: word(read.id).unwrap_or_default(),
            model: word(read.model).unwrap_or_default(),
            created: read.created.and_then(RawValue::whole),
            choices: choices.into_iter().map(Choice::from).collect(),
            usage: read.usage,
            extra,
            meta: Meta::default(),
        })
    }
}

/// The text inside a Markdown fence, if that is all there is: models like to put one around JSON.
fn without_fence(text: &str) -> &str {
    let inside = || {
        let fenced = text.trim().strip_prefix("```")?.strip_suffix("```")?;
        Some(fenced.split_once('\n')?.1)
    };
    inside().unwrap_or(text)
}

impl From<ChunkChoice> for Choice {
    /// Takes a piece that is a whole answer.
    fn from(piece: ChunkChoice) -> Choice {
        Choice {
            index: piece.index,
            message: piece.delta.into(),
            finish_reason: piece.finish_reason,
            logprobs: piece.logprobs,
            extra: piece.extra,
        }
    }
}

impl fmt::Debug for ChatResponse {
    /// Shows what may be logged: not what is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatResponse")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("choices", &self.choices)
            .field("usage", &self.usage)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Choice {
    /// Shows what may be logged: not what is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice")
            .field("index", &self.index)
            .field("message", &self.message)
            .field("finish_reason", &self.finish_reason)
            .finish_non_exhaustive()
    }
}

impl Serialize for ChatResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("id", &self.id)?;
        fields.field("model", &self.model)?;
        fields.some("created", &self.created)?;
        fields.field("choices", &self.choices)?;
        fields.some("usage", &self.usage)?;
        fields.end()
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("index", &self.index)?;
        fields.field("message", &self.message)?;
        fields.field("finish_reason", &self.finish_reason)?;
        fields.some("logprobs", &self.logprobs)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for ChatResponse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<ChatResponse, D::Error> {
        let fields = Map::<String, Value>::deserialize(deserializer)?;
        ChatResponse::decode(Value::Object(fields).to_string().as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn response(body: &str) -> ChatResponse {
        ChatResponse::decode(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_whole_answer() {
        let answer = response(
            r#"
            {"id": "c", "object": "chat.completion", "created": "7", "model": "m", "choices": [{"index": 0, "message":
            {"role": "assistant", "content": "hi", "refusal": null}, "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, "system_fingerprint": "fp"}"#,
        );
        assert_eq!((answer.text(), answer.finish_reason()), ("hi", Some("stop")));
        assert_eq!((answer.id.as_str(), answer.model.as_str(), answer.created), ("c", "m", Some(7)));
        assert_eq!(answer.usage.as_ref().unwrap().total_tokens, Some(3));
        assert_eq!(json!(answer.extra), json!({"object": "chat.completion", "system_fingerprint": "fp"}));
        assert_eq!((answer.reasoning(), answer.refusal(), answer.tool_calls().len()), (None, None, 0));
    }

    #[test]
    fn the_least_answer() {
        let answer = response(r#"{"choices": [{"message": {"content": "hi"}}]}"#);
        assert_eq!((answer.text(), answer.finish_reason(), &answer.usage), ("hi", None, &None));
        assert_eq!(response(r#"{"choices": []}"#).text(), "");
        assert_eq!(response(r#"{"choices": [{}]}"#).text(), "");
        assert_eq!(response(r#"{"choices": [{"text": "older"}]}"#).text(), "older");
        assert_eq!(response(r#"{"choices": [{"finish_reason": ""}]}"#).finish_reason(), None);
        for body in [
            "{}",
            r#"{"choices": null}"#,
            r#"{"detail": "Not Found"}"#,
            "[]",
            "",
            "<html>",
            r#"{"choices": [1]}"#,
        ] {
            assert!(ChatResponse::decode(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn odd_types_are_kept_and_harm_nothing() {
        let value = json!({
            "id": "x", "model": "m", "usage": {"tokens": "many"}, "service_tier": null,
            "choices": [{
                "index": 0, "finish_reason": {"type": "stop"}, "logprobs": [1],
                "message": {"role": "assistant", "content": "hi", "refusal": ["no"], "tool_calls": "f", "reasoning": {"a": 1}}
            }]
        });
        let answer: ChatResponse = serde_json::from_value(value.clone()).unwrap();
        assert_eq!((answer.text(), answer.finish_reason(), &answer.usage), ("hi", None, &None));
        assert_eq!(serde_json::to_value(&answer).unwrap(), value);
    }

    #[test]
    fn half_a_surrogate_pair_and_python_numbers() {
        let answer = response(
            r#"{"choices":[{"message":{"content":"a\ud83eb \ud83e\udd80"},"logprobs":{"content":[{"token":"a","logprob":-Infinity}]}}],"x":NaN}"#,
        );
        assert_eq!(answer.text(), "a\u{fffd}b 🦀");
        assert_eq!(answer.extra["x"], Value::Null);
        assert_eq!(answer.choices[0].logprobs.as_ref().unwrap().content[0].logprob, None);
    }

    #[test]
    fn structured_outputs() {
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
    fn debug_hides_what_is_said() {
        let answer = response(
            r#"{"choices": [{"message": {"content": "secret", "reasoning": "secret", "secret": 1}}]}"#,
        );
        assert!(!format!("{answer:?}").contains("secret"), "{answer:?}");
    }
}
