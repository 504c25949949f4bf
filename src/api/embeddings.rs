//! Embedding requests and responses.

mod item;

use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::Usage;
use crate::api::embeddings::item::EmbeddingItem;
use crate::error::{Error, Result};
use crate::json::bounded::Bounded;
use crate::json::budget::Budget;
use crate::json::extra::Extra;
use crate::json::lenient::{any, count, exact, list, text};
use crate::json::object::{KnownFields, json_object};
use crate::meta::Meta;

/// A request for embeddings, built by chaining setters.
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

/// A read-only view of an [`EmbeddingRequest`], returned by [`EmbeddingRequest::view`].
///
/// Fields have their JSON names. Unset fields are `None`.
#[derive(Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EmbeddingRequestView<'a> {
    /// The requested model.
    pub model: &'a str,
    /// The input to embed.
    pub input: &'a EmbeddingInput,
    /// The length of the vectors.
    pub dimensions: Option<u64>,
    /// The encoding of the vectors.
    pub encoding_format: Option<&'a str>,
    /// The id of the end user on whose behalf the request is made.
    pub user: Option<&'a str>,
    /// All other fields. A field with a name from above overrides that field.
    pub extra: &'a Map<String, Value>,
}

/// The input to embed: one text, several, or another form that the service accepts, such as tokens.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct EmbeddingInput(Value);

impl EmbeddingRequest {
    /// A request to this model, for one text or several.
    pub fn new(model: impl Into<String>, input: impl Into<EmbeddingInput>) -> EmbeddingRequest {
        EmbeddingRequest { model: model.into(), input: input.into(), ..EmbeddingRequest::default() }
    }

    /// The length of the vectors, for models that support shorter ones.
    pub fn dimensions(mut self, dimensions: u64) -> Self {
        self.dimensions = Some(dimensions);
        self
    }

    /// Requests the vectors as base64, which takes a quarter of the bytes. Not every service supports it.
    pub fn base64(mut self) -> Self {
        self.encoding_format = Some("base64".to_owned());
        self
    }

    /// Identifies the end user on whose behalf the request is made.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user = Some(id.into());
        self
    }

    /// Sets a field that has no setter. It overrides a setter of the same name.
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// The requested model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The JSON names of the fields that have a setter.
    pub const FIELDS: &'static [&'static str] = <EmbeddingRequest as KnownFields>::NAMES;

    /// A read-only view of the fields.
    pub fn view(&self) -> EmbeddingRequestView<'_> {
        let EmbeddingRequest { model, input, dimensions, encoding_format, user, extra } = self;
        EmbeddingRequestView {
            model,
            input,
            dimensions: *dimensions,
            encoding_format: encoding_format.as_deref(),
            user: user.as_deref(),
            extra,
        }
    }

    /// Checks for mistakes that every service would reject. [`Client::embeddings`](crate::Client::embeddings) calls this
    /// before it sends anything.
    ///
    /// # Errors
    /// [`Error::Config`] if the model or the input is missing.
    pub fn check(&self) -> Result<()> {
        if self.model.trim().is_empty() {
            return Err(Error::config("model", "is empty; name a model, such as text-embedding-3-small"));
        }
        let is_empty = match &self.input.0 {
            Value::Array(texts) => texts.is_empty(),
            input => input.is_null(),
        };
        if is_empty && !self.extra.contains_key("input") {
            return Err(Error::config("input", "is empty; pass at least one text"));
        }
        Ok(())
    }

    /// The number of texts: one for a string or a list of tokens, one per item of any other list. `None` for an unknown
    /// format.
    pub(crate) fn texts(&self) -> Option<usize> {
        match self.extra.get("input").unwrap_or(&self.input.0) {
            Value::String(_) => Some(1),
            Value::Array(items) if items.iter().all(Value::is_number) => Some(1),
            Value::Array(items) => Some(items.len()),
            _ => None,
        }
    }
}

json_object!(EmbeddingRequest {
    always model: "model" => text,
    always input: "input" => any::<EmbeddingInput>,
    optional dimensions: "dimensions" => count,
    optional encoding_format: "encoding_format" => text,
    optional user: "user" => text,
});

impl Default for EmbeddingInput {
    fn default() -> EmbeddingInput {
        EmbeddingInput(Value::Null)
    }
}

impl EmbeddingInput {
    /// The input as it is sent.
    pub fn as_json(&self) -> &Value {
        &self.0
    }

