//! Decodes chat completions, complete ones and chunks of a stream, with a cursor instead of serde's derive, for the reason in
//! [`cursor`](crate::json::cursor).

use std::borrow::Cow;
use std::num::NonZeroU32;

use serde::de::{Error, IgnoredAny};
use serde_json::Value;

use crate::api::chunk::ChunkHead;
use crate::api::response::MAX_CHOICES;
use crate::api::tool_calls::MAX_TOOL_CALLS;
use crate::api::{ChatChunk, ChatResponse, Choice, ChunkChoice, Content, Delta, FunctionDelta, Usage};
use crate::json;
use crate::json::bounded::Bounded;
use crate::json::budget::Budget;
use crate::json::cursor::{JsonCursor, RawValue, SyntaxError};
use crate::json::extra::Extra;
use crate::json::lenient::{Lenient, is_filled, object, short_list, text};
use crate::meta::Meta;
use crate::wire::error_body::ErrorBody;
use crate::wire::usage::read_usage;

/// A decoded chunk, and the error in it, if any.
#[derive(Debug)]
pub(crate) struct DecodedChunk {
    pub(crate) chunk: ChatChunk,
    pub(crate) error: Option<Value>,
}

/// Decodes a response body, which may have no choices. A body with an error is rejected. The response is boxed, because it is
/// large and is moved a dozen times on its way through the retry loop.
pub(crate) fn decode_response(body: &[u8], budget: &Budget) -> serde_json::Result<Box<ChatResponse>> {
    let body = json::without_bom(body);
    let mut completion = Completion::default();
    completion.read_answer(body, budget)?;
    let Completion { choices, usage, id, model, created, has_unread_usage, .. } = completion;
    let string = |field: Option<Field<'_>>| {
        let value = field?.value;
        value.text().ok()?.map(Cow::into_owned).or_else(|| text(value.scalar()?).ok()?)
    };
    let mut extra = unknown_fields(body.to_vec(), has_unread_usage);
    extra.bound(budget);
    Ok(Box::new(ChatResponse {
        id: string(id).unwrap_or_default(),
        model: string(model).unwrap_or_default(),
        created: created.and_then(|field| field.value.count()),
        choices: choices.unwrap_or_default().into_iter().map(Choice::from).collect(),
        usage,
        extra,
        meta: Meta::default(),
    }))
}

/// Decodes a complete response body as the only chunk of a stream, with the rules of [`decode_response`].
pub(crate) fn decode_response_as_chunk(body: &[u8], budget: &Budget) -> serde_json::Result<ChatChunk> {
    let body = json::without_bom(body);
    let mut completion = Completion::default();
    completion.read_answer(body, budget)?;
    let head = completion.head();
    let Completion { choices, usage, has_unread_usage, .. } = completion;
    let mut extra = unknown_fields(body.to_vec(), has_unread_usage);
    extra.bound(budget);
    Ok(ChatChunk { choices: choices.unwrap_or_default(), usage, extra, head })
}

/// Decodes a chunk of a stream. JSON that can't be decoded is returned with the parser's error.
pub(crate) fn decode_chunk(
    json: Vec<u8>,
    budget: &Budget,
) -> Result<DecodedChunk, (serde_json::Error, Vec<u8>)> {
    let mut completion = Completion::default();
    if completion.read(&json, budget).is_err() {
        return Err((parse_error(&json), json));
    }
    let head = completion.head();
    let Completion { choices, usage, error, has_unread_usage, .. } = completion;
    let extra = unknown_fields(json, has_unread_usage);
    let mut chunk = ChatChunk { choices: choices.unwrap_or_default(), usage, extra, head };
    chunk.extra.bound(budget);
    Ok(DecodedChunk { chunk, error: error.filter(is_filled) })
}

/// The parser's error for JSON that the cursor rejected.
fn parse_error(json: &[u8]) -> serde_json::Error {
    match serde_json::from_slice::<IgnoredAny>(json) {
        Err(error) => error,
        Ok(_) => Error::custom("not a chat completion"),
    }
}

/// The fields shared by complete responses and chunks of a stream.
#[derive(Default)]
struct Completion<'a> {
    /// `None` if there is no list, as opposed to an empty one.
    choices: Option<Vec<ChunkChoice>>,
    usage: Option<Usage>,
    /// An error in place of an answer, or in one of the choices.
    error: Option<Value>,
    id: Option<Field<'a>>,
    model: Option<Field<'a>>,
    created: Option<Field<'a>>,
    /// The total length of the names of the unknown fields.
    unknown_names: u32,
    /// There is usage without any known count, so it is kept among the unknown fields.
    has_unread_usage: bool,
}

