//! The JSON of a chat request: in full, and as the body of a call with or without streaming.

use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::api::message::Message;
use crate::api::request::ChatRequest;
use crate::api::response_format::ResponseFormat;
use crate::api::tools::{Tool, ToolChoice};
use crate::json::lenient::{Lenient, any, count, exact, float, list, text};
use crate::json::object::{KnownFields, ObjectWriter, json_object};

json_object!(ChatRequest {
    always model: "model" => text,
    optional messages: "messages" => list::<Message>,
    optional temperature: "temperature" => float,
    optional top_p: "top_p" => float,
    optional presence_penalty: "presence_penalty" => float,
    optional frequency_penalty: "frequency_penalty" => float,
    optional max_tokens: "max_tokens" => count,
    optional max_completion_tokens: "max_completion_tokens" => count,
    optional n: "n" => count,
    optional stop: "stop" => stop,
    optional seed: "seed" => exact::<i64>,
    optional tools: "tools" => list::<Tool>,
    optional tool_choice: "tool_choice" => any::<ToolChoice>,
    optional parallel_tool_calls: "parallel_tool_calls" => exact::<bool>,
    optional response_format: "response_format" => any::<ResponseFormat>,
    optional reasoning_effort: "reasoning_effort" => text,
    optional logprobs: "logprobs" => exact::<bool>,
    optional top_logprobs: "top_logprobs" => count,
    optional user: "user" => text,
} finish without_stream);

/// Removes `stream` from a saved request: the method that sends the request decides it.
fn without_stream(mut request: ChatRequest) -> ChatRequest {
    request.extra.remove("stream");
    request
}

/// Reads a string or a list of strings.
fn stop(value: Value) -> Lenient<Vec<String>> {
    match value {
        Value::String(text) => Ok(Some(vec![text])),
        other => exact(other),
    }
}

impl ChatRequest {
    /// The JSON names of the fields that have a setter. All others are set with [`extra`](ChatRequest::extra).
    pub const FIELDS: &'static [&'static str] = <ChatRequest as KnownFields>::NAMES;

    /// Whether a stream may request usage: the caller's `stream_options` don't decide it.
    pub(crate) fn asks_for_usage(&self) -> bool {
        let options = self.extra.get("stream_options");
        options.is_none_or(|options| {
            options.as_object().is_some_and(|options| !options.contains_key("include_usage"))
        })
    }

    /// The body of a call without streaming.
    pub(crate) fn body(&self) -> RequestBody<'_> {
        RequestBody { request: self, stream: false, usage: false }
    }

    /// The body of a streaming call. `usage` requests usage at the end of the stream, unless the caller's options decide it.
    pub(crate) fn stream_body(&self, usage: bool) -> RequestBody<'_> {
        RequestBody { request: self, stream: true, usage: usage && self.asks_for_usage() }
    }

    /// The caller's `stream_options` with `include_usage`.
    fn options_with_usage(&self) -> Value {
        let mut options = self.extra.get("stream_options").cloned().unwrap_or_else(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            options.insert("include_usage".to_owned(), true.into());
        }
        options
    }
}

/// The body of a call.
pub(crate) struct RequestBody<'a> {
    request: &'a ChatRequest,
    stream: bool,
    usage: bool,
}

impl Serialize for RequestBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = ObjectWriter::new(serializer, &self.request.extra)?;
        self.request.write_fields(&mut object)?;
        // Services reject stream options without `stream`.
        if !self.stream || self.usage {
            object.omit_extra("stream_options");
        }
        if self.stream {
            object.always("stream", &true)?;
        }
        if self.usage {
            object.always("stream_options", &self.request.options_with_usage())?;
        }
        object.end()
    }
}
