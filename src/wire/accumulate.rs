//! Puts an answer together out of the chunks of a stream, and knows whether it is whole.

mod tool_calls;

use std::fmt;

use serde_json::{Map, Value};

pub(crate) use tool_calls::MOST_CALLS;

use self::tool_calls::Calls;
use crate::api::delta::{ChunkChoice, Delta};
use crate::api::{
    ChatChunk, ChatResponse, Choice, Content, FunctionCall, Logprobs, Message, Part, Role, Usage,
};
use crate::json::extra::Extra;

/// The most answers to one request: services give 128 at most. It bounds the memory and the search for an answer.
pub(crate) const MOST_CHOICES: usize = 128;

/// How many chunks are searched for an id and a model at the beginning. Azure's first chunk has none; a server that
/// sends none at all is not to cost a second look at every chunk.
const HEADS: u32 = 8;

/// More of something than an answer can sensibly have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// More than [`MOST_CALLS`] tool calls.
    Calls,
    /// More than [`MOST_CHOICES`] answers.
    Choices,
}

impl TooMany {
    /// The limit that was exceeded.
    pub(crate) fn limit(self) -> usize {
        match self {
            TooMany::Calls => MOST_CALLS,
            TooMany::Choices => MOST_CHOICES,
        }
    }
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TooMany::Calls => write!(f, "more than {MOST_CALLS} tool calls in one answer"),
            TooMany::Choices => write!(f, "more than {MOST_CHOICES} answers to one request"),
        }
    }
}

impl std::error::Error for TooMany {}

/// What came so far.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    /// In the order of their indices.
    choices: Vec<PartialChoice>,
    usage: Option<Usage>,
    id: Option<String>,
    model: Option<String>,
    created: Option<u64>,
    extra: Map<String, Value>,
    /// One bit for each name that a chunk's other fields had.
    names: u64,
    heads: u32,
    ended: bool,
    /// Answers asked for.
    expected: u64,
}

/// An answer that grows.
#[derive(Debug, Default)]
struct PartialChoice {
    index: u32,
    role: Option<Role>,
    text: String,
    has_text: bool,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    /// Thoughts that came as parts of the content, and parts of other kinds.
    thoughts: String,
    parts: Vec<Part>,
    refusal: Option<String>,
    calls: Calls,
    function_call: Option<FunctionCall>,
    finish_reason: Option<String>,
    logprobs: Option<Box<Logprobs>>,
    extra: Map<String, Value>,
    message_extra: Map<String, Value>,
    function_extra: Map<String, Value>,
}

impl Accumulator {
    pub(crate) fn new() -> Accumulator {
        Accumulator::default()
    }

    /// Adds the next chunk.
    pub(crate) fn add(&mut self, chunk: &ChatChunk) -> Result<(), TooMany> {
        let mut last = chunk.usage.is_some();
        for piece in &chunk.choices {
            last |= piece.finish_reason.is_some();
            self.choice(piece.index)?.add(piece)?;
        }
        if chunk.usage.is_some() {
            self.usage.clone_from(&chunk.usage); // some services count up in every chunk
        }
        self.look_at_head(chunk, last);
        Ok(())
    }

    /// This many answers were asked for: fewer are not the whole.
    pub(crate) fn expect(&mut self, answers: u64) {
        self.expected = answers;
    }

    /// The stream said `[DONE]`.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing is missing: the stream said `[DONE]`, or every answer said why it ended.
    pub(crate) fn is_complete(&self) -> bool {
        let finished = |choice: &PartialChoice| choice.finish_reason.is_some();
        let all = !self.choices.is_empty() && self.choices.len() as u64 >= self.expected;
        self.ended || (all && self.choices.iter().all(finished))
    }

    /// The first answer's text so far.
    pub(crate) fn partial(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }

    /// The answer, as far as it came.
    pub(crate) fn into_response(self) -> ChatResponse {
        let mut extra = self.extra;
        if extra.get("object").is_some_and(|object| object == "chat.completion.chunk") {
            extra.insert("object".to_owned(), "chat.completion".into());
        }
        // Groq's place for it, in streams that didn't ask.
        let elsewhere = || Usage::read(extra.get("x_groq")?.get("usage")?.clone()).ok();
        ChatResponse {
            usage: self.usage.or_else(elsewhere),
            id: self.id.unwrap_or_default(),
            model: self.model.unwrap_or_default(),
            created: self.created,
            choices: self.choices.into_iter().map(PartialChoice::into_choice).collect(),
            extra: extra.into(),
            ..ChatResponse::default()
        }
    }

