//! The response format that a request asks for.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

/// The response format that a request asks for.
///
/// ```
/// use holysheep::{ChatRequest, ResponseFormat};
/// use serde_json::json;
///
/// let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
/// let format = ResponseFormat::json_schema("city", schema);
/// let request = ChatRequest::new("gpt-4.1").user("The largest city of Peru?").response_format(format);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", from = "Value")]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Text, which is every service's default.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that conforms to a schema.
    #[serde(untagged, serialize_with = "write_json_schema")]
    #[non_exhaustive]
    JsonSchema {
        /// The name of the schema.
        name: String,
        /// The JSON schema.
        schema: Value,
        /// Whether the service enforces the schema; `None` leaves that to the service.
        strict: Option<bool>,
    },
    /// Another format that the service supports, as JSON.
    #[serde(untagged)]
    Other(Value),
}

impl ResponseFormat {
    /// JSON that conforms to a schema, which the service enforces.
    pub fn json_schema(name: impl Into<String>, schema: impl Into<Value>) -> ResponseFormat {
        ResponseFormat::JsonSchema { name: name.into(), schema: schema.into(), strict: Some(true) }
    }
}

impl From<Value> for ResponseFormat {
    fn from(value: Value) -> ResponseFormat {
        let typed = || {
            let format = value.as_object()?;
            match (format.get("type")?.as_str()?, format.len()) {
                ("text", 1) => Some(ResponseFormat::Text),
                ("json_object", 1) => Some(ResponseFormat::JsonObject),
                ("json_schema", 2) => {
                    let inner = format.get("json_schema")?.as_object()?;
                    let strict = inner.get("strict").and_then(Value::as_bool);
                    let (name, schema) =
                        (inner.get("name")?.as_str()?.to_owned(), inner.get("schema")?.clone());
                    let format = ResponseFormat::JsonSchema { name, schema, strict };
                    (inner.len() == 2 + usize::from(strict.is_some())).then_some(format)
                }
                _ => None,
            }
        };
        typed().unwrap_or(ResponseFormat::Other(value))
    }
}

fn write_json_schema<S: Serializer>(
    name: &str,
    schema: &Value,
    strict: &Option<bool>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut inner = json!({"name": name, "schema": schema});
    if let Some(strict) = strict {
        inner["strict"] = (*strict).into();
    }
    json!({"type": "json_schema", "json_schema": inner}).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_survives_a_round_trip() {
        let schema = json!({"type": "object"});
        let strict =
            json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}});
        assert_eq!(ResponseFormat::from(strict.clone()), ResponseFormat::json_schema("n", schema.clone()));
        for value in [
            json!({"type": "text"}),
            json!({"type": "json_object"}),
            strict,
            json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}),
            json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "description": "d"}}),
            json!({"type": "json_schema"}),
            json!({"type": "grammar", "grammar": "…"}),
            json!("text"),
        ] {
            assert_eq!(serde_json::to_value(ResponseFormat::from(value.clone())).unwrap(), value);
        }
    }
}
