//! Strips requests down to what OpenAI's API reference defines, for services that reject unknown fields.

use serde_json::{Map, Value};

use crate::api::{ChatRequest, Content, FunctionCall, Message, Part, Tool, ToolCall};
use crate::json::extra::Extra;

/// Content parts other than text: the type, which is also the name of the field with the part's object, and that object's
/// fields.
const PARTS: [(&str, &[&str]); 3] = [
    ("image_url", &["url", "detail"]),
    ("input_audio", &["data", "format"]),
    ("file", &["file_data", "file_id", "filename"]),
];

/// Tool types: the type, which is also the name of the field with the tool's object, and that object's fields.
const TOOLS: [(&str, &[&str]); 2] = [
    ("function", &["name", "description", "parameters", "strict"]),
    ("custom", &["name", "description", "format"]),
];

/// The request fields in the API reference that have no setter.
const OTHER_FIELDS: [&str; 15] = [
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "metadata",
    "modalities",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "verbosity",
    "web_search_options",
];

impl Message {
    /// Removes service-specific fields, to send the message to a service that rejects unknown fields: for example an answer
    /// from one service in a conversation that continues with another.
    ///
    /// What remains is what OpenAI's API reference defines for request messages:
    ///
    /// - the role, the refusal, the id of the tool call that a tool's message answers, and the `name`;
    /// - the content. If all parts are text, they are joined into one string, because many services accept no list. Parts of
    ///   the types `image_url`, `input_audio` and `file` keep their standard fields. Others, such as reasoning or video, are
    ///   removed;
    /// - tool calls: id, type, and the function's name and arguments, or the name and input of a custom tool; and a
    ///   `function_call`.
    ///
    /// Everything else is removed: reasoning, annotations, the id of an audio answer, signatures, `cache_control` and unknown
    /// fields. A message left without content, calls and refusal gets an empty text.
    ///
    /// ```
    /// use holysheep::{ChatRequest, ChatResponse};
    ///
    /// # let json = r#"{"choices": [{"message": {"role": "assistant", "content": "Paris.", "reasoning_content": "…"}}]}"#;
    /// let answer: ChatResponse = serde_json::from_str(json)?;
    /// let said = answer.choices[0].message.clone().into_standard();
    /// assert_eq!((said.text(), said.reasoning()), ("Paris.", None));
    /// let next = ChatRequest::new("mistral-large-latest").user("Capital of France?").message(said).user("And of Italy?");
    /// # Ok::<_, serde_json::Error>(())
    /// ```
    pub fn into_standard(self) -> Message {
        let Message { role, content, refusal, tool_calls, tool_call_id, function_call, extra, .. } = self;
        let tool_calls: Vec<ToolCall> = tool_calls.into_iter().map(standard_tool_call).collect();
        let function_call = function_call.map(|call| Box::new(standard_function(*call)));
        let calls = !tool_calls.is_empty() || function_call.is_some();
        let refusal = refusal.filter(|refusal| !refusal.is_empty());
        let content = content.and_then(standard_content);
        let content = content.or_else(|| (!calls && refusal.is_none()).then(Content::default));
        let extra = match extra.get("name") {
            Some(Value::String(name)) => Extra::from(object([("name", name.as_str().into())])),
            _ => Extra::default(),
        };
        Message {
            role,
            content,
            refusal,
            tool_calls,
            tool_call_id,
            function_call,
            extra,
            ..Message::default()
        }
    }
}

impl ChatRequest {
    /// Removes service-specific fields, to send the request to a service that rejects unknown fields.
    ///
    /// Messages are reduced by [`Message::into_standard`]. Tools of the types `function` and `custom` keep their standard
    /// fields, and other tools are removed. So are request fields that OpenAI's API reference doesn't define, such as
    /// `provider` or `top_k`. The values of fields aren't checked, and no service supports all fields.
    pub fn into_standard(mut self) -> ChatRequest {
        let is_known = |name: &str| ChatRequest::FIELDS.contains(&name) || OTHER_FIELDS.contains(&name);
        self.messages = self.messages.into_iter().map(Message::into_standard).collect();
        self.tools = self.tools.iter().filter_map(standard_tool).collect();
        self.extra.retain(|name, _| is_known(name));
        self
    }
}

/// `None` if nothing remains.
fn standard_content(content: Content) -> Option<Content> {
    if content.parts().is_empty() {
        return Some(content).filter(|content| !content.text().is_empty());
    }
    let parts: Vec<Part> = content.parts().iter().filter_map(standard_part).collect();
    match parts.iter().all(|part| part.as_text().is_some()) {
        true if content.text().is_empty() => None,
        true => Some(content.text().into()),
        false => Some(parts.into()),
    }
}

fn standard_part(part: &Part) -> Option<Part> {
    if let Some(text) = part.as_text() {
        return Some(Part::text(text));
    }
    let (kind, names) = PARTS.iter().find(|(kind, _)| *kind == part.kind())?;
    match part.fields().get(*kind)? {
        // Some services accept a bare URL.
        Value::String(url) if *kind == "image_url" => Some(Part::image_url(url)),
        Value::Object(fields) => Some(Part::of(kind, pick(fields, names))),
        _ => None,
    }
}

