//! What a message says: text, or parts such as pictures and thoughts.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::api::base64;

/// What a message says: a text or a list of parts.
#[derive(Clone, Default, PartialEq)]
pub struct Content {
    /// The text, or the texts of all parts.
    text: String,
    /// The parts, where it is no plain text. Boxed: few messages have them, and every delta carries the space.
    parts: Option<Box<Parts>>,
}

#[derive(Clone, Default, PartialEq)]
struct Parts {
    list: Vec<Part>,
    /// The texts of all parts that are thoughts.
    reasoning: String,
}

impl Content {
    /// The text; for a list of parts the texts of all of them, one after the other.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parts; none for a plain text.
    pub fn parts(&self) -> &[Part] {
        self.parts.as_ref().map_or(&[], |parts| &parts.list)
    }

    /// What the model thought, where that comes in parts of the content (Mistral's form).
    pub fn reasoning(&self) -> Option<&str> {
        self.parts.as_ref().map(|parts| &parts.reasoning[..]).filter(|text| !text.is_empty())
    }

    /// Puts together what came in pieces: thoughts and other parts make it a list, in Mistral's form.
    pub(crate) fn assembled(thoughts: &str, text: String, others: Vec<Part>) -> Content {
        if thoughts.is_empty() && others.is_empty() {
            return Content::from(text);
        }
        let mut parts = others;
        if !text.is_empty() {
            parts.insert(0, Part::text(text));
        }
        if !thoughts.is_empty() {
            let list = json!([{"type": "text", "text": thoughts}]);
            parts.insert(0, Part::new("thinking", "thinking", list));
        }
        Content::from(parts)
    }

    /// The parts that are neither texts nor thoughts.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Part> {
        self.parts().iter().filter(|part| part.as_text().is_none() && part.thought().is_none())
    }

    /// Reads a content of any type.
    pub(crate) fn read(value: Value) -> Option<Content> {
        match value {
            Value::Null => None,
            Value::Array(items) => {
                Some(Content::from(items.into_iter().filter_map(Part::read).collect::<Vec<_>>()))
            }
            object @ Value::Object(_) => Some(Content::from(Vec::from_iter(Part::read(object)))),
            word => crate::json::lenient::text(word).ok().map(Content::from),
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
            part.add_thought(&mut reasoning);
        }
        Content { text, parts: Some(Box::new(Parts { list, reasoning })) }
    }
}

impl fmt::Debug for Content {
    /// Shows what may be logged: how much is said, not what.
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
        Value::deserialize(deserializer).map(|value| Content::read(value).unwrap_or_default())
    }
}

/// One part of a message: a text, a picture, or whatever else a service knows.
#[derive(Clone, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct Part(Map<String, Value>);

impl Part {
    /// A text.
    pub fn text(text: impl Into<String>) -> Part {
        Part::new("text", "text", Value::String(text.into()))
    }

    /// A picture that the service fetches from this address.
    pub fn image_url(url: impl Into<String>) -> Part {
        Part::new("image_url", "image_url", json!({ "url": url.into() }))
    }

    /// A picture sent along, of this type, for example `image/png`.
    pub fn image_bytes(mime: &str, bytes: &[u8]) -> Part {
        let mut url = format!("data:{mime};base64,");
        base64::encode(bytes, &mut url);
        Part::image_url(url)
    }

    /// Sets a field beyond the ones that the part was made with, for example `cache_control`.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Part {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The type as the service calls it, for example `text`.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self.kind() {
            "text" | "output_text" | "" => self.0.get("text")?.as_str(),
            _ => None,
        }
    }

    /// All fields as they came.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    fn new(kind: &str, field: &str, value: Value) -> Part {
        Part(Map::from_iter([("type".to_owned(), kind.into()), (field.to_owned(), value)]))
    }

    fn read(value: Value) -> Option<Part> {
        match value {
            Value::Object(object) => Some(Part(object)),
            Value::String(text) => Some(Part::text(text)),
            _ => None,
        }
    }

    /// What the model thought, if this is a thought.
    fn thought(&self) -> Option<&Value> {
        match self.kind() {
            "thinking" => self.0.get("thinking"),
            "reasoning" => self.0.get("text").or_else(|| self.0.get("reasoning")),
            _ => None,
        }
    }

    /// Adds what the model thought, if this is a thought: Mistral wraps its text in a further list.
    fn add_thought(&self, reasoning: &mut String) {
        match self.thought() {
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
        let value = Value::deserialize(deserializer)?;
        Part::read(value)
            .ok_or_else(|| serde::de::Error::custom("a part of a message is an object or a text"))
    }
}

impl fmt::Debug for Part {
    /// Shows what may be logged: the type, not what is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("type", &self.kind()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(value: Value) -> Content {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn text_comes_as_a_string_as_parts_or_not_at_all() {
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
    fn thoughts_are_not_text_and_survive() {
        let value = json!([
            {"type": "thinking", "closed": true, "thinking": [{"type": "text", "text": "hm"}, {"type": "text", "text": "m"}]},
            {"type": "text", "text": "4"}
        ]);
        let thought = content(value.clone());
        assert_eq!((thought.text(), thought.reasoning()), ("4", Some("hmm")));
        assert_eq!(serde_json::to_value(&thought).unwrap(), value);
        let again = Content::assembled("hmm", "4".into(), thought.others().cloned().collect());
        assert_eq!((again.text(), again.reasoning(), again.parts().len()), ("4", Some("hmm"), 2));
        assert!(Content::assembled("", "4".into(), Vec::new()).parts().is_empty());
        let picture = Content::from(vec![Part::text("a"), Part::image_url("u")]);
        let again = Content::assembled("", "a".into(), picture.others().cloned().collect());
        assert_eq!(again, picture);
        assert_eq!(content(json!([{"type": "thinking", "thinking": "hm"}])).reasoning(), Some("hm"));
    }

    #[test]
    fn a_picture_becomes_a_data_url() {
        let part = Part::image_bytes("image/png", b"hello").with("detail", "low");
        let expected = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}, "detail": "low"});
        assert_eq!(serde_json::to_value(&part).unwrap(), expected);
    }

    #[test]
    fn debug_hides_what_is_said() {
        let shown = format!("{:?} {:?}", Content::from("secret"), Content::from(vec![Part::text("secret")]));
        assert_eq!(shown, r#"Content { bytes: 6 } Content { bytes: 6, parts: [Part { type: "text", .. }] }"#);
    }
}