/// A field that is parsed later.
#[derive(Clone, Copy)]
struct Field<'a> {
    offset: Option<NonZeroU32>,
    value: RawValue<'a>,
}

/// The unknown fields of a completion.
fn unknown_fields(json: Vec<u8>, has_unread_usage: bool) -> Extra {
    Extra::new(json, if has_unread_usage { is_known_except_usage } else { is_known })
}

/// Whether a field is excluded from the unknown ones.
fn is_known(name: &[u8]) -> bool {
    name == b"usage" || is_known_except_usage(name)
}

fn is_known_except_usage(name: &[u8]) -> bool {
    matches!(name, b"id" | b"model" | b"created" | b"choices" | b"error")
}

impl<'a> Completion<'a> {
    /// Reads a completion in place; unknown fields are skipped.
    fn read(&mut self, json: &'a [u8], budget: &Budget) -> Result<(), SyntaxError> {
        let mut cursor = JsonCursor::new(json);
        if !cursor.enter(b'{')? {
            return Err(SyntaxError);
        }
        let field = |cursor: &mut JsonCursor<'a>| {
            let offset = u32::try_from(json.len() - cursor.remaining()).ok().and_then(NonZeroU32::new);
            Ok(Some(Field { offset, value: cursor.value()? }))
        };
        while let Some(name) = cursor.next_name()? {
            match &*name {
                b"choices" => self.read_choices(&mut cursor, budget)?,
                b"id" => self.id = field(&mut cursor)?,
                b"model" => self.model = field(&mut cursor)?,
                b"created" => self.created = field(&mut cursor)?,
                b"usage" => self.read_usage(&mut cursor, budget)?,
                b"error" => self.error = not_null(cursor.value()?, budget)?.or(self.error.take()),
                other => {
                    self.unknown_names = self.unknown_names.wrapping_add(other.len() as u32);
                    cursor.value()?;
                }
            }
        }
        cursor.expect_end()
    }

    /// Reads a complete response in place.
    fn read_answer(&mut self, json: &'a [u8], budget: &Budget) -> serde_json::Result<()> {
        self.read(json, budget).map_err(|SyntaxError| parse_error(json))?;
        let failed = |choice: &ChunkChoice| {
            choice.finish_reason.as_deref().and_then(ErrorBody::of_finish_reason).is_some()
        };
        if self.error.as_ref().is_some_and(is_filled) || self.choices.iter().flatten().any(failed) {
            return Err(Error::custom("the response contains an error"));
        }
        Ok(())
    }

    fn head(&self) -> ChunkHead {
        let offset = |field: Option<Field<'_>>| field?.offset;
        let Completion { id, model, created, unknown_names, .. } = *self;
        ChunkHead { id: offset(id), model: offset(model), created: offset(created), unknown_names }
    }

    /// Reads usage, if there is any.
    fn read_usage(&mut self, cursor: &mut JsonCursor<'_>, budget: &Budget) -> Result<(), SyntaxError> {
        if !cursor.skip_null() {
            self.usage = read_usage(cursor, budget)?;
            self.has_unread_usage = self.usage.is_none();
        }
        Ok(())
    }

    fn read_choices(&mut self, cursor: &mut JsonCursor<'_>, budget: &Budget) -> Result<(), SyntaxError> {
        if !cursor.enter(b'[')? {
            return Ok(());
        }
        let mut choices = Vec::new();
        while cursor.next_item()? {
            if cursor.skip_null() {
                continue;
            }
            budget.check_entries(choices.len() + 1, MAX_CHOICES).map_err(|_| SyntaxError)?;
            choices.reserve_exact(1); // there is almost always one
            let position = u32::try_from(choices.len()).unwrap_or(u32::MAX);
            choices.push(ChunkChoice { index: position, ..ChunkChoice::default() });
            if let Some(choice) = choices.last_mut() {
                self.error = read_choice(choice, cursor, budget)?.or(self.error.take());
            }
        }
        self.choices = Some(choices);
        Ok(())
    }
}

