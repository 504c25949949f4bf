//! The body of a failed request, in whatever form it comes: the provider's words, its code, its type.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::excerpt;
use crate::json;
use crate::json::lenient::says_something;

/// What a body says of an error. What it doesn't say is absent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ErrorBody {
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) param: Option<String>,
    /// The status that the body names beside its code, which may be a word.
    http: Option<u16>,
}

/// How deep a message may be buried in objects, lists and strings that hold JSON: a gateway wraps its upstream's error
/// in five of them, and there may be a gateway behind the gateway.
const DEEPEST: u32 = 12;

/// The most findings of a validation that are told: a wrong list of messages yields one for each of them.
const FINDINGS: usize = 5;

impl ErrorBody {
    /// Reads any body. JSON is searched for the usual fields, HTML for its title, other text is the message itself.
    pub(crate) fn read(body: &[u8]) -> ErrorBody {
        let mut error = ErrorBody::default();
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body); // a byte order mark
        match json::lenient::<Value>(body) {
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

    /// The HTTP status that the body names: its code, if that is one, or else a field of its own.
    pub(crate) fn status(&self) -> Option<u16> {
        self.code.as_deref().and_then(http_status).or(self.http)
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
                self.message = findings(items).or(self.message.take());
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
        let named =
            ["status", "status_code", "raw_status_code"].iter().find_map(|name| http_status(&word(name)?));
        self.http = self.http.or(named);
        for name in ["error", "message", "detail", "msg", "errors", "error_description"] {
            if self.message.is_none() {
                if let Some(value) = object.get(name) {
                    self.take(value, depth - 1);
                }
            }
        }
        // OpenRouter says that its provider failed, and here in which words.
        if let Some(raw) = object.get("metadata").and_then(|metadata| metadata.get("raw")) {
            let mut provider = ErrorBody::default();
            provider.take(raw, depth - 1);
            if let (Some(words), Some(more)) = (&mut self.message, provider.message) {
                *words = excerpt(format!("{words}: {more}").as_bytes());
            }
        }
        self.param = self.param.take().or_else(|| place(object));
    }
}

/// A status code, if it is one.
fn http_status(code: &str) -> Option<u16> {
    code.parse().ok().filter(|status| (100..600).contains(status))
}

/// The place that a finding of a validation is about: `loc: ["body", "temperature"]`.
fn place(finding: &Map<String, Value>) -> Option<String> {
    let words = finding.get("loc")?.as_array()?.iter();
    let words: Vec<String> =
        words.map(|part| part.as_str().map_or(part.to_string(), str::to_owned)).collect();
    Some(words.join("."))
}

/// Several findings of a validation in one line, each with its place.
fn findings(items: &[Value]) -> Option<String> {
    let one = |item: &Value| {
        let finding = item.as_object()?;
        Some(format!("{}: {}", place(finding)?, finding.get("msg")?.as_str()?))
    };
    let told: Vec<String> = items.iter().take(FINDINGS).map_while(one).collect();
    (told.len() > 1).then(|| excerpt(told.join("; ").as_bytes()))
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

/// The error inside an answer that says 200, if it is one: an `error` field that holds something, beside the choices or
/// in one of them, or an object that calls itself an error.
pub(crate) fn inside_success(body: &[u8]) -> Option<ErrorBody> {
    // The slow way is for what isn't UTF-8.
    let text = std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    // Most answers don't hold the word at all; only the others are worth a second parse.
    if !text.contains("rror\"") {
        return None;
    }
    let value: Value = json::lenient(text.as_bytes()).ok()?;
    let object = match &value {
        Value::Array(items) => items.first()?, // Google's form
        value => value,
    };
    let said = |object: &Value| object.get("error").filter(|error| says_something(error)).map(ErrorBody::of);
    let choices = || object.get("choices")?.as_array()?.iter().find_map(said);
    let calls_itself = || {
        let name = object.get("object")?.as_str()?;
        name.eq_ignore_ascii_case("error").then(|| ErrorBody::of(object))
    };
    said(object).or_else(choices).or_else(calls_itself)
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
    fn several_findings_are_told() {
        let error = ErrorBody::read(
            br#"{"detail":[{"loc":["body","a"],"msg":"no"},{"loc":["body","b"],"msg":"missing"}]}"#,
        );
        assert_eq!(error.message.as_deref(), Some("body.a: no; body.b: missing"));
        assert_eq!(error.param.as_deref(), Some("body.a"));
    }

    #[test]
    fn the_words_of_the_provider_behind_a_gateway() {
        for raw in
            [r#""slow down""#, r#"{"error":{"message":"slow down"}}"#, r#""{\"message\":\"slow down\"}""#]
        {
            let body = format!(
                r#"{{"error":{{"code":429,"message":"Provider returned error","metadata":{{"raw":{raw}}}}}}}"#
            );
            let error = ErrorBody::read(body.as_bytes());
            assert_eq!(error.message.as_deref(), Some("Provider returned error: slow down"), "{raw}");
        }
    }

    #[test]
    fn a_status_beside_a_code_that_is_a_word() {
        for field in ["status", "status_code", "raw_status_code"] {
            let body = format!(r#"{{"error":{{"code":"content_filter","message":"no","{field}":400}}}}"#);
            assert_eq!(ErrorBody::read(body.as_bytes()).status(), Some(400), "{field}");
        }
        let both = ErrorBody::read(br#"{"error":{"code":"429","message":"no","status":400}}"#);
        assert_eq!(both.status(), Some(429));
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
