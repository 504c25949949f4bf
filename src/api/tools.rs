//! Tools that a model may call.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Tool(Map<String, Value>);

impl Tool {
    /// A function: its name, what it is good for, and the JSON schema of its arguments.
    pub fn function(
        name: impl Into<String>,
        description: impl Into<String>,
        parameters: impl Into<Value>,
    ) -> Tool {
        let function = json!({
            "name": name.into(),
            "description": description.into(),
            "parameters": parameters.into(),
        });
        Tool(Map::from_iter([("type".to_owned(), "function".into()), ("function".to_owned(), function)]))
    }

    /// Makes the service hold the model to the schema.
    pub fn strict(mut self, strict: bool) -> Tool {
        if let Some(function) = self.0.get_mut("function").and_then(Value::as_object_mut) {
            function.insert("strict".to_owned(), strict.into());
        }
        self
    }

    /// A tool of another kind, for example one that the service runs itself.
    pub fn other(fields: Map<String, Value>) -> Tool {
        Tool(fields)
    }

    /// The name of the function; empty for another kind of tool.
    pub fn name(&self) -> &str {
        self.0.get("function").and_then(|function| function.get("name")?.as_str()).unwrap_or_default()
    }
}

/// Whether the model has to call a tool, and which.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ToolChoice {
    /// As the model sees fit, which is every service's default.
    Auto,
    /// No call.
    None,
    /// At least one call, of any tool.
    Required,
    /// A call of the function of this name.
    Function(String),
    /// What else a service knows, as JSON.
    Other(Value),
}

impl From<&str> for ToolChoice {
    /// Reads `auto`, `none` and `required`; any other word goes to the service as it is.
    fn from(word: &str) -> ToolChoice {
        match word {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            other => ToolChoice::Other(other.into()),
        }
    }
}

impl From<Value> for ToolChoice {
    fn from(value: Value) -> ToolChoice {
        match (value.as_str(), named_function(&value)) {
            (Some(word), _) => ToolChoice::from(word),
            (_, Some(name)) => ToolChoice::Function(name.to_owned()),
            _ => ToolChoice::Other(value),
        }
    }
}

/// The name in `{"type": "function", "function": {"name": …}}`, if that is all there is.
fn named_function(value: &Value) -> Option<&str> {
    let choice = value.as_object().filter(|choice| choice.len() == 2)?;
    let function = choice.get("function")?.as_object().filter(|function| function.len() == 1)?;
    let name = function.get("name")?.as_str()?;
    (choice.get("type")? == "function").then_some(name)
}

impl Serialize for ToolChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ToolChoice::Auto => serializer.serialize_str("auto"),
            ToolChoice::None => serializer.serialize_str("none"),
            ToolChoice::Required => serializer.serialize_str("required"),
            ToolChoice::Function(name) => {
                json!({"type": "function", "function": {"name": name}}).serialize(serializer)
            }
            ToolChoice::Other(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ToolChoice, D::Error> {
        Value::deserialize(deserializer).map(ToolChoice::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn a_tool_as_the_service_wants_it() {
        let tool = Tool::function("weather", "Tells the weather", json!({"type": "object"})).strict(true);
        let expected = json!({"type": "function", "function": {
            "name": "weather", "description": "Tells the weather", "parameters": {"type": "object"}, "strict": true
        }});
        assert_eq!(serde_json::to_value(&tool).unwrap(), expected);
        assert_eq!(tool.name(), "weather");
        assert_eq!(from_value::<Tool>(expected).unwrap(), tool);
    }

    #[test]
    fn a_choice_in_every_form_survives() {
        let named = json!({"type": "function", "function": {"name": "weather"}});
        for (choice, value) in [
            (ToolChoice::Auto, json!("auto")),
            (ToolChoice::None, json!("none")),
            (ToolChoice::Required, json!("required")),
            (ToolChoice::Function("weather".into()), named),
            (ToolChoice::Other(json!("any")), json!("any")),
            (ToolChoice::Other(json!({"type": "function"})), json!({"type": "function"})),
            (
                ToolChoice::Other(json!({"type": "function", "function": {"n": 1}})),
                json!({"type": "function", "function": {"n": 1}}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&choice).unwrap(), value);
            assert_eq!(from_value::<ToolChoice>(value).unwrap(), choice);
        }
    }
}
