//! Assembles a response from the chunks of a stream, and determines whether it is complete.

mod surrogates;
mod tool_calls;

use serde::Deserialize;
use serde_json::{Map, Value};

use self::surrogates::Surrogates;
use self::tool_calls::PartialToolCalls;
use crate::api::response::MAX_CHOICES;
use crate::api::{
    ChatChunk, ChatResponse, Choice, ChunkChoice, Content, Delta, FunctionCall, Logprobs, Message, Part,
    Role, Usage,
};
use crate::json::budget::{Budget, Excess, field_cost, fields_cost, value_cost};
use crate::json::extra::Extra;

/// The maximum number of chunks that are searched for an id and a model. Azure's first chunk has neither. Without this
/// limit, every chunk would be searched if the server never sends them.
const MAX_SEARCHED: u32 = 8;

/// The response assembled so far.
#[derive(Debug)]
pub(crate) struct Accumulator {
    /// Sorted by index.
    choices: Vec<PartialChoice>,
    usage: Option<Usage>,
    id: Option<String>,
    model: Option<String>,
    created: Option<u64>,
    extra: Map<String, Value>,
    /// The total length of the names of the last chunk's unknown fields.
    unknown_names: u32,
    /// The number of chunks that were searched for an id and a model.
    searched: u32,
    ended: bool,
    /// The number of choices that were requested.
    expected: u64,
    surrogates: Surrogates,
    /// Charged for everything but text, which takes no more memory than in the body.
    budget: Budget,
}

/// A choice assembled so far.
#[derive(Debug, Default)]
struct PartialChoice {
    index: u32,
    role: Option<Role>,
    text: String,
    has_text: bool,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    /// The reasoning that arrived in parts of the content.
    reasoning_parts: String,
    /// The parts of the content that are neither text nor reasoning.
    other_parts: Vec<Part>,
    refusal: Option<String>,
    tool_calls: PartialToolCalls,
    function_call: Option<FunctionCall>,
    /// It began with a message, not with a delta.
    has_messages: bool,
    finish_reason: Option<String>,
    logprobs: Option<Box<Logprobs>>,
    extra: Map<String, Value>,
    message_extra: Map<String, Value>,
    function_extra: Map<String, Value>,
}

impl Accumulator {
    pub(crate) fn new() -> Accumulator {
        Accumulator {
            choices: Vec::new(),
            usage: None,
            id: None,
            model: None,
            created: None,
            extra: Map::new(),
            unknown_names: 0,
            searched: 0,
            ended: false,
            expected: 0,
            surrogates: Surrogates::default(),
            budget: Budget::of_chunks(),
        }
    }

    /// Adds the next chunk, after joining the characters in it that a gateway split across two chunks.
    #[inline]
    pub(crate) fn add(&mut self, chunk: &mut ChatChunk) -> Result<(), Excess> {
        self.budget.add_chunk(chunk.extra.json().len());
        chunk
            .choices
            .iter_mut()
            .filter(|choice| choice.is_message)
            .for_each(|choice| self.remove_repetition(choice));
        self.surrogates.join(chunk);
        let mut is_last = chunk.usage.is_some();
        for choice in &chunk.choices {
            is_last |= choice.finish_reason.is_some();
            self.add_choice(choice)?;
        }
        if chunk.usage.is_some() {
            self.usage.clone_from(&chunk.usage); // some services send running totals in every chunk
        }
        self.add_head(chunk, is_last)
    }

    /// Sets the number of requested choices. With fewer, the response is incomplete.
    pub(crate) fn expect(&mut self, choices: u64) {
        self.expected = choices;
    }

    /// Records that the stream sent `[DONE]`. Returns a last chunk if split characters are still pending.
    pub(crate) fn end(&mut self) -> Option<ChatChunk> {
        self.ended = true;
        let rest = self.surrogates.rest()?;
        rest.choices.iter().try_for_each(|choice| self.add_choice(choice)).ok()?;
        Some(rest)
    }

    /// Whether the answer is complete: the stream sent `[DONE]`, or every choice has a finish reason.
    pub(crate) fn is_complete(&self) -> bool {
        let finished = |choice: &PartialChoice| choice.finish_reason.is_some();
        let all = !self.choices.is_empty() && self.choices.len() as u64 >= self.expected;
        self.ended || (all && self.choices.iter().all(finished))
    }

    /// The text of the first choice so far. It only grows: before the first choice arrives, the text of another choice isn't
    /// returned.
    pub(crate) fn partial(&self) -> &str {
        self.choices.first().filter(|choice| choice.index == 0).map_or("", |choice| &choice.text)
    }

