//! Parses error bodies: message, code and type, in the formats that services use.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::excerpt;
use crate::json;
use crate::json::budget::Budget;

/// The fields of an error.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ErrorBody {
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) param: Option<String>,
    /// The wait that the body asks for before the next request.
    pub(crate) retry_delay: Option<Duration>,
    /// An HTTP status in the body besides the code, which may not be a number.
    http_status: Option<u16>,
}

/// The finish reasons of an answer that the service could not complete, and the statuses that they correspond to: those of
/// OpenRouter and Mistral, of vLLM and SGLang, of Z.ai, and of DeepSeek.
const FAILED_FINISH: [(&str, u16); 4] =
    [("error", 500), ("abort", 500), ("network_error", 500), ("insufficient_system_resource", 503)];

/// The codes and types, in lower case, that correspond to a status: those of OpenAI, Anthropic and Google, and of services
/// that copy them.
const NAMED_STATUSES: [(u16, &[&str]); 8] = [
    (
        400,
        &[
            "invalid_request_error",
            "context_length_exceeded",
            "content_filter",
            "content_policy_violation",
            "invalid_argument",
            "bad_request",
            "badrequesterror",
        ],
    ),
    (401, &["invalid_api_key", "authentication_error", "unauthenticated", "unauthorized"]),
    (403, &["permission_error", "permission_denied", "forbidden"]),
    (404, &["model_not_found", "not_found_error", "not_found"]),
    (
        429,
        &[
            "insufficient_quota",
            "billing_hard_limit_reached",
            "rate_limit_exceeded",
            "rate_limit_error",
            "resource_exhausted",
            "too_many_requests",
        ],
    ),
    (503, &["overloaded_error", "overloaded", "service_unavailable", "unavailable"]),
    (504, &["timeout_error", "deadline_exceeded"]),
    (500, &["server_error", "api_error", "internal_server_error", "internal_error", "internal"]),
];

/// The maximum number of details that are searched for Google's retry delay. Google sends three or four.
const MAX_DETAILS: usize = 32;

/// How deep a message may be nested in objects, lists and strings of JSON. A gateway nests the error of its upstream five
/// levels deep, and the upstream may be another gateway.
const MAX_DEPTH: u32 = 12;

/// The maximum length of a string that is parsed as JSON, in bytes. It bounds the memory of all levels, and no known error is
/// longer.
const MAX_NESTED: usize = 64 * 1024;

/// The maximum number of validation errors in a message: an invalid list yields one for each of its items.
const MAX_VALIDATION_ERRORS: usize = 5;

