//! The builder of chat requests, and their validation.

mod body;
mod standard;
mod view;

pub use view::ChatRequestView;

use serde_json::{Map, Value};

use crate::api::message::Message;
use crate::api::response_format::ResponseFormat;
use crate::api::tools::{Tool, ToolChoice};
use crate::error::{Error, Result};

/// A request for a chat completion, built by chaining setters.
///
/// ```
/// use holysheep::ChatRequest;
///
/// let request = ChatRequest::new("gpt-4.1").system("Answer in one word.").user("Capital of France?").temperature(0.7);
/// ```
///
/// [`view`](ChatRequest::view) reads the fields back.
///
/// There is no `stream` field: call [`chat`](crate::Client::chat) or [`chat_stream`](crate::Client::chat_stream).
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
    /// A request to this model, without messages.
    pub fn new(model: impl Into<String>) -> ChatRequest {
        ChatRequest { model: model.into(), ..ChatRequest::default() }
    }

    /// Adds a message with instructions.
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::system(text))
    }

    /// Adds a user message.
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::user(text))
    }

    /// Adds an assistant message from earlier in the conversation.
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

    /// The sampling temperature: from 0, usually up to 2.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// The probability mass that tokens are sampled from: 0 to 1.
    pub fn top_p(mut self, share: f64) -> Self {
        self.top_p = Some(share);
        self
    }

    /// The penalty for tokens that occurred before: -2 to 2.
    pub fn presence_penalty(mut self, penalty: f64) -> Self {
        self.presence_penalty = Some(penalty);
        self
    }

    /// The penalty for tokens in proportion to how often they occurred before: -2 to 2.
    pub fn frequency_penalty(mut self, penalty: f64) -> Self {
        self.frequency_penalty = Some(penalty);
        self
    }

    /// The maximum number of tokens in the answer.
    pub fn max_tokens(mut self, tokens: u64) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// The maximum number of tokens in reasoning and answer together. OpenAI's reasoning models require it instead of
    /// [`max_tokens`](ChatRequest::max_tokens).
    pub fn max_completion_tokens(mut self, tokens: u64) -> Self {
        self.max_completion_tokens = Some(tokens);
        self
    }

    /// The number of answers.
    pub fn n(mut self, answers: u64) -> Self {
        self.n = Some(answers);
        self
    }

    /// Stop sequences: texts at which generation ends.
    pub fn stop(mut self, texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop = texts.into_iter().map(Into::into).collect();
        self
    }

    /// The seed for sampling: the same seed gives the same answer, as far as the service supports it.
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

    /// Whether the model may request several tool calls in one answer.
    pub fn parallel_tool_calls(mut self, parallel: bool) -> Self {
        self.parallel_tool_calls = Some(parallel);
        self
    }

    /// The format of the answer.
    pub fn response_format(mut self, format: impl Into<ResponseFormat>) -> Self {
        self.response_format = Some(format.into());
        self
    }

    /// Requests JSON that conforms to this schema, which the service enforces.
    /// [`ChatResponse::json`](crate::ChatResponse::json) parses it. Models generate keys in the schema's order. Without the
    /// feature `preserve-order` the schema's keys are sorted.
    pub fn json_schema(self, name: impl Into<String>, schema: impl Into<Value>) -> Self {
        self.response_format(ResponseFormat::json_schema(name, schema))
    }

    /// How much the model reasons: `low`, `medium`, `high`, or another value that the service supports.
    pub fn reasoning_effort(mut self, effort: impl Into<String>) -> Self {
        self.reasoning_effort = Some(effort.into());
        self
    }

    /// Whether to return log probabilities of the tokens.
    pub fn logprobs(mut self, wanted: bool) -> Self {
        self.logprobs = Some(wanted);
        self
    }

    /// The number of most likely tokens to return at each position.
    pub fn top_logprobs(mut self, tokens: u64) -> Self {
        self.top_logprobs = Some(tokens);
        self
    }

    /// Identifies the end user on whose behalf the request is made, so that the service can detect abuse.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user = Some(id.into());
        self
    }

    /// Sets a field that has no setter. It overrides a setter of the same name.
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }

    /// The number of answers that are requested. An extra field overrides the setter.
    pub(crate) fn answers(&self) -> u64 {
        self.extra.get("n").and_then(Value::as_u64).or(self.n).unwrap_or(1)
    }

    /// The requested model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Checks for mistakes that every service would reject. The client calls this before it sends anything.
    ///
    /// # Errors
    /// [`Error::Config`], whose `setting` is the field: no model, no messages, a number that isn't finite, or `stream` set as
    /// a field.
    pub fn check(&self) -> Result<()> {
        if self.model.trim().is_empty() {
            return Err(Error::config("model", "is empty; name a model, such as gpt-4.1"));
        }
        if self.messages.is_empty() && !self.extra.contains_key("messages") {
            return Err(Error::config("messages", "is empty; add a message with user(…)"));
        }
        for (name, number) in [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if number.is_some_and(|number| !number.is_finite()) {
                return Err(Error::config(name, "is not a finite number, which JSON can't represent"));
            }
        }
        if self.extra.contains_key("stream") {
            return Err(Error::config(
                "stream",
                "can't be set as a field; call chat(…) or chat_stream(…) instead",
            ));
        }
        Ok(())
    }
}

