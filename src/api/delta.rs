//! What a piece of a stream adds to a message, read straight from the JSON.

use std::fmt;

use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use crate::api::content::Content;
use crate::api::logprobs::Logprobs;
use crate::api::message::{Role, reasoning};
use crate::api::tool_calls::{FunctionDelta, ToolCallDelta};
use crate::api::usage::Usage;
use crate::json::cursor::{JsonCursor, RawValue, SyntaxError};
use crate::json::extra::Extra;
use crate::json::lenient::{Fields, objects};

/// What one of the answers in a stream grew by.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChunkChoice {
    /// Which of the answers this is, counted from 0.
    pub index: u32,
    /// What was added.
    pub delta: Delta,
    /// Why the answer ended; none while it goes on.
    pub finish_reason: Option<String>,
    /// How likely the tokens were.
    pub logprobs: Option<Box<Logprobs>>,
    /// Fields beyond these.
    pub extra: Extra,
}

/// What was added to a message.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// Who speaks, mostly in the first delta only.
    pub role: Option<Role>,
    /// The next piece of the text.
    pub content: Option<Content>,
    /// The next piece of a refusal.
    pub refusal: Option<String>,
    /// The next pieces of tool calls.
    pub tool_calls: Vec<ToolCallDelta>,
    /// The next piece of a function call, as it was before there were tools.
    pub function_call: Option<Box<FunctionDelta>>,
    /// Fields beyond these.
    pub extra: Extra,
    pub(crate) reasoning: Option<String>,
    pub(crate) reasoning_content: Option<String>,
}

impl Delta {
    /// The next piece of the text; empty where there is none.
    pub fn text(&self) -> &str {
        self.content.as_ref().map_or("", Content::text)
    }

    /// The next piece of what the model thinks, whichever way the service sends it.
    pub fn reasoning(&self) -> Option<&str> {
        reasoning(&self.reasoning, &self.reasoning_content, &self.content)
    }
}

/// A completion while it is read: the fields that a stream's chunks and a whole answer share.
#[derive(Default)]
pub(super) struct Completion<'a> {
    /// The answers; none at all is different from an empty list.
    pub(super) choices: Option<Vec<ChunkChoice>>,
    pub(super) usage: Option<Usage>,
    /// There is usage of a kind that can't be read.
    pub(super) odd_usage: bool,
    /// An error in place of an answer, or in one of the answers.
    pub(super) failure: Option<Value>,
    pub(super) id: Option<RawValue<'a>>,
    pub(super) model: Option<RawValue<'a>>,
    pub(super) created: Option<RawValue<'a>>,
    /// One bit for each field's name, by a hash of it: cheap to compare, and enough to notice a new one.
    pub(super) names: u64,
}

impl<'a> Completion<'a> {
    /// Reads a completion. What it doesn't know is passed over.
    pub(super) fn read(json: &'a [u8]) -> Result<Completion<'a>, SyntaxError> {
        let mut read = Completion::default();
        let mut cursor = JsonCursor::new(json);
        if !cursor.enter(b'{')? {
            return Err(SyntaxError);
        }
        while let Some(name) = cursor.name()? {
            match &*name {
                b"choices" => read.choices(&mut cursor)?,
                b"id" => read.id = Some(cursor.value()?),
                b"model" => read.model = Some(cursor.value()?),
                b"created" => read.created = Some(cursor.value()?),
                b"usage" => read.usage(&mut cursor)?,
                b"error" => read.failure = some(cursor.value()?)?.or(read.failure),
                other => {
                    read.names |= bit(other);
                    cursor.value()?;
                }
            }
        }
        cursor.end().map(|()| read)
    }

    /// The fields that were read. Usage that can't be read counts as unknown, so that it isn't lost.
    pub(super) fn known(&self) -> &'static [&'static str] {
        const KNOWN: [&str; 6] = ["id", "model", "created", "choices", "error", "usage"];
        if self.odd_usage { &KNOWN[..5] } else { &KNOWN }
    }

    fn usage(&mut self, cursor: &mut JsonCursor<'_>) -> Result<(), SyntaxError> {
        if cursor.null() {
            return Ok(());
        }
        self.usage = Usage::read_json(cursor)?;
        self.odd_usage = self.usage.is_none();
        Ok(())
    }

    fn choices(&mut self, cursor: &mut JsonCursor<'_>) -> Result<(), SyntaxError> {
        if !cursor.enter(b'[')? {
            return Ok(());
        }
        let mut choices = Vec::new();
        while cursor.item()? {
            choices.reserve_exact(1); // one is all there is, almost always
            choices.push(ChunkChoice::default());
            let position = u32::try_from(choices.len() - 1).unwrap_or(u32::MAX);
            if let Some(choice) = choices.last_mut() {
                choice.index = position;
                self.failure = choice.read(cursor)?.or(self.failure.take());
            }
        }
        self.choices = Some(choices);
        Ok(())
    }
}

/// The value, unless it is null.
fn some(cut: RawValue<'_>) -> Result<Option<Value>, SyntaxError> {
    if cut.is_null() { Ok(None) } else { cut.value().map(Some) }
}

/// A bit for a name.
fn bit(name: &[u8]) -> u64 {
    let ends = name.first().zip(name.last()).map_or(0, |(a, z)| usize::from(*a) + 7 * usize::from(*z));
    1 << ((ends + 11 * name.len()) % 64)
}

