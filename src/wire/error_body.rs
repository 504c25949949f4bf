//! The body of a failed request, in whatever form it comes: the provider's words, its code, its type.

use serde_json::{Map, Value};

use crate::error::excerpt;

/// What a body says of an error. What it doesn't say is absent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ErrorBody {
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) param: Option<String>,
}

/// How deep a message may be buried in objects, lists and strings that hold JSON: a gateway wraps its upstream's error
/// in five of them, and there may be a gateway behind the gateway.
const DEEPEST: u32 = 12;

impl ErrorBody {
    /// Reads any body. JSON is searched for the usual fields, HTML for its title, other text is the message itself.
    pub(crate) fn read(body: &[u8]) -> ErrorBody {
        let mut error = ErrorBody::default();
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => error.take(&value, DEEPEST),
            Err(_) => error.message = text(&String::from_utf8_lossy(body)),
        }
        error
    }

    /// Reads the value of an `error` field.
    pub(crate) fn of(value: &Value) -> ErrorBody {
        let mut error = ErrorBody::default();
        error.take(value, DEEPEST);
        error
    }

    /// The code as an HTTP status, if it is one.
    pub(crate) fn status(&self) -> Option<u16> {
        let status: u16 = self.code.as_ref()?.parse().ok()?;
        (100..600).contains(&status).then_some(status)
    }

    fn take(&mut self, value: &Value, depth: u32) {
        match value {
            _ if depth == 0 => {}
            Value::Object(object) => self.take_object(object, depth),
            Value::Array(items) => {
                // Google's compatible API wraps the error object in an array; validation errors are arrays of findings.
                for item in items {
                    if self.message.is_none() {
                        self.take(item, depth - 1);
                    }
                }
            }
            Value::String(words) => match serde_json::from_str::<Value>(words) {
                Ok(inner @ (Value::Object(_) | Value::Array(_))) => {
                    self.take(&inner, depth - 1);
                    self.message = self.message.take().or_else(|| text(words));
                }
                _ => self.message = text(words),
            },
            _ => {}
        }
    }

    fn take_object(&mut self, object: &Map<String, Value>, depth: u32) {
        let word = |name: &str| match object.get(name)? {
            Value::String(word) if !word.is_empty() => Some(word.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        self.code = self.code.take().or_else(|| word("code"));
        let status = || object.get("status")?.as_str().map(str::to_owned); // Google's name for the type
        self.kind = self.kind.take().or_else(|| word("type")).or_else(status);
        self.param = self.param.take().or_else(|| word("param"));
        for name in ["error", "message", "detail", "msg", "errors", "error_description"] {
            if self.message.is_none() {
                if let Some(value) = object.get(name) {
                    self.take(value, depth - 1);
                }
            }
        }
        // A finding of a validation names the place it is about: `loc: ["body", "temperature"]`.
        if let (None, Some(Value::Array(place))) = (&self.param, object.get("loc")) {
            let words: Vec<String> =
                place.iter().map(|part| part.as_str().map_or(part.to_string(), str::to_owned)).collect();
            self.param = Some(words.join("."));
        }
    }
}

/// Words for a person: the title of a page, or the beginning of a text.
fn text(words: &str) -> Option<String> {
    let trimmed = words.trim();
    let lower = trimmed.to_ascii_lowercase();
    let title = lower.find("<title>").map(|start| start + "<title>".len()).and_then(|start| {
        let end = start + lower[start..].find("</title>")?;
        Some(trimmed[start..end].trim())
    });
    let words = title.unwrap_or(trimmed);
    (!words.is_empty()).then(|| excerpt(words.as_bytes()))
}

/// The error inside an answer that says 200, if it is one: an `error` field that holds something.
pub(crate) fn inside_success(text: &str) -> Option<ErrorBody> {
    // Most answers don't hold the word at all; only the others are worth a second parse.
    if !text.contains("\"error\"") {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let object = match &value {
        Value::Array(items) => items.first()?, // Google's form
        value => value,
    };
    let error = object.get("error")?;
    let says_nothing = match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(words) => words.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    (!says_nothing).then(|| ErrorBody::of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> (Option<String>, Option<String>, Option<String>) {
        let error = ErrorBody::read(body.as_bytes());
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
            let some = |word: &str| (!word.is_empty()).then(|| word.to_owned());
            assert_eq!(said(body), (some(message), some(code), some(kind)), "{body}");
        }
    }

    #[test]
    fn a_finding_names_its_place() {
        let error = ErrorBody::read(br#"{"detail":[{"loc":["body","messages",0],"msg":"no"}]}"#);
        assert_eq!(error.param.as_deref(), Some("body.messages.0"));
    }

    #[test]
    fn wrapping_without_end_ends() {
        let mut body = String::from("\"deep\"");
        for _ in 0..20 {
            body = serde_json::to_string(&serde_json::json!({ "message": body })).unwrap();
        }
        ErrorBody::read(body.as_bytes());
        ErrorBody::read("[".repeat(100_000).as_bytes());
    }

    #[test]
    fn an_error_inside_a_success_is_one_only_if_it_says_something() {
        let status = |body: &str| inside_success(body).map(|error| error.status());
        assert_eq!(status(r#"{"error":{"code":429,"message":"slow down"}}"#), Some(Some(429)));
        assert_eq!(status(r#"{"error":{"code":"503"}}"#), Some(Some(503)));
        assert_eq!(status(r#"{"error":{"code":"overloaded"}}"#), Some(None));
        assert_eq!(status(r#"{"error":{"code":7}}"#), Some(None));
        assert_eq!(status(r#"[{"error":{"code":500}}]"#), Some(Some(500)));
        for body in
            [r#"{"error":null}"#, r#"{"error":{}}"#, r#"{"choices":[],"text":"the \"error\" is mine"}"#, "{}"]
        {
            assert_eq!(status(body), None, "{body}");
        }
    }
}
