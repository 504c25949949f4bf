//! Messages: who says what in a conversation.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::api::content::{Content, Part};
use crate::api::delta::Delta;
use crate::api::tool_calls::{FunctionCall, FunctionDelta, ToolCall, ToolCallDelta};
use crate::json::extra::Extra;
use crate::json::lenient::{Fields, objects, read_from_object, take, take_text};

/// Who speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The one who gives instructions.
    System,
    /// The one who gives instructions, in the words of OpenAI's newer models.
    Developer,
    /// The person who asks.
    User,
    /// The model.
    #[default]
    Assistant,
    /// What a tool answered.
    Tool,
    /// A role that a service added to these.
    Other(String),
}

impl Role {
    /// The role as the service calls it.
    pub fn as_str(&self) -> &str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
            Role::Other(role) => role,
        }
    }
}

impl From<&str> for Role {
    fn from(role: &str) -> Role {
        match role {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => Role::Other(other.to_owned()),
        }
    }
}

impl PartialEq<str> for Role {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Role {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
        String::deserialize(deserializer).map(|role| Role::from(role.as_str()))
    }
}

/// One message of a conversation.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; none in a message that only calls tools.
    pub content: Option<Content>,
    /// Why the model won't answer.
    pub refusal: Option<String>,
    /// The tools that the model wants to be called.
    pub tool_calls: Vec<ToolCall>,
    /// The call that this message answers.
    pub tool_call_id: Option<String>,
    /// The one function to call, as it was before there were tools.
    pub function_call: Option<Box<FunctionCall>>,
    /// Fields beyond these.
    pub extra: Extra,
    // What the model thought, under the name that the server used: it has to come back under the same one.
    pub(crate) reasoning: Option<String>,
    pub(crate) reasoning_content: Option<String>,
}

impl Message {
    /// An instruction.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new(Role::System, text.into())
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new(Role::User, text.into())
    }

    /// What the user says, in parts: texts and pictures.
    pub fn user_parts(parts: impl IntoIterator<Item = Part>) -> Message {
        Message::new(Role::User, Vec::from_iter(parts))
    }

    /// What the assistant said.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new(Role::Assistant, text.into())
    }

    /// What a tool answered to the call of this id.
    pub fn tool(call_id: impl Into<String>, text: impl Into<String>) -> Message {
        Message { tool_call_id: Some(call_id.into()), ..Message::new(Role::Tool, text.into()) }
    }

    /// A message of any role.
    pub fn new(role: Role, content: impl Into<Content>) -> Message {
        Message { role, content: Some(content.into()), ..Message::default() }
    }

    /// The text; for a list of parts the texts of all of them.
    pub fn text(&self) -> &str {
        self.content.as_ref().map_or("", Content::text)
    }

    /// What the model thought, whichever way the service sends it.
    pub fn reasoning(&self) -> Option<&str> {
        reasoning(&self.reasoning, &self.reasoning_content, &self.content)
    }

    pub(super) fn read(mut fields: Map<String, Value>) -> Message {
        let content = take(&mut fields, "content", |value| Ok(Content::read(value))).flatten();
        let tool_calls = take(&mut fields, "tool_calls", objects).unwrap_or_default();
        Message {
            role: take_text(&mut fields, "role").map(|role| Role::from(role.as_str())).unwrap_or_default(),
            content,
            refusal: take_text(&mut fields, "refusal"),
            tool_calls: tool_calls.into_iter().map(|call| ToolCallDelta::read(call).into()).collect(),
            tool_call_id: take_text(&mut fields, "tool_call_id"),
            function_call: take(&mut fields, "function_call", FunctionDelta::read_value)
                .filter(|call| !call.is_blank())
                .map(|call| Box::new(call.into())),
            reasoning: take_text(&mut fields, "reasoning"),
            reasoning_content: take_text(&mut fields, "reasoning_content"),
            extra: fields.into(),
        }
    }
}

read_from_object!(Message);

