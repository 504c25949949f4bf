//! A chat request as JSON: what is kept, and what is sent.

use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::api::message::Message;
use crate::api::request::ChatRequest;
use crate::api::tools::Tool;
use crate::json::lenient::{
    Fields, objects, read_from_object, take, take_bool, take_float, take_text, take_whole,
};

impl ChatRequest {
    /// Whether a stream is asked to end with the usage: unless the caller has an opinion.
    pub(crate) fn asks_for_usage(&self) -> bool {
        let options = self.extra.get("stream_options");
        options.is_none_or(|options| {
            options.as_object().is_some_and(|options| !options.contains_key("include_usage"))
        })
    }

    /// What to send for an answer in one piece.
    pub(crate) fn whole(&self) -> Sent<'_> {
        Sent { request: self, form: Form::Whole }
    }

    /// What to send for a stream. `usage` asks for the usage at its end, unless the caller has an opinion.
    pub(crate) fn streamed(&self, usage: bool) -> Sent<'_> {
        Sent { request: self, form: Form::Stream { usage: usage && self.asks_for_usage() } }
    }

    fn read(mut fields: Map<String, Value>) -> ChatRequest {
        let f = &mut fields;
        ChatRequest {
            model: take_text(f, "model").unwrap_or_default(),
            messages: take(f, "messages", objects)
                .unwrap_or_default()
                .into_iter()
                .map(Message::read)
                .collect(),
            temperature: take_float(f, "temperature"),
            top_p: take_float(f, "top_p"),
            presence_penalty: take_float(f, "presence_penalty"),
            frequency_penalty: take_float(f, "frequency_penalty"),
            max_tokens: take_whole(f, "max_tokens"),
            max_completion_tokens: take_whole(f, "max_completion_tokens"),
            n: take_whole(f, "n"),
            stop: take(f, "stop", words).unwrap_or_default(),
            seed: take(f, "seed", |value| value.as_i64().ok_or(value)),
            tools: take(f, "tools", objects).unwrap_or_default().into_iter().map(Tool::other).collect(),
            tool_choice: take(f, "tool_choice", |value| Ok(value.into())),
            parallel_tool_calls: take_bool(f, "parallel_tool_calls"),
            response_format: take(f, "response_format", |value| Ok(value.into())),
            reasoning_effort: take_text(f, "reasoning_effort"),
            logprobs: take_bool(f, "logprobs"),
            top_logprobs: take_whole(f, "top_logprobs"),
            user: take_text(f, "user"),
            extra: {
                fields.remove("stream"); // for whoever asks to say
                fields
            },
        }
    }

    fn write<S: Serializer>(&self, serializer: S, form: Form) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("model", &self.model)?;
        if !self.messages.is_empty() {
            fields.field("messages", &self.messages)?;
        }
        fields.some("temperature", &self.temperature)?;
        fields.some("top_p", &self.top_p)?;
        fields.some("presence_penalty", &self.presence_penalty)?;
        fields.some("frequency_penalty", &self.frequency_penalty)?;
        fields.some("max_tokens", &self.max_tokens)?;
        fields.some("max_completion_tokens", &self.max_completion_tokens)?;
        fields.some("n", &self.n)?;
        fields.list("stop", &self.stop)?;
        fields.some("seed", &self.seed)?;
        fields.list("tools", &self.tools)?;
        fields.some("tool_choice", &self.tool_choice)?;
        fields.some("parallel_tool_calls", &self.parallel_tool_calls)?;
        fields.some("response_format", &self.response_format)?;
        fields.some("reasoning_effort", &self.reasoning_effort)?;
        fields.some("logprobs", &self.logprobs)?;
        fields.some("top_logprobs", &self.top_logprobs)?;
        fields.some("user", &self.user)?;
        match form {
            Form::Data => {}
            // Services refuse the options where there is no stream.
            Form::Whole => fields.without("stream_options"),
            Form::Stream { usage } => {
                fields.field("stream", &true)?;
                if usage {
                    fields.without("stream_options");
                    fields.field("stream_options", &self.options_with_usage())?;
                }
            }
        }
        fields.end()
    }

    /// The caller's options for a stream, and the wish for usage.
    fn options_with_usage(&self) -> Value {
        let mut options = self.extra.get("stream_options").cloned().unwrap_or_else(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            options.insert("include_usage".to_owned(), true.into());
        }
        options
    }
}

read_from_object!(ChatRequest);

/// A word or a list of words.
fn words(value: Value) -> std::result::Result<Vec<String>, Value> {
    match value {
        Value::String(word) => Ok(vec![word]),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Ok(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        other => Err(other),
    }
}

impl Serialize for ChatRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.write(serializer, Form::Data)
    }
}

/// A request as it is sent.
pub(crate) struct Sent<'a> {
    request: &'a ChatRequest,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    /// All that was set, to be kept.
    Data,
    Whole,
    Stream {
        usage: bool,
    },
}

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.request.write(serializer, self.form)
    }
}