fn standard_tool_call(call: ToolCall) -> ToolCall {
    let ToolCall { id, kind, function, extra } = call;
    let extra = match extra.get("custom") {
        Some(Value::Object(custom)) if kind == "custom" => {
            Extra::from(object([("custom", pick(custom, &["name", "input"]))]))
        }
        _ => Extra::default(),
    };
    ToolCall { id, kind, function: standard_function(function), extra }
}

fn standard_function(call: FunctionCall) -> FunctionCall {
    FunctionCall { extra: Extra::default(), ..call }
}

fn standard_tool(tool: &Tool) -> Option<Tool> {
    let kind = tool.fields().get("type").and_then(Value::as_str)?;
    let (kind, names) = TOOLS.iter().find(|(known, _)| *known == kind)?;
    let fields = tool.fields().get(*kind)?.as_object()?;
    Some(Tool::other(object([("type", (*kind).into()), (*kind, pick(fields, names))])))
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An object of only the fields with these names.
fn pick(fields: &Map<String, Value>, names: &[&str]) -> Value {
    let picked = fields.iter().filter(|(name, _)| names.contains(&name.as_str()));
    Value::Object(picked.map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    fn stripped(message: Value) -> Value {
        to_value(from_value::<Message>(message).unwrap().into_standard()).unwrap()
    }

    #[test]
    fn standard_fields_are_kept() {
        for message in [
            json!({"role": "system", "content": "a", "name": "n"}),
            json!({"role": "assistant", "content": null, "refusal": "no"}),
            json!({"role": "tool", "content": "a", "tool_call_id": "c"}),
            json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}}),
            json!({"role": "assistant", "content": "a", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "d", "type": "custom", "custom": {"name": "g", "input": "x"}}
            ]}),
            json!({"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
                {"type": "file", "file": {"file_id": "f"}}
            ]}),
        ] {
            assert_eq!(stripped(message.clone()), message);
        }
    }

    #[test]
    fn service_specific_fields_are_removed() {
        let answer = json!({
            "role": "assistant", "content": "a", "refusal": "", "reasoning": "r", "reasoning_content": "r",
            "reasoning_details": [{"n": 1}], "annotations": [], "audio": {"id": "x"}, "cache_control": {"x": 1},
            "tool_calls": [{
                "id": "c", "type": "function", "index": 0, "extra_content": {"signature": "s"},
                "function": {"name": "f", "arguments": "{}", "thought": "t"}
            }]
        });
        let expected = json!({"role": "assistant", "content": "a", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ]});
        assert_eq!(stripped(answer), expected);
        assert_eq!(
            stripped(json!({"role": "user", "content": "a", "name": 7})),
            json!({"role": "user", "content": "a"})
        );
    }

    #[test]
    fn texts_are_joined_and_other_parts_lose_unknown_fields() {
        let content =
            |content: Value| stripped(json!({"role": "user", "content": content}))["content"].take();
        let thinking = json!({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]});
        let text = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
        assert_eq!(content(json!([thinking, text("a"), text("b")])), json!("ab"));
        let image = json!({"type": "image_url", "image_url": {"url": "u", "x": 1}, "x": 1});
        let clean = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]);
        assert_eq!(
            content(json!([text("a"), image, {"type": "video_url", "video_url": {"url": "v"}}])),
            clean
        );
        let url = json!([{"type": "image_url", "image_url": {"url": "u"}}]);
        assert_eq!(content(json!([{"type": "image_url", "image_url": "u"}])), url);
        assert_eq!(content(json!([thinking])), json!(""), "a message needs content");
        assert_eq!(content(json!(null)), json!(""));
    }

    #[test]
    fn a_request_keeps_only_standard_fields() {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {}, "strict": true}});
        let mut odd_tool = tool.clone();
        odd_tool["cache_control"] = json!({});
        odd_tool["function"]["examples"] = json!([]);
        let request = json!({
            "model": "m", "temperature": 0.5, "logit_bias": {"1": 2}, "stream_options": {"include_usage": false},
            "provider": {"order": []}, "top_k": 4, "tool_choice": "auto",
            "tools": [odd_tool, {"type": "web_search", "web_search": {}}],
            "messages": [{"role": "user", "content": "a", "reasoning": "r"}]
        });
        let expected = json!({
            "model": "m", "temperature": 0.5, "logit_bias": {"1": 2}, "stream_options": {"include_usage": false},
            "tool_choice": "auto", "tools": [tool], "messages": [{"role": "user", "content": "a"}]
        });
        assert_eq!(to_value(from_value::<ChatRequest>(request).unwrap().into_standard()).unwrap(), expected);
        let overridden = ChatRequest::new("m").user("a").extra("temperature", "hot");
        assert_eq!(overridden.clone().into_standard(), overridden, "a field that has a setter is kept");
    }
}
