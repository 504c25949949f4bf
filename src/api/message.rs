//! The messages of a conversation.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::content::{Content, Part};
use crate::api::delta::has_other_content;
use crate::api::tool_calls::{FunctionCall, FunctionDelta, ToolCall};
use crate::json::extra::Extra;
use crate::json::lenient::{Lenient, Object, list, object, text};
use crate::json::object::json_object;

/// The author of a message.
///
/// ```
/// use holysheep::{Message, Role};
///
/// assert_eq!(Message::user("hi").role, Role::User);
/// assert_eq!(Role::Assistant.as_str(), "assistant");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The author of the instructions.
    System,
    /// The author of the instructions, in the terms of OpenAI's newer models.
    Developer,
    /// The user.
    User,
    /// The model.
    #[default]
    Assistant,
    /// A tool that was called.
    Tool,
    /// Another role.
    #[serde(untagged)]
    Other(String),
}

impl Role {
    /// The role as it is written in JSON.
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

/// One message of a conversation.
///
/// ```
/// use holysheep::{ChatRequest, Message, Part};
///
/// let history = [
///     Message::system("Answer in one word."),
///     Message::user_parts([Part::text("What is this?"), Part::image_url("https://example.com/a.png")]),
///     Message::assistant("A sheep."),
/// ];
/// let request = ChatRequest::new("gpt-4.1").messages(history).user("What colour?");
/// ```
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The content; `None` in a message that only calls tools.
    pub content: Option<Content>,
    /// The model's explanation of why it refuses to answer.
    pub refusal: Option<String>,
    /// The tool calls that the model requests.
    pub tool_calls: Vec<ToolCall>,
    /// The id of the tool call that this message answers.
    pub tool_call_id: Option<String>,
    /// The function call that the model requests, in the deprecated form that tool calls replaced.
    pub function_call: Option<Box<FunctionCall>>,
    /// All other fields.
    pub extra: Extra,
    // The reasoning, in the field that the service used: it has to be sent back in the same field.
    pub(crate) reasoning: Option<String>,
    pub(crate) reasoning_content: Option<String>,
}

impl Message {
    /// A message with instructions.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new(Role::System, text.into())
    }

    /// A user message.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new(Role::User, text.into())
    }

    /// A user message with several parts, such as text and images.
    pub fn user_parts(parts: impl IntoIterator<Item = Part>) -> Message {
        Message::new(Role::User, Vec::from_iter(parts))
    }

    /// An assistant message.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new(Role::Assistant, text.into())
    }

    /// The result of the tool call with this id.
    pub fn tool(call_id: impl Into<String>, text: impl Into<String>) -> Message {
        Message { tool_call_id: Some(call_id.into()), ..Message::new(Role::Tool, text.into()) }
    }

    /// A message of any role.
    pub fn new(role: Role, content: impl Into<Content>) -> Message {
        Message { role, content: Some(content.into()), ..Message::default() }
    }

    /// The text; for a list of parts, the concatenated texts of all parts.
    pub fn text(&self) -> &str {
        self.content.as_ref().map_or("", Content::text)
    }

    /// Whether the message has more than a role.
    pub(crate) fn has_content(&self) -> bool {
        self.content.as_ref().is_some_and(|content| !content.is_empty())
            || self.reasoning().is_some()
            || self.refusal.as_ref().is_some_and(|refusal| !refusal.is_empty())
            || !self.tool_calls.is_empty()
            || self.function_call.is_some()
            || has_other_content(&self.extra)
    }

    /// The model's reasoning, from whichever field the service uses.
    pub fn reasoning(&self) -> Option<&str> {
        find_reasoning(&self.reasoning, &self.reasoning_content, &self.content)
    }
}

json_object!(Message {
    always role: "role" => role,
    // Null if there is none: several servers require the field, and every server accepts null.
    always content: "content" => Content::from_value,
    optional reasoning: "reasoning" => text,
    optional reasoning_content: "reasoning_content" => text,
    optional refusal: "refusal" => text,
    optional tool_calls: "tool_calls" => list::<ToolCall>,
    optional tool_call_id: "tool_call_id" => text,
    optional function_call: "function_call" => function_call,
});

fn role(value: Value) -> Lenient<Role> {
    Ok(text(value)?.map(|role| Role::from(role.as_str())))
}

fn function_call(value: Object<FunctionDelta>) -> Lenient<Box<FunctionCall>> {
    Ok(object(value)?.filter(|call| !call.is_blank()).map(|call| Box::new(call.into())))
}

/// The first of the three reasoning fields that isn't empty.
pub(super) fn find_reasoning<'a>(
    reasoning: &'a Option<String>,
    reasoning_content: &'a Option<String>,
    content: &'a Option<Content>,
) -> Option<&'a str> {
    let not_empty = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
    not_empty(reasoning_content).or_else(|| not_empty(reasoning)).or_else(|| content.as_ref()?.reasoning())
}

debug_without_content!(Message, message =>
    role: message.role, bytes: message.text().len(), tool_calls: message.tool_calls.len());

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn messages_have_the_format_that_services_expect() {
        let image = Part::image_url("https://example.com/a.png");
        for (message, expected) in [
            (Message::system("a"), json!({"role": "system", "content": "a"})),
            (Message::user("a"), json!({"role": "user", "content": "a"})),
            (Message::assistant("a"), json!({"role": "assistant", "content": "a"})),
            (Message::tool("c", "a"), json!({"role": "tool", "content": "a", "tool_call_id": "c"})),
            (Message::new("critic".into(), "a"), json!({"role": "critic", "content": "a"})),
            (
                Message::user_parts([Part::text("a"), image]),
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
    fn an_assistant_message_is_sent_back_unchanged() {
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
    fn reasoning_is_found_in_every_field() {
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
    fn debug_hides_content() {
        let shown = r#"Message { role: User, bytes: 6, tool_calls: 0, .. }"#;
        assert_eq!(format!("{:?}", Message::user("secret")), shown);
        assert!(Role::User == "user" && Role::Other("critic".to_owned()) == "critic");
    }
}
