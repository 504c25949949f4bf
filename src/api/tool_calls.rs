//! Calls of tools, whole or in pieces.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::json::extra::Extra;
use crate::json::lenient::{Fields, read_from_object, take, take_text, take_whole};
use crate::json::read_words;

/// A call of a tool that the model asks for.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct ToolCall {
    /// The name of this call, which the answer to it has to repeat; empty where the service gives none.
    pub id: String,
    /// The kind of tool, `function` almost always.
    pub kind: String,
    /// The function to call.
    pub function: FunctionCall,
    /// Fields beyond these.
    pub extra: Extra,
}

impl ToolCall {
    /// A call of a function, for a conversation that is put together by hand.
    pub fn function(
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> ToolCall {
        let function =
            FunctionCall { name: name.into(), arguments: arguments.into(), extra: Extra::default() };
        ToolCall { id: id.into(), kind: "function".to_owned(), function, extra: Extra::default() }
    }

    /// The name of the function.
    pub fn name(&self) -> &str {
        &self.function.name
    }

    /// The arguments, read.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) where the model's arguments are no JSON or not what `T` needs.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T> {
        self.function.arguments()
    }

    fn read(fields: Map<String, Value>) -> ToolCall {
        ToolCallDelta::read(fields).into()
    }
}

impl From<ToolCallDelta> for ToolCall {
    /// Takes a piece that is a whole call.
    fn from(piece: ToolCallDelta) -> ToolCall {
        let mut extra = piece.extra;
        if let Some(index) = piece.index {
            extra.insert("index", index); // of no use here, but it came
        }
        ToolCall {
            id: piece.id.unwrap_or_default(),
            kind: piece.kind.unwrap_or_else(|| "function".to_owned()),
            function: piece.function.into(),
            extra,
        }
    }
}

impl fmt::Debug for ToolCall {
    /// Shows what may be logged: not the arguments, which hold what was talked about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCall")
            .field("id", &self.id)
            .field("function", &self.function)
            .finish_non_exhaustive()
    }
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("id", &self.id)?;
        fields.field("type", &self.kind)?;
        if self.kind == "function" || self.function != FunctionCall::default() {
            fields.field("function", &self.function)?;
        }
        fields.end()
    }
}

/// The function and the arguments of a call.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FunctionCall {
    /// The name of the function.
    pub name: String,
    /// The arguments as the model wrote them: JSON, if it made no mistake.
    pub arguments: String,
    /// Fields beyond these.
    pub extra: Extra,
}

impl FunctionCall {
    /// The arguments, read. None at all are read as an empty object.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) where the model's arguments are no JSON or not what `T` needs.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T> {
        let text = if self.arguments.trim().is_empty() { "{}" } else { &self.arguments };
        read_words(text)
    }

    fn read(fields: Map<String, Value>) -> FunctionCall {
        FunctionDelta::read(fields).into()
    }
}

impl From<FunctionDelta> for FunctionCall {
    /// Takes a piece that is a whole call.
    fn from(piece: FunctionDelta) -> FunctionCall {
        FunctionCall {
            name: piece.name.unwrap_or_default(),
            arguments: piece.arguments.unwrap_or_default(),
            extra: piece.extra,
        }
    }
}

impl Serialize for FunctionCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("name", &self.name)?;
        fields.field("arguments", &self.arguments)?;
        fields.end()
    }
}

impl fmt::Debug for FunctionCall {
    /// Shows what may be logged: not the arguments, which hold what was talked about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionCall").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A piece of a call in a stream. Any of its fields may be missing.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolCallDelta {
    /// Which of the calls this belongs to.
    pub index: Option<u64>,
    /// The name of the call, mostly in its first piece only.
    pub id: Option<String>,
    /// The kind of tool.
    pub kind: Option<String>,
    /// The piece of the function.
    pub function: FunctionDelta,
    /// Fields beyond these.
    pub extra: Extra,
}

impl ToolCallDelta {
    pub(crate) fn read(mut fields: Map<String, Value>) -> ToolCallDelta {
        ToolCallDelta {
            index: take_whole(&mut fields, "index"),
            id: take_text(&mut fields, "id"),
            kind: take_text(&mut fields, "type"),
            function: take(&mut fields, "function", FunctionDelta::read_value).unwrap_or_default(),
            extra: fields.into(),
        }
    }
}