/// Reads a choice in place; returns the error in it.
fn read_choice(
    choice: &mut ChunkChoice,
    cursor: &mut JsonCursor<'_>,
    budget: &Budget,
) -> Result<Option<Value>, SyntaxError> {
    let mut error = None;
    let (mut has_delta, mut has_message) = (false, false);
    if !cursor.enter(b'{')? {
        return Err(SyntaxError);
    }
    while let Some(name) = cursor.next_name()? {
        match &*name {
            b"index" => choice.index = cursor.value()?.index().unwrap_or(choice.index),
            b"delta" => has_delta |= read_delta(&mut choice.delta, cursor, budget)?,
            // In a chunk with both, the message repeats the text of all deltas.
            b"message" if has_delta => drop(cursor.value()?),
            b"message" => has_message = read_delta(&mut choice.delta, cursor, budget)?,
            // The answer in the legacy completions API.
            b"text" => read_content(&mut choice.delta.content, cursor.value()?, budget)?,
            b"finish_reason" => {
                let unread = read_text(&mut choice.finish_reason, cursor.value()?, budget)?;
                keep_unread(&mut choice.extra, &name, unread);
            }
            b"logprobs" => {
                let value = cursor.value()?;
                // Checked here because it is null in almost every chunk.
                if !value.is_null() {
                    let boxed = |logprobs| object(logprobs).map(|logprobs| logprobs.map(Box::new).map(Some));
                    let unread = read_in_place(&mut choice.logprobs, value, budget, boxed)?;
                    keep_unread(&mut choice.extra, &name, unread);
                }
            }
            b"error" => error = not_null(cursor.value()?, budget)?,
            other => {
                let start = cursor.clone();
                cursor.value()?;
                keep_field(&mut choice.extra, other, cursor.text_since(&start), budget);
            }
        }
    }
    choice.is_message = has_message && !has_delta;
    // Some servers send an empty reason, or the string "null", while the answer continues.
    if matches!(choice.finish_reason.as_deref(), Some("" | "null")) {
        choice.finish_reason = None;
    }
    Ok(error)
}

/// Reads a delta or a message in place; false if it isn't an object.
fn read_delta(delta: &mut Delta, cursor: &mut JsonCursor<'_>, budget: &Budget) -> Result<bool, SyntaxError> {
    if !cursor.enter(b'{')? {
        return Ok(false);
    }
    while let Some(name) = cursor.next_name()? {
        let start = cursor.clone();
        let value = cursor.value()?;
        let unread = match &*name {
            b"content" => {
                read_content(&mut delta.content, value, budget)?;
                None
            }
            b"role" => read_text(&mut delta.role, value, budget)?,
            b"reasoning_content" => read_text(&mut delta.reasoning_content, value, budget)?,
            b"reasoning" => read_text(&mut delta.reasoning, value, budget)?,
            b"refusal" => read_text(&mut delta.refusal, value, budget)?,
            b"tool_calls" => {
                read_in_place(&mut delta.tool_calls, value, budget, short_list::<_, MAX_TOOL_CALLS>)?
            }
            b"function_call" => read_in_place(&mut delta.function_call, value, budget, |call| {
                let not_blank = |call: FunctionDelta| Some(Box::new(call)).filter(|call| !call.is_blank());
                Ok(object(call)?.map(not_blank))
            })?,
            other => {
                keep_field(&mut delta.extra, other, cursor.text_since(&start), budget);
                None
            }
        };
        keep_unread(&mut delta.extra, &name, unread);
    }
    Ok(true)
}

/// Reads a string in place. A value that can't become a string is returned; null is ignored.
#[inline]
fn read_text<T: for<'t> From<&'t str>>(
    place: &mut Option<T>,
    value: RawValue<'_>,
    budget: &Budget,
) -> Result<Option<Value>, SyntaxError> {
    match value.text()? {
        Some(text) => *place = Some(T::from(&text)),
        None if value.is_null() => {}
        None => {
            return read_in_place(place, value, budget, |value| {
                Ok(text(value)?.map(|text| Some(T::from(&text))))
            });
        }
    }
    Ok(None)
}

/// Parses a value and reads it in place. A value that can't be read is returned; null is ignored.
#[inline]
fn read_in_place<P: Bounded, T>(
    place: &mut T,
    value: RawValue<'_>,
    budget: &Budget,
    reader: impl FnOnce(P) -> Lenient<T>,
) -> Result<Option<Value>, SyntaxError> {
    if value.is_null() {
        return Ok(None);
    }
    match reader(value.parse(budget)?) {
        Ok(Some(read)) => *place = read,
        Ok(None) => {}
        Err(unread) => return Ok(Some(unread)),
    }
    Ok(None)
}

