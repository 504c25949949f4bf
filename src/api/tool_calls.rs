//! Tool calls, and the deltas of tool calls in a stream.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::api::origin::Origin;
use crate::error::Result;
use crate::json::bounded::Bounded;
use crate::json::budget::Budget;
use crate::json::extra::Extra;
use crate::json::lenient::{Lenient, count, object, text};
use crate::json::object::{IsDefault, ObjectWriter, json_object};

/// The maximum number of tool calls in a message. Services accept at most 128 tools in a request.
pub(crate) const MAX_TOOL_CALLS: usize = 128;

/// A tool call that the model requests.
///
/// ```
/// use holysheep::ToolCall;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Place {
///     city: String,
/// }
///
/// let call = ToolCall::function("call_1", "weather", r#"{"city": "Paris"}"#); // from answer.tool_calls()
/// let place: Place = call.arguments()?;
/// assert_eq!((call.name(), place.city.as_str()), ("weather", "Paris"));
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone, PartialEq, Deserialize)]
#[serde(from = "ToolCallDelta")]
#[non_exhaustive]
pub struct ToolCall {
    /// The id of this call, which the tool's message has to repeat; empty if the service sends none.
    pub id: String,
    /// The type of tool, almost always `function`.
    pub kind: String,
    /// The function to call.
    pub function: FunctionCall,
    /// All other fields.
    pub extra: Extra,
}

impl ToolCall {
    /// A function call, to build a conversation by hand.
    pub fn function(
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> ToolCall {
        let function =
            FunctionCall { name: name.into(), arguments: arguments.into(), ..FunctionCall::default() };
        ToolCall { id: id.into(), kind: "function".to_owned(), function, extra: Extra::default() }
    }

    /// The name of the function.
    pub fn name(&self) -> &str {
        &self.function.name
    }

    /// Parses the arguments.
    ///
    /// # Errors
    /// See [`FunctionCall::arguments`].
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T> {
        self.function.arguments()
    }
}

impl From<ToolCallDelta> for ToolCall {
    /// Converts a delta that contains a complete call.
    fn from(delta: ToolCallDelta) -> ToolCall {
        let mut extra = delta.extra;
        if let Some(index) = delta.index {
            extra.insert("index", index);
        }
        ToolCall {
            id: delta.id.unwrap_or_default(),
            kind: delta.kind.unwrap_or_else(|| "function".to_owned()),
            function: delta.function.into(),
            extra,
        }
    }
}

impl Bounded for ToolCall {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<ToolCall, D::Error> {
        ToolCallDelta::read(deserializer, budget).map(ToolCall::from)
    }
}

debug_without_content!(ToolCall, call => id: call.id, function: call.function);

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = ObjectWriter::new(serializer, &self.extra)?;
        object.always("id", &self.id)?;
        object.always("type", &self.kind)?;
        // Calls of other tool types have no function.
        if self.kind == "function" || self.function != FunctionCall::default() {
            object.always("function", &self.function)?;
        }
        object.end()
    }
}

/// The function and the arguments of a call.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(from = "FunctionDelta")]
#[non_exhaustive]
pub struct FunctionCall {
    /// The name of the function.
    pub name: String,
    /// The arguments as the model wrote them: JSON, unless the model made a mistake.
    pub arguments: String,
    /// All other fields.
    pub extra: Extra,
    pub(crate) origin: Origin,
}

impl FunctionCall {
    /// Parses the arguments. An empty string is parsed as an empty object.
    ///
    /// # Errors
    /// [`Error::Incomplete`](crate::Error::Incomplete) if the answer was cut off or filtered before the arguments were complete,
    /// and [`Error::Decode`](crate::Error::Decode) if the model's arguments aren't JSON or don't fit `T`.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T> {
        let text = if self.arguments.trim().is_empty() { "{}" } else { &self.arguments };
        self.origin.decode(text)
    }
}

impl From<FunctionDelta> for FunctionCall {
    /// Converts a delta that contains a complete call.
    fn from(delta: FunctionDelta) -> FunctionCall {
        FunctionCall {
            name: delta.name.unwrap_or_default(),
            arguments: delta.arguments.unwrap_or_default(),
            extra: delta.extra,
            origin: Origin::default(),
        }
    }
}

json_object!(serialize FunctionCall { always name: "name", always arguments: "arguments" });

debug_without_content!(FunctionCall, call => name: call.name);

/// The delta of a tool call in a stream. Any of its fields may be missing.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolCallDelta {
    /// The index of the call that this belongs to.
    pub index: Option<u64>,
    /// The id of the call, usually in its first delta only.
    pub id: Option<String>,
    /// The type of tool.
    pub kind: Option<String>,
    /// The delta of the function call.
    pub function: FunctionDelta,
    /// All other fields.
    pub extra: Extra,
}

json_object!(ToolCallDelta {
    optional index: "index" => count,
    optional id: "id" => text,
    optional kind: "type" => text,
    optional function: "function" => object::<FunctionDelta>,
});

debug_without_content!(ToolCallDelta, delta => index: delta.index, id: delta.id, function: delta.function);

/// The delta of a function call.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FunctionDelta {
    /// The name of the function, usually in the first delta only.
    pub name: Option<String>,
    /// The next part of the arguments.
    pub arguments: Option<String>,
    /// All other fields.
    pub extra: Extra,
}

json_object!(FunctionDelta {
    optional name: "name" => text,
    optional arguments: "arguments" => arguments,
});

impl FunctionDelta {
    /// Whether all fields are missing or empty: some servers always send the deprecated `function_call`, with empty
    /// strings.
    pub(crate) fn is_blank(&self) -> bool {
        let blank = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        blank(&self.name) && blank(&self.arguments) && self.extra.is_unset()
    }
}

impl IsDefault for FunctionDelta {
    fn is_default(&self) -> bool {
        *self == FunctionDelta::default()
    }
}

debug_without_content!(FunctionDelta, delta => name: delta.name);

/// Reads arguments: a string of JSON, or plain JSON, which some servers send.
fn arguments(value: Value) -> Lenient<String> {
    Ok(match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_call_with_missing_fields_is_read_and_survives_a_round_trip() {
        let complete = json!({"id": "c", "type": "function", "index": 0, "x": 1, "function": {"name": "f", "arguments": "{\"a\":1}", "y": 2}});
        let call: ToolCall = from_value(complete.clone()).unwrap();
        assert_eq!((call.id.as_str(), call.name(), call.kind.as_str()), ("c", "f", "function"));
        assert_eq!(call.arguments::<Value>().unwrap(), json!({"a": 1}));
        assert_eq!(serde_json::to_value(&call).unwrap(), complete);
        let sparse: ToolCall = from_value(json!({"function": {"name": "f", "arguments": {"a": 1}}})).unwrap();
        assert_eq!(
            (sparse.id.as_str(), sparse.kind.as_str(), sparse.function.arguments.as_str()),
            ("", "function", "{\"a\":1}")
        );
        let empty: ToolCall = from_value(json!({"id": null, "function": null})).unwrap();
        assert_eq!(empty.arguments::<Value>().unwrap(), json!({}));
        let custom = json!({"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}});
        assert_eq!(serde_json::to_value(from_value::<ToolCall>(custom.clone()).unwrap()).unwrap(), custom);
    }

    #[test]
    fn malformed_arguments_are_an_error_with_an_excerpt() {
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