    /// The last usage that was received.
    pub(crate) fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// The response assembled so far.
    pub(crate) fn into_response(self) -> ChatResponse {
        let mut extra = self.extra;
        if extra.get("object").is_some_and(|object| object == "chat.completion.chunk") {
            extra.insert("object".to_owned(), "chat.completion".into());
        }
        // Groq sends usage here in streams that didn't request it.
        let groq_usage = || Usage::deserialize(extra.get("x_groq")?.get("usage")?).ok();
        ChatResponse {
            usage: self.usage.or_else(groq_usage),
            id: self.id.unwrap_or_default(),
            model: self.model.unwrap_or_default(),
            created: self.created,
            choices: self.choices.into_iter().map(PartialChoice::into_choice).collect(),
            extra: extra.into(),
            ..ChatResponse::default()
        }
    }

    /// Removes from a whole message what deltas have already said (MiniMax). Services that send the parts of an answer as
    /// messages send no deltas.
    fn remove_repetition(&self, next: &mut ChunkChoice) {
        let choice = self.choices.iter().find(|choice| choice.index == next.index);
        if let Some(choice) = choice.filter(|choice| !choice.has_messages) {
            choice.remove_repetition(&mut next.delta);
        }
    }

    /// Adds the next part of a choice.
    fn add_choice(&mut self, choice: &ChunkChoice) -> Result<(), Excess> {
        let position = self.position(choice.index)?;
        self.choices[position].add(choice, &self.budget)
    }

    /// The position of the choice with this index, which is inserted if there is none.
    fn position(&mut self, index: u32) -> Result<usize, Excess> {
        let position = match self.choices.iter().position(|choice| choice.index >= index) {
            Some(position) if self.choices[position].index == index => return Ok(position),
            Some(position) => position,
            None => self.choices.len(),
        };
        self.budget.check_entries(self.choices.len() + 1, MAX_CHOICES)?;
        self.choices.insert(position, PartialChoice { index, ..PartialChoice::default() });
        Ok(position)
    }

    /// Adds the top-level fields of a chunk. They are the same in almost every chunk, so only chunks that may have new ones
    /// are searched: the first ones, the last, and each whose unknown fields have different names than those of the previous
    /// chunk.
    fn add_head(&mut self, chunk: &ChatChunk, is_last: bool) -> Result<(), Excess> {
        let has_other_names = chunk.head.unknown_names != self.unknown_names;
        let is_incomplete = self.id.is_none() || self.model.is_none();
        if !(is_last || has_other_names || (is_incomplete && self.searched < MAX_SEARCHED)) {
            return Ok(());
        }
        self.unknown_names = chunk.head.unknown_names;
        self.searched = self.searched.saturating_add(1);
        self.id = self.id.take().or_else(|| chunk.id());
        self.model = self.model.take().or_else(|| chunk.model());
        self.created = self.created.filter(|created| *created != 0).or_else(|| chunk.created());
        for (name, value) in &chunk.extra {
            if !value.is_null() || !self.extra.contains_key(name) {
                insert(&mut self.extra, name, value, &self.budget)?;
            }
        }
        Ok(())
    }
}

impl PartialChoice {
    fn remove_repetition(&self, message: &mut Delta) {
        if !self.text.is_empty() {
            message.content = None;
        }
        if self.reasoning.is_some() || self.reasoning_content.is_some() {
            (message.reasoning, message.reasoning_content) = (None, None);
        }
        if self.refusal.is_some() {
            message.refusal = None;
        }
        if !self.tool_calls.is_empty() {
            message.tool_calls.clear();
        }
        if self.function_call.is_some() {
            message.function_call = None;
        }
    }

    fn add(&mut self, next: &ChunkChoice, budget: &Budget) -> Result<(), Excess> {
        let Delta { role, content, refusal, tool_calls, function_call, extra, reasoning, reasoning_content } =
            &next.delta;
        self.has_messages |= next.is_message;
        if self.role.is_none() {
            self.role.clone_from(role);
        }
        if let Some(content) = content {
            self.has_text = true;
            self.text.push_str(content.text());
            self.reasoning_parts.push_str(content.reasoning().unwrap_or_default());
            for part in content.other_parts() {
                budget.charge(fields_cost(part.fields()))?;
                self.other_parts.push(part.clone());
            }
        }
        append(&mut self.reasoning, reasoning);
        append(&mut self.reasoning_content, reasoning_content);
        append(&mut self.refusal, refusal);
        for call in tool_calls {
            self.tool_calls.add(call, budget)?;
        }
        if let Some(next) = function_call {
            let call = self.function_call.get_or_insert_default();
            call.name.push_str(next.name.as_deref().unwrap_or_default());
            call.arguments.push_str(next.arguments.as_deref().unwrap_or_default());
            merge(&mut self.function_extra, &next.extra, budget)?;
        }
        if next.finish_reason.is_some() {
            self.finish_reason.clone_from(&next.finish_reason);
        }
        if let Some(logprobs) = &next.logprobs {
            budget.charge(logprobs.cost())?;
        }
        match (&mut self.logprobs, &next.logprobs) {
            (Some(logprobs), Some(next)) => logprobs.append(next),
            (logprobs @ None, next) => logprobs.clone_from(next),
            (Some(_), None) => {}
        }
        merge(&mut self.message_extra, extra, budget)?;
        merge(&mut self.extra, &next.extra, budget)
    }