    /// The answer of this index, a new one if it is the first time.
    fn choice(&mut self, index: u32) -> Result<&mut PartialChoice, TooMany> {
        let place = match self.choices.iter().position(|choice| choice.index >= index) {
            Some(place) if self.choices[place].index == index => return Ok(&mut self.choices[place]),
            Some(place) => place,
            None => self.choices.len(),
        };
        if self.choices.len() == MOST_CHOICES {
            return Err(TooMany::Choices);
        }
        self.choices.insert(place, PartialChoice { index, ..PartialChoice::default() });
        Ok(&mut self.choices[place])
    }

    /// Takes over what a chunk says beside its choices, where it may be something new: in the first chunks, in the last
    /// ones, and where a name comes up for the first time.
    fn look_at_head(&mut self, chunk: &ChatChunk, last: bool) {
        let names = chunk.names();
        let unknown = self.id.is_none() || self.model.is_none();
        if !(last || names & !self.names != 0 || (unknown && self.heads < HEADS)) {
            return;
        }
        self.names |= names;
        self.heads = self.heads.saturating_add(1);
        self.id = self.id.take().or_else(|| chunk.id());
        self.model = self.model.take().or_else(|| chunk.model());
        self.created = self.created.filter(|created| *created != 0).or_else(|| chunk.created());
        for (name, value) in &chunk.extra {
            if !value.is_null() || !self.extra.contains_key(name) {
                self.extra.insert(name.clone(), value.clone());
            }
        }
    }
}

impl PartialChoice {
    fn add(&mut self, piece: &ChunkChoice) -> Result<(), TooMany> {
        let Delta { role, content, refusal, tool_calls, function_call, extra, reasoning, reasoning_content } =
            &piece.delta;
        if self.role.is_none() {
            self.role.clone_from(role);
        }
        if let Some(content) = content {
            self.has_text = true;
            self.text.push_str(content.text());
            self.thoughts.push_str(content.reasoning().unwrap_or_default());
            self.parts.extend(content.others().cloned());
        }
        append(&mut self.reasoning, reasoning);
        append(&mut self.reasoning_content, reasoning_content);
        append(&mut self.refusal, refusal);
        for call in tool_calls {
            self.calls.add(call)?;
        }
        if let Some(more) = function_call {
            let call = self.function_call.get_or_insert_default();
            call.name.push_str(more.name.as_deref().unwrap_or_default());
            call.arguments.push_str(more.arguments.as_deref().unwrap_or_default());
            merge(&mut self.function_extra, &more.extra);
        }
        if piece.finish_reason.is_some() {
            self.finish_reason.clone_from(&piece.finish_reason);
        }
        match (&mut self.logprobs, &piece.logprobs) {
            (Some(logprobs), Some(more)) => logprobs.add(more),
            (logprobs @ None, more) => logprobs.clone_from(more),
            (Some(_), None) => {}
        }
        merge(&mut self.message_extra, extra);
        merge(&mut self.extra, &piece.extra);
        Ok(())
    }

    fn into_choice(self) -> Choice {
        let content = Content::assembled(&self.thoughts, self.text, self.parts);
        let message = Message {
            role: self.role.unwrap_or_default(),
            content: self.has_text.then_some(content),
            refusal: self.refusal,
            tool_calls: self.calls.into_list(),
            function_call: self
                .function_call
                .map(|call| Box::new(FunctionCall { extra: self.function_extra.into(), ..call })),
            extra: self.message_extra.into(),
            reasoning: self.reasoning,
            reasoning_content: self.reasoning_content,
            ..Message::default()
        };
        Choice {
            index: self.index,
            message,
            finish_reason: self.finish_reason,
            logprobs: self.logprobs,
            extra: self.extra.into(),
        }
    }
}

