//! Embeddings: texts go out, vectors come back, as numbers or as base64.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::api::Usage;
use crate::api::base64;
use crate::error::{Error, Result};
use crate::json::extra::Extra;
use crate::json::lenient::{Fields, float, objects, read_from_object, take, take_text, take_whole};
use crate::meta::Meta;

/// A request for embeddings, built as a chain.
///
/// ```
/// use holysheep::EmbeddingRequest;
///
/// let request = EmbeddingRequest::new("text-embedding-3-small", ["first text", "second text"]).dimensions(256);
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct EmbeddingRequest {
    model: String,
    input: EmbeddingInput,
    dimensions: Option<u64>,
    encoding_format: Option<String>,
    user: Option<String>,
    extra: Map<String, Value>,
}

/// What to embed: one text, several, or what else a service takes, such as tokens.
#[derive(Clone, PartialEq)]
pub struct EmbeddingInput(Value);

impl EmbeddingRequest {
    /// A request to this model, for one text or several.
    pub fn new(model: impl Into<String>, input: impl Into<EmbeddingInput>) -> EmbeddingRequest {
        EmbeddingRequest { model: model.into(), input: input.into(), ..EmbeddingRequest::default() }
    }

    /// The length of the vectors, where the model can shorten them.
    pub fn dimensions(mut self, dimensions: u64) -> Self {
        self.dimensions = Some(dimensions);
        self
    }

    /// Asks for the vectors as base64, which is a quarter of the bytes. Not every service can.
    pub fn base64(mut self) -> Self {
        self.encoding_format = Some("base64".to_owned());
        self
    }

    /// Names the person the request is made for.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user = Some(id.into());
        self
    }

    /// Sets a field that has no method here. It wins over one that has.
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
            return Err(Error::config("model", "is empty; name a model, such as text-embedding-3-small"));
        }
        let nothing = match &self.input.0 {
            Value::Array(texts) => texts.is_empty(),
            input => input.is_null(),
        };
        if nothing && !self.extra.contains_key("input") {
            return Err(Error::config("input", "there is none; give at least one text"));
        }
        Ok(())
    }

    fn read(mut fields: Map<String, Value>) -> EmbeddingRequest {
        EmbeddingRequest {
            model: take_text(&mut fields, "model").unwrap_or_default(),
            input: take(&mut fields, "input", |value| Ok(EmbeddingInput(value))).unwrap_or_default(),
            dimensions: take_whole(&mut fields, "dimensions"),
            encoding_format: take_text(&mut fields, "encoding_format"),
            user: take_text(&mut fields, "user"),
            extra: fields,
        }
    }
}

impl Default for EmbeddingInput {
    fn default() -> EmbeddingInput {
        EmbeddingInput(Value::Null)
    }
}

impl From<&str> for EmbeddingInput {
    fn from(text: &str) -> EmbeddingInput {
        EmbeddingInput(text.into())
    }
}

impl From<String> for EmbeddingInput {
    fn from(text: String) -> EmbeddingInput {
        EmbeddingInput(text.into())
    }
}

impl From<Value> for EmbeddingInput {
    fn from(input: Value) -> EmbeddingInput {
        EmbeddingInput(input)
    }
}

impl<T: Into<Value>> From<Vec<T>> for EmbeddingInput {
    fn from(texts: Vec<T>) -> EmbeddingInput {
        EmbeddingInput(texts.into())
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for EmbeddingInput {
    fn from(texts: [T; N]) -> EmbeddingInput {
        EmbeddingInput(texts.into())
    }
}

impl<T: Into<Value> + Clone> From<&[T]> for EmbeddingInput {
    fn from(texts: &[T]) -> EmbeddingInput {
        EmbeddingInput(texts.into())
    }
}

impl Serialize for EmbeddingRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("model", &self.model)?;
        fields.field("input", &self.input.0)?;
        fields.some("dimensions", &self.dimensions)?;
        fields.some("encoding_format", &self.encoding_format)?;
        fields.some("user", &self.user)?;
        fields.end()
    }
}

impl fmt::Debug for EmbeddingRequest {
    /// Shows what may be logged: no text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingRequest")
            .field("model", &self.model)
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EmbeddingInput {
    /// Shows what may be logged: how many texts, not which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingInput")
            .field("count", &self.0.as_array().map_or(1, Vec::len))
            .finish_non_exhaustive()
    }
}

/// Embeddings, in the order of the texts.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct EmbeddingResponse {
    /// One for each text.
    pub data: Vec<Embedding>,
    /// The model that made them; empty where the service doesn't say.
    pub model: String,
    /// The tokens used, where the service says so.
    pub usage: Option<Usage>,
    /// Fields beyond these.
    pub extra: Extra,
    pub(crate) meta: Meta,
}

/// The embedding of one text.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Embedding {
    /// Which of the texts this belongs to, counted from 0.
    pub index: u64,
    /// The vector.
    pub embedding: Vec<f32>,
    /// Fields beyond these.
    pub extra: Extra,
}

impl EmbeddingResponse {
    /// The vectors, in the order of the texts.
    pub fn vectors(&self) -> impl Iterator<Item = &[f32]> {
        self.data.iter().map(|embedding| &embedding.embedding[..])
    }

    /// How the call went.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    fn read(mut fields: Map<String, Value>) -> std::result::Result<EmbeddingResponse, &'static str> {
        let data = take(&mut fields, "data", objects).ok_or("there is no data")?;
        let data = data.into_iter().enumerate().map(|(position, fields)| Embedding::read(position, fields));
        let mut data = data.collect::<Option<Vec<Embedding>>>().ok_or("an embedding that is no vector")?;
        data.sort_by_key(|embedding| embedding.index);
        Ok(EmbeddingResponse {
            data,
            model: take_text(&mut fields, "model").unwrap_or_default(),
            usage: take(&mut fields, "usage", Usage::read),
            extra: fields.into(),
            meta: Meta::default(),
        })
    }
}

