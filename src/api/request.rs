//! A chat request as data.

mod json;

use std::fmt;

use serde_json::{Map, Value};

use crate::api::message::Message;
use crate::api::response_format::ResponseFormat;
use crate::api::tools::{Tool, ToolChoice};
use crate::error::{Error, Result};

/// A request for a chat completion, built as a chain.
///
/// ```
/// use holysheep::ChatRequest;
///
/// let request = ChatRequest::new("gpt-4.1").system("Answer in one word.").user("Capital of France?").temperature(0.7);
/// ```
///
/// Whether the answer is streamed is no part of it: that is the difference between
/// [`chat`](crate::Client::chat) and `chat_stream`.
#[derive(Clone, Default, PartialEq)]
pub struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    stop: Vec<String>,
    seed: Option<i64>,
    tools: Vec<Tool>,
    tool_choice: Option<ToolChoice>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<ResponseFormat>,
    reasoning_effort: Option<String>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    user: Option<String>,
    extra: Map<String, Value>,
}

impl ChatRequest {
    /// A request to this model, without messages yet.
    pub fn new(model: impl Into<String>) -> ChatRequest {
        ChatRequest { model: model.into(), ..ChatRequest::default() }
    }

    /// Adds an instruction that comes before the conversation.
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::system(text))
    }

    /// Adds what the user says.
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::user(text))
    }

    /// Adds what the assistant said before.
    pub fn assistant(self, text: impl Into<String>) -> Self {
        self.message(Message::assistant(text))
    }

    /// Adds a message.
    pub fn message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// Adds messages.
    pub fn messages(mut self, messages: impl IntoIterator<Item = Message>) -> Self {
        self.messages.extend(messages);
        self
    }

    /// How freely the next token is chosen: from 0, mostly up to 2.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// The share of probability that tokens are chosen from: 0 to 1.
    pub fn top_p(mut self, share: f64) -> Self {
        self.top_p = Some(share);
        self
    }

    /// How much less likely a token becomes once it was said: -2 to 2.
    pub fn presence_penalty(mut self, penalty: f64) -> Self {
        self.presence_penalty = Some(penalty);
        self
    }

    /// How much less likely a token becomes each time it was said: -2 to 2.
    pub fn frequency_penalty(mut self, penalty: f64) -> Self {
        self.frequency_penalty = Some(penalty);
        self
    }

    /// The most tokens that the answer may have.
    pub fn max_tokens(mut self, tokens: u64) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// The most tokens that thoughts and answer may have together, which OpenAI's thinking models want instead of
    /// [`max_tokens`](ChatRequest::max_tokens).
    pub fn max_completion_tokens(mut self, tokens: u64) -> Self {
        self.max_completion_tokens = Some(tokens);
        self
    }

    /// How many answers to give.
    pub fn n(mut self, answers: u64) -> Self {
        self.n = Some(answers);
        self
    }

    /// Words that end the answer.
    pub fn stop(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop = words.into_iter().map(Into::into).collect();
        self
    }

    /// Asks for the same answer each time, as far as the service can.
    pub fn seed(mut self, seed: i64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The tools that the model may call.
    pub fn tools(mut self, tools: impl IntoIterator<Item = Tool>) -> Self {
        self.tools = tools.into_iter().collect();
        self
    }

    /// Whether the model has to call a tool, and which.
    pub fn tool_choice(mut self, choice: impl Into<ToolChoice>) -> Self {
        self.tool_choice = Some(choice.into());
        self
    }

    /// Whether the model may call several tools at once.
    pub fn parallel_tool_calls(mut self, parallel: bool) -> Self {
        self.parallel_tool_calls = Some(parallel);
        self
    }

    /// The form that the answer is to have.
    pub fn response_format(mut self, format: impl Into<ResponseFormat>) -> Self {
        self.response_format = Some(format.into());
        self
    }

    /// Asks for JSON that this schema describes, strictly; [`ChatResponse::json`](crate::api::ChatResponse::json) reads it. HandlerRegistry
    /// answer in the order of the schema's keys, which only the feature `preserve-order` keeps; otherwise they are sorted.
    pub fn json_schema(self, name: impl Into<String>, schema: impl Into<Value>) -> Self {
        self.response_format(ResponseFormat::json_schema(name, schema))
    }

    /// How long the model thinks: `low`, `medium`, `high` or what else the service knows.
    pub fn reasoning_effort(mut self, effort: impl Into<String>) -> Self {
        self.reasoning_effort = Some(effort.into());
        self
    }

    /// Asks how likely the tokens of the answer were.
    pub fn logprobs(mut self, wanted: bool) -> Self {
        self.logprobs = Some(wanted);
        self
    }

    /// Asks for the likeliest tokens in each place, this many.
    pub fn top_logprobs(mut self, tokens: u64) -> Self {
        self.top_logprobs = Some(tokens);
        self
    }

    /// Names the person the request is made for, so that the service can tell them apart where one misbehaves.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user = Some(id.into());
        self
    }

    /// Sets a field that has no method here. It wins over one that has.
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// How many answers are asked for.
    pub(crate) fn answers(&self) -> u64 {
        self.n.unwrap_or(1)
    }

    /// The model asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Says what would make every service refuse the request.
    pub(crate) fn check(&self) -> Result<()> {
        if self.model.trim().is_empty() {
            return Err(Error::config("model", "is empty; name a model, such as gpt-4.1"));
        }
        if self.messages.is_empty() && !self.extra.contains_key("messages") {
            return Err(Error::config("messages", "there are none; add one with user(…)"));
        }
        for (name, number) in [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if number.is_some_and(|number| !number.is_finite()) {
                return Err(Error::config(name, "is not a finite number, and JSON has no other ones"));
            }
        }
        if self.extra.contains_key("stream") {
            return Err(Error::config(
                "stream",
                "is no field to set; call chat(…) or chat_stream(…) instead",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for ChatRequest {
    /// Shows what may be logged: no message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequest")
            .field("model", &self.model)
            .field("messages", &self.messages.len())
            .field("tools", &self.tools.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    fn full() -> ChatRequest {
        ChatRequest::new("m")
            .system("a")
            .user("b")
            .assistant("c")
            .temperature(0.7)
            .top_p(0.9)
            .presence_penalty(0.1)
            .frequency_penalty(-0.1)
            .max_tokens(5)
            .max_completion_tokens(6)
            .n(2)
            .stop(["x", "y"])
            .seed(-7)
            .tools([Tool::function("f", "does", json!({"type": "object"}))])
            .tool_choice("auto")
            .parallel_tool_calls(false)
            .json_schema("s", json!({"type": "object"}))
            .reasoning_effort("low")
            .logprobs(true)
            .top_logprobs(3)
            .user_id("u")
            .extra("store", false)
    }

    #[test]
    fn every_field_is_sent_under_its_name_and_survives() {
        let expected = json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}
            ],
            "temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": -0.1,
            "max_tokens": 5, "max_completion_tokens": 6, "n": 2, "stop": ["x", "y"], "seed": -7,
            "tools": [{"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}}],
            "tool_choice": "auto", "parallel_tool_calls": false,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": true}},
            "reasoning_effort": "low", "logprobs": true, "top_logprobs": 3, "user": "u", "store": false
        });
        assert_eq!(to_value(full()).unwrap(), expected);
        assert_eq!(from_value::<ChatRequest>(expected).unwrap(), full());
        let least = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
        assert_eq!(to_value(ChatRequest::new("m").user("a")).unwrap(), least);
    }

    #[test]
    fn what_it_does_not_know_survives() {
        let value = json!({
            "model": "m", "messages": [{"role": "user", "content": "a", "name": "n", "cache": {"x": 1}}],
            "temperature": "hot", "stop": [1], "seed": 1.5, "provider": {"order": ["a"]}
        });
        assert_eq!(to_value(from_value::<ChatRequest>(value.clone()).unwrap()).unwrap(), value);
        let one_word = from_value::<ChatRequest>(json!({"model": "m", "messages": [], "stop": "x"})).unwrap();
        assert_eq!(to_value(one_word).unwrap()["stop"], json!(["x"]));
    }

    #[test]
    fn an_extra_field_wins_and_comes_once() {
        let text =
            serde_json::to_string(&ChatRequest::new("m").user("a").temperature(1.0).extra("temperature", 0))
                .unwrap();
        assert_eq!(text.matches("temperature").count(), 1);
        assert!(text.contains("\"temperature\":0"), "{text}");
    }

    #[test]
    fn a_stream_asks_for_usage_unless_the_caller_says_no() {
        let sent = |request: ChatRequest, usage| to_value(request.streamed(usage)).unwrap();
        let request = || ChatRequest::new("m").user("a");
        let plain = sent(request(), true);
        assert_eq!(
            (&plain["stream"], &plain["stream_options"]),
            (&json!(true), &json!({"include_usage": true}))
        );
        assert_eq!(sent(request(), false).get("stream_options"), None);
        let no = json!({"include_usage": false});
        assert_eq!(sent(request().extra("stream_options", no.clone()), true)["stream_options"], no);
        let other = sent(request().extra("stream_options", json!({"x": 1})), true);
        assert_eq!(other["stream_options"], json!({"x": 1, "include_usage": true}));
        assert_eq!(sent(request().extra("stream_options", Value::Null), true)["stream_options"], Value::Null);
        let text =
            serde_json::to_string(&request().extra("stream_options", json!({})).streamed(true)).unwrap();
        assert_eq!(text.matches("stream_options").count(), 1);
        assert_eq!(to_value(request()).unwrap().get("stream"), None);
        let kept = request().extra("stream_options", json!({"x": 1}));
        assert_eq!(to_value(&kept).unwrap()["stream_options"], json!({"x": 1}));
        assert_eq!(to_value(kept.whole()).unwrap().get("stream_options"), None);
    }

    #[test]
    fn what_every_service_would_refuse_is_refused_here() {
        let said = |request: ChatRequest| request.check().unwrap_err().to_string();
        let ok = || ChatRequest::new("m").user("a");
        assert!(ok().check().is_ok());
        assert_eq!(said(ChatRequest::new(" ").user("a")), "model: is empty; name a model, such as gpt-4.1");
        assert_eq!(said(ChatRequest::new("m")), "messages: there are none; add one with user(…)");
        let number = "is not a finite number, and JSON has no other ones";
        assert_eq!(said(ok().temperature(f64::NAN)), format!("temperature: {number}"));
        assert_eq!(said(ok().top_p(f64::INFINITY)), format!("top_p: {number}"));
        assert_eq!(said(ok().presence_penalty(f64::NAN)), format!("presence_penalty: {number}"));
        assert_eq!(said(ok().frequency_penalty(f64::NEG_INFINITY)), format!("frequency_penalty: {number}"));
        assert_eq!(
            said(ok().extra("stream", true)),
            "stream: is no field to set; call chat(…) or chat_stream(…) instead"
        );
    }

    #[test]
    fn a_saved_request_may_say_stream() {
        let saved = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "a"}]});
        let request: ChatRequest = from_value(saved).unwrap();
        assert!(request.check().is_ok());
    }

    #[test]
    fn debug_shows_no_prompt() {
        let shown = r#"ChatRequest { model: "m", messages: 3, tools: 1, .. }"#;
        assert_eq!(format!("{:?}", full()), shown);
    }
}