impl fmt::Debug for ToolCallDelta {
    /// Shows what may be logged: not the arguments, which hold what was talked about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCallDelta")
            .field("index", &self.index)
            .field("id", &self.id)
            .field("function", &self.function)
            .finish_non_exhaustive()
    }
}

impl Serialize for ToolCallDelta {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.some("index", &self.index)?;
        fields.some("id", &self.id)?;
        fields.some("type", &self.kind)?;
        if self.function != FunctionDelta::default() {
            fields.field("function", &self.function)?;
        }
        fields.end()
    }
}

/// A piece of the name and the arguments of a call.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FunctionDelta {
    /// The name of the function, mostly in the first piece only.
    pub name: Option<String>,
    /// The next piece of the arguments.
    pub arguments: Option<String>,
    /// Fields beyond these.
    pub extra: Extra,
}

impl FunctionDelta {
    fn read(mut fields: Map<String, Value>) -> FunctionDelta {
        FunctionDelta {
            name: take_text(&mut fields, "name"),
            arguments: take(&mut fields, "arguments", arguments),
            extra: fields.into(),
        }
    }

    pub(crate) fn read_value(value: Value) -> std::result::Result<FunctionDelta, Value> {
        match value {
            Value::Object(fields) => Ok(FunctionDelta::read(fields)),
            other => Err(other),
        }
    }

    /// Whether it says nothing: some servers fill the field from before there were tools with empty words.
    pub(crate) fn is_blank(&self) -> bool {
        let blank = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        blank(&self.name) && blank(&self.arguments) && self.extra.has_nothing()
    }
}

impl fmt::Debug for FunctionDelta {
    /// Shows what may be logged: not the arguments, which hold what was talked about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionDelta").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Serialize for FunctionDelta {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.some("name", &self.name)?;
        fields.some("arguments", &self.arguments)?;
        fields.end()
    }
}

/// Arguments are JSON in a string; some servers send the JSON itself.
fn arguments(value: Value) -> std::result::Result<String, Value> {
    match value {
        Value::String(text) => Ok(text),
        other => Ok(other.to_string()),
    }
}

read_from_object!(ToolCall, FunctionCall, ToolCallDelta, FunctionDelta);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_call_is_read_with_whatever_is_missing_and_survives() {
        let whole = json!({"id": "c", "type": "function", "index": 0, "x": 1, "function": {"name": "f", "arguments": "{\"a\":1}", "y": 2}});
        let call: ToolCall = from_value(whole.clone()).unwrap();
        assert_eq!((call.id.as_str(), call.name(), call.kind.as_str()), ("c", "f", "function"));
        assert_eq!(call.arguments::<Value>().unwrap(), json!({"a": 1}));
        assert_eq!(serde_json::to_value(&call).unwrap(), whole);
        let poor: ToolCall = from_value(json!({"function": {"name": "f", "arguments": {"a": 1}}})).unwrap();
        assert_eq!(
            (poor.id.as_str(), poor.kind.as_str(), poor.function.arguments.as_str()),
            ("", "function", "{\"a\":1}")
        );
        let none: ToolCall = from_value(json!({"id": null, "function": null})).unwrap();
        assert_eq!(none.arguments::<Value>().unwrap(), json!({}));
        let custom = json!({"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}});
        assert_eq!(serde_json::to_value(from_value::<ToolCall>(custom.clone()).unwrap()).unwrap(), custom);
    }

    #[test]
    fn wrong_arguments_are_an_error_that_shows_them() {
        let error = ToolCall::function("c", "f", "{\"a\": oops}").arguments::<Value>().unwrap_err();
        assert!(error.to_string().contains("oops"), "{error}");
    }

    #[test]
    fn debug_hides_arguments() {
        let call = ToolCall::function("c", "f", "secret");
        assert_eq!(
            format!("{call:?}"),
            r#"ToolCall { id: "c", function: FunctionCall { name: "f", .. }, .. }"#
        );
    }
}
