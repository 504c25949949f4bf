//! Decodes an event of a chat stream: a chunk, the end of the answer, or an error.

use crate::api::ChatChunk;
use crate::json::budget::Budget;
use crate::wire::completion::{DecodedChunk, decode_chunk};
use crate::wire::error_body::ErrorBody;
use crate::wire::sse::Event;
use crate::wire::success;

/// A decoded event of a chat stream.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would cost an allocation a chunk; too large with preserve-order only"
)]
pub(crate) enum StreamEvent {
    /// A chunk of the answer.
    Chunk(ChatChunk),
    /// The end of the answer, which is complete.
    Done,
    /// An error instead of the answer or the rest of it.
    Failure(ErrorBody),
    /// No data, null, or a comment that a gateway sent as data (`data: : keepalive`).
    Ignored,
}

/// Whether trimmed data has no content: it is empty, null or a comment.
pub(crate) fn is_ignored(data: &[u8]) -> bool {
    matches!(data, b"" | [b':', ..] | b"null")
}

impl StreamEvent {
    /// Decodes an event.
    ///
    /// # Errors
    /// The parser's error for data that is neither a chunk nor an error, and the data.
    pub(crate) fn decode(event: Event, budget: &Budget) -> Result<StreamEvent, (serde_json::Error, Vec<u8>)> {
        match event.data.trim_ascii() {
            b"[DONE]" => return Ok(StreamEvent::Done),
            data if is_ignored(data) => return Ok(StreamEvent::Ignored),
            _ => {}
        }
        if event.kind == "error" {
            return Ok(StreamEvent::Failure(ErrorBody::parse(&event.data)));
        }
        match decode_chunk(event.data, budget) {
            Ok(DecodedChunk { chunk, error: None }) => {
                Ok(match error_object(&chunk).or_else(|| failed_finish(&chunk)) {
                    Some(error) => StreamEvent::Failure(error),
                    None => StreamEvent::Chunk(chunk),
                })
            }
            Ok(DecodedChunk { error: Some(error), chunk }) => {
                Ok(StreamEvent::Failure(ErrorBody::from_field(&error, &chunk.extra)))
            }
            // Google wraps an error in a list.
            Err((error, data)) => match (success::error_in(&data), success::document(&data)) {
                (Some(body), _) => Ok(StreamEvent::Failure(body)),
                (None, Some(inner)) if inner.len() < data.len() => {
                    StreamEvent::decode(Event { kind: String::new(), data: inner.to_vec() }, budget)
                }
                _ => Err((error, data)),
            },
        }
    }
}

/// The error that the finish reason of a choice stands for.
fn failed_finish(chunk: &ChatChunk) -> Option<ErrorBody> {
    chunk.choices.iter().find_map(|choice| ErrorBody::of_finish_reason(choice.finish_reason.as_deref()?))
}

