//! The test server's replies: what is sent, how fast, and how the connection ends.

use std::time::Duration;

use serde_json::{Value, json};

/// The model and the id in the replies.
const MODEL: &str = "gpt-4.1";
const ID: &str = "chatcmpl-1";

/// The reply to one request.
///
/// It is created by a function of this module, such as [`ok`] or [`status`], and modified by the methods.
#[derive(Clone, Debug)]
#[must_use = "a reply does nothing until it is given to a server"]
pub struct Reply {
    /// `None` if only the body is sent.
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    /// The number of bytes of the body to send; `None` for all.
    limit: Option<usize>,
    pub(super) latency: Duration,
    /// The wait before each byte that isn't sent at once.
    pub(super) pace: Duration,
    slow: Slow,
    pub(super) end: End,
    /// Whether the last byte of the request is left unread.
    pub(super) early: bool,
}

/// How the client finds the end of the body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    ContentLength,
    /// In chunks of this size.
    Chunked(usize),
    UntilClose,
}

/// The part of the reply that is sent slowly.
#[derive(Clone, Copy, Debug)]
enum Slow {
    Nothing,
    Everything,
    /// All but the head and this many bytes of the body.
    AfterBody(usize),
}

/// What happens to the connection after the reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    KeepOpen,
    Close,
    Stall,
}

/// A reply with this status and no body.
pub fn status(status: u16) -> Reply {
    Reply {
        status: Some(status),
        headers: Vec::new(),
        body: Vec::new(),
        framing: Framing::ContentLength,
        limit: None,
        latency: Duration::ZERO,
        pace: Duration::ZERO,
        slow: Slow::Nothing,
        end: End::KeepOpen,
        early: false,
    }
}

/// A chat completion with this text, without streaming.
pub fn ok(text: &str) -> Reply {
    completion(&json!({"role": "assistant", "content": text}), "stop")
}

/// A chat completion that calls one tool, with the call id `call_1`.
pub fn tool_call(name: &str, arguments: &Value) -> Reply {
    let function = json!({"name": name, "arguments": arguments.to_string()});
    let call = json!({"id": "call_1", "type": "function", "function": function});
    completion(&json!({"role": "assistant", "content": null, "tool_calls": [call]}), "tool_calls")
}

/// A chat completion as a stream of server-sent events: one for each piece of the text, then the finish reason, the usage
/// and `[DONE]`.
pub fn stream<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Reply {
    let event = |choices: Value, usage: Value| {
        let object = "chat.completion.chunk";
        let chunk = json!({"id": ID, "object": object, "model": MODEL, "choices": choices, "usage": usage});
        format!("data: {chunk}\n\n")
    };
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let pieces = pieces.into_iter();
    let mut body: String =
        pieces.map(|piece| event(choice(json!({"content": piece}), Value::Null), Value::Null)).collect();
    body += &event(choice(json!({}), "stop".into()), Value::Null);
    body += &event(json!([]), usage());
    body += "data: [DONE]\n\n";
    status(200).header("content-type", "text/event-stream").body(body)
}

/// A chat completion without streaming, cut off after this many bytes of its body: short for
/// `ok("…").`[`cut_after(bytes)`](Reply::cut_after). The body has more than 200 bytes.
pub fn cut_after(bytes: usize) -> Reply {
    ok("this answer is cut").cut_after(bytes)
}

/// Resets the connection without a response.
///
/// The server closes the connection before it has read the last byte of the request. Linux and Windows then reset it;
/// other systems may close it as [`hang_up`] does.
pub fn reset() -> Reply {
    raw([]).early()
}

/// Reads the request and closes the connection without a response.
pub fn hang_up() -> Reply {
    raw([]).then_close()
}

/// Reads the request and never responds. The connection stays open.
pub fn silence() -> Reply {
    raw([]).stall_after(0)
}

/// Sends exactly these bytes, which need not be HTTP. Neither a status line nor headers are sent.
pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
    Reply { status: None, body: bytes.into(), framing: Framing::UntilClose, ..status(200) }
}

/// The reply to a request that the server can't serve, with the reason as its message.
pub(super) fn refusal(code: u16, message: &str) -> Reply {
    status(code).json(&json!({"error": {"message": message, "type": "test_server"}}))
}

fn completion(message: &Value, finish: &str) -> Reply {
    let choice = json!({"index": 0, "message": message, "finish_reason": finish});
    let object = "chat.completion";
    status(200)
        .json(&json!({"id": ID, "object": object, "model": MODEL, "choices": [choice], "usage": usage()}))
}

fn usage() -> Value {
    json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12})
}