debug_without_content!(ChatRequest, request =>
    model: request.model, messages: request.messages.len(), tools: request.tools.len());

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
    fn every_field_has_its_name_and_survives_a_round_trip() {
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
        let minimal = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
        assert_eq!(to_value(ChatRequest::new("m").user("a")).unwrap(), minimal);
    }

    #[test]
    fn every_field_can_be_read_back() {
        let request = full();
        let view = request.view();
        let written = json!({
            "model": view.model, "messages": view.messages, "temperature": view.temperature, "top_p": view.top_p,
            "presence_penalty": view.presence_penalty, "frequency_penalty": view.frequency_penalty,
            "max_tokens": view.max_tokens, "max_completion_tokens": view.max_completion_tokens, "n": view.n,
            "stop": view.stop, "seed": view.seed, "tools": view.tools, "tool_choice": view.tool_choice,
            "parallel_tool_calls": view.parallel_tool_calls, "response_format": view.response_format,
            "reasoning_effort": view.reasoning_effort, "logprobs": view.logprobs, "top_logprobs": view.top_logprobs,
            "user": view.user, "store": view.extra["store"]
        });
        assert_eq!(written, to_value(&request).unwrap());
        let empty = ChatRequest::new("m");
        let view = empty.view();
        assert_eq!((view.messages.len(), view.stop.len(), view.n, view.user), (0, 0, None, None));
    }

    #[test]
    fn every_field_with_a_setter_is_listed() {
        let mut names: Vec<String> = to_value(full()).unwrap().as_object().unwrap().keys().cloned().collect();
        names.retain(|name| name != "store");
        let mut listed = ChatRequest::FIELDS.to_vec();
        listed.sort_unstable();
        names.sort_unstable();
        assert_eq!(listed, names);
    }

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let value = json!({
            "model": "m", "messages": [{"role": "user", "content": "a", "name": "n", "cache": {"x": 1}}],
            "temperature": "hot", "stop": [1], "seed": 1.5, "provider": {"order": ["a"]}
        });
        assert_eq!(to_value(from_value::<ChatRequest>(value.clone()).unwrap()).unwrap(), value);
        let one_word = from_value::<ChatRequest>(json!({"model": "m", "messages": [], "stop": "x"})).unwrap();
        assert_eq!(to_value(one_word).unwrap()["stop"], json!(["x"]));
    }

    #[test]
    fn an_extra_field_overrides_a_known_one_and_is_written_once() {
        let text =
            serde_json::to_string(&ChatRequest::new("m").user("a").temperature(1.0).extra("temperature", 0))
                .unwrap();
        assert_eq!(text.matches("temperature").count(), 1);
        assert!(text.contains("\"temperature\":0"), "{text}");
    }

    #[test]
    fn a_stream_requests_usage_unless_the_caller_decides_otherwise() {
        let sent = |request: ChatRequest, usage| to_value(request.stream_body(usage)).unwrap();
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
            serde_json::to_string(&request().extra("stream_options", json!({})).stream_body(true)).unwrap();
        assert_eq!(text.matches("stream_options").count(), 1);
        assert_eq!(to_value(request()).unwrap().get("stream"), None);
        let kept = request().extra("stream_options", json!({"x": 1}));
        assert_eq!(to_value(&kept).unwrap()["stream_options"], json!({"x": 1}));
        assert_eq!(to_value(kept.body()).unwrap().get("stream_options"), None);
    }

    #[test]
    fn requests_that_every_service_would_reject() {
        let refusal = |request: ChatRequest| request.check().unwrap_err().to_string();
        let ok = || ChatRequest::new("m").user("a");
        assert!(ok().check().is_ok());
        assert_eq!(
            refusal(ChatRequest::new(" ").user("a")),
            "model: is empty; name a model, such as gpt-4.1"
        );
        assert_eq!(refusal(ChatRequest::new("m")), "messages: is empty; add a message with user(…)");
        let number = "is not a finite number, which JSON can't represent";
        assert_eq!(refusal(ok().temperature(f64::NAN)), format!("temperature: {number}"));
        assert_eq!(refusal(ok().top_p(f64::INFINITY)), format!("top_p: {number}"));
        assert_eq!(refusal(ok().presence_penalty(f64::NAN)), format!("presence_penalty: {number}"));
        assert_eq!(
            refusal(ok().frequency_penalty(f64::NEG_INFINITY)),
            format!("frequency_penalty: {number}")
        );
        assert_eq!(
            refusal(ok().extra("stream", true)),
            "stream: can't be set as a field; call chat(…) or chat_stream(…) instead"
        );
    }

    #[test]
    fn stream_in_a_saved_request_is_ignored() {
        let saved = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "a"}]});
        let request: ChatRequest = from_value(saved).unwrap();
        assert!(request.check().is_ok());
    }

    #[test]
    fn debug_hides_the_prompt() {
        let shown = r#"ChatRequest { model: "m", messages: 3, tools: 1, .. }"#;
        assert_eq!(format!("{:?}", full()), shown);
        assert_eq!(format!("{:?}", full().view()), shown.replace("Request", "RequestView"));
    }
}
