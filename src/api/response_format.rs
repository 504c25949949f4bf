//! The form that an answer is to have.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

/// The form that an answer is to have.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Text, which is every service's default.
    Text,
    /// JSON of any kind.
    JsonObject,
    /// JSON that a schema describes.
    #[non_exhaustive]
    JsonSchema {
        /// A name for the schema.
        name: String,
        /// The JSON schema.
        schema: Value,
        /// Whether the service has to hold the model to it; `None` leaves that to the service.
        strict: Option<bool>,
    },
    /// What else a service knows, as JSON.
    Other(Value),
}

impl ResponseFormat {
    /// JSON that a schema describes, and the service holds the model to it.
    pub fn json_schema(name: impl Into<String>, schema: impl Into<Value>) -> ResponseFormat {
        ResponseFormat::JsonSchema { name: name.into(), schema: schema.into(), strict: Some(true) }
    }
}

impl From<Value> for ResponseFormat {
    fn from(value: Value) -> ResponseFormat {
        let known = || {
            let form = value.as_object()?;
            match (form.get("type")?.as_str()?, form.len()) {
                ("text", 1) => Some(ResponseFormat::Text),
                ("json_object", 1) => Some(ResponseFormat::JsonObject),
                ("json_schema", 2) => {
                    let inner = form.get("json_schema")?.as_object()?;
                    let strict = inner.get("strict").and_then(Value::as_bool);
                    let (name, schema) =
                        (inner.get("name")?.as_str()?.to_owned(), inner.get("schema")?.clone());
                    let read = ResponseFormat::JsonSchema { name, schema, strict };
                    (inner.len() == 2 + usize::from(strict.is_some())).then_some(read)
                }
                _ => None,
            }
        };
        known().unwrap_or(ResponseFormat::Other(value))
    }
}

impl Serialize for ResponseFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match self {
            ResponseFormat::Text => json!({"type": "text"}),
            ResponseFormat::JsonObject => json!({"type": "json_object"}),
            ResponseFormat::JsonSchema { name, schema, strict: None } => {
                json!({"type": "json_schema", "json_schema": {"name": name, "schema": schema}})
            }
            ResponseFormat::JsonSchema { name, schema, strict } => {
                json!({"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": strict}})
            }
            ResponseFormat::Other(value) => return value.serialize(serializer),
        };
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ResponseFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ResponseFormat, D::Error> {
        Value::deserialize(deserializer).map(ResponseFormat::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_survives() {
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
