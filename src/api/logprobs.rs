//! How likely the tokens of an answer were.

use serde::Deserialize;
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::extra::Extra;
use crate::json::lenient::{Fields, objects, read_from_object, take, take_float, take_objects, take_text};

/// How likely the tokens of an answer were.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Logprobs {
    /// The tokens of the text.
    pub content: Vec<TokenLogprob>,
    /// The tokens of a refusal.
    pub refusal: Vec<TokenLogprob>,
    /// Fields beyond these: the lists of the older completions, for example.
    pub extra: Extra,
}

/// How likely a token was, and what could have been in its place.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token.
    pub token: String,
    /// The natural logarithm of its probability; none where the service sends no number.
    pub logprob: Option<f64>,
    /// The bytes of the token, which may be a part of a character only.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens in this place.
    pub top_logprobs: Vec<TokenLogprob>,
    /// Fields beyond these.
    pub extra: Extra,
}

impl Logprobs {
    pub(crate) fn read(value: Value) -> Result<Logprobs, Value> {
        let Value::Object(mut fields) = value else { return Err(value) };
        Ok(Logprobs {
            content: take_objects(&mut fields, "content", TokenLogprob::read),
            refusal: take_objects(&mut fields, "refusal", TokenLogprob::read),
            extra: fields.into(),
        })
    }

    /// Adds what a further piece of the stream says.
    pub(crate) fn add(&mut self, more: &Logprobs) {
        self.content.extend_from_slice(&more.content);
        self.refusal.extend_from_slice(&more.refusal);
        merge_lists(&mut self.extra, &more.extra);
    }
}

/// Adds fields of a further piece: lists grow, anything else was said before.
fn merge_lists(fields: &mut Extra, more: &Extra) {
    if more.has_nothing() {
        return;
    }
    let mut merged = Map::from(std::mem::take(fields));
    for (name, value) in more {
        match (merged.get_mut(name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend_from_slice(more),
            (Some(_), _) => {}
            (None, value) => drop(merged.insert(name.clone(), value.clone())),
        }
    }
    *fields = merged.into();
}

impl TokenLogprob {
    fn read(mut fields: Map<String, Value>) -> TokenLogprob {
        TokenLogprob {
            token: take_text(&mut fields, "token").unwrap_or_default(),
            logprob: take_float(&mut fields, "logprob"),
            bytes: take(&mut fields, "bytes", |value| Vec::deserialize(&value).map_err(|_| value)),
            // One level: what could have been in the place of a candidate makes no sense, and a loop has no depth.
            top_logprobs: take(&mut fields, "top_logprobs", objects)
                .unwrap_or_default()
                .into_iter()
                .map(TokenLogprob::candidate)
                .collect(),
            extra: fields.into(),
        }
    }

    fn candidate(mut fields: Map<String, Value>) -> TokenLogprob {
        TokenLogprob {
            token: take_text(&mut fields, "token").unwrap_or_default(),
            logprob: take_float(&mut fields, "logprob"),
            bytes: take(&mut fields, "bytes", |value| Vec::deserialize(&value).map_err(|_| value)),
            top_logprobs: Vec::new(),
            extra: fields.into(),
        }
    }
}

impl std::fmt::Debug for TokenLogprob {
    /// Shows what may be logged: not the token, which is a piece of what is said.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenLogprob").field("logprob", &self.logprob).finish_non_exhaustive()
    }
}

impl Serialize for Logprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.list("content", &self.content)?;
        fields.list("refusal", &self.refusal)?;
        fields.end()
    }
}

impl Serialize for TokenLogprob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("token", &self.token)?;
        fields.field("logprob", &self.logprob)?;
        fields.some("bytes", &self.bytes)?;
        fields.list("top_logprobs", &self.top_logprobs)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Logprobs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Logprobs, D::Error> {
        Logprobs::read(Value::deserialize(deserializer)?)
            .map_err(|_| serde::de::Error::custom("logprobs are an object"))
    }
}

read_from_object!(TokenLogprob);
