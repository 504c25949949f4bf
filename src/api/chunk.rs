//! `ChatChunk`: one chunk of a streamed chat completion.

use std::fmt;
use std::num::NonZeroU32;

use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use crate::api::delta::ChunkChoice;
use crate::api::usage::Usage;
use crate::json::extra::Extra;
use crate::json::lenient::{text, to_count};
use crate::json::object::ObjectWriter;

/// One chunk of a streamed chat completion.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// for chunk in Client::from_env()?.chat_stream(&ChatRequest::new("gpt-4.1").user("hi"))? {
///     let chunk = chunk?;
///     match chunk.reasoning() {
///         Some(reasoning) => eprint!("{reasoning}"),
///         None => print!("{}", chunk.text()),
///     }
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ChatChunk {
    /// What the chunk adds to each choice. Usually one choice; none in a chunk that only reports usage.
    pub choices: Vec<ChunkChoice>,
    /// The token usage, usually in the last chunk only.
    pub usage: Option<Usage>,
    /// All other fields.
    pub extra: Extra,
    pub(crate) head: ChunkHead,
}

/// Offsets of fields in the chunk's JSON. Their values are the same in every chunk, so they are parsed only on access.
#[derive(Clone, Default)]
pub(crate) struct ChunkHead {
    pub(crate) id: Option<NonZeroU32>,
    pub(crate) model: Option<NonZeroU32>,
    pub(crate) created: Option<NonZeroU32>,
    /// The total length of the unknown fields' names, to detect cheaply that two chunks have different fields.
    pub(crate) unknown_names: u32,
}

impl ChatChunk {
    /// The next part of the first choice's text; empty if there is none.
    pub fn text(&self) -> &str {
        self.first().map_or("", |choice| choice.delta.text())
    }

    /// The next part of the model's reasoning, in the first choice.
    pub fn reasoning(&self) -> Option<&str> {
        self.first()?.delta.reasoning()
    }

    /// The first choice of the answer. A chunk may have only others.
    fn first(&self) -> Option<&ChunkChoice> {
        self.choices.iter().find(|choice| choice.index == 0)
    }

    /// Whether the chunk has content or a finish reason.
    #[inline]
    pub(crate) fn has_content(&self) -> bool {
        self.choices.iter().any(ChunkChoice::has_content)
    }

    /// Whether a choice continues, which a finish reason alone doesn't.
    pub(crate) fn has_delta(&self) -> bool {
        self.choices.iter().any(|choice| choice.delta.has_content())
    }

    /// The service's id of the completion.
    pub fn id(&self) -> Option<String> {
        not_empty(self.extra.scalar_at(self.head.id?)?)
    }

    /// The model that generates the answer.
    pub fn model(&self) -> Option<String> {
        not_empty(self.extra.scalar_at(self.head.model?)?)
    }

    /// When the completion was created; with almost every service in seconds since 1970.
    pub fn created(&self) -> Option<u64> {
        to_count(&self.extra.scalar_at(self.head.created?)?)
    }
}

fn not_empty(value: Value) -> Option<String> {
    text(value).ok()?.filter(|text| !text.is_empty())
}

impl fmt::Debug for ChatChunk {
    /// Shows sizes, not content.
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
        let mut object = ObjectWriter::new(serializer, &self.extra)?;
        object.optional("id", &self.id())?;
        object.optional("model", &self.model())?;
        object.optional("created", &self.created())?;
        object.always("choices", &self.choices)?;
        object.optional("usage", &self.usage)?;
        object.end()
    }
}
