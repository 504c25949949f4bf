//! Finds errors that are sent with a success status, and the JSON document in a body that contains more than that.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::json;
use crate::json::budget::Budget;
use crate::json::cursor::JsonCursor;
use crate::json::lenient::is_filled;
use crate::wire::error_body::ErrorBody;
use crate::wire::sse::Decoder;
use crate::wire::stream_event::is_ignored;

/// The error in the body of a success: an `error` field that isn't empty, at the top level or in a choice, or an object of
/// type `error`.
pub(crate) fn error_in(body: &[u8]) -> Option<ErrorBody> {
    // The slow path is for bodies that aren't UTF-8.
    let text = std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    // Most bodies don't contain the word; only the others are parsed again.
    if !text.contains("rror\"") {
        return None;
    }
    let value: Value = json::parse_bounded(text.as_bytes(), &Budget::of_answer(body)).ok()?;
    let object = match &value {
        Value::Array(items) => items.iter().find(|item| !item.is_null())?, // Google wraps the object in a list
        value => value,
    };
    let field = |object: &Value| Some(ErrorBody::from_field(error_field(object)?, object.as_object()?));
    let in_choice = |choice: &Value| error_field(choice).map(ErrorBody::from_value);
    let in_choices = || object.get("choices")?.as_array()?.iter().find_map(in_choice);
    let typed = || {
        let name = object.get("object")?.as_str()?;
        name.eq_ignore_ascii_case("error").then(|| ErrorBody::from_value(object))
    };
    field(object).or_else(in_choices).or_else(typed)
}

fn error_field(object: &Value) -> Option<&Value> {
    object.get("error").filter(|error| is_filled(error))
}

/// The error in the body of a success without a complete answer, also in the forms of [`error_among`], which don't mean an
/// error next to an answer.
pub(crate) fn error_instead_of_answer(body: &[u8]) -> Option<ErrorBody> {
    let budget = Budget::of_answer(body);
    let fields = || json::parse_bounded::<Map<String, Value>>(json::without_bom(body), &budget).ok();
    error_in(body).or_else(|| {
        let fields = fields()?;
        let failed_finish =
            |choice: &Value| ErrorBody::of_finish_reason(choice.get("finish_reason")?.as_str()?);
        let failed =
            fields.get("choices").and_then(|choices| choices.as_array()?.iter().find_map(failed_finish));
        failed.or_else(|| error_among(&fields, fields.get("usage").is_some_and(is_filled)))
    })
}

/// The error among the fields of a success without an answer:
///
/// - `base_resp` with a code other than 0 (MiniMax).
/// - A `code`, a `type` or a status that stands for 400 to 599 together with a message.
/// - A `type` of `error`, or an `error_code` other than 0 (Baidu), together with a message.
/// - `success: false` (Cloudflare and several gateways).
/// - `detail` (FastAPI's error handler), unless there is usage.
pub(crate) fn error_among(fields: &Map<String, Value>, has_usage: bool) -> Option<ErrorBody> {
    if let Some(error) = fields.get("base_resp").and_then(minimax_error) {
        return Some(error);
    }
    let is = |name: &str, test: fn(&Value) -> bool| fields.get(name).is_some_and(test);
    let unsuccessful = is("success", |success| *success == false || *success == "false");
    let has_detail = is("detail", is_filled) && !has_usage;
    let error = ErrorBody::from_object(fields);
    let is_named = error.status().is_some_and(|status| status >= 400)
        || is("type", |kind| kind == "error")
        || is("error_code", |code| is_filled(code) && *code != "0");
    (unsuccessful || has_detail || (is_named && error.message.is_some())).then_some(error)
}

/// MiniMax's error format, with the status that its code corresponds to.
fn minimax_error(base_resp: &Value) -> Option<ErrorBody> {
    let code = match base_resp.get("status_code")? {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let status = match code.as_str() {
        "" | "0" => return None,
        "1002" | "1039" | "1041" | "2045" => 429, // requests, tokens, connections, growth
        "1008" => 402,                            // balance
        "1004" | "2049" => 401,                   // key
        "1026" | "1027" | "2013" => 400,          // sensitive input, sensitive output, parameters
        _ => 500,
    };
    let message = base_resp.get("status_msg").and_then(Value::as_str).map(str::to_owned);
    Some(ErrorBody::with_status(code, status, message.filter(|message| !message.is_empty())))
}

/// The JSON object in a body, without end-of-stream events after it and without the list in which Google's compatible API
/// wraps it. `None` if there is anything else around it.
pub(crate) fn document(body: &[u8]) -> Option<&[u8]> {
    let mut cursor = JsonCursor::new(json::without_bom(body));
    let first = value_text(&mut cursor)?;
    let (_, rest) = body.split_at(body.len() - cursor.remaining());
    if !is_end_of_stream(rest) {
        return None;
    }
    match first.first()? {
        b'{' => Some(first),
        b'[' => {
            let mut items = JsonCursor::new(first);
            items.enter(b'[').ok()?;
            while items.next_item().ok()? {
                let item = value_text(&mut items)?;
                if item.starts_with(b"{") {
                    return Some(item);
                }
            }
            None
        }
        _ => None,
    }
}

/// The text of the next value.
fn value_text<'a>(cursor: &mut JsonCursor<'a>) -> Option<&'a [u8]> {
    let start = cursor.clone();
    cursor.value().ok()?;
    Some(cursor.text_since(&start).trim_ascii())
}

