//! The content of a message: text, or parts such as images and reasoning.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::json::base64;
use crate::json::lenient::{Lenient, text};

/// The content of a message: text or a list of parts.
///
/// ```
/// use holysheep::{Message, Part};
///
/// let parts = [Part::text("What is this?"), Part::image_url("https://example.com/a.png")];
/// let content = Message::user_parts(parts).content.unwrap_or_default();
/// assert_eq!((content.text(), content.parts().len()), ("What is this?", 2));
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Content {
    /// The text, or the concatenated texts of all parts.
    text: String,
    /// The parts, unless the content is plain text. Boxed, because few messages have parts, and every delta has this
    /// field.
    parts: Option<Box<Parts>>,
}

#[derive(Clone, Default, PartialEq)]
struct Parts {
    list: Vec<Part>,
    /// The concatenated texts of the reasoning parts.
    reasoning: String,
}

impl Content {
    /// The text; for a list of parts, the concatenated texts of all parts.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parts; empty for plain text.
    pub fn parts(&self) -> &[Part] {
        self.parts.as_ref().map_or(&[], |parts| &parts.list)
    }

    /// A mutable reference to the text, unless the content consists of parts.
    pub(crate) fn plain_text_mut(&mut self) -> Option<&mut String> {
        self.parts.is_none().then_some(&mut self.text)
    }

    /// Whether there is neither text nor any part.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.parts().is_empty()
    }

    /// The reasoning, if the service sends it in content parts, as Mistral does.
    pub fn reasoning(&self) -> Option<&str> {
        self.parts.as_ref().map(|parts| &parts.reasoning[..]).filter(|text| !text.is_empty())
    }

    /// Assembles streamed content. With reasoning or other parts it is a list, in Mistral's format.
    pub(crate) fn assembled(reasoning: &str, text: String, other_parts: Vec<Part>) -> Content {
        if reasoning.is_empty() && other_parts.is_empty() {
            return Content::from(text);
        }
        let mut parts = other_parts;
        if !text.is_empty() {
            parts.insert(0, Part::text(text));
        }
        if !reasoning.is_empty() {
            let list = json!([{"type": "text", "text": reasoning}]);
            parts.insert(0, Part::new("thinking", "thinking", list));
        }
        Content::from(parts)
    }

    /// The parts that are neither text nor reasoning.
    pub(crate) fn other_parts(&self) -> impl Iterator<Item = &Part> {
        self.parts().iter().filter(|part| part.as_text().is_none() && part.reasoning().is_none())
    }

    /// Converts any JSON value into content; see [`lenient`](crate::json::lenient).
    pub(crate) fn from_value(value: Value) -> Lenient<Content> {
        match value {
            Value::Array(items) => {
                Ok(Some(Content::from(Vec::from_iter(items.into_iter().filter_map(Part::from_value)))))
            }
            object @ Value::Object(_) => Ok(Some(Content::from(Vec::from_iter(Part::from_value(object))))),
            other => Ok(text(other)?.map(Content::from)),
        }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content { text, parts: None }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Content {
        Content::from(text.to_owned())
    }
}

impl From<Vec<Part>> for Content {
    fn from(list: Vec<Part>) -> Content {
        let mut text = String::new();
        let mut reasoning = String::new();
        for part in &list {
            text.push_str(part.as_text().unwrap_or_default());
            part.append_reasoning(&mut reasoning);
        }
        Content { text, parts: Some(Box::new(Parts { list, reasoning })) }
    }
}

impl fmt::Debug for Content {
    /// Shows the length, not the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Content");
        shown.field("bytes", &self.text.len());
        if !self.parts().is_empty() {
            shown.field("parts", &self.parts());
        }
        shown.finish()
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.parts {
            Some(parts) => parts.list.serialize(serializer),
            None => serializer.serialize_str(&self.text),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        let content = Content::from_value(Value::deserialize(deserializer)?);
        Ok(content.ok().flatten().unwrap_or_default())
    }
}

/// One part of a message: text, an image, or another type that the service supports.
///
/// ```
/// use holysheep::{Message, Part};
///
/// let png = [0x89, b'P', b'N', b'G'];
/// let image = Part::image_bytes("image/png", &png);
/// assert_eq!(image.kind(), "image_url");
/// let message = Message::user_parts([Part::text("What is this?"), image]);
/// ```
#[derive(Clone, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct Part(Map<String, Value>);

impl Part {
    /// A text part.
    pub fn text(text: impl Into<String>) -> Part {
        Part::new("text", "text", Value::String(text.into()))
    }

