//! Joins characters that a gateway split over two chunks: it escaped each half of a surrogate pair (RFC 8259, section 7) in
//! a chunk of its own. Gateways written in JavaScript do that, because their strings consist of such halves.

use std::mem;

use crate::api::chunk::ChunkHead;
use crate::api::{ChatChunk, ChunkChoice, ToolCallDelta};
use crate::json::cursor::{JsonCursor, RawValue, SyntaxError};
use crate::json::extra::Extra;
use crate::json::surrogate;

/// What the parser of a chunk makes of half a pair.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The first halves whose second halves haven't come.
#[derive(Debug, Default)]
pub(super) struct Surrogates {
    pending: Vec<FirstHalf>,
}

#[derive(Debug)]
struct FirstHalf {
    /// The index of the choice.
    choice: u32,
    field: Field,
    half: u16,
}

/// A text that is sent in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Content,
    Reasoning,
    ReasoningContent,
    Refusal,
    /// The arguments of a tool call. The number is the index of the call, or its position in the chunk where it has none.
    Arguments(u64),
    /// The arguments of a call in the deprecated form.
    FunctionArguments,
}

/// The halves at the ends of a text in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    /// The position of the choice in the chunk.
    choice: usize,
    field: Field,
    /// A second half, with which the text begins.
    second: Option<u16>,
    /// A first half, with which the text ends.
    first: Option<u16>,
}

impl Surrogates {
    /// Completes the characters in a chunk whose first halves came before, and keeps the first halves at the ends of its
    /// texts for the next chunk.
    #[inline]
    pub(super) fn join(&mut self, chunk: &mut ChatChunk) {
        if !self.pending.is_empty() || chunk.choices.iter().any(may_be_split) {
            self.join_halves(chunk);
        }
    }

    /// The halves that never got their other half, as a chunk.
    pub(super) fn rest(&mut self) -> Option<ChatChunk> {
        let mut choices: Vec<ChunkChoice> = Vec::new();
        for FirstHalf { choice: index, field, .. } in mem::take(&mut self.pending) {
            let position = choices.iter().position(|choice| choice.index == index).unwrap_or_else(|| {
                choices.push(ChunkChoice { index, ..ChunkChoice::default() });
                choices.len() - 1
            });
            append(&mut choices[position], field);
        }
        let (extra, head) = (Extra::default(), ChunkHead::default());
        (!choices.is_empty()).then_some(ChatChunk { choices, usage: None, extra, head })
    }

    fn join_halves(&mut self, chunk: &mut ChatChunk) {
        let ends = find_ends(chunk.extra.json()).unwrap_or_default();
        for (position, choice) in chunk.choices.iter_mut().enumerate() {
            let index = choice.index;
            for_each_text(choice, |field, text| {
                let ends = ends.iter().find(|ends| ends.choice == position && ends.field == field);
                self.join_text(index, field, text, ends);
            });
            if choice.finish_reason.is_some() {
                self.pending.retain(|half| {
                    let is_other = half.choice != index;
                    if !is_other {
                        append(choice, half.field);
                    }
                    is_other
                });
            }
        }
    }

    fn join_text(&mut self, choice: u32, field: Field, text: &mut String, ends: Option<&Ends>) {
        if text.is_empty() {
            return;
        }
        let is_same = |pending: &FirstHalf| pending.choice == choice && pending.field == field;
        if let Some(position) = self.pending.iter().position(is_same) {
            let first = self.pending.swap_remove(position).half;
            match ends.and_then(|ends| ends.second).and_then(|second| pair(first, second)) {
                Some(joined) if text.starts_with(REPLACEMENT) => {
                    text.replace_range(..REPLACEMENT.len_utf8(), joined.encode_utf8(&mut [0; 4]));
                }
                _ => text.insert(0, REPLACEMENT),
            }
        }
        if let Some(half) = ends.and_then(|ends| ends.first).filter(|_| text.ends_with(REPLACEMENT)) {
            text.pop();
            self.pending.push(FirstHalf { choice, field, half });
        }
    }
}

