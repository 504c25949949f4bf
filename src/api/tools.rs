//! Tools that a model may call.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::json::bounded::Bounded;
use crate::json::budget::Budget;

/// A tool that the model may call.
///
/// ```
/// use holysheep::{ChatRequest, Tool};
/// use serde_json::json;
///
/// let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
/// let weather = Tool::function("weather", "The weather in a city, now", schema);
/// let request = ChatRequest::new("gpt-4.1").user("Is it raining in Paris?").tools([weather]);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tool(Map<String, Value>);

impl Bounded for Tool {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Tool, D::Error> {
        Map::read(deserializer, budget).map(Tool)
    }
}

impl Tool {
    /// A function: its name, its purpose, and the JSON schema of its arguments.
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

    /// Whether the service enforces the schema.
    pub fn strict(mut self, strict: bool) -> Tool {
        if let Some(function) = self.0.get_mut("function").and_then(Value::as_object_mut) {
            function.insert("strict".to_owned(), strict.into());
        }
        self
    }

    /// A tool of another type, for example one that the service runs itself.
    pub fn other(fields: Map<String, Value>) -> Tool {
        Tool(fields)
    }

    /// The name of the function; empty for a tool of another type.
    pub fn name(&self) -> &str {
        self.0.get("function").and_then(|function| function.get("name")?.as_str()).unwrap_or_default()
    }

    /// All fields, as they are sent.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Whether the model has to call a tool, and which.
///
/// ```
/// use holysheep::{ChatRequest, ToolChoice};
///
/// let request = ChatRequest::new("gpt-4.1").user("hi").tool_choice(ToolChoice::None);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", from = "Value")]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides, which is every service's default.
    Auto,
    /// The model calls no tool.
    None,
    /// The model calls at least one tool.
    Required,
    /// The model calls the function with this name.
    #[serde(untagged, serialize_with = "write_function_choice")]
    Function(String),
    /// Another choice that the service supports, as JSON.
    #[serde(untagged)]
    Other(Value),
}

impl From<&str> for ToolChoice {
    /// Recognises `auto`, `none` and `required`; any other string is sent unchanged.
    fn from(choice: &str) -> ToolChoice {
        match choice {
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
            (Some(choice), _) => ToolChoice::from(choice),
            (_, Some(name)) => ToolChoice::Function(name.to_owned()),
            _ => ToolChoice::Other(value),
        }
    }
}

/// The name in `{"type": "function", "function": {"name": …}}`, if there are no other fields.
fn named_function(value: &Value) -> Option<&str> {
    let choice = value.as_object().filter(|choice| choice.len() == 2)?;
    let function = choice.get("function")?.as_object().filter(|function| function.len() == 1)?;
    let name = function.get("name")?.as_str()?;
    (choice.get("type")? == "function").then_some(name)
}

fn write_function_choice<S: Serializer>(name: &str, serializer: S) -> Result<S::Ok, S::Error> {
    json!({"type": "function", "function": {"name": name}}).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn a_tool_has_the_format_that_services_expect() {
        let tool = Tool::function("weather", "Returns the weather", json!({"type": "object"})).strict(true);
        let expected = json!({"type": "function", "function": {
            "name": "weather", "description": "Returns the weather", "parameters": {"type": "object"}, "strict": true
        }});
        assert_eq!(serde_json::to_value(&tool).unwrap(), expected);
        assert_eq!(tool.name(), "weather");
        assert_eq!(from_value::<Tool>(expected).unwrap(), tool);
    }

    #[test]
    fn every_choice_survives_a_round_trip() {
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
