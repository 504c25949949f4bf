//! The bytes that the simulated service answers with: chats, streams, embeddings and errors, in the framings of HTTP.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    Chat,
    Stream { with_usage: bool },
    Embeddings { texts: usize },
    Models,
    Other,
}

/// How the end of a body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// A body, and how much of it holds the content.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) content: usize,
}

/// The text of an answer. It names the answer and the call, and its length depends on both.
pub(crate) fn answer_text(answer: usize, call: usize) -> String {
    format!("answer {answer} to call-{call};{}", " word".repeat((answer * 7 + call * 3) % 40))
}

/// The request's target, whether it asks for a stream, and the call that it names, if any.
pub(super) fn read_request(request: &[u8]) -> (Asked, Option<usize>) {
    let text = String::from_utf8_lossy(request);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let path = head.split(' ').nth(1).unwrap_or_default();
    let call = text.split("call-").nth(1).and_then(|rest| {
        let (digits, _) = rest.split_once(|end: char| !end.is_ascii_digit())?;
        digits.parse().ok()
    });
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let asked = match path {
        _ if path.ends_with("/chat/completions") && json["stream"] == true => {
            Asked::Stream { with_usage: json["stream_options"]["include_usage"] == true }
        }
        _ if path.ends_with("/chat/completions") => Asked::Chat,
        _ if path.ends_with("/embeddings") => {
            Asked::Embeddings { texts: json["input"].as_array().map_or(1, Vec::len) }
        }
        _ if path.ends_with("/models") => Asked::Models,
        _ => Asked::Other,
    };
    (asked, call)
}

/// The body of a whole answer that isn't streamed.
pub(super) fn document(asked: &Asked, answer: usize, call: usize) -> Body {
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7});
    let value = match asked {
        Asked::Chat | Asked::Stream { .. } => json!({
            "id": format!("chat-{answer}"), "model": "m", "usage": usage,
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": answer_text(answer, call)}}],
        }),
        Asked::Embeddings { texts } => {
            let item = |index| json!({"index": index, "embedding": [answer as f64, index as f64]});
            json!({"object": "list", "model": "m", "usage": usage, "data": (0..*texts).map(item).collect::<Vec<_>>()})
        }
        Asked::Models => {
            json!({"object": "list", "data": [{"id": answer_text(answer, call), "object": "model"}]})
        }
        Asked::Other => json!({"text": answer_text(answer, call)}),
    };
    let bytes = value.to_string().into_bytes();
    Body { content: bytes.len(), bytes }
}

/// The parts of an event stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamParts {
    pub(super) role: bool,
    pub(super) pings: bool,
    pub(super) finish_reason: bool,
    pub(super) usage: bool,
    pub(super) done: bool,
    /// An error instead of the rest, after this many words. `done` says whether the end marker follows it.
    pub(super) error_after: Option<usize>,
}

/// The body of a streamed answer.
pub(super) fn events(parts: StreamParts, answer: usize, call: usize) -> Body {
    let (mut body, mut content) = (String::new(), 0);
    let event = |body: &mut String, choice: Value| {
        let _ = write!(body, "data: {}\n\n", json!({"id": format!("chat-{answer}"), "choices": [choice]}));
        body.len()
    };
    if parts.role {
        event(&mut body, json!({"index": 0, "delta": {"role": "assistant", "content": ""}}));
    }
    let text = answer_text(answer, call);
    for (index, word) in text.split_inclusive(' ').enumerate() {
        if parts.error_after == Some(index) {
            // Some services send the error outside of the events' data.
            let field = if parts.pings { "error" } else { "data" };
            let error = r#"{"error": {"message": "the engine crashed", "code": 500}}"#;
            let end = if parts.done { "data: [DONE]\n\n" } else { "" };
            let _ = write!(body, "{field}: {error}\n\n{end}");
            return Body { content: usize::MAX, bytes: body.into_bytes() };
        }
        if parts.pings && index % 3 == 1 {
            body += ": ping\n\n";
        }
        content = event(&mut body, json!({"index": 0, "delta": {"content": word}}));
    }
    if parts.finish_reason {
        content = event(&mut body, json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
    }
    if parts.usage {
        body += "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 4, \"total_tokens\": 7}}\n\n";
    }
    if parts.done {
        body += "data: [DONE]\n\n";
        content = if parts.finish_reason { content } else { body.len() };
    }
    // Without either, the stream is truncated, however much text there was.
    let is_whole = parts.finish_reason || parts.done;
    Body { content: if is_whole { content } else { usize::MAX }, bytes: body.into_bytes() }
}

/// A whole response: its bytes, the length of its head, and the number of bytes in which its content is complete.
pub(super) fn framed(
    head: &str,
    body: &Body,
    framing: Framing,
    stated_length: usize,
) -> (Vec<u8>, usize, usize) {
    let marker = match framing {
        Framing::Length => format!("content-length: {stated_length}\r\n"),
        Framing::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
        Framing::UntilClose => "connection: close\r\n".to_owned(),
    };
    let mut bytes = format!("{head}{marker}\r\n").into_bytes();
    let head_length = bytes.len();
    let mut content = usize::MAX;
    if framing == Framing::Chunked {
        let mut written = 0;
        for chunk in body.bytes.chunks(700) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            if (written..=written + chunk.len()).contains(&body.content) {
                content = content.min(bytes.len() + body.content - written);
            }
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            written += chunk.len();
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        content = head_length.saturating_add(body.content);
        bytes.extend_from_slice(&body.bytes);
    }
    (bytes, head_length, content)
}