impl ErrorBody {
    /// Reads a body in any format. JSON is searched for the usual fields, and HTML for its title. Other text is the message.
    pub(crate) fn parse(body: &[u8]) -> ErrorBody {
        let mut error = ErrorBody::default();
        let body = json::without_bom(body);
        match json::parse_bounded::<Value>(body, &Budget::of_answer(body)) {
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

    /// Reads the fields of an error.
    pub(crate) fn from_object(object: &Map<String, Value>) -> ErrorBody {
        let mut error = ErrorBody::default();
        error.add_object(object, MAX_DEPTH);
        error
    }

    /// An error with a vendor's code, and the status that it corresponds to.
    pub(crate) fn with_status(code: String, status: u16, message: Option<String>) -> ErrorBody {
        ErrorBody { code: Some(code), message, http_status: Some(status), ..ErrorBody::default() }
    }

    /// The error that a finish reason stands for, if it does.
    pub(crate) fn of_finish_reason(reason: &str) -> Option<ErrorBody> {
        let (name, status) = FAILED_FINISH.iter().find(|(name, _)| reason.eq_ignore_ascii_case(name))?;
        let message = format!("the service could not complete the answer: its finish reason is {name}");
        Some(ErrorBody::with_status((*name).to_owned(), *status, Some(message)))
    }

    /// Reads the value of an `error` field, and what it lacks from the fields beside it.
    pub(crate) fn from_field(value: &Value, siblings: &Map<String, Value>) -> ErrorBody {
        let mut error = ErrorBody::from_value(value);
        error.add_object(siblings, MAX_DEPTH);
        error
    }

    /// The HTTP status in the body: the code, if that is one, or another field, or else what the code or the type means.
    pub(crate) fn status(&self) -> Option<u16> {
        let number = self.code.as_deref().and_then(parse_status).or(self.http_status);
        number.or_else(|| named_status(self.code.as_deref()?)).or_else(|| named_status(self.kind.as_deref()?))
    }

    /// Fills in the fields that are still missing.
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
            Value::String(text) if text.len() > MAX_NESTED => self.message = message_text(text),
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
        self.code = self.code.take().or_else(|| text("code")).or_else(|| text("error_code"));
        let status = || object.get("status")?.as_str().map(str::to_owned); // Google's name for the type
        self.kind = self.kind.take().or_else(|| text("type")).or_else(status);
        self.param = self.param.take().or_else(|| text("param"));
        let http_status = ["status", "status_code", "statusCode", "raw_status_code"]
            .iter()
            .find_map(|name| parse_status(&text(name)?));
        self.http_status = self.http_status.or(http_status);
        self.retry_delay = self.retry_delay.or_else(|| retry_delay(object));
        for name in ["error", "message", "detail", "msg", "errors", "error_description", "error_msg"] {
            if self.message.is_none() {
                if let Some(value) = object.get(name) {
                    self.add(value, depth - 1);
                }
            }
        }
        // OpenRouter sends the provider's error here.
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

/// The status that a code or a type in words corresponds to.
fn named_status(word: &str) -> Option<u16> {
    let matching =
        NAMED_STATUSES.iter().find(|(_, words)| words.iter().any(|known| known.eq_ignore_ascii_case(word)));
    matching.map(|(status, _)| *status)
}

/// A code as an HTTP status, if it is one.
fn parse_status(code: &str) -> Option<u16> {
    code.parse().ok().filter(|status| (100..600).contains(status))
}

/// The wait in a `google.rpc.RetryInfo` among the details of an error.
fn retry_delay(error: &Map<String, Value>) -> Option<Duration> {
    let details = error.get("details")?.as_array()?.iter().take(MAX_DETAILS);
    details.filter_map(Value::as_object).find_map(|detail| {
        let kind = detail.get("@type")?.as_str()?;
        let delay = || parse_duration(detail.get("retryDelay")?.as_str()?);
        kind.ends_with("google.rpc.RetryInfo").then(delay)?
    })
}

/// A duration in the JSON format of Protocol Buffers: seconds with up to nine fractional digits, and an `s`. The format
/// allows at most 10,000 years, so more than twelve digits of seconds are rejected.
fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.strip_suffix('s')?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str, most: usize| {
        (1..=most).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    if !is_number(seconds, 12) || !is_number(fraction, 9) {
        return None;
    }
    Some(Duration::new(seconds.parse().ok()?, format!("{fraction:0<9}").parse().ok()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> (Option<String>, Option<String>, Option<String>) {
        let error = ErrorBody::parse(body.as_bytes());
        (error.message, error.code, error.kind)
    }

    #[test]
    fn every_format_of_error_body_is_read() {
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
    fn the_message_of_a_provider_behind_a_gateway_is_appended() {
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
    fn the_status_is_read_if_the_code_is_not_a_number() {
        for field in ["status", "status_code", "statusCode", "raw_status_code"] {
            let body = format!(r#"{{"error":{{"code":"content_filter","message":"no","{field}":400}}}}"#);
            assert_eq!(ErrorBody::parse(body.as_bytes()).status(), Some(400), "{field}");
        }
        let both = ErrorBody::parse(br#"{"error":{"code":"429","message":"no","status":400}}"#);
        assert_eq!(both.status(), Some(429));
        let status = |code: &str, kind: &str| {
            ErrorBody::parse(format!(r#"{{"error":{{"code":"{code}","type":"{kind}"}}}}"#).as_bytes())
                .status()
        };
        assert_eq!(status("model_not_found", "invalid_request_error"), Some(404), "the code says more");
        assert_eq!(status("new_code", "invalid_request_error"), Some(400));
        assert_eq!(status("insufficient_quota", "insufficient_quota"), Some(429));
        assert_eq!(status("", "RESOURCE_EXHAUSTED"), Some(429));
        assert_eq!(status("new_code", "new_type"), None);
    }

    #[test]
    fn googles_retry_delay_is_read() {
        let with = |details: &str| {
            let body = format!(r#"{{"error":{{"code":429,"message":"no","details":{details}}}}}"#);
            ErrorBody::parse(body.as_bytes()).retry_delay
        };
        let info = |delay: &str| {
            with(&format!(
                r#"[{{"@type":"x"}},null,{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{delay}}}]"#
            ))
        };
        for (delay, expected) in [
            (r#""39s""#, Some(Duration::from_secs(39))),
            (r#""0s""#, Some(Duration::ZERO)),
            (r#""1.5s""#, Some(Duration::from_millis(1500))),
            (r#""0.000000001s""#, Some(Duration::from_nanos(1))),
            (r#""999999999999s""#, Some(Duration::from_secs(999_999_999_999))),
            (r#""1000000000000s""#, None),
            (r#""0.0000000001s""#, None),
            (r#""39""#, None),
            (r#""-5s""#, None),
            (r#""+5s""#, None),
            (r#"".5s""#, None),
            (r#""5.s""#, None),
            (r#""1e3s""#, None),
            (r#""s""#, None),
            ("39", None),
            ("null", None),
        ] {
            assert_eq!(info(delay), expected, "{delay}");
        }
        assert_eq!(with(r#"[{"@type":"google.rpc.Other","retryDelay":"39s"}]"#), None);
        assert_eq!(with(r#"{"@type":"google.rpc.RetryInfo","retryDelay":"39s"}"#), None);
        let nested = r#"{"error":{"message":"{\"error\":{\"details\":[{\"@type\":\"google.rpc.RetryInfo\",\"retryDelay\":\"7s\"}]}}"}}"#;
        assert_eq!(ErrorBody::parse(nested.as_bytes()).retry_delay, Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_depth_is_limited() {
        let objects =
            |levels| (0..levels).fold(Value::from("deep"), |inner, _| serde_json::json!({ "error": inner }));
        let message = |value: &Value| ErrorBody::from_value(value).message;
        assert_eq!(message(&objects(11)).as_deref(), Some("deep"));
        assert_eq!(message(&objects(12)), None);
        let lists = |levels| (0..levels).fold(Value::from("deep"), |inner, _| Value::Array(vec![inner]));
        assert_eq!(message(&lists(11)).as_deref(), Some("deep"));
        assert_eq!(message(&lists(12)), None);

        // A string that contains JSON is a level too. Where the search ends, the JSON itself is the message.
        let texts = |levels| {
            (0..levels)
                .fold("deep".to_owned(), |inner, _| serde_json::json!({ "message": inner }).to_string())
        };
        assert_eq!(parsed(&texts(6)).0.as_deref(), Some("deep"));
        assert_eq!(parsed(&texts(7)).0.as_deref(), Some(r#"{"message":"deep"}"#));
        assert!(parsed(&"[".repeat(100_000)).0.is_some_and(|text| text.starts_with("[[[")));
    }

    #[test]
    fn a_long_string_is_not_parsed_as_json() {
        let with_spaces = |length: usize| {
            let inner = r#"{"message":"no"}"#;
            let inner = inner.to_owned() + &" ".repeat(length - inner.len());
            parsed(&serde_json::json!({ "error": inner }).to_string()).0
        };
        assert_eq!(with_spaces(64 * 1024).as_deref(), Some("no"));
        assert_eq!(with_spaces(64 * 1024 + 1).as_deref(), Some(r#"{"message":"no"}"#));
    }
}
