//! A chunk of a stream: read fast where every chunk differs, and later, if at all, where they are all the same.

use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::api::delta::{ChunkChoice, Completion};
use crate::api::usage::Usage;
use crate::json::extra::Extra;
use crate::json::lenient::says_something;
use crate::json::lenient::{Fields, text, whole};

/// A piece of an answer as it comes in a stream.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChatChunk {
    /// What the answers grew by: one unless more were asked for, none in a chunk that only tells the usage.
    pub choices: Vec<ChunkChoice>,
    /// The tokens used, mostly in the last chunk only.
    pub usage: Option<Usage>,
    /// Fields beyond these.
    pub extra: Extra,
    names: u64,
}

impl ChatChunk {
    /// Reads a chunk, and the error that it carries, if it does. What can't be read comes back.
    pub(crate) fn decode(json: Vec<u8>) -> Result<(ChatChunk, Option<Value>), (serde_json::Error, Vec<u8>)> {
        let Ok(read) = Completion::read(&json) else { return Err((unreadable(&json), json)) };
        let (known, names, usage) = (read.known(), read.names, read.usage);
        let (choices, failure) = (read.choices.unwrap_or_default(), read.failure.filter(says_something));
        Ok((ChatChunk { choices, usage, names, extra: Extra::new(json, known) }, failure))
    }

    /// The whole chunk, if it is an error without an `error` field, as vLLM sends it.
    pub(crate) fn flat_error(&self) -> Option<Value> {
        let nothing = self.choices.is_empty() && self.usage.is_none();
        let is_error = nothing && self.extra.get("object")?.as_str()?.eq_ignore_ascii_case("error");
        is_error.then(|| Value::Object(self.extra.deref().clone()))
    }

    /// The next piece of the first answer's text; empty where there is none.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| choice.delta.text())
    }

    /// The next piece of what the model thinks, in the first answer.
    pub fn reasoning(&self) -> Option<&str> {
        self.choices.first()?.delta.reasoning()
    }

    /// The service's name for this completion.
    pub fn id(&self) -> Option<String> {
        self.known("id")
    }

    /// The model that answers.
    pub fn model(&self) -> Option<String> {
        self.known("model")
    }

    /// When the answer was begun, in seconds since 1970 at almost every service.
    pub fn created(&self) -> Option<u64> {
        whole(&self.extra.known("created")?)
    }

    fn known(&self, name: &str) -> Option<String> {
        text(self.extra.known(name)?).ok().filter(|text| !text.is_empty())
    }

    /// One bit for the name of each of the other fields, by a hash.
    pub(crate) fn names(&self) -> u64 {
        self.names
    }
}

/// What the real parser says of a completion that could not be read.
pub(super) fn unreadable(json: &[u8]) -> serde_json::Error {
    match serde_json::from_slice::<IgnoredAny>(json) {
        Err(error) => error,
        Ok(_) => serde::de::Error::custom("not a completion"),
    }
}

impl fmt::Debug for ChatChunk {
    /// Shows what may be logged: how much is said, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatChunk")
            .field("choices", &self.choices)
            .field("usage", &self.usage)
            .field("extra", &self.extra)
            .finish()
    }
}

impl Serialize for ChatChunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.some("id", &self.id())?;
        fields.some("model", &self.model())?;
        fields.some("created", &self.created())?;
        fields.field("choices", &self.choices)?;
        fields.some("usage", &self.usage)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for ChatChunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChatChunk, D::Error> {
        let fields = Map::<String, Value>::deserialize(deserializer)?;
        let json = Value::Object(fields).to_string().into_bytes();
        ChatChunk::decode(json).map(|(chunk, _)| chunk).map_err(|(error, _)| serde::de::Error::custom(error))
    }
}