    fn into_choice(self) -> Choice {
        let content = Content::assembled(&self.reasoning_parts, self.text, self.other_parts);
        let message = Message {
            role: self.role.unwrap_or_default(),
            content: self.has_text.then_some(content),
            refusal: self.refusal,
            tool_calls: self.tool_calls.into_list(),
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

/// Appends the next part of a text.
fn append(text: &mut Option<String>, next: &Option<String>) {
    match (text, next) {
        (Some(text), Some(next)) => text.push_str(next),
        (text @ None, next) => text.clone_from(next),
        (Some(_), None) => {}
    }
}

/// Merges the unknown fields of the next part: lists are concatenated, null is ignored, any other value replaces the
/// earlier one.
fn merge(fields: &mut Map<String, Value>, next: &Extra, budget: &Budget) -> Result<(), Excess> {
    if next.is_unset() {
        return Ok(());
    }
    for (name, value) in next {
        match (fields.get_mut(name), value) {
            (Some(Value::Array(list)), Value::Array(next)) => {
                budget.charge(value_cost(value))?;
                list.extend_from_slice(next);
            }
            // OpenAI's audio: an object whose strings are concatenated.
            (Some(Value::Object(object)), Value::Object(next)) if name == "audio" => {
                for (name, value) in next {
                    match (object.get_mut(name), value) {
                        (Some(Value::String(text)), Value::String(next)) if name != "id" => {
                            text.push_str(next);
                        }
                        _ => insert(object, name, value, budget)?,
                    }
                }
            }
            (Some(_), Value::Null) => {}
            _ => insert(fields, name, value, budget)?,
        }
    }
    Ok(())
}

/// Inserts a field, or replaces the earlier one.
fn insert(fields: &mut Map<String, Value>, name: &str, value: &Value, budget: &Budget) -> Result<(), Excess> {
    budget.charge(value_cost(value))?;
    match fields.get_mut(name) {
        Some(place) => {
            budget.refund(value_cost(place));
            place.clone_from(value);
        }
        None => {
            budget.charge(field_cost(fields.is_empty(), name))?;
            fields.insert(name.to_owned(), value.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assemble(chunks: &[Value]) -> Accumulator {
        let mut accumulator = Accumulator::new();
        for chunk in chunks {
            accumulator.add(&mut serde_json::from_value(chunk.clone()).unwrap()).unwrap();
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
    fn the_role_is_that_of_the_first_delta_with_one() {
        for (deltas, role) in [
            ([json!({"role": "model"}), json!({"role": "tool"})], "model"),
            ([json!({}), json!({})], "assistant"),
        ] {
            let response = assemble(&deltas.map(delta)).into_response();
            assert_eq!(response.choices[0].message.role.as_str(), role);
        }
    }

    #[test]
    fn a_complete_answer() {
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
    fn an_incomplete_answer_is_recognised() {
        assert!(!Accumulator::new().is_complete());
        let mut truncated = assemble(&[delta(json!({"content": "a"}))]);
        assert!(!truncated.is_complete());
        truncated.end();
        assert!(truncated.is_complete());
        assert!(assemble(&[delta(json!({"content": "a"})), finish("length")]).is_complete());
        assert!(!assemble(&[finish("")]).is_complete());
        // One of two choices has no finish reason.
        let two = [
            json!({"choices": [{"index": 0, "finish_reason": "stop"}, {"index": 1, "delta": {"content": "b"}}]}),
        ];
        assert!(!assemble(&two).is_complete());
    }

    #[test]
    fn choices_are_separated_and_sorted() {
        let chunks = [
            json!({"choices": [{"index": 1, "delta": {"content": "b"}}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "a"}}]}),
            json!({"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"},
                               {"index": 0, "delta": {"content": "A"}, "finish_reason": "length"}]}),
        ];
        assert_eq!(assemble(&chunks[..1]).partial(), "", "the text of the second choice isn't shown");
        assert_eq!(assemble(&chunks[..2]).partial(), "a");
        let answer = assemble(&chunks).into_response();
        let seen = |position: usize| {
            (answer.choices[position].message.text(), answer.choices[position].finish_reason.as_deref())
        };
        assert_eq!((seen(0), seen(1)), (("aA", Some("length")), ("bB", Some("stop"))));
    }

    #[test]
    fn refusals_logprobs_and_function_calls_are_concatenated() {
        let logprob = |token: &str| json!({"content": [{"token": token, "logprob": -0.5}], "refusal": null});
        let chunks = [
            delta(json!({"refusal": "I "})),
            delta(json!({"refusal": "won't", "function_call": {"name": "f", "arguments": ""}})),
            delta(json!({"function_call": {"arguments": "{}", "x": 1}})),
            json!({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": logprob("a")}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "b"}, "logprobs": logprob("b")}]}),
            json!({"choices": [{"index": 0, "delta": {}, "logprobs": null}]}),
        ];
        let answer = assemble(&chunks).into_response();
        let choice = &answer.choices[0];
        assert_eq!(answer.refusal(), Some("I won't"));
        let call = choice.message.function_call.as_ref().unwrap();
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("f", "{}"));
        assert_eq!(call.extra["x"], 1);
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
    fn reasoning_and_images_in_parts() {
        let reasoning = |text: &str| json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]});
        let chunks = [
            delta(reasoning("h")),
            delta(reasoning("m")),
            delta(json!({"content": [{"type": "text", "text": "a"}]})),
            delta(json!({"content": "b"})),
            delta(json!({"content": [{"type": "image_url", "image_url": {"url": "u"}}]})),
        ];
        let answer = assemble(&chunks).into_response();
        assert_eq!((answer.text(), answer.reasoning()), ("ab", Some("hm")));
        assert_eq!(answer.choices[0].message.content.as_ref().unwrap().parts().len(), 3);
    }

    #[test]
    fn the_last_usage_counts_and_groqs_field_is_read() {
        let usage = |total: u64| json!({"choices": [], "usage": {"total_tokens": total}});
        assert_eq!(assemble(&[usage(1), usage(2)]).into_response().usage.unwrap().total_tokens, Some(2));
        let mut last = finish("stop");
        last["x_groq"] = json!({"id": "r", "usage": {"total_tokens": 5}});
        let answer = assemble(&[delta(json!({"content": "a"})), last]).into_response();
        assert_eq!(answer.usage.unwrap().total_tokens, Some(5));
        assert_eq!(assemble(&[delta(json!({"content": "a"}))]).into_response().usage, None);
    }

    #[test]
    fn unknown_fields_are_kept() {
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
    fn the_number_of_choices_is_limited() {
        let mut accumulator = Accumulator::new();
        let nth = |n: usize| serde_json::from_value(json!({"choices": [{"index": n}]})).unwrap();
        (0..MAX_CHOICES).for_each(|n| accumulator.add(&mut nth(n)).unwrap());
        assert_eq!(accumulator.add(&mut nth(MAX_CHOICES)), Err(Excess::Entries(MAX_CHOICES)));
        accumulator.add(&mut nth(7)).unwrap();
    }

    /// Adds chunks with this delta until the budget is exceeded, at most `most`.
    fn chunks_until_excess(delta: &Value, most: usize) -> (usize, Option<Excess>) {
        let mut accumulator = Accumulator::new();
        let json = json!({"choices": [{"index": 0, "delta": delta}]}).to_string();
        let mut chunk = serde_json::from_str(&json).unwrap();
        for count in 0..most {
            if let Err(excess) = accumulator.add(&mut chunk) {
                return (count, Some(excess));
            }
        }
        (most, None)
    }

    #[test]
    fn the_assembled_response_is_bounded() {
        let numbers = vec![0; 1000];
        let objects = vec![json!({}); 300];
        for delta in [
            json!({"x": numbers}),
            json!({"content": [{"type": "x", "x": numbers}]}),
            json!({"tool_calls": [{"index": 0, "x": numbers}]}),
            json!({"tool_calls": [{"index": 0, "function": {"x": numbers}}]}),
            json!({"function_call": {"x": numbers}}),
        ] {
            let (chunks, excess) = chunks_until_excess(&delta, 2000);
            assert!(matches!(excess, Some(Excess::Memory(_))) && chunks > 50, "{chunks} of {delta:.50}");
        }
        let chunk = json!({"choices": [{"logprobs": {"content": objects}}]});
        let mut chunk: ChatChunk = serde_json::from_str(&chunk.to_string()).unwrap();
        let mut accumulator = Accumulator::new();
        assert!((0..2000).any(|_| accumulator.add(&mut chunk).is_err()));
    }

    #[test]
    fn fields_that_replace_earlier_ones_and_text_are_not_bounded() {
        let filter =
            json!({"hate": {"filtered": false, "severity": "safe"}, "violence": {"filtered": false}});
        for delta in
            [json!({"x": filter}), json!({"x": {"y": vec![0; 1000]}}), json!({"content": "a".repeat(1000)})]
        {
            assert_eq!(chunks_until_excess(&delta, 20_000), (20_000, None), "{delta:.50}");
        }
    }
}