    /// The text, or the texts of a list; empty for tokens.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let list = self.0.as_array().map_or(std::slice::from_ref(&self.0), Vec::as_slice);
        list.iter().filter_map(Value::as_str)
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

debug_without_content!(EmbeddingRequest, request => model: request.model, input: request.input);

impl fmt::Debug for EmbeddingRequestView<'_> {
    /// Omits content, because debug output is often logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("EmbeddingRequestView");
        shown.field("model", &self.model).field("input", self.input).finish_non_exhaustive()
    }
}

debug_without_content!(EmbeddingInput, input => count: input.0.as_array().map_or(1, Vec::len));

/// The embeddings, in the order of the texts.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "EmbeddingList")]
#[non_exhaustive]
pub struct EmbeddingResponse {
    /// One embedding for each text.
    pub data: Vec<Embedding>,
    /// The model; empty if the service doesn't name it.
    pub model: String,
    /// The token usage, if the service reports it.
    pub usage: Option<Usage>,
    /// All other fields.
    pub extra: Extra,
    pub(crate) meta: Meta,
}

/// The embedding of one text.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "EmbeddingItem")]
#[non_exhaustive]
pub struct Embedding {
    /// The index of the embedded text, counted from 0.
    pub index: u64,
    /// The vector.
    pub embedding: Vec<f32>,
    /// All other fields.
    pub extra: Extra,
}

json_object!(serialize EmbeddingResponse { always data: "data", always model: "model", optional usage: "usage" });
json_object!(serialize Embedding { always index: "index", always embedding: "embedding" });

impl EmbeddingResponse {
    /// The vectors, in the order of the texts.
    pub fn vectors(&self) -> impl Iterator<Item = &[f32]> {
        self.data.iter().map(|embedding| &embedding.embedding[..])
    }

    /// Metadata of the call, such as attempts and times.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How the response fails to match a request with this many texts, if it does: each text must have one vector with its
    /// index.
    pub(crate) fn mismatch(&self, texts: Option<usize>) -> Option<String> {
        let vectors = self.data.len();
        let texts = texts.unwrap_or(vectors);
        let counts = format!("{vectors} vectors for {texts} texts");
        if vectors != texts || vectors == 0 {
            return Some(counts);
        }
        // `data` is sorted by index.
        let index = |position: usize| self.data[position].index;
        if let Some(position) = (1..vectors).find(|position| index(position - 1) == index(*position)) {
            return Some(format!("{counts}, and index {} is repeated", index(position)));
        }
        if index(vectors - 1) >= texts as u64 {
            return Some(format!("{counts}, and index {} is out of range", index(vectors - 1)));
        }
        let empty = self.data.iter().find(|embedding| embedding.embedding.is_empty())?;
        Some(format!("{counts}, and the vector with index {} is empty", empty.index))
    }
}

/// The wire format of [`EmbeddingResponse`]: the data may be missing.
#[derive(Default)]
struct EmbeddingList {
    data: Option<Vec<EmbeddingItem>>,
    model: String,
    usage: Option<Usage>,
    extra: Map<String, Value>,
}

json_object!(deserialize EmbeddingList {
    data: "data" => list::<EmbeddingItem>,
    model: "model" => text,
    usage: "usage" => exact::<Usage>,
});

impl Bounded for EmbeddingResponse {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Self, D::Error> {
        EmbeddingList::read(deserializer, budget)?.try_into().map_err(D::Error::custom)
    }
}

impl TryFrom<EmbeddingList> for EmbeddingResponse {
    type Error = &'static str;

    fn try_from(EmbeddingList { data, model, usage, extra }: EmbeddingList) -> Result<Self, &'static str> {
        let items = data.ok_or("the response has no data")?;
        // Without any index, the position counts. If only some items have one, the others can't be assigned.
        let unnamed = items.iter().filter(|item| item.index.is_none()).count();
        if unnamed != 0 && unnamed != items.len() {
            return Err("some embeddings have an index and others have none");
        }
        let items = items.into_iter().enumerate();
        let mut data =
            items.map(|(position, item)| item.into_embedding(position)).collect::<Result<Vec<_>, _>>()?;
        data.sort_by_key(|embedding| embedding.index);
        Ok(EmbeddingResponse { data, model, usage, extra: extra.into(), meta: Meta::default() })
    }
}

debug_without_content!(EmbeddingResponse, response =>
    model: response.model, data: response.data, usage: response.usage, meta: response.meta);