    /// An image that the service fetches from this URL.
    pub fn image_url(url: impl Into<String>) -> Part {
        Part::new("image_url", "image_url", json!({ "url": url.into() }))
    }

    /// An image embedded in the request as a data URL. `mime` is its media type, for example `image/png`.
    pub fn image_bytes(mime: &str, bytes: &[u8]) -> Part {
        let mut url = format!("data:{mime};base64,");
        base64::encode(bytes, &mut url);
        Part::image_url(url)
    }

    /// Sets another field, for example `cache_control`.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Part {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The type, for example `text`.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The text, if this is a text part.
    pub fn as_text(&self) -> Option<&str> {
        match self.kind() {
            "text" | "output_text" | "" => self.0.get("text")?.as_str(),
            _ => None,
        }
    }

    /// All fields, as they were received.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A part with a single field besides `type`, named after the type.
    pub(super) fn of(kind: &str, value: Value) -> Part {
        Part::new(kind, kind, value)
    }

    fn new(kind: &str, field: &str, value: Value) -> Part {
        Part(Map::from_iter([("type".to_owned(), kind.into()), (field.to_owned(), value)]))
    }

    fn from_value(value: Value) -> Option<Part> {
        match value {
            Value::Object(object) => Some(Part(object)),
            Value::String(text) => Some(Part::text(text)),
            _ => None,
        }
    }

    /// The reasoning, if this is a reasoning part.
    fn reasoning(&self) -> Option<&Value> {
        match self.kind() {
            "thinking" => self.0.get("thinking"),
            "reasoning" => self.0.get("text").or_else(|| self.0.get("reasoning")),
            _ => None,
        }
    }

    /// Appends the reasoning, if this is a reasoning part. Mistral wraps the text in another list.
    fn append_reasoning(&self, reasoning: &mut String) {
        match self.reasoning() {
            Some(Value::String(text)) => reasoning.push_str(text),
            Some(Value::Array(items)) => {
                items
                    .iter()
                    .filter_map(|item| item.get("text")?.as_str())
                    .for_each(|text| reasoning.push_str(text));
            }
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Part, D::Error> {
        Part::from_value(Value::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("a message part must be an object or a string"))
    }
}

debug_without_content!(Part, part => type: part.kind());

#[cfg(test)]
mod tests {
    use super::*;

    fn content(value: Value) -> Content {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn text_is_read_from_a_string_parts_or_null() {
        for (value, text) in [
            (json!("a"), "a"),
            (json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
            (json!(["a", "b"]), "ab"),
            (json!({"type": "text", "text": "a"}), "a"),
            (json!([{"type": "image_url", "image_url": {"url": "https://…"}}]), ""),
            (json!(null), ""),
            (json!(42), "42"),
            (json!([]), ""),
        ] {
            assert_eq!(content(value.clone()).text(), text, "{value}");
        }
    }

    #[test]
    fn reasoning_is_not_text_and_survives_a_round_trip() {
        let value = json!([
            {"type": "thinking", "closed": true, "thinking": [{"type": "text", "text": "hm"}, {"type": "text", "text": "m"}]},
            {"type": "text", "text": "4"}
        ]);
        let reasoned = content(value.clone());
        assert_eq!((reasoned.text(), reasoned.reasoning()), ("4", Some("hmm")));
        assert_eq!(serde_json::to_value(&reasoned).unwrap(), value);
        let again = Content::assembled("hmm", "4".into(), reasoned.other_parts().cloned().collect());
        assert_eq!((again.text(), again.reasoning(), again.parts().len()), ("4", Some("hmm"), 2));
        assert!(Content::assembled("", "4".into(), Vec::new()).parts().is_empty());
        let image = Content::from(vec![Part::text("a"), Part::image_url("u")]);
        let again = Content::assembled("", "a".into(), image.other_parts().cloned().collect());
        assert_eq!(again, image);
        assert_eq!(content(json!([{"type": "thinking", "thinking": "hm"}])).reasoning(), Some("hm"));
    }

    #[test]
    fn an_image_becomes_a_data_url() {
        let part = Part::image_bytes("image/png", b"hello").with("detail", "low");
        let expected = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}, "detail": "low"});
        assert_eq!(serde_json::to_value(&part).unwrap(), expected);
    }

    #[test]
    fn debug_hides_content() {
        let shown = format!("{:?} {:?}", Content::from("secret"), Content::from(vec![Part::text("secret")]));
        assert_eq!(shown, r#"Content { bytes: 6 } Content { bytes: 6, parts: [Part { type: "text", .. }] }"#);
    }
}