/// The first of the three places for thoughts that holds some.
pub(super) fn reasoning<'a>(
    reasoning: &'a Option<String>,
    reasoning_content: &'a Option<String>,
    content: &'a Option<Content>,
) -> Option<&'a str> {
    let said = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
    said(reasoning_content).or_else(|| said(reasoning)).or_else(|| content.as_ref()?.reasoning())
}

impl From<Delta> for Message {
    /// Takes a delta that is a whole message.
    fn from(delta: Delta) -> Message {
        Message {
            role: delta.role.unwrap_or_default(),
            content: delta.content,
            refusal: delta.refusal,
            tool_calls: delta.tool_calls.into_iter().map(ToolCall::from).collect(),
            tool_call_id: None,
            function_call: delta.function_call.map(|call| Box::new((*call).into())),
            reasoning: delta.reasoning,
            reasoning_content: delta.reasoning_content,
            extra: delta.extra,
        }
    }
}

impl fmt::Debug for Message {
    /// Shows what may be logged: how much is said, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("bytes", &self.text().len())
            .field("tool_calls", &self.tool_calls.len())
            .finish_non_exhaustive()
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("role", &self.role)?;
        // Null rather than missing: several servers want the field to be there, and every one takes a null.
        fields.field("content", &self.content)?;
        fields.some("reasoning", &self.reasoning)?;
        fields.some("reasoning_content", &self.reasoning_content)?;
        fields.some("refusal", &self.refusal)?;
        fields.list("tool_calls", &self.tool_calls)?;
        fields.some("tool_call_id", &self.tool_call_id)?;
        fields.some("function_call", &self.function_call)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn messages_as_the_service_wants_them() {
        let picture = Part::image_url("https://example.com/a.png");
        for (message, expected) in [
            (Message::system("a"), json!({"role": "system", "content": "a"})),
            (Message::user("a"), json!({"role": "user", "content": "a"})),
            (Message::assistant("a"), json!({"role": "assistant", "content": "a"})),
            (Message::tool("c", "a"), json!({"role": "tool", "content": "a", "tool_call_id": "c"})),
            (Message::new("critic".into(), "a"), json!({"role": "critic", "content": "a"})),
            (
                Message::user_parts([Part::text("a"), picture]),
                json!({"role": "user", "content": [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
                ]}),
            ),
        ] {
            assert_eq!(to_value(&message).unwrap(), expected);
            assert_eq!(from_value::<Message>(expected).unwrap(), message);
        }
    }

    #[test]
    fn what_a_model_said_can_be_sent_back_as_it_came() {
        for value in [
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ]}),
            json!({"role": "assistant", "content": "a", "reasoning_content": "hm"}),
            json!({"role": "assistant", "content": "a", "reasoning": "hm", "reasoning_details": [{"n": 1}]}),
            json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}}),
            json!({"role": "assistant", "content": null, "refusal": "no"}),
        ] {
            let message: Message = from_value(value.clone()).unwrap();
            assert_eq!(to_value(&message).unwrap(), value);
        }
    }

    #[test]
    fn thoughts_are_found_in_every_place() {
        for value in [
            json!({"reasoning_content": "hm"}),
            json!({"reasoning": "hm"}),
            json!({"reasoning": "hm", "reasoning_content": null}),
            json!({"reasoning": "hm", "reasoning_content": "hm"}),
            json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        ] {
            assert_eq!(from_value::<Message>(value.clone()).unwrap().reasoning(), Some("hm"), "{value}");
        }
        assert_eq!(from_value::<Message>(json!({"reasoning": ""})).unwrap().reasoning(), None);
    }

    #[test]
    fn debug_hides_what_is_said() {
        let shown = r#"Message { role: User, bytes: 6, tool_calls: 0, .. }"#;
        assert_eq!(format!("{:?}", Message::user("secret")), shown);
        assert!(Role::User == "user" && Role::Other("critic".to_owned()) == "critic");
    }
}