/// The character of a surrogate pair.
fn pair(first: u16, second: u16) -> Option<char> {
    char::decode_utf16([first, second]).next()?.ok()
}

/// Whether a text of a choice begins or ends with what the parser makes of half a pair.
fn may_be_split(choice: &ChunkChoice) -> bool {
    let is_split = |text: &str| text.ends_with(REPLACEMENT) || text.starts_with(REPLACEMENT);
    let may_be = |text: &Option<String>| text.as_deref().is_some_and(is_split);
    let delta = &choice.delta;
    is_split(delta.text())
        || may_be(&delta.reasoning_content)
        || may_be(&delta.reasoning)
        || may_be(&delta.refusal)
        || delta.tool_calls.iter().any(|call| may_be(&call.function.arguments))
        || delta.function_call.as_ref().is_some_and(|call| may_be(&call.arguments))
}

/// Passes each text of a choice on that is sent in parts. Content in parts of its own isn't one.
fn for_each_text(choice: &mut ChunkChoice, mut visit: impl FnMut(Field, &mut String)) {
    let delta = &mut choice.delta;
    let mut visit_if_any = |field: Field, text: Option<&mut String>| {
        if let Some(text) = text {
            visit(field, text);
        }
    };
    visit_if_any(Field::Content, delta.content.as_mut().and_then(|content| content.plain_text_mut()));
    visit_if_any(Field::Reasoning, delta.reasoning.as_mut());
    visit_if_any(Field::ReasoningContent, delta.reasoning_content.as_mut());
    visit_if_any(Field::Refusal, delta.refusal.as_mut());
    for (position, call) in delta.tool_calls.iter_mut().enumerate() {
        let index = call.index.unwrap_or(position as u64);
        visit_if_any(Field::Arguments(index), call.function.arguments.as_mut());
    }
    let function_call = delta.function_call.as_mut();
    visit_if_any(Field::FunctionArguments, function_call.and_then(|call| call.arguments.as_mut()));
}

/// Appends the replacement of half a pair to a text of a choice.
fn append(choice: &mut ChunkChoice, field: Field) {
    let delta = &mut choice.delta;
    let text = match field {
        Field::Content => match delta.content.get_or_insert_default().plain_text_mut() {
            Some(text) => text,
            None => return,
        },
        Field::Reasoning => delta.reasoning.get_or_insert_default(),
        Field::ReasoningContent => delta.reasoning_content.get_or_insert_default(),
        Field::Refusal => delta.refusal.get_or_insert_default(),
        Field::Arguments(index) => {
            let call = ToolCallDelta { index: Some(index), ..ToolCallDelta::default() };
            delta.tool_calls.push(call);
            match delta.tool_calls.last_mut() {
                Some(call) => call.function.arguments.get_or_insert_default(),
                None => return,
            }
        }
        Field::FunctionArguments => {
            delta.function_call.get_or_insert_default().arguments.get_or_insert_default()
        }
    };
    text.push(REPLACEMENT);
}