/// Appends a further piece.
fn append(text: &mut Option<String>, more: &Option<String>) {
    match (text, more) {
        (Some(text), Some(more)) => text.push_str(more),
        (text @ None, more) => text.clone_from(more),
        (Some(_), None) => {}
    }
}

/// Takes over unknown fields of a further piece: lists grow, what is null says nothing, what is said again wins.
fn merge(fields: &mut Map<String, Value>, more: &Extra) {
    if more.has_nothing() {
        return;
    }
    for (name, value) in more {
        match (fields.get_mut(name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend_from_slice(more),
            // OpenAI's spoken answers: one object whose two texts grow.
            (Some(Value::Object(object)), Value::Object(more)) if name == "audio" => {
                for (name, value) in more {
                    match (object.get_mut(name), value) {
                        (Some(Value::String(text)), Value::String(more)) if name != "id" => {
                            text.push_str(more);
                        }
                        _ => drop(object.insert(name.clone(), value.clone())),
                    }
                }
            }
            (Some(_), Value::Null) => {}
            _ => drop(fields.insert(name.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assemble(chunks: &[Value]) -> Accumulator {
        let mut accumulator = Accumulator::new();
        for chunk in chunks {
            accumulator.add(&serde_json::from_value(chunk.clone()).unwrap()).unwrap();
        }
        accumulator
    }

    fn delta(delta: impl Into<Value>) -> Value {
        let delta = delta.into();
        json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]})
    }

    fn finish(reason: &str) -> Value {
        json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    }

    #[test]
    fn a_whole_answer() {
        let chunks = [
            json!({"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "x": 1, "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}),
            delta(json!({"reasoning_content": "h"})),
            delta(json!({"reasoning_content": "m"})),
            delta(json!({"content": "Hel"})),
            delta(json!({"content": "lo"})),
            finish("stop"),
            json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}),
        ];
        let mut accumulator = assemble(&chunks);
        assert_eq!((accumulator.partial(), accumulator.is_complete()), ("Hello", true));
        accumulator.end();
        let answer = accumulator.into_response();
        assert_eq!(
            (answer.text(), answer.reasoning(), answer.finish_reason()),
            ("Hello", Some("hm"), Some("stop"))
        );
        assert_eq!((answer.id.as_str(), answer.model.as_str(), answer.created), ("c", "m", Some(7)));
        assert_eq!(answer.usage.unwrap().total_tokens, Some(3));
        assert_eq!(json!(answer.extra), json!({"object": "chat.completion", "x": 1}));
        assert!(answer.choices[0].message.role == "assistant");
    }

    #[test]
    fn it_knows_whether_something_is_missing() {
        assert!(!Accumulator::new().is_complete());
        let mut cut = assemble(&[delta(json!({"content": "a"}))]);
        assert!(!cut.is_complete());
        cut.end();
        assert!(cut.is_complete());
        assert!(assemble(&[delta(json!({"content": "a"})), finish("length")]).is_complete());
        assert!(!assemble(&[finish("")]).is_complete());
        // Of two answers, one hasn't ended.
        let two = [
            json!({"choices": [{"index": 0, "finish_reason": "stop"}, {"index": 1, "delta": {"content": "b"}}]}),
        ];
        assert!(!assemble(&two).is_complete());
    }

    #[test]
    fn answers_are_told_apart_and_come_in_order() {
        let chunks = [
            json!({"choices": [{"index": 1, "delta": {"content": "b"}}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "a"}}]}),
            json!({"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"},
                               {"index": 0, "delta": {"content": "A"}, "finish_reason": "length"}]}),
        ];
        let answer = assemble(&chunks).into_response();
        let seen = |place: usize| {
            (answer.choices[place].message.text(), answer.choices[place].finish_reason.as_deref())
        };
        assert_eq!((seen(0), seen(1)), (("aA", Some("length")), ("bB", Some("stop"))));
    }

    #[test]
    fn refusals_logprobs_and_function_calls_grow() {
        let logprob = |token: &str| json!({"content": [{"token": token, "logprob": -0.5}], "refusal": null});
        let chunks = [
            delta(json!({"refusal": "I "})),
            delta(json!({"refusal": "won't", "function_call": {"name": "f", "arguments": ""}})),
            delta(json!({"function_call": {"arguments": "{}"}})),
            json!({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": logprob("a")}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "b"}, "logprobs": logprob("b")}]}),
            json!({"choices": [{"index": 0, "delta": {}, "logprobs": null}]}),
        ];
        let answer = assemble(&chunks).into_response();
        let choice = &answer.choices[0];
        assert_eq!(answer.refusal(), Some("I won't"));
        let call = choice.message.function_call.as_ref().unwrap();
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("f", "{}"));
        assert_eq!(choice.logprobs.as_ref().unwrap().content.len(), 2);
    }

    #[test]
    fn an_answer_that_only_calls_tools_has_no_text() {
        let answer = assemble(&[delta(
            json!({"content": null, "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}),
        )]);
        let answer = answer.into_response();
        assert_eq!((answer.text(), answer.tool_calls()[0].name()), ("", "f"));
        assert_eq!(answer.choices[0].message.content, None);
    }

    #[test]
    fn thoughts_and_pictures_in_parts() {
        let thought = |text: &str| json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]});
        let chunks = [
            delta(thought("h")),
            delta(thought("m")),
            delta(json!({"content": [{"type": "text", "text": "a"}]})),
            delta(json!({"content": "b"})),
            delta(json!({"content": [{"type": "image_url", "image_url": {"url": "u"}}]})),
        ];
        let answer = assemble(&chunks).into_response();
        assert_eq!((answer.text(), answer.reasoning()), ("ab", Some("hm")));
        assert_eq!(answer.choices[0].message.content.as_ref().unwrap().parts().len(), 3);
    }

    #[test]
    fn usage_counts_up_and_may_be_at_groqs_place() {
        let usage = |total: u64| json!({"choices": [], "usage": {"total_tokens": total}});
        assert_eq!(assemble(&[usage(1), usage(2)]).into_response().usage.unwrap().total_tokens, Some(2));
        let mut last = finish("stop");
        last["x_groq"] = json!({"id": "r", "usage": {"total_tokens": 5}});
        let answer = assemble(&[delta(json!({"content": "a"})), last]).into_response();
        assert_eq!(answer.usage.unwrap().total_tokens, Some(5));
        assert_eq!(assemble(&[delta(json!({"content": "a"}))]).into_response().usage, None);
    }

    #[test]
    fn what_comes_along_is_kept() {
        let chunks = [
            json!({"id": "", "model": "", "choices": [], "prompt_filter_results": [1]}),
            json!({"id": "c", "model": "m", "choices": [{"delta": {"channel": "analysis", "details": [1]}, "native": null}]}),
            json!({"id": "c", "model": "m", "choices": [{"delta": {"channel": "final", "details": [2]}, "native": "stop"}], "late": 1}),
            json!({"id": "d", "model": "m", "choices": [{"delta": {"audio": {"id": "x", "data": "AA", "transcript": "a"}}}]}),
            json!({"id": "d", "model": "m", "choices": [{"delta": {"audio": {"data": "BB", "transcript": "b"}}, "native": null}]}),
        ];
        let answer = assemble(&chunks).into_response();
        assert_eq!((answer.id.as_str(), answer.model.as_str()), ("c", "m"));
        assert_eq!(json!(answer.extra), json!({"prompt_filter_results": [1], "late": 1}));
        assert_eq!(json!(answer.choices[0].extra), json!({"native": "stop"}));
        let message = json!({"channel": "final", "details": [1, 2], "audio": {"id": "x", "data": "AABB", "transcript": "ab"}});
        assert_eq!(json!(answer.choices[0].message.extra), message);
    }

    #[test]
    fn their_number_is_bounded() {
        let mut accumulator = Accumulator::new();
        let nth = |n: usize| serde_json::from_value(json!({"choices": [{"index": n}]})).unwrap();
        (0..MOST_CHOICES).for_each(|n| accumulator.add(&nth(n)).unwrap());
        let error = accumulator.add(&nth(MOST_CHOICES)).unwrap_err();
        assert_eq!(error.to_string(), "more than 128 answers to one request");
        assert_eq!(TooMany::Calls.to_string(), "more than 128 tool calls in one answer");
        accumulator.add(&nth(7)).unwrap();
    }
}
