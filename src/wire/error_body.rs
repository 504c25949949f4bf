//! Reads the body of a failed request: message, code and type, in the forms that services send.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::excerpt;
use crate::json;
use crate::json::lenient::is_error;

/// The fields of an error.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ErrorBody {
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) param: Option<String>,
    /// The HTTP status that the body has beside the code, which needn't be a number.
    http_status: Option<u16>,
}

/// How deep a message may be nested in objects, lists and strings of JSON. A gateway nests the error of its upstream five
/// levels deep, and the upstream may be another gateway.
const MAX_DEPTH: u32 = 12;

/// The maximum number of validation errors in a message: an invalid list yields one for each of its items.
const MAX_VALIDATION_ERRORS: usize = 5;

impl ErrorBody {
    /// Reads a body of any form. JSON is searched for the usual fields, and HTML for its title. Other text is the message.
    pub(crate) fn parse(body: &[u8]) -> ErrorBody {
        let mut error = ErrorBody::default();
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body); // a byte order mark
        match json::parse::<Value>(body) {
            Ok(value) => error.add(&value, MAX_DEPTH),
            Err(_) => error.message = message_text(&String::from_utf8_lossy(body)),
        }
        error
    }

    /// Reads the value of an `error` field.
    pub(crate) fn from_value(value: &Value) -> ErrorBody {
        let mut error = ErrorBody::default();
        error.add(value, MAX_DEPTH);
        error
    }

    /// The HTTP status in the body: the code, if that is one, or else another field.
    pub(crate) fn status(&self) -> Option<u16> {
        self.code.as_deref().and_then(parse_status).or(self.http_status)
    }

    /// Fills the fields that are still missing.
    fn add(&mut self, value: &Value, depth: u32) {
        match value {
            _ if depth == 0 => {}
            Value::Object(object) => self.add_object(object, depth),
            Value::Array(items) => {
                // Google's compatible API wraps the error object in a list; validation errors are a list too.
                for item in items {
                    if self.message.is_none() {
                        self.add(item, depth - 1);
                    }
                }
                self.message = validation_errors(items).or(self.message.take());
            }
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(inner @ (Value::Object(_) | Value::Array(_))) => {
                    self.add(&inner, depth - 1);
                    self.message = self.message.take().or_else(|| message_text(text));
                }
                _ => self.message = message_text(text),
            },
            _ => {}
        }
    }

    fn add_object(&mut self, object: &Map<String, Value>, depth: u32) {
        let text = |name: &str| match object.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        self.code = self.code.take().or_else(|| text("code"));
        let status = || object.get("status")?.as_str().map(str::to_owned); // Google's name for the type
        self.kind = self.kind.take().or_else(|| text("type")).or_else(status);
        self.param = self.param.take().or_else(|| text("param"));
        let http_status =
            ["status", "status_code", "raw_status_code"].iter().find_map(|name| parse_status(&text(name)?));
        self.http_status = self.http_status.or(http_status);
        for name in ["error", "message", "detail", "msg", "errors", "error_description"] {
            if self.message.is_none() {
                if let Some(value) = object.get(name) {
                    self.add(value, depth - 1);
                }
            }
        }
        // OpenRouter has the provider's own error here.
        if let Some(raw) = object.get("metadata").and_then(|metadata| metadata.get("raw")) {
            let mut provider = ErrorBody::default();
            provider.add(raw, depth - 1);
            if let (Some(message), Some(cause)) = (&mut self.message, provider.message) {
                *message = excerpt(format!("{message}: {cause}").as_bytes());
            }
        }
        self.param = self.param.take().or_else(|| location(object));
    }
}

/// A code as an HTTP status, if it is one.
fn parse_status(code: &str) -> Option<u16> {
    code.parse().ok().filter(|status| (100..600).contains(status))
}

/// The location of a validation error: `loc: ["body", "temperature"]`.
fn location(error: &Map<String, Value>) -> Option<String> {
    let path = error.get("loc")?.as_array()?.iter();
    let path: Vec<String> = path.map(|part| part.as_str().map_or(part.to_string(), str::to_owned)).collect();
    Some(path.join("."))
}

/// Several validation errors in one line, each with its location.
fn validation_errors(items: &[Value]) -> Option<String> {
    let one = |item: &Value| {
        let error = item.as_object()?;
        Some(format!("{}: {}", location(error)?, error.get("msg")?.as_str()?))
    };
    let errors: Vec<String> = items.iter().take(MAX_VALIDATION_ERRORS).map_while(one).collect();
    (errors.len() > 1).then(|| excerpt(errors.join("; ").as_bytes()))
}

/// A readable message: the title of an HTML page, or the beginning of a text.
fn message_text(text: &str) -> Option<String> {
    let trimmed = text.trim();
    let lower = trimmed.to_ascii_lowercase();
    let title = lower.find("<title>").map(|start| start + "<title>".len()).and_then(|start| {
        let end = start + lower[start..].find("</title>")?;
        Some(trimmed[start..end].trim())
    });
    let message = title.unwrap_or(trimmed);
    (!message.is_empty()).then(|| excerpt(message.as_bytes()))
}