impl ChunkChoice {
    /// Reads a choice; what comes back is an error that stands in its place.
    fn read(&mut self, cursor: &mut JsonCursor<'_>) -> Result<Option<Value>, SyntaxError> {
        let mut failure = None;
        let mut has_delta = false;
        if !cursor.enter(b'{')? {
            return Err(SyntaxError);
        }
        while let Some(name) = cursor.name()? {
            match &*name {
                b"index" => self.index = cursor.value()?.index().unwrap_or(self.index),
                b"delta" => has_delta |= self.delta.read(cursor)?,
                // In a chunk that has both, the message is the whole text once more.
                b"message" if has_delta => drop(cursor.value()?),
                b"message" => drop(self.delta.read(cursor)?),
                // The answer of the older completions.
                b"text" => read_content(&mut self.delta.content, cursor.value()?)?,
                b"finish_reason" => {
                    let odd = read_text(&mut self.finish_reason, cursor.value()?)?;
                    keep(&mut self.extra, &name, odd);
                }
                b"logprobs" => match some(cursor.value()?)?.map(Logprobs::read) {
                    Some(Ok(logprobs)) => self.logprobs = Some(Box::new(logprobs)),
                    Some(Err(odd)) => keep(&mut self.extra, &name, Some(odd)),
                    None => {}
                },
                b"error" => failure = some(cursor.value()?)?,
                other => {
                    let before = cursor.clone();
                    cursor.value()?;
                    self.extra.keep(other, cursor.since(&before));
                }
            }
        }
        // Some servers send an empty reason, or a null in quotes, while the answer goes on.
        if matches!(self.finish_reason.as_deref(), Some("" | "null")) {
            self.finish_reason = None;
        }
        Ok(failure)
    }
}

impl Delta {
    /// Reads a delta or a message; false if there is none.
    fn read(&mut self, cursor: &mut JsonCursor<'_>) -> Result<bool, SyntaxError> {
        if !cursor.enter(b'{')? {
            return Ok(false);
        }
        while let Some(name) = cursor.name()? {
            let before = cursor.clone();
            let value = cursor.value()?;
            let odd = match &*name {
                b"content" => {
                    read_content(&mut self.content, value)?;
                    None
                }
                b"role" => read_text(&mut self.role, value)?,
                b"reasoning_content" => read_text(&mut self.reasoning_content, value)?,
                b"reasoning" => read_text(&mut self.reasoning, value)?,
                b"refusal" => read_text(&mut self.refusal, value)?,
                b"tool_calls" => self.tool_calls(some(value)?),
                b"function_call" => self.function_call(some(value)?),
                other => {
                    self.extra.keep(other, cursor.since(&before));
                    None
                }
            };
            keep(&mut self.extra, &name, odd);
        }
        Ok(true)
    }

    fn tool_calls(&mut self, value: Option<Value>) -> Option<Value> {
        match value.map(objects)? {
            Ok(calls) => self.tool_calls = calls.into_iter().map(ToolCallDelta::read).collect(),
            Err(odd) => return Some(odd),
        }
        None
    }

    fn function_call(&mut self, value: Option<Value>) -> Option<Value> {
        match value.map(FunctionDelta::read_value)? {
            Ok(call) => self.function_call = Some(Box::new(call)).filter(|call| !call.is_blank()),
            Err(odd) => return Some(odd),
        }
        None
    }
}

/// Reads words into their place. What is no text comes back, save null and what looks like a text.
#[inline]
fn read_text<T: for<'t> From<&'t str>>(
    place: &mut Option<T>,
    cut: RawValue<'_>,
) -> Result<Option<Value>, SyntaxError> {
    if let Some(text) = cut.text()? {
        *place = Some(T::from(&text));
        return Ok(None);
    }
    match some(cut)?.map(crate::json::lenient::text) {
        Some(Ok(text)) => *place = Some(T::from(&text)),
        Some(Err(odd)) => return Ok(Some(odd)),
        None => {}
    }
    Ok(None)
}

#[inline]
fn read_content(content: &mut Option<Content>, cut: RawValue<'_>) -> Result<(), SyntaxError> {
    if let Some(odd) = read_text(content, cut)? {
        *content = Content::read(odd);
    }
    Ok(())
}

/// Keeps a known field of an unknown type among the unknown ones.
#[inline]
fn keep(extra: &mut Extra, name: &[u8], odd: Option<Value>) {
    if let Some(odd) = odd {
        extra.keep(name, odd.to_string().as_bytes());
    }
}

impl fmt::Debug for ChunkChoice {
    /// Shows what may be logged: how much is said, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkChoice")
            .field("index", &self.index)
            .field("delta", &self.delta)
            .field("finish_reason", &self.finish_reason)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Delta {
    /// Shows what may be logged: how much is said, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delta")
            .field("bytes", &self.text().len())
            .field("tool_calls", &self.tool_calls.len())
            .finish_non_exhaustive()
    }
}

impl Serialize for ChunkChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("index", &self.index)?;
        fields.field("delta", &self.delta)?;
        fields.field("finish_reason", &self.finish_reason)?;
        fields.some("logprobs", &self.logprobs)?;
        fields.end()
    }
}

impl Serialize for Delta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.some("role", &self.role)?;
        fields.some("content", &self.content)?;
        fields.some("reasoning", &self.reasoning)?;
        fields.some("reasoning_content", &self.reasoning_content)?;
        fields.some("refusal", &self.refusal)?;
        fields.list("tool_calls", &self.tool_calls)?;
        fields.some("function_call", &self.function_call)?;
        fields.end()
    }
}