impl Reply {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Retry-After` with this many seconds.
    pub fn retry_after(self, seconds: u64) -> Reply {
        self.header("retry-after", &seconds.to_string())
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Reply {
        Reply { body: body.into(), ..self }
    }

    /// Sets the body to this JSON, with the `Content-Type` of JSON.
    pub fn json(self, body: &Value) -> Reply {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends the body in chunks of this many bytes, with `Transfer-Encoding: chunked` instead of `Content-Length`.
    pub fn chunked(self, size: usize) -> Reply {
        Reply { framing: Framing::Chunked(size.max(1)), ..self }
    }

    /// Sends neither `Content-Length` nor chunks: the body ends with the connection, so that the client can't tell whether
    /// it was truncated.
    pub fn until_close(self) -> Reply {
        Reply { framing: Framing::UntilClose, end: End::Close, ..self }
    }

    /// Closes the connection after this many bytes of the body. The head announces the complete body; a chunked body
    /// lacks its last chunk.
    pub fn cut_after(self, bytes: usize) -> Reply {
        Reply { limit: Some(bytes), end: End::Close, ..self }
    }

    /// Closes the connection after this many events of a [`stream`].
    pub fn cut_after_events(self, count: usize) -> Reply {
        let bytes = self.events_len(count);
        self.cut_after(bytes)
    }

    /// Stops sending after this many bytes of the body and keeps the connection open.
    pub fn stall_after(self, bytes: usize) -> Reply {
        Reply { limit: Some(bytes), end: End::Stall, ..self }
    }

    /// Stops sending after this many events of a [`stream`] and keeps the connection open.
    pub fn stall_after_events(self, count: usize) -> Reply {
        let bytes = self.events_len(count);
        self.stall_after(bytes)
    }

    /// Closes the connection after the complete reply.
    pub fn then_close(self) -> Reply {
        Reply { end: End::Close, ..self }
    }

    /// Replies before the whole request has been read and then closes the connection, like a server that rejects a request.
    pub fn early(self) -> Reply {
        Reply { early: true, ..self }
    }

    /// Waits this long, in real time, before the first byte.
    pub fn after(self, latency: Duration) -> Reply {
        Reply { latency, ..self }
    }

    /// Sends one byte at a time and waits this long, in real time, before each.
    pub fn trickle(self, pace: Duration) -> Reply {
        Reply { pace, slow: Slow::Everything, ..self }
    }

    /// Sends the head and this many bytes of the body at once, and the rest as [`trickle`](Reply::trickle) does.
    pub fn trickle_after(self, bytes: usize, pace: Duration) -> Reply {
        Reply { pace, slow: Slow::AfterBody(bytes), ..self }
    }

    /// The length of the body in bytes.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// All bytes of the complete reply, head and body, for a custom server.
    pub fn bytes(&self) -> Vec<u8> {
        self.encode(None)
    }

    /// The bytes to send, and how many of them to send at once.
    pub(super) fn sent(&self) -> (Vec<u8>, usize) {
        let bytes = self.encode(self.limit);
        let at_once = match self.slow {
            Slow::Nothing => bytes.len(),
            Slow::Everything => 0,
            Slow::AfterBody(count) => bytes.len().min(self.encode(Some(count)).len()),
        };
        (bytes, at_once)
    }

    /// The head and the body; with a limit only this many bytes of the body, without its last chunk.
    fn encode(&self, limit: Option<usize>) -> Vec<u8> {
        let mut bytes = self.head();
        let body = &self.body[..limit.unwrap_or(usize::MAX).min(self.body.len())];
        let Framing::Chunked(size) = self.framing else {
            bytes.extend_from_slice(body);
            return bytes;
        };
        for (index, sent) in body.chunks(size).enumerate() {
            let announced = size.min(self.body.len() - index * size);
            bytes.extend_from_slice(format!("{announced:x}\r\n").as_bytes());
            bytes.extend_from_slice(sent);
            if sent.len() == announced {
                bytes.extend_from_slice(b"\r\n");
            }
        }
        if limit.is_none() {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        bytes
    }

    fn head(&self) -> Vec<u8> {
        let Some(status) = self.status else { return Vec::new() };
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            Framing::ContentLength => head += &format!("content-length: {}\r\n", self.body.len()),
            Framing::Chunked(_) => head += "transfer-encoding: chunked\r\n",
            Framing::UntilClose => {}
        }
        (head + "\r\n").into_bytes()
    }

    /// The length of the first `count` events of the body.
    fn events_len(&self, count: usize) -> usize {
        let ends =
            self.body.windows(2).enumerate().filter(|(_, bytes)| bytes == b"\n\n").map(|(at, _)| at + 2);
        ends.take(count).last().unwrap_or(0)
    }
}