#[inline]
fn read_content(
    content: &mut Option<Content>,
    value: RawValue<'_>,
    budget: &Budget,
) -> Result<(), SyntaxError> {
    if let Some(other) = read_text(content, value, budget)? {
        *content = Content::from_value(other).ok().flatten();
    }
    Ok(())
}

/// The value, parsed, unless it is null.
fn not_null(value: RawValue<'_>, budget: &Budget) -> Result<Option<Value>, SyntaxError> {
    if value.is_null() { Ok(None) } else { value.parse(budget).map(Some) }
}

/// Keeps the text of an unknown field, if it fits into the budget.
#[inline]
fn keep_field(extra: &mut Extra, name: &[u8], json: &[u8], budget: &Budget) {
    if budget.try_keep_field(name, json) {
        extra.push_raw(name, json);
    }
}

/// Keeps a known field of an unexpected type among the unknown ones.
#[inline]
fn keep_unread(extra: &mut Extra, name: &[u8], unread: Option<Value>) {
    if let Some(unread) = unread {
        extra.push_raw(name, unread.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::budget::Excess;
    use serde_json::json;

    fn response(body: &str) -> ChatResponse {
        *decode_response(body.as_bytes(), &Budget::unlimited()).unwrap()
    }

    #[test]
    fn a_complete_answer() {
        let answer = response(
            r#"
            {"id": "c", "object": "chat.completion", "created": "7", "model": "m", "choices": [{"index": 0, "message":
            {"role": "assistant", "content": "hi", "refusal": null}, "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, "system_fingerprint": "fp"}"#,
        );
        assert_eq!((answer.text(), answer.finish_reason()), ("hi", Some("stop")));
        assert_eq!((answer.id.as_str(), answer.model.as_str(), answer.created), ("c", "m", Some(7)));
        assert_eq!(answer.usage.as_ref().unwrap().total_tokens, Some(3));
        assert_eq!(json!(answer.extra), json!({"object": "chat.completion", "system_fingerprint": "fp"}));
        assert_eq!((answer.reasoning(), answer.refusal(), answer.tool_calls().len()), (None, None, 0));
    }

    #[test]
    fn a_minimal_answer() {
        let answer = response(r#"{"choices": [{"message": {"content": "hi"}}]}"#);
        assert_eq!((answer.text(), answer.finish_reason(), &answer.usage), ("hi", None, &None));
        assert_eq!(response(r#"{"choices": []}"#).text(), "");
        assert_eq!(response(r#"{"choices": [{}]}"#).text(), "");
        assert_eq!(response(r#"{"choices": [{"text": "legacy"}]}"#).text(), "legacy");
        assert_eq!(response(r#"{"choices": [{"finish_reason": ""}]}"#).finish_reason(), None);
        for body in ["{}", r#"{"choices": null}"#, r#"{"detail": "Not Found"}"#] {
            assert!(
                response(body).choices.is_empty() && serde_json::from_str::<ChatResponse>(body).is_err(),
                "{body}"
            );
        }
        assert_eq!(response(r#"{"choices": [null, {"text": "a"}, null]}"#).text(), "a");
        for body in ["[]", "", "<html>", r#"{"choices": [1]}"#] {
            assert!(decode_response(body.as_bytes(), &Budget::unlimited()).is_err(), "{body}");
        }
    }

    #[test]
    fn fields_of_unexpected_types_are_kept() {
        let value = json!({
            "id": "x", "model": "m", "usage": {"tokens": "many"}, "service_tier": null,
            "choices": [{
                "index": 0, "finish_reason": {"type": "stop"}, "logprobs": [1],
                "message": {"role": "assistant", "content": "hi", "refusal": ["no"], "tool_calls": "f", "reasoning": {"a": 1}}
            }]
        });
        let answer: ChatResponse = serde_json::from_value(value.clone()).unwrap();
        assert_eq!((answer.text(), answer.finish_reason(), &answer.usage), ("hi", None, &None));
        assert_eq!(serde_json::to_value(&answer).unwrap(), value);
    }

    #[test]
    fn lone_surrogates_and_python_numbers() {
        let answer = response(
            r#"{"choices":[{"message":{"content":"a\ud83eb \ud83e\udd80"},"logprobs":{"content":[{"token":"a","logprob":-Infinity}]}}],"x":NaN}"#,
        );
        assert_eq!(answer.text(), "a\u{fffd}b 🦀");
        assert_eq!(answer.extra["x"], Value::Null);
        assert_eq!(answer.choices[0].logprobs.as_ref().unwrap().content[0].logprob, None);
    }

    #[test]
    fn a_complete_answer_is_also_one_chunk() {
        let body = b"\xEF\xBB\xBF {\"id\": \"c\", \"model\": 7, \"created\": \"8\", \"x\": 1, \"choices\": [{\"message\": {\"content\": \"hi\"}}]}";
        let chunk = decode_response_as_chunk(body, &Budget::unlimited()).unwrap();
        assert_eq!((chunk.text(), json!(chunk.extra)), ("hi", json!({"x": 1})));
        assert_eq!(
            (chunk.id().as_deref(), chunk.model().as_deref(), chunk.created()),
            (Some("c"), Some("7"), Some(8))
        );
        let refused = br#"{"choices": [], "error": {"message": "no"}}"#;
        assert!(decode_response_as_chunk(refused, &Budget::unlimited()).is_err());
    }

    #[test]
    fn the_head_of_a_chunk_survives_changes_of_its_other_fields() {
        let mut chunk: ChatChunk =
            serde_json::from_str(r#"{"id": "c", "model": "", "choices": []}"#).unwrap();
        chunk.extra.insert("x", 1);
        assert_eq!((chunk.id().as_deref(), chunk.model(), chunk.created()), (Some("c"), None, None));
        assert_eq!(json!(chunk), json!({"id": "c", "choices": [], "x": 1}));
    }

    #[test]
    fn a_large_unknown_field_is_left_out_and_the_answer_stays() {
        let numbers = format!("[{}0]", "0,".repeat(2_000_000));
        let objects = format!("[{}0]", r#"{"a":0},"#.repeat(300_000));
        for large in [numbers, objects] {
            for body in [
                format!(r#"{{"x":{large},"y":1,"id":"c","choices":[{{"message":{{"content":"hi"}}}}]}}"#),
                format!(r#"{{"id":"c","choices":[{{"x":{large},"message":{{"content":"hi"}}}}],"y":1}}"#),
                format!(r#"{{"id":"c","choices":[{{"message":{{"x":{large},"content":"hi"}}}}],"y":1}}"#),
                format!(
                    r#"{{"id":"c","choices":[{{"message":{{"content":"hi"}}}}],"usage":{{"total_tokens":1,"x":{large}}},"y":1}}"#
                ),
                format!(
                    r#"{{"id":"c","choices":[{{"message":{{"content":"hi"}}}}],"usage":{{"x":{large}}},"y":1}}"#
                ),
            ] {
                let budget = Budget::of_answer(body.as_bytes());
                let answer = decode_response(body.as_bytes(), &budget).unwrap();
                assert_eq!((answer.text(), answer.id.as_str(), &answer.extra["y"]), ("hi", "c", &json!(1)));
                assert!(budget.omits_fields() && !json!(answer).to_string().contains("\"x\""), "{body:.60}");
                let chunk =
                    decode_response_as_chunk(body.as_bytes(), &Budget::of_chunk(body.as_bytes())).unwrap();
                assert_eq!((chunk.id().as_deref(), json!(chunk.extra)), (Some("c"), json!({"y": 1})));
            }
        }
    }

    #[test]
    fn values_that_do_not_fit_are_an_error() {
        let numbers = format!("[{}0]", "0,".repeat(2_000_000));
        for choice in [
            format!(r#"{{"message":{{"content":[{{"x":{numbers}}}]}}}}"#),
            format!(r#"{{"message":{{"content":{{"x":{numbers}}}}}}}"#),
            format!(r#"{{"message":{{"refusal":{numbers}}}}}"#),
            format!(r#"{{"message":{{"tool_calls":[{{"x":{numbers}}}]}}}}"#),
            format!(r#"{{"message":{{"tool_calls":[{{"function":{{"arguments":{numbers}}}}}]}}}}"#),
            format!(r#"{{"message":{{"function_call":{{"x":{numbers}}}}}}}"#),
            format!(r#"{{"finish_reason":{numbers}}}"#),
            format!(r#"{{"logprobs":{{"x":{numbers}}}}}"#),
            format!(r#"{{"error":{numbers}}}"#),
        ] {
            let body = format!(r#"{{"choices":[{choice}]}}"#);
            let budget = Budget::of_answer(body.as_bytes());
            assert!(decode_response(body.as_bytes(), &budget).is_err(), "{choice:.60}");
            assert!(matches!(budget.excess(), Some(Excess::Memory(_))), "{choice:.60}");
        }
    }
}
