//! What an event of a chat's stream means: a piece of the answer, its end, an error, or nothing.

use crate::api::ChatChunk;
use crate::wire::error_body::{self, ErrorBody};
use crate::wire::sse::Event;

/// What an event of a chat's stream means.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would cost each chunk an allocation; over the bound with preserve-order only"
)]
pub(crate) enum StreamEvent {
    /// A piece of the answer.
    Chunk(ChatChunk),
    /// The end of the answer: nothing of it is missing.
    Done,
    /// An error in place of an answer or of the rest of it.
    Failure(ErrorBody),
    /// Nothing: no data, or a comment that a gateway made into data (`data: : keepalive`).
    Nothing,
}

impl StreamEvent {
    /// Reads an event.
    ///
    /// # Errors
    /// What the parser says of data that is neither a chunk nor an error, and the data.
    pub(crate) fn read(event: Event) -> Result<StreamEvent, (serde_json::Error, Vec<u8>)> {
        match event.data.trim_ascii() {
            b"[DONE]" => return Ok(StreamEvent::Done),
            b"" | [b':', ..] => return Ok(StreamEvent::Nothing),
            _ => {}
        }
        if event.kind == "error" {
            return Ok(StreamEvent::Failure(ErrorBody::read(&event.data)));
        }
        match ChatChunk::decode(event.data) {
            Ok((chunk, None)) => Ok(match chunk.flat_error() {
                Some(error) => StreamEvent::Failure(ErrorBody::of(&error)),
                None => StreamEvent::Chunk(chunk),
            }),
            Ok((_, Some(error))) => Ok(StreamEvent::Failure(ErrorBody::of(&error))),
            // Google wraps an error in a list.
            Err((error, data)) => match error_body::inside_success(&data) {
                Some(said) => Ok(StreamEvent::Failure(said)),
                None => Err((error, data)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<StreamEvent, (serde_json::Error, Vec<u8>)> {
        StreamEvent::read(Event { kind: String::new(), data: data.as_bytes().to_vec() })
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
            let Ok(StreamEvent::Chunk(chunk)) = read(data) else { panic!("{data}") };
            assert_eq!(chunk.text(), "a", "{data}");
        }
        for data in
            [r#"{"choices":[]}"#, "{}", r#"{"choices":null}"#, r#"{"choices":[{}]}"#, r#"{"type":"ping"}"#]
        {
            let Ok(StreamEvent::Chunk(chunk)) = read(data) else { panic!("{data}") };
            assert_eq!(chunk.text(), "", "{data}");
        }
    }

    #[test]
    fn the_end_and_nothing() {
        for data in ["[DONE]", " [DONE] "] {
            assert!(matches!(read(data), Ok(StreamEvent::Done)), "{data}");
        }
        for data in ["", " ", ": keepalive", ":"] {
            assert!(matches!(read(data), Ok(StreamEvent::Nothing)), "{data}");
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
        ] {
            let Ok(StreamEvent::Failure(error)) = read(data) else { panic!("{data}") };
            assert_eq!((error.message.as_deref(), error.status()), (Some("no"), status), "{data}");
        }
        for data in [r#"{"message":"no"}"#, "\"no\"", "no"] {
            let event = Event { kind: "error".to_owned(), data: data.as_bytes().to_vec() };
            let Ok(StreamEvent::Failure(error)) = StreamEvent::read(event) else { panic!("{data}") };
            assert_eq!(error.message.as_deref(), Some("no"), "{data}");
        }
    }

    #[test]
    fn what_is_neither_is_unreadable() {
        for data in [
            "hello",
            "<html>",
            r#"{"choices":[{"delta":{"content":"a"#,
            "[1]",
            "7",
            r#"{"choices":[7]}"#,
            "{}{}",
        ] {
            assert!(read(data).is_err(), "{data}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_and_a_byte_that_is_no_text_harm_a_character_only() {
        for data in [
            &br#"{"choices":[{"delta":{"content":"a\ud83eb"}}]}"#[..],
            b"{\"choices\":[{\"delta\":{\"content\":\"a\xFFb\"}}]}",
        ] {
            let event = Event { kind: String::new(), data: data.to_vec() };
            let Ok(StreamEvent::Chunk(chunk)) = StreamEvent::read(event) else { panic!() };
            assert_eq!(chunk.text(), "a\u{fffd}b");
        }
    }
}