debug_without_content!(Embedding, embedding =>
    index: embedding.index, dimensions: embedding.embedding.len());

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn the_input_is_one_text_or_several() {
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
        let view = request.view();
        let read = json!({
            "model": view.model, "input": view.input.as_json(), "dimensions": view.dimensions,
            "encoding_format": view.encoding_format, "user": view.user, "x": view.extra["x"]
        });
        assert_eq!(read, full);
        assert_eq!(EmbeddingRequest::FIELDS, ["model", "input", "dimensions", "encoding_format", "user"]);
        assert_eq!(from_value::<EmbeddingRequest>(full).unwrap(), request);
        assert_eq!(EmbeddingInput::from("a").texts().collect::<Vec<_>>(), ["a"]);
        assert_eq!(EmbeddingInput::from(["a", "b"]).texts().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(EmbeddingInput::from([1u32]).texts().count(), 0);
    }

    #[test]
    fn requests_that_every_service_would_reject() {
        let refusal = |request: EmbeddingRequest| request.check().unwrap_err().to_string();
        let model = "model: is empty; name a model, such as text-embedding-3-small";
        assert_eq!(refusal(EmbeddingRequest::new("", "a")), model);
        assert_eq!(
            refusal(EmbeddingRequest::new("m", Vec::<String>::new())),
            "input: is empty; pass at least one text"
        );
    }

    #[test]
    fn vectors_are_read_as_numbers_or_base64_and_sorted_by_index() {
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
    fn answers_without_vectors_are_errors() {
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
    fn each_text_must_have_one_vector() {
        let mismatch = |input: Value, indices: Value| {
            let item = |index: &Value| json!({"index": index, "embedding": [1]});
            let data: Value = indices.as_array().unwrap().iter().map(item).collect();
            let answer =
                from_value::<EmbeddingResponse>(json!({"data": data})).map_err(|error| error.to_string());
            answer.map(|answer| answer.mismatch(EmbeddingRequest::new("m", input).texts()))
        };
        let four = || json!(["a", "b", "c", "d"]);
        for (input, indices, expected) in [
            (four(), json!([0, 1, 2, 3]), None),
            (four(), json!([3, "1", 0.0, 2]), None),
            (four(), json!([null, null, null, null]), None),
            (json!("a"), json!([0]), None),
            (json!([1, 2, 3]), json!([0]), None),
            (json!([[1], [2]]), json!([0, 1]), None),
            (json!([{"text": "a"}, {"image": "b"}]), json!([0, 1]), None),
            (json!({"text": "a"}), json!([1, 0]), None),
            (four(), json!([0, 1, 3]), Some("3 vectors for 4 texts")),
            (four(), json!([]), Some("0 vectors for 4 texts")),
            (json!({"text": "a"}), json!([]), Some("0 vectors for 0 texts")),
            (json!("a"), json!([0, 1]), Some("2 vectors for 1 texts")),
            (four(), json!([0, 1, 1, 3]), Some("4 vectors for 4 texts, and index 1 is repeated")),
            (four(), json!([0, 1, 2, 9]), Some("4 vectors for 4 texts, and index 9 is out of range")),
            (json!({"text": "a"}), json!([0, 2]), Some("2 vectors for 2 texts, and index 2 is out of range")),
        ] {
            assert_eq!(
                mismatch(input.clone(), indices.clone()),
                Ok(expected.map(str::to_owned)),
                "{input} {indices}"
            );
        }
        for indices in [json!([0, null]), json!([0, 1.5]), json!([0, -1]), json!([0, "x"]), json!([0, {}])] {
            assert!(mismatch(json!(["a", "b"]), indices.clone()).is_err(), "{indices}");
        }
        let empty: EmbeddingResponse = from_value(json!({"data": [{"index": 0, "embedding": []}]})).unwrap();
        assert_eq!(
            empty.mismatch(Some(1)).unwrap(),
            "1 vectors for 1 texts, and the vector with index 0 is empty"
        );
    }

    #[test]
    fn debug_hides_the_texts() {
        let request = EmbeddingRequest::new("m", ["secret"]);
        assert_eq!(
            format!("{request:?}"),
            r#"EmbeddingRequest { model: "m", input: EmbeddingInput { count: 1, .. }, .. }"#
        );
        assert_eq!(
            format!("{:?}", request.view()),
            r#"EmbeddingRequestView { model: "m", input: EmbeddingInput { count: 1, .. }, .. }"#
        );
    }
}