impl Embedding {
    fn read(position: usize, mut fields: Map<String, Value>) -> Option<Embedding> {
        let embedding = take(&mut fields, "embedding", |value| vector(&value).ok_or(value))?;
        Some(Embedding {
            index: take_whole(&mut fields, "index").unwrap_or(position as u64),
            embedding,
            extra: fields.into(),
        })
    }
}

/// A vector as a list of numbers, or as base64 of four bytes each, the lowest first.
fn vector(value: &Value) -> Option<Vec<f32>> {
    match value {
        Value::Array(numbers) => {
            numbers.iter().map(|number| float(number).map(|number| number as f32)).collect()
        }
        Value::String(text) => {
            let bytes = base64::decode(text)?;
            let numbers = bytes.chunks_exact(4);
            numbers.remainder().is_empty().then(|| {
                numbers.filter_map(|four| four.first_chunk()).map(|four| f32::from_le_bytes(*four)).collect()
            })
        }
        _ => None,
    }
}

impl Serialize for EmbeddingResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("data", &self.data)?;
        fields.field("model", &self.model)?;
        fields.some("usage", &self.usage)?;
        fields.end()
    }
}

impl Serialize for Embedding {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("index", &self.index)?;
        fields.field("embedding", &self.embedding)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for EmbeddingResponse {
    fn deserialize<D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<EmbeddingResponse, D::Error> {
        EmbeddingResponse::read(Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Embedding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Embedding, D::Error> {
        let embedding = Embedding::read(0, Map::deserialize(deserializer)?);
        embedding.ok_or_else(|| serde::de::Error::custom("an embedding that is no vector"))
    }
}

impl fmt::Debug for EmbeddingResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingResponse")
            .field("model", &self.model)
            .field("data", &self.data)
            .field("usage", &self.usage)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Embedding {
    /// Shows the length only: a vector tells a text, and is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedding")
            .field("index", &self.index)
            .field("dimensions", &self.embedding.len())
            .finish_non_exhaustive()
    }
}

read_from_object!(EmbeddingRequest);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn one_text_or_several() {
        for (request, input) in [
            (EmbeddingRequest::new("m", "a"), json!("a")),
            (EmbeddingRequest::new("m", String::from("a")), json!("a")),
            (EmbeddingRequest::new("m", ["a", "b"]), json!(["a", "b"])),
            (EmbeddingRequest::new("m", vec![String::from("a")]), json!(["a"])),
            (EmbeddingRequest::new("m", &["a"][..]), json!(["a"])),
            (EmbeddingRequest::new("m", [1u32, 2]), json!([1, 2])),
        ] {
            assert_eq!(to_value(&request).unwrap(), json!({"model": "m", "input": input}));
            assert!(request.check().is_ok());
        }
        let full = json!({
            "model": "m", "input": ["a"], "dimensions": 2, "encoding_format": "base64", "user": "u", "x": [1]
        });
        let request =
            EmbeddingRequest::new("m", ["a"]).dimensions(2).base64().user_id("u").extra("x", vec![1]);
        assert_eq!(to_value(&request).unwrap(), full);
        assert_eq!(from_value::<EmbeddingRequest>(full).unwrap(), request);
    }

    #[test]
    fn what_every_service_would_refuse_is_refused_here() {
        let said = |request: EmbeddingRequest| request.check().unwrap_err().to_string();
        let model = "model: is empty; name a model, such as text-embedding-3-small";
        assert_eq!(said(EmbeddingRequest::new("", "a")), model);
        assert_eq!(
            said(EmbeddingRequest::new("m", Vec::<String>::new())),
            "input: there is none; give at least one text"
        );
    }

    #[test]
    fn vectors_as_numbers_and_as_base64_in_order() {
        let answer: EmbeddingResponse = from_value(json!({
            "object": "list", "model": "m", "usage": {"prompt_tokens": 2, "total_tokens": 2},
            "data": [
                {"object": "embedding", "index": 1, "embedding": "AACAPwAAAMA="},
                {"object": "embedding", "index": 0, "embedding": [0.5, -1, "2"]}
            ]
        }))
        .unwrap();
        assert_eq!(answer.vectors().collect::<Vec<_>>(), [&[0.5, -1.0, 2.0][..], &[1.0, -2.0]]);
        assert_eq!(answer.usage.as_ref().unwrap().prompt_tokens, Some(2));
        assert_eq!(from_value::<EmbeddingResponse>(to_value(&answer).unwrap()).unwrap(), answer);
        let missing: EmbeddingResponse =
            from_value(json!({"data": [{"embedding": [1]}, {"embedding": [2]}]})).unwrap();
        assert_eq!(missing.vectors().collect::<Vec<_>>(), [&[1.0][..], &[2.0]]);
    }

    #[test]
    fn what_is_no_vector_is_an_error() {
        for value in [
            json!({}),
            json!({"data": null}),
            json!({"data": [{}]}),
            json!({"data": [{"embedding": "AAA"}]}),
            json!({"data": [{"embedding": "AAAAAAA="}]}),
            json!({"data": [{"embedding": [null]}]}),
        ] {
            assert!(from_value::<EmbeddingResponse>(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn debug_shows_no_text() {
        let request = EmbeddingRequest::new("m", ["secret"]);
        assert_eq!(
            format!("{request:?}"),
            r#"EmbeddingRequest { model: "m", input: EmbeddingInput { count: 1, .. }, .. }"#
        );
    }
}
