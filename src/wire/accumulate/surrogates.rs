//! Joins surrogate pairs (RFC 8259, section 7) that a gateway split across two chunks. Gateways written in JavaScript do that,
//! because JavaScript strings are sequences of UTF-16 code units.

use std::mem;

use crate::api::chunk::ChunkHead;
use crate::api::{ChatChunk, ChunkChoice, ToolCallDelta};
use crate::json::cursor::{JsonCursor, RawValue, SyntaxError};
use crate::json::extra::Extra;
use crate::json::surrogate;

/// What the parser of a chunk substitutes for a lone surrogate.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The high surrogates whose low surrogates haven't arrived.
#[derive(Debug, Default)]
pub(super) struct Surrogates {
    pending: Vec<HighSurrogate>,
}

#[derive(Debug)]
struct HighSurrogate {
    /// The index of the choice.
    choice: u32,
    field: Field,
    unit: u16,
}

/// A text that is streamed in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Content,
    Reasoning,
    ReasoningContent,
    Refusal,
    /// The arguments of a tool call. The number is the index of the call, or its position in the chunk if it has none.
    Arguments(u64),
    /// The arguments of a call in the deprecated form.
    FunctionArguments,
}

/// The surrogates without their other half at the ends of a text in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    /// The position of the choice in the chunk.
    choice: usize,
    field: Field,
    /// A low surrogate at the beginning of the text.
    low: Option<u16>,
    /// A high surrogate at the end of the text.
    high: Option<u16>,
}

impl Surrogates {
    /// Joins pending high surrogates with the low surrogates in a chunk, and holds back high surrogates at the ends of its
    /// texts for the next chunk.
    #[inline]
    pub(super) fn join(&mut self, chunk: &mut ChatChunk) {
        if !self.pending.is_empty() || chunk.choices.iter().any(may_be_split) {
            self.join_pairs(chunk);
        }
    }

    /// A chunk with a replacement character for each surrogate that is still pending.
    pub(super) fn rest(&mut self) -> Option<ChatChunk> {
        let mut choices: Vec<ChunkChoice> = Vec::new();
        for HighSurrogate { choice: index, field, .. } in mem::take(&mut self.pending) {
            let position = choices.iter().position(|choice| choice.index == index).unwrap_or_else(|| {
                choices.push(ChunkChoice { index, ..ChunkChoice::default() });
                choices.len() - 1
            });
            append_replacement(&mut choices[position], field);
        }
        let (extra, head) = (Extra::default(), ChunkHead::default());
        (!choices.is_empty()).then_some(ChatChunk { choices, usage: None, extra, head })
    }

    fn join_pairs(&mut self, chunk: &mut ChatChunk) {
        let ends = find_ends(chunk.extra.json()).unwrap_or_default();
        for (position, choice) in chunk.choices.iter_mut().enumerate() {
            let index = choice.index;
            for_each_text(choice, |field, text| {
                let ends = ends.iter().find(|ends| ends.choice == position && ends.field == field);
                self.join_text(index, field, text, ends);
            });
            if choice.finish_reason.is_some() {
                self.pending.retain(|high| {
                    let is_other = high.choice != index;
                    if !is_other {
                        append_replacement(choice, high.field);
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
        let is_same = |pending: &HighSurrogate| pending.choice == choice && pending.field == field;
        if let Some(position) = self.pending.iter().position(is_same) {
            let high = self.pending.swap_remove(position).unit;
            match ends.and_then(|ends| ends.low).and_then(|low| pair(high, low)) {
                Some(joined) if text.starts_with(REPLACEMENT) => {
                    text.replace_range(..REPLACEMENT.len_utf8(), joined.encode_utf8(&mut [0; 4]));
                }
                _ => text.insert(0, REPLACEMENT),
            }
        }
        if let Some(unit) = ends.and_then(|ends| ends.high).filter(|_| text.ends_with(REPLACEMENT)) {
            text.pop();
            self.pending.push(HighSurrogate { choice, field, unit });
        }
    }
}

/// The character of a surrogate pair.
fn pair(high: u16, low: u16) -> Option<char> {
    char::decode_utf16([high, low]).next()?.ok()
}

/// Whether a text of a choice begins or ends with a replacement character.
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

/// Calls `visit` for each text of a choice that is streamed in parts. Content that is a list isn't one.
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

/// Appends a replacement character to a text of a choice.
fn append_replacement(choice: &mut ChunkChoice, field: Field) {
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

/// The surrogates at the ends of the texts in the JSON of a chunk.
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

/// Calls `visit` for each field of an object; it has to read the value. A value of another type is skipped.
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

/// The surrogates at the ends of a string, if there are any.
fn ends(value: RawValue<'_>, choice: usize, field: Field) -> Option<Ends> {
    let RawValue::Escaped(json) = value else { return None };
    let inside = json.get(1..json.len() - 1)?;
    let low = surrogate(inside).filter(|unit| *unit >= 0xDC00);
    let high = inside.len().checked_sub(r"\uD800".len()).and_then(|start| {
        let backslashes = inside[..=start].iter().rev().take_while(|byte| **byte == b'\\').count();
        let is_escape = backslashes % 2 == 1; // otherwise the backslash itself is escaped
        surrogate(&inside[start..]).filter(|unit| is_escape && *unit < 0xDC00)
    });
    (low.is_some() || high.is_some()).then_some(Ends { choice, field, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::budget::Budget;
    use crate::wire::completion::decode_chunk;

    /// The chunks of a stream, joined, and a last one for the surrogates that are still pending.
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
    fn a_pair_is_joined_and_a_lone_surrogate_is_replaced() {
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
    fn the_end_of_a_choice_replaces_only_its_own_surrogates() {
        let chunks = joined(&[
            r#"{"index":0,"delta":{"content":"\ud83e"}},null,{"index":1,"delta":{"content":"\ud83e"}}"#,
            r#"{"index":0,"delta":{},"finish_reason":"stop"}"#,
            r#"{"index":1,"delta":{"content":"\udd80"},"finish_reason":"stop"}"#,
        ]);
        let texts = chunks.iter().map(|chunk| chunk.choices[0].delta.text());
        assert_eq!(texts.collect::<Vec<_>>(), ["", "\u{fffd}", "🦀"]);
    }

    #[test]
    fn surrogates_of_different_texts_are_kept_apart() {
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
