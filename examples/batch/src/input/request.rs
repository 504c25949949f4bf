//! Turns a line of the input into a request. What is wrong with a line is said without repeating what it holds.

use holysheep::Error;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::endpoint::{Endpoint, Kind};
use crate::input::Item;
use crate::input::chat::check_anthropic;
use crate::input::line::{Fields, value};
use crate::options::Defaults;

/// The parameters that are integers. Data frames write 42 as 42.0 where a column has gaps.
const INTEGERS: [&str; 6] =
    ["max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs", "dimensions"];

/// What a line asks for, and what comes back with the answer.
pub(crate) struct Parsed<R> {
    pub(crate) id: Option<Box<RawValue>>,
    pub(crate) columns: Vec<(String, Box<RawValue>)>,
    pub(crate) request: Result<Request<R>, String>,
}

pub(crate) struct Request<R> {
    pub(crate) sent: R,
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
    /// Reads what the line asks for, in an input for this endpoint.
    pub(crate) fn parse<R: Endpoint>(&self, defaults: &Defaults) -> Parsed<R> {
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
        let request = parameters::<R>(&mut fields, defaults).and_then(|request| finish(request, defaults));
        Parsed { id, columns: fields.into_vec(), request }
    }
}

/// The endpoint that a line is for, if it says so.
pub(super) fn kind_of(line: &[u8], defaults: &Defaults) -> Option<Kind> {
    let fields = Fields::parse(std::str::from_utf8(line.trim_ascii()).ok()?).ok()?;
    let Some(envelope) = envelope(&fields) else {
        return kind_beside(&fields, defaults);
    };
    if let Some(url) = fields.get("url") {
        return Kind::of_url(value(url).as_str()?);
    }
    let request = fields.get(envelope).map(value)?;
    Kind::of_fields(|name| request.get(name).is_some())
}

/// The field that holds the whole request, if there is one.
fn envelope(fields: &Fields) -> Option<&'static str> {
    let found = ["request", "body", "params"].into_iter().find(|name| fields.has_object(name))?;
    // Beside a prompt, params is a column.
    let is_column = found == "params" && ["prompt", "messages"].iter().any(|name| fields.get(name).is_some());
    (!is_column).then_some(found)
}

/// The endpoint of a line without an envelope. A template makes a chat of any columns, also of one named input.
fn kind_beside(fields: &Fields, defaults: &Defaults) -> Option<Kind> {
    if defaults.template.is_some() {
        return Some(Kind::Chat);
    }
    Kind::of_fields(|name| fields.get(name).is_some())
}

/// Takes the parameters of the request out of a line.
fn parameters<R: Endpoint>(fields: &mut Fields, defaults: &Defaults) -> Result<Map<String, Value>, String> {
    let Some(envelope) = envelope(fields) else {
        check_kind::<R>(kind_beside(fields, defaults))?;
        return R::take_parameters(fields, defaults);
    };
    if let Some(short) = ["prompt", "messages"].iter().find(|name| fields.get(name).is_some()) {
        return Err(format!("has both a {envelope} and {short}; keep one of them"));
    }
    let has_url = envelope == "body" && check_url::<R>(fields)?;
    let Some(Value::Object(request)) = fields.take(envelope).map(|raw| value(&raw)) else {
        return Err(format!("has a {envelope} that isn't an object"));
    };
    if !has_url {
        check_kind::<R>(Kind::of_fields(|name| request.contains_key(name)))?;
    }
    if envelope == "params" {
        check_anthropic(&request)?;
    }
    Ok(request)
}

/// Refuses a line for another endpoint than the input's.
fn check_kind<R: Endpoint>(kind: Option<Kind>) -> Result<(), String> {
    match kind {
        Some(other) if other != R::KIND => {
            let (asked, of_input) = (other.name(), R::KIND.name());
            Err(format!("asks for {asked}, and the lines before it for {of_input}; put it into another file"))
        }
        _ => Ok(()),
    }
}

/// Checks what a line of OpenAI's Batch format says besides its body. Returns whether it has a URL.
fn check_url<R: Endpoint>(fields: &mut Fields) -> Result<bool, String> {
    let text = |raw: Box<RawValue>| value(&raw).as_str().map(str::to_owned);
    if fields.take("method").is_some_and(|method| text(method).is_none_or(|method| method != "POST")) {
        return Err("has a method other than POST".to_owned());
    }
    let Some(url) = fields.take("url") else { return Ok(false) };
    let kind = text(url).and_then(|url| Kind::of_url(&url)).ok_or_else(|| {
        let [chat, embeddings] = [Kind::Chat, Kind::Embeddings].map(Kind::path);
        format!("has another url than /v1{chat} and /v1{embeddings}, the only ones that are supported")
    })?;
    check_kind::<R>(Some(kind)).map(|()| true)
}

/// Completes a request by the defaults, and refuses what no service would answer.
fn finish<R: Endpoint>(mut request: Map<String, Value>, defaults: &Defaults) -> Result<Request<R>, String> {
    for (name, value) in &defaults.parameters {
        request.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    if let Some(model) = &defaults.model {
        request.entry("model").or_insert_with(|| model.as_str().into());
    }
    R::complete(&mut request, defaults)?;
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
    let size = size_of(&request, R::KIND);
    let sent = serde_json::from_value::<R>(Value::Object(request));
    let sent = sent.map_err(|_| format!("isn't a request for {}", R::KIND.name()))?;
    match sent.check() {
        Ok(()) => Ok(Request { sent, wants_json, size }),
        Err(Error::Config { setting: "model", .. }) => Err("names no model; add --model NAME".to_owned()),
        Err(error) => Err(format!("can't be sent: {error}")),
    }
}

/// The size of a request: of all of a chat, because roles and names cost tokens, too; of embeddings only the input.
fn size_of(request: &Map<String, Value>, kind: Kind) -> Size {
    let (text, token_ids) = match (kind, request.get("input")) {
        (Kind::Embeddings, input) => (input.map(text_of).unwrap_or_default(), input.map_or(0, token_ids)),
        (Kind::Chat, _) => (request.values().map(text_of).fold(Text::default(), Text::plus), 0),
    };
    Size { tokens: text.bytes.div_ceil(4) + token_ids, images: text.images }
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

/// How many tokens an input has that is given in tokens.
fn token_ids(input: &Value) -> u64 {
    match input {
        Value::Number(_) => 1,
        Value::Array(list) => list.iter().map(token_ids).sum(),
        _ => 0,
    }
}
