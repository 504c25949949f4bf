//! Chat requests: a prompt or messages in a line, and what Anthropic's format says otherwise.

use holysheep::{ChatRequest, ChatResponse};
use serde_json::{Map, Value, json};

use crate::endpoint::{Answer, Endpoint, Kind};
use crate::input::line::{Fields, value};
use crate::options::Defaults;

/// Anthropic's parameters that have another name or place in a chat request.
const ANTHROPIC: [(&str, &str); 6] = [
    ("system", "make it the first of the messages, with the role system"),
    ("stop_sequences", "rename it to stop"),
    ("thinking", "replace it by reasoning_effort"),
    ("top_k", "remove it"),
    ("metadata", "remove it, or rename its user_id to user"),
    ("input_schema", "rename it to parameters"),
];

impl Endpoint for ChatRequest {
    const KIND: Kind = Kind::Chat;

    fn take_parameters(fields: &mut Fields, defaults: &Defaults) -> Result<Map<String, Value>, String> {
        let has_messages = fields.get("messages").is_some();
        let prompt = match &defaults.template {
            Some(template) if !has_messages => Some(Value::String(template.fill(fields)?)),
            _ => fields.get("prompt").map(value),
        };
        fields.take("prompt");
        let mut request = fields.take_all(ChatRequest::FIELDS);
        match prompt {
            Some(_) if has_messages => Err("has both a prompt and messages; keep one of them".to_owned()),
            Some(Value::String(prompt)) => {
                request.insert("messages".to_owned(), json!([{"role": "user", "content": prompt}]));
                Ok(request)
            }
            Some(_) => Err("has a prompt that isn't text".to_owned()),
            None if has_messages => Ok(request),
            None if fields.get("request").is_some() => Err("has a request that isn't an object".to_owned()),
            None => Err("has neither request nor messages nor prompt".to_owned()),
        }
    }

    fn complete(request: &mut Map<String, Value>, defaults: &Defaults) -> Result<(), String> {
        let Some(Value::Array(messages)) = request.get_mut("messages") else {
            return Err("has no list of messages".to_owned());
        };
        if messages.is_empty() {
            return Err("has no messages".to_owned());
        }
        if !messages.iter().all(Value::is_object) {
            return Err("has a message that isn't an object".to_owned());
        }
        let has_system =
            messages.iter().any(|message| message["role"] == "system" || message["role"] == "developer");
        if let Some(system) = defaults.system.as_ref().filter(|_| !has_system) {
            messages.insert(0, json!({"role": "system", "content": system}));
        }
        Ok(())
    }

    fn check(&self) -> holysheep::Result<()> {
        self.check()
    }

    fn model(&self) -> &str {
        self.model()
    }

    fn unsendable() -> ChatRequest {
        ChatRequest::new("")
    }

    fn answer(response: ChatResponse) -> Answer {
        Answer::Chat(response)
    }
}

/// Refuses what Anthropic's format says otherwise, and says how to write it.
pub(super) fn check_anthropic(request: &Map<String, Value>) -> Result<(), String> {
    let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
    let keys = tools.filter_map(Value::as_object).flat_map(Map::keys).chain(request.keys());
    let renamed = keys.filter_map(|key| ANTHROPIC.iter().find(|(name, _)| name == key)).next();
    if let Some((name, what)) = renamed {
        return Err(format!("has Anthropic's {name} in its params: {what}"));
    }
    let contents = request.get("messages").and_then(Value::as_array).into_iter().flatten();
    let mut parts = contents.filter_map(|message| message["content"].as_array()).flatten();
    if parts.any(|part| !["text", "image_url"].contains(&part["type"].as_str().unwrap_or_default())) {
        return Err(
            "has content in Anthropic's form: write an image as image_url, a tool's result as a message \
                    with the role tool"
                .to_owned(),
        );
    }
    Ok(())
}