/// The error in a chunk without choices and without an `error` field: an object of type `error`, as vLLM sends it, or one of
/// the forms in [`success::error_among`].
fn error_object(chunk: &ChatChunk) -> Option<ErrorBody> {
    if !chunk.choices.is_empty() {
        return None;
    }
    let typed = || chunk.extra.get("object")?.as_str().filter(|kind| kind.eq_ignore_ascii_case("error"));
    if chunk.usage.is_none() && typed().is_some() {
        return Some(ErrorBody::from_object(&chunk.extra));
    }
    success::error_among(&chunk.extra, chunk.usage.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(data: &str) -> Result<StreamEvent, (serde_json::Error, Vec<u8>)> {
        let event = Event { kind: String::new(), data: data.as_bytes().to_vec() };
        StreamEvent::decode(event, &Budget::unlimited())
    }

    #[test]
    fn chunks() {
        for data in [
            r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#,
            r#" {"choices":[{"delta":{"content":"a"}}],"error":null} "#,
            r#"{"choices":[{"delta":{"content":"a"},"message":{"content":"all of it"},"error":null}],"error":{}}"#,
            r#"{"choices":[{"message":{"content":"a"}}],"error":""}"#,
            r#"{"choices":[{"text":"a"}]}"#,
            r#"{"choices":[{"delta":{"\u0063ontent":"\u0061"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","role":null,"tool_calls":null}}],"usage":null}"#,
        ] {
            let Ok(StreamEvent::Chunk(chunk)) = decode(data) else { panic!("{data}") };
            assert_eq!(chunk.text(), "a", "{data}");
        }
        for data in [
            r#"{"choices":[]}"#,
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[null]}"#,
            r#"{"type":"ping"}"#,
            r#"{"choices":[],"usage":{"total_tokens":1},"detail":"priority"}"#,
        ] {
            let Ok(StreamEvent::Chunk(chunk)) = decode(data) else { panic!("{data}") };
            assert_eq!(chunk.text(), "", "{data}");
        }
        for data in [
            r#"{"choices":[{"delta":{"content":"a"}}],"detail":"x","code":500,"msg":"x","success":false}"#,
            r#"{"choices":[null,{"delta":{"content":"a"}},null]}"#,
            r#"[null,{"choices":[{"delta":{"content":"a"}}]}]"#,
        ] {
            let Ok(StreamEvent::Chunk(chunk)) = decode(data) else { panic!("{data}") };
            assert_eq!(chunk.text(), "a", "{data}");
        }
    }

    #[test]
    fn the_end_and_ignored_events() {
        for data in ["[DONE]", " [DONE] "] {
            assert!(matches!(decode(data), Ok(StreamEvent::Done)), "{data}");
        }
        for data in ["", " ", ": keepalive", ":", "null", " null "] {
            assert!(matches!(decode(data), Ok(StreamEvent::Ignored)), "{data}");
        }
    }

    #[test]
    fn errors_in_every_form() {
        for (data, status) in [
            (r#"{"error":{"message":"no","code":429}}"#, Some(429)),
            (r#"{"error":{"message":"no","code":"503"},"choices":[{"delta":{"content":"a"}}]}"#, Some(503)),
            (r#"{"error":"no"}"#, None),
            (
                r#"{"choices":[{"delta":{},"finish_reason":"error","error":{"message":"no","code":502}}]}"#,
                Some(502),
            ),
            (r#"{"object":"error","message":"no","type":"BadRequestError","code":400}"#, Some(400)),
            (r#"[{"error":{"message":"no","code":429}}]"#, Some(429)),
            (
                r#"{"base_resp":{"status_code":1002,"status_msg":"no"},"choices":null,"usage":{"total_tokens":0}}"#,
                Some(429),
            ),
            (r#"{"code":503,"msg":"no"}"#, Some(503)),
            (r#"{"success":false,"message":"no"}"#, None),
            (r#"{"detail":"no"}"#, None),
        ] {
            let Ok(StreamEvent::Failure(error)) = decode(data) else { panic!("{data}") };
            assert_eq!((error.message.as_deref(), error.status()), (Some("no"), status), "{data}");
        }
        for data in [r#"{"message":"no"}"#, "\"no\"", "no"] {
            let event = Event { kind: "error".to_owned(), data: data.as_bytes().to_vec() };
            let Ok(StreamEvent::Failure(error)) = StreamEvent::decode(event, &Budget::unlimited()) else {
                panic!("{data}")
            };
            assert_eq!(error.message.as_deref(), Some("no"), "{data}");
        }
    }

    #[test]
    fn data_that_is_neither_a_chunk_nor_an_error_is_refused() {
        for data in [
            "hello",
            "<html>",
            r#"{"choices":[{"delta":{"content":"a"#,
            "[1]",
            "7",
            r#"{"choices":[7]}"#,
            "{}{}",
        ] {
            assert!(decode(data).is_err(), "{data}");
        }
    }

    #[test]
    fn a_lone_surrogate_and_an_invalid_byte_affect_one_character_only() {
        for data in [
            &br#"{"choices":[{"delta":{"content":"a\ud83eb"}}]}"#[..],
            b"{\"choices\":[{\"delta\":{\"content\":\"a\xFFb\"}}]}",
        ] {
            let event = Event { kind: String::new(), data: data.to_vec() };
            let Ok(StreamEvent::Chunk(chunk)) = StreamEvent::decode(event, &Budget::unlimited()) else {
                panic!()
            };
            assert_eq!(chunk.text(), "a\u{fffd}b");
        }
    }
}