/// The error in the body of a 200, if there is one: an `error` field that isn't empty, beside the choices or in one of
/// them, or an object of type `error`.
pub(crate) fn inside_success(body: &[u8]) -> Option<ErrorBody> {
    // The slow path is for bodies that aren't UTF-8.
    let text = std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    // Most bodies don't contain the word; only the others are parsed again.
    if !text.contains("rror\"") {
        return None;
    }
    let value: Value = json::parse(text.as_bytes()).ok()?;
    let object = match &value {
        Value::Array(items) => items.first()?, // Google wraps the object in a list
        value => value,
    };
    let field =
        |object: &Value| object.get("error").filter(|error| is_error(error)).map(ErrorBody::from_value);
    let in_choices = || object.get("choices")?.as_array()?.iter().find_map(field);
    let typed = || {
        let name = object.get("object")?.as_str()?;
        name.eq_ignore_ascii_case("error").then(|| ErrorBody::from_value(object))
    };
    field(object).or_else(in_choices).or_else(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> (Option<String>, Option<String>, Option<String>) {
        let error = ErrorBody::parse(body.as_bytes());
        (error.message, error.code, error.kind)
    }

    #[test]
    fn every_form_of_error_body() {
        let cases = [
            (r#"{"error":{"message":"no","type":"t","code":"c","param":null}}"#, ("no", "c", "t")),
            (r#"[{"error":{"code":429,"message":"no","status":"EXHAUSTED"}}]"#, ("no", "429", "EXHAUSTED")),
            (r#"{"error":"no"}"#, ("no", "", "")),
            (r#"{"message":"no"}"#, ("no", "", "")),
            (r#"{"detail":"no"}"#, ("no", "", "")),
            (r#"{"object":"error","message":"no","type":"t","code":1300}"#, ("no", "1300", "t")),
            (r#"{"detail":[{"loc":["body","store"],"msg":"no","type":"extra"}]}"#, ("no", "", "extra")),
            (r#"{"message":{"detail":[{"msg":"no"}]},"type":"t"}"#, ("no", "", "t")),
            (r#"{"error":{"message":"{\"error\":{\"message\":\"no\",\"code\":429}}"}}"#, ("no", "429", "")),
            (r#""no""#, ("no", "", "")),
            ("<html><head><TITLE> 502 Bad Gateway </TITLE></head>", ("502 Bad Gateway", "", "")),
            ("upstream connect error", ("upstream connect error", "", "")),
            ("", ("", "", "")),
            ("{}", ("", "", "")),
        ];
        for (body, (message, code, kind)) in cases {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            assert_eq!(parsed(body), (some(message), some(code), some(kind)), "{body}");
        }
    }

    #[test]
    fn a_validation_error_has_a_location() {
        let error = ErrorBody::parse(br#"{"detail":[{"loc":["body","messages",0],"msg":"no"}]}"#);
        assert_eq!(error.param.as_deref(), Some("body.messages.0"));
    }

    #[test]
    fn several_validation_errors_are_joined() {
        let error = ErrorBody::parse(
            br#"{"detail":[{"loc":["body","a"],"msg":"no"},{"loc":["body","b"],"msg":"missing"}]}"#,
        );
        assert_eq!(error.message.as_deref(), Some("body.a: no; body.b: missing"));
        assert_eq!(error.param.as_deref(), Some("body.a"));
    }

    #[test]
    fn the_message_of_the_provider_behind_a_gateway() {
        for raw in
            [r#""slow down""#, r#"{"error":{"message":"slow down"}}"#, r#""{\"message\":\"slow down\"}""#]
        {
            let body = format!(
                r#"{{"error":{{"code":429,"message":"Provider returned error","metadata":{{"raw":{raw}}}}}}}"#
            );
            let error = ErrorBody::parse(body.as_bytes());
            assert_eq!(error.message.as_deref(), Some("Provider returned error: slow down"), "{raw}");
        }
    }

    #[test]
    fn a_status_beside_a_code_that_is_not_a_number() {
        for field in ["status", "status_code", "raw_status_code"] {
            let body = format!(r#"{{"error":{{"code":"content_filter","message":"no","{field}":400}}}}"#);
            assert_eq!(ErrorBody::parse(body.as_bytes()).status(), Some(400), "{field}");
        }
        let both = ErrorBody::parse(br#"{"error":{"code":"429","message":"no","status":400}}"#);
        assert_eq!(both.status(), Some(429));
    }

    #[test]
    fn the_depth_is_limited() {
        let mut body = String::from("\"deep\"");
        for _ in 0..20 {
            body = serde_json::to_string(&serde_json::json!({ "message": body })).unwrap();
        }
        ErrorBody::parse(body.as_bytes());
        ErrorBody::parse("[".repeat(100_000).as_bytes());
    }

    #[test]
    fn an_empty_error_inside_a_success_is_none() {
        let status = |body: &str| inside_success(body.as_bytes()).map(|error| error.status());
        assert_eq!(status(r#"{"error":{"code":429,"message":"slow down"}}"#), Some(Some(429)));
        assert_eq!(status(r#"{"error":{"code":"503"}}"#), Some(Some(503)));
        assert_eq!(status(r#"{"error":{"code":"overloaded"}}"#), Some(None));
        assert_eq!(status(r#"{"error":{"code":7}}"#), Some(None));
        assert_eq!(status(r#"[{"error":{"code":500}}]"#), Some(Some(500)));
        assert_eq!(
            status(r#"{"choices":[{"error":{"code":502},"finish_reason":"error"}]}"#),
            Some(Some(502))
        );
        assert_eq!(status(r#"{"object":"Error","message":"no","code":400}"#), Some(Some(400)));
        assert_eq!(status(r#"{"error":{"code":429},"x":"\ud83e"}"#), Some(Some(429)));
        for body in [
            r#"{"error":null}"#,
            r#"{"error":{}}"#,
            r#"{"error":{"code":null,"message":null}}"#,
            r#"{"error":0}"#,
            r#"{"error":[null]}"#,
            r#"{"choices":[],"text":"the \"error\" is mine"}"#,
            "{}",
        ] {
            assert_eq!(status(body), None, "{body}");
        }
    }
}