/// The halves at the ends of the texts in the JSON of a chunk.
fn find_ends(json: &[u8]) -> Result<Vec<Ends>, SyntaxError> {
    let mut found = Vec::new();
    for_each_field(&mut JsonCursor::new(json), |name, cursor| {
        if name != b"choices" || !cursor.enter(b'[')? {
            return if name == b"choices" { Ok(()) } else { cursor.value().map(drop) };
        }
        let mut position = 0;
        while cursor.next_item()? {
            if !cursor.skip_null() {
                find_ends_of_choice(cursor, position, &mut found)?;
                position += 1;
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn find_ends_of_choice(
    cursor: &mut JsonCursor<'_>,
    choice: usize,
    found: &mut Vec<Ends>,
) -> Result<(), SyntaxError> {
    for_each_field(cursor, |name, cursor| match name {
        b"delta" | b"message" => for_each_field(cursor, |name, cursor| {
            let field = match name {
                b"content" => Field::Content,
                b"reasoning" => Field::Reasoning,
                b"reasoning_content" => Field::ReasoningContent,
                b"refusal" => Field::Refusal,
                b"function_call" => {
                    return find_ends_of_arguments(cursor, choice, Field::FunctionArguments, found);
                }
                b"tool_calls" => return find_ends_of_calls(cursor, choice, found),
                _ => return cursor.value().map(drop),
            };
            found.extend(ends(cursor.value()?, choice, field));
            Ok(())
        }),
        b"text" => {
            found.extend(ends(cursor.value()?, choice, Field::Content));
            Ok(())
        }
        _ => cursor.value().map(drop),
    })
}

fn find_ends_of_calls(
    cursor: &mut JsonCursor<'_>,
    choice: usize,
    found: &mut Vec<Ends>,
) -> Result<(), SyntaxError> {
    if !cursor.enter(b'[')? {
        return Ok(());
    }
    let mut position = 0;
    while cursor.next_item()? {
        if cursor.skip_null() {
            continue;
        }
        let (mut index, from) = (None, found.len());
        for_each_field(cursor, |name, cursor| match name {
            b"index" => {
                index = cursor.value()?.count();
                Ok(())
            }
            b"function" => find_ends_of_arguments(cursor, choice, Field::Arguments(0), found),
            _ => cursor.value().map(drop),
        })?;
        for ends in &mut found[from..] {
            ends.field = Field::Arguments(index.unwrap_or(position));
        }
        position += 1;
    }
    Ok(())
}

fn find_ends_of_arguments(
    cursor: &mut JsonCursor<'_>,
    choice: usize,
    field: Field,
    found: &mut Vec<Ends>,
) -> Result<(), SyntaxError> {
    for_each_field(cursor, |name, cursor| {
        let value = cursor.value()?;
        found.extend(ends(value, choice, field).filter(|_| name == b"arguments"));
        Ok(())
    })
}

/// Passes each field of an object on, which has to read its value. A value of another type is skipped.
fn for_each_field<'a>(
    cursor: &mut JsonCursor<'a>,
    mut visit: impl FnMut(&[u8], &mut JsonCursor<'a>) -> Result<(), SyntaxError>,
) -> Result<(), SyntaxError> {
    if cursor.enter(b'{')? {
        while let Some(name) = cursor.next_name()? {
            visit(&name, cursor)?;
        }
    }
    Ok(())
}

/// The halves at the ends of a value; none where there are none.
fn ends(value: RawValue<'_>, choice: usize, field: Field) -> Option<Ends> {
    let RawValue::Escaped(json) = value else { return None };
    let inside = json.get(1..json.len() - 1)?;
    let second = surrogate(inside).filter(|unit| *unit >= 0xDC00);
    let first = inside.len().checked_sub(r"\uD800".len()).and_then(|start| {
        let backslashes = inside[..=start].iter().rev().take_while(|byte| **byte == b'\\').count();
        let is_escape = backslashes % 2 == 1; // otherwise the backslash itself is escaped
        surrogate(&inside[start..]).filter(|unit| is_escape && *unit < 0xDC00)
    });
    (second.is_some() || first.is_some()).then_some(Ends { choice, field, second, first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::budget::Budget;
    use crate::wire::completion::decode_chunk;

    /// The chunks of a stream, joined; the rest of it is the last one.
    fn joined(chunks: &[&str]) -> Vec<ChatChunk> {
        let mut surrogates = Surrogates::default();
        let join = |choices: &&str| {
            let json = format!(r#"{{"id":"c","choices":[{choices}]}}"#).into_bytes();
            let mut chunk = decode_chunk(json, &Budget::unlimited()).unwrap().chunk;
            surrogates.join(&mut chunk);
            chunk
        };
        let mut chunks: Vec<ChatChunk> = chunks.iter().map(join).collect();
        chunks.extend(surrogates.rest());
        chunks
    }

    fn texts(chunks: &[&str]) -> Vec<String> {
        joined(chunks).iter().map(|chunk| chunk.text().to_owned()).collect()
    }

    fn content(text: &str) -> String {
        format!(r#"{{"delta":{{"content":"{text}"}}}}"#)
    }

    #[test]
    fn a_pair_is_joined_and_a_lone_half_replaced() {
        for (deltas, expected) in [
            (&[r"a\ud83e", r"\udd80b"][..], &["a", "🦀b"][..]),
            (&[r"\ud83e", "", r"\udd80"], &["", "", "🦀"]),
            (&[r"\ud83e", r"\udd80\ud83e", r"\udd80"], &["", "🦀", "🦀"]),
            (&[r"\ud83e", r"\ud83e", r"\udd80"], &["", "\u{fffd}", "🦀"]),
            (&[r"\ud83e", "a"], &["", "\u{fffd}a"]),
            (&[r"\ud83e", "\u{fffd}"], &["", "\u{fffd}\u{fffd}"]),
            (&[r"a\ud83e"], &["a", "\u{fffd}"]),
            (&[r"\udd80", "a"], &["\u{fffd}", "a"]),
            (&[r"a\ud83eb", r"\udd80"], &["a\u{fffd}b", "\u{fffd}"]),
            (&[r"\\ud83e", r"\udd80"], &["\\ud83e", "\u{fffd}"]),
            (&[r"\\\ud83e", r"\udd80"], &["\\", "🦀"]),
            (&[r"\ud83e\udd80", "a"], &["🦀", "a"]),
            (&["\u{fffd}", "\u{fffd}"], &["\u{fffd}", "\u{fffd}"]),
        ] {
            let chunks: Vec<String> = deltas.iter().map(|text| content(text)).collect();
            let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
            assert_eq!(texts(&chunks), expected, "{deltas:?}");
        }
    }

    #[test]
    fn the_end_of_a_choice_replaces_its_halves_only() {
        let chunks = joined(&[
            r#"{"index":0,"delta":{"content":"\ud83e"}},null,{"index":1,"delta":{"content":"\ud83e"}}"#,
            r#"{"index":0,"delta":{},"finish_reason":"stop"}"#,
            r#"{"index":1,"delta":{"content":"\udd80"},"finish_reason":"stop"}"#,
        ]);
        assert_eq!(chunks.iter().map(ChatChunk::text).collect::<Vec<_>>(), ["", "\u{fffd}", "🦀"]);
    }

    #[test]
    fn halves_of_every_text_are_kept_apart() {
        let first = r#"{"delta":{"content":"\ud83e","reasoning":"\ud83e","reasoning_content":"\ud83e","refusal":"\ud83e",
            "function_call":{"arguments":"\ud83e"},"tool_calls":[null,{"index":2,"function":{"arguments":"\ud83e"}},
            {"index":1,"function":{"name":"f","arguments":"a"}}]}}"#;
        let second = first.replace("ud83e", "udd80");
        let crab = || Some("🦀".to_owned());
        let chunks = joined(&[first, &second]);
        let delta = &chunks[1].choices[0].delta;
        assert_eq!((delta.text(), chunks.len()), ("🦀", 2));
        assert_eq!((&delta.reasoning, &delta.reasoning_content, &delta.refusal), (&crab(), &crab(), &crab()));
        assert_eq!(delta.function_call.as_ref().unwrap().arguments, crab());
        assert_eq!(delta.tool_calls[0].function.arguments, crab());
        let rest = joined(&[first]).pop().unwrap();
        let delta = &rest.choices[0].delta;
        let replaced = || Some("\u{fffd}".to_owned());
        assert_eq!((delta.text(), &delta.reasoning), ("\u{fffd}", &replaced()));
        assert_eq!((&delta.reasoning_content, &delta.refusal), (&replaced(), &replaced()));
        assert_eq!(delta.function_call.as_ref().unwrap().arguments, replaced());
        let call = &delta.tool_calls[0];
        assert_eq!((call.index, &call.function.arguments), (Some(2), &replaced()));
    }

    #[test]
    fn a_whole_message_and_the_legacy_text_are_joined_too() {
        assert_eq!(texts(&[r#"{"text":"\ud83e"}"#, r#"{"text":"\udd80"}"#]), ["", "🦀"]);
        assert_eq!(texts(&[r#"{"message":{"content":"\ud83e"}}"#, &content(r"\udd80")]), ["", "🦀"]);
    }
}
