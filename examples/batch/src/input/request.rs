//! Turns a line of the input into a request. What is wrong with a line is said without repeating what it holds.

use holysheep::{ChatRequest, Error};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::input::Item;
use crate::input::line::{Fields, value};
use crate::options::Defaults;

/// The parameters that are integers. Data frames write 42 as 42.0 where a column has gaps.
const INTEGERS: [&str; 5] = ["max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs"];

/// Anthropic's parameters that have another name or place in a chat request.
const ANTHROPIC: [(&str, &str); 6] = [
    ("system", "make it the first of the messages, with the role system"),
    ("stop_sequences", "rename it to stop"),
    ("thinking", "replace it by reasoning_effort"),
    ("top_k", "remove it"),
    ("metadata", "remove it, or rename its user_id to user"),
    ("input_schema", "rename it to parameters"),
];

/// The only endpoint that the tool calls, as the end of a `url`.
const CHAT: &str = "/chat/completions";

/// What a line asks for, and what comes back with the answer.
pub(crate) struct Parsed {
    pub(crate) id: Option<Box<RawValue>>,
    pub(crate) columns: Vec<(String, Box<RawValue>)>,
    pub(crate) request: Result<Request, String>,
}

pub(crate) struct Request {
    pub(crate) chat: ChatRequest,
    pub(crate) wants_json: bool,
    pub(crate) size: Size,
}

/// What is known of a request before it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// A guess: four bytes of text each.
    pub(crate) tokens: u64,
    /// Images inside the request, which have no part in the guess.
    pub(crate) images: u64,
}

impl Item<'_> {
    /// Reads what the line asks for.
    pub(crate) fn parse(&self, defaults: &Defaults) -> Parsed {
        let bad = |why: &str| Parsed { id: None, columns: Vec::new(), request: Err(why.to_owned()) };
        let Some(text) = self.text else { return bad("is longer than 64 MiB; is it JSON Lines?") };
        let Ok(text) = std::str::from_utf8(text.trim_ascii()) else {
            return bad("isn't UTF-8; convert the input with iconv -t UTF-8");
        };
        let mut fields = match Fields::parse(text) {
            Ok(fields) => fields,
            Err(why) => return bad(&why),
        };
        let id = if fields.get("id").is_some() { fields.take("id") } else { fields.take("custom_id") };
        let request = parameters(&mut fields, defaults).and_then(|request| finish(request, defaults));
        Parsed { id, columns: fields.into_vec(), request }
    }
}

/// Takes the parameters of the request out of a line.
fn parameters(fields: &mut Fields, defaults: &Defaults) -> Result<Map<String, Value>, String> {
    let short = ["prompt", "messages"].iter().find(|name| fields.get(name).is_some());
    let Some(envelope) = ["request", "body", "params"].into_iter().find(|name| fields.has_object(name))
    else {
        return beside_prompt(fields, defaults);
    };
    match (envelope, short) {
        ("params", Some(_)) => return beside_prompt(fields, defaults),
        (_, Some(short)) => return Err(format!("has both a {envelope} and {short}; keep one of them")),
        _ => {}
    }
    if envelope == "body" {
        check_endpoint(fields)?;
    }
    let Some(Value::Object(request)) = fields.take(envelope).map(|raw| value(&raw)) else {
        return Err(format!("has a {envelope} that isn't an object"));
    };
    if envelope == "params" {
        check_anthropic(&request)?;
    }
    Ok(request)
}

/// Takes the parameters beside a prompt or messages: the fields that [`ChatRequest`] names. What stays are columns.
fn beside_prompt(fields: &mut Fields, defaults: &Defaults) -> Result<Map<String, Value>, String> {
    let has_messages = fields.get("messages").is_some();
    let prompt = match &defaults.template {
        Some(template) if !has_messages => Some(Value::String(template.fill(fields)?)),
        _ => fields.get("prompt").map(value),
    };
    fields.take("prompt");
    let mut request = Map::new();
    for name in ChatRequest::FIELDS {
        match fields.take(name).map(|raw| value(&raw)) {
            None | Some(Value::Null) => {}
            Some(value) => drop(request.insert((*name).to_owned(), value)),
        }
    }
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

/// Checks what a line of OpenAI's Batch format says besides its body.
fn check_endpoint(fields: &mut Fields) -> Result<(), String> {
    let is = |field: Option<Box<RawValue>>, fits: &dyn Fn(&str) -> bool| {
        field.is_none_or(|raw| value(&raw).as_str().is_some_and(fits))
    };
    if !is(fields.take("method"), &|method| method == "POST") {
        return Err("has a method other than POST".to_owned());
    }
    if !is(fields.take("url"), &|url| url.ends_with(CHAT)) {
        return Err(format!("has another url than /v1{CHAT}, the only one that is supported"));
    }
    Ok(())
}

/// Refuses what Anthropic's format says otherwise, and says how to write it.
fn check_anthropic(request: &Map<String, Value>) -> Result<(), String> {
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

/// Completes a request by the defaults, and refuses what no service would answer.
fn finish(mut request: Map<String, Value>, defaults: &Defaults) -> Result<Request, String> {
    for (name, value) in &defaults.parameters {
        request.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    if let Some(model) = &defaults.model {
        request.entry("model").or_insert_with(|| model.as_str().into());
    }
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
    for name in INTEGERS {
        if let Some(value) = request.get_mut(name) {
            let integral = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
            if let Some(number) = integral.filter(|_| value.is_f64()) {
                *value = (number as i64).into();
            }
        }
    }
    let kind = &request.get("response_format").unwrap_or(&Value::Null)["type"];
    let wants_json = kind == "json_object" || kind == "json_schema";
    let text = request.values().map(text_of).fold(Text::default(), Text::plus);
    let size = Size { tokens: text.bytes.div_ceil(4), images: text.images };
    let chat = serde_json::from_value::<ChatRequest>(Value::Object(request));
    let chat = chat.map_err(|_| "isn't a chat request".to_owned())?;
    match chat.check() {
        Ok(()) => Ok(Request { chat, wants_json, size }),
        Err(Error::Config { setting: "model", .. }) => Err("names no model; add --model NAME".to_owned()),
        Err(error) => Err(format!("can't be sent: {error}")),
    }
}

/// The text and the images in a value.
#[derive(Clone, Copy, Default)]
struct Text {
    bytes: u64,
    images: u64,
}

impl Text {
    fn plus(self, other: Text) -> Text {
        Text { bytes: self.bytes + other.bytes, images: self.images + other.images }
    }
}

fn text_of(value: &Value) -> Text {
    match value {
        Value::String(text) if text.starts_with("data:") => Text { bytes: 0, images: 1 },
        Value::String(text) => Text { bytes: text.len() as u64, images: 0 },
        Value::Array(list) => list.iter().map(text_of).fold(Text::default(), Text::plus),
        Value::Object(object) => object.values().map(text_of).fold(Text::default(), Text::plus),
        _ => Text::default(),
    }
}
