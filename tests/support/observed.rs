//! Converts answers, streams and errors to JSON observations that tests compare with expected outcomes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that can't continue must fail")]

use holysheep::{
    AdaptiveConfig, ChatRequest, ChatResponse, ChatStream, Client, Config, Error, Result, RetryConfig,
};
use serde_json::{Map, Value, json};

use super::support::{Reply, Server};

/// A client that sends each request once, so that every failure is returned as it is.
pub fn client(server: &Server) -> Client {
    let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(server.url());
    let retry = RetryConfig::default().max_retries(0);
    Client::new(config.retry(retry).adaptive(AdaptiveConfig::off()).build().unwrap()).unwrap()
}

pub fn request() -> ChatRequest {
    ChatRequest::new("any-model").user("hi")
}

/// The error of the last attempt.
pub fn cause(error: &Error) -> &Error {
    match error {
        Error::GaveUp { last, .. } => cause(last),
        error => error,
    }
}

/// A client, and a server that sends it the replies of a test.
pub struct Setup {
    pub server: Server,
    pub client: Client,
}

impl Setup {
    pub fn new() -> Setup {
        let server = Server::script([]);
        Setup { client: client(&server), server }
    }

    /// What a user sees of a chat call that gets this reply.
    pub fn chat(&self, reply: Reply) -> Value {
        self.server.add([reply]);
        chat(&self.client.chat(&request()))
    }

    /// What a user sees of a stream that gets this reply.
    pub fn stream(&self, reply: Reply) -> Value {
        self.server.add([reply]);
        stream(self.client.chat_stream(&request()))
    }
}

/// The observation of a chat call.
pub fn chat(result: &Result<ChatResponse>) -> Value {
    match result {
        Ok(response) => with_outcome("answer", fields(response)),
        Err(failure) => error(failure),
    }
}

/// The observation of a stream that is read to its end or to an error.
pub fn stream(opened: Result<ChatStream>) -> Value {
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(failure) => return error(&failure),
    };
    let (mut chunks, mut reasoning, mut failure) = (0, String::new(), None);
    let (mut id, mut model) = (None, None);
    for chunk in stream.by_ref() {
        match chunk {
            Ok(chunk) => {
                chunks += 1;
                reasoning += chunk.reasoning().unwrap_or_default();
                (id, model) = (id.or(chunk.id()), model.or(chunk.model()));
            }
            Err(error) => failure = Some(error),
        }
    }
    let Some(failure) = failure else {
        let mut fields = fields(&stream.into_response().unwrap());
        fields.insert("chunks".to_owned(), chunks.into());
        return with_outcome("answer", fields);
    };
    let mut seen = error(&failure);
    let fields = seen.as_object_mut().unwrap();
    insert_text(fields, "text", Some(stream.partial()));
    insert_text(fields, "reasoning", Some(&reasoning));
    if matches!(failure, Error::StreamTruncated { .. }) {
        insert_text(fields, "id", id.as_deref());
        insert_text(fields, "model", model.as_deref());
        fields.insert("chunks".to_owned(), chunks.into());
    }
    seen
}

/// The observation of an error.
pub fn error(error: &Error) -> Value {
    let mut fields = Map::new();
    let outcome = match cause(error) {
        Error::Api { status, code, kind, message, param, .. } => {
            fields.insert("status".to_owned(), (*status).into());
            insert_text(&mut fields, "code", code.as_deref());
            insert_text(&mut fields, "kind", kind.as_deref());
            insert_text(&mut fields, "message", Some(message));
            insert_text(&mut fields, "param", param.as_deref());
            "error"
        }
        Error::StreamTruncated { .. } => "truncated",
        Error::Decode { .. } => "unreadable",
        Error::Transport { .. } => "broken",
        other => {
            fields.insert("error".to_owned(), other.to_string().into());
            "other"
        }
    };
    with_outcome(outcome, fields)
}

fn with_outcome(outcome: &str, mut fields: Map<String, Value>) -> Value {
    fields.insert("outcome".to_owned(), outcome.into());
    Value::Object(fields)
}

/// The fields of an answer, without those that are absent or empty.
fn fields(response: &ChatResponse) -> Map<String, Value> {
    let mut fields = Map::new();
    insert_text(&mut fields, "text", Some(response.text()));
    insert_text(&mut fields, "reasoning", response.reasoning());
    insert_text(&mut fields, "finish_reason", response.finish_reason());
    insert_text(&mut fields, "refusal", response.refusal());
    insert_text(&mut fields, "model", Some(&response.model));
    insert_text(&mut fields, "id", Some(&response.id));
    if let Some(usage) = &response.usage {
        let numbers = json!([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]);
        fields.insert("usage".to_owned(), numbers);
        let details = [
            ("cached_tokens", usage.details.cached_tokens),
            ("reasoning_tokens", usage.details.reasoning_tokens),
        ];
        for (name, count) in details {
            if let Some(count) = count {
                fields.insert(name.to_owned(), count.into());
            }
        }
    }
    let calls = response.tool_calls().iter();
    let calls: Vec<Value> =
        calls.map(|call| json!([call.id, call.name(), call.arguments::<Value>().unwrap()])).collect();
    if !calls.is_empty() {
        fields.insert("tool_calls".to_owned(), calls.into());
    }
    if response.choices.len() > 1 {
        fields.insert("choices".to_owned(), response.choices.len().into());
    }
    if let Some(choice) = response.choices.first() {
        if let Some(function) = &choice.message.function_call {
            fields.insert("function_call".to_owned(), function.name.as_str().into());
        }
        let logprobs = choice.logprobs.as_ref().map_or(0, |logprobs| logprobs.content.len());
        if logprobs > 0 {
            fields.insert("logprobs".to_owned(), logprobs.into());
        }
    }
    fields
}

fn insert_text(fields: &mut Map<String, Value>, name: &str, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        fields.insert(name.to_owned(), text.into());
    }
}