/// Whether there are no events but those that end a stream: `[DONE]`, and events without content.
fn is_end_of_stream(mut events: &[u8]) -> bool {
    let mut decoder = Decoder::new();
    loop {
        let event = match decoder.next(&mut events) {
            Ok(None) => decoder.finish(),
            event => event,
        };
        match event.map(|event| event.map(|event| is_end(&event.data))) {
            Ok(Some(true)) => {}
            Ok(None) => return decoder.stray_line().is_empty(),
            Ok(Some(false)) | Err(_) => return false,
        }
    }
}

fn is_end(data: &[u8]) -> bool {
    let data = data.trim_ascii();
    data == b"[DONE]" || is_ignored(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_error_is_none() {
        let status = |body: &str| error_in(body.as_bytes()).map(|error| error.status());
        assert_eq!(status(r#"{"error":{"code":429,"message":"slow down"}}"#), Some(Some(429)));
        assert_eq!(status(r#"{"error":{"code":"503"}}"#), Some(Some(503)));
        assert_eq!(status(r#"{"error":{"code":"overloaded"}}"#), Some(Some(503)));
        assert_eq!(status(r#"{"error":{"code":"tilted"}}"#), Some(None));
        assert_eq!(status(r#"{"error":true,"message":"boom","code":504}"#), Some(Some(504)));
        assert_eq!(status(r#"{"error":"slow down","code":429}"#), Some(Some(429)));
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

    #[test]
    fn errors_instead_of_an_answer_are_found_in_every_form() {
        for (body, status, message) in [
            (r#"{"base_resp":{"status_code":1002,"status_msg":"no"},"choices":null}"#, Some(429), "no"),
            (
                r#"{"base_resp":{"status_code":"1039","status_msg":"no"},"usage":{"total_tokens":1}}"#,
                Some(429),
                "no",
            ),
            (r#"{"base_resp":{"status_code":1008,"status_msg":"no"}}"#, Some(402), "no"),
            (r#"{"base_resp":{"status_code":1004,"status_msg":"no"}}"#, Some(401), "no"),
            (r#"{"base_resp":{"status_code":1027,"status_msg":"no"}}"#, Some(400), "no"),
            (r#"{"base_resp":{"status_code":-1,"status_msg":"no"}}"#, Some(500), "no"),
            (r#"{"base_resp":{"status_code":1000,"status_msg":""}}"#, Some(500), ""),
            (r#"{"code":400,"msg":"no"}"#, Some(400), "no"),
            (r#"{"code":"599","message":"no","data":null}"#, Some(599), "no"),
            (r#"{"statusCode":429,"message":"no"}"#, Some(429), "no"),
            (r#"{"success":false,"message":"no"}"#, None, "no"),
            (r#"{"success":"false","code":403,"message":"no"}"#, Some(403), "no"),
            (r#"{"success":false,"errors":[{"code":10000,"message":"no"}]}"#, None, "no"),
            (r#"{"type":"error","message":"no"}"#, None, "no"),
            (r#"{"type":"Rate_Limit_Error","message":"no"}"#, Some(429), "no"),
            (r#"{"error_code":336100,"error_msg":"no"}"#, None, "no"),
            (
                r#"{"choices":[{"message":{"content":"par"},"finish_reason":"abort"}]}"#,
                Some(500),
                "the service could not complete the answer: its finish reason is abort",
            ),
            (r#"{"detail":"no"}"#, None, "no"),
            (r#"{"detail":[{"loc":["body"],"msg":"no"}]}"#, None, "no"),
            (r#"{"error":{"message":"no","code":429},"detail":"other"}"#, Some(429), "no"),
            (r#"{"detail":"\ud83e"}"#, None, "\u{fffd}"),
        ] {
            let error = error_instead_of_answer(body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(
                (error.status(), error.message.as_deref().unwrap_or_default()),
                (status, message),
                "{body}"
            );
        }
        for body in [
            "{}",
            "",
            "[]",
            "null",
            r#"{"base_resp":{"status_code":0,"status_msg":"success"},"choices":null}"#,
            r#"{"base_resp":{"status_code":"0"}}"#,
            r#"{"base_resp":null,"success":null,"code":null,"detail":null}"#,
            r#"{"code":200,"msg":"ok"}"#,
            r#"{"code":0,"message":"ok"}"#,
            r#"{"code":500}"#,
            r#"{"code":500,"msg":""}"#,
            r#"{"success":true,"message":"ok"}"#,
            r#"{"detail":""}"#,
            r#"{"detail":"priority","usage":{"total_tokens":1}}"#,
            r#"{"message":"hello"}"#,
            r#"{"type":"message","message":"hello"}"#,
            r#"{"error_code":0,"error_msg":"ok"}"#,
            r#"{"choices":[{"finish_reason":"stop"}]}"#,
        ] {
            assert_eq!(error_instead_of_answer(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn the_document_in_a_body() {
        for (body, expected) in [
            ("{\"a\": [1]}", Some("{\"a\": [1]}")),
            ("\u{feff}\n {} \r\n", Some("{}")),
            ("{}data: [DONE]", Some("{}")),
            ("{}\n\ndata:[DONE]\r\n\r\n", Some("{}")),
            ("{}\n: ping\n\ndata: null\n\ndata: [DONE]\n\n", Some("{}")),
            ("[null, {\"a\": 1}, {}]", Some("{\"a\": 1}")),
            ("{}data: {}", None),
            ("{}{}", None),
            ("{} [DONE]", None),
            ("{\"a\": ", None),
            ("[null, 7]", None),
            ("[]", None),
            ("null", None),
            ("data: {}", None),
            ("", None),
        ] {
            let found = document(body.as_bytes()).map(|json| std::str::from_utf8(json).unwrap());
            assert_eq!(found, expected, "{body:?}");
        }
    }
}
