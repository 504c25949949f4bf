//! Parses JSON from servers and models, repairs known defects, and reports the position of other errors.

pub(crate) mod base64;
pub(crate) mod bounded;
pub(crate) mod budget;
pub(crate) mod cursor;
pub(crate) mod empty_body;
pub(crate) mod extra;
pub(crate) mod lenient;
pub(crate) mod object;

use serde::de::DeserializeOwned;
use serde_json::de::{SliceRead, StrRead};

use crate::error::{EXCERPT, Error, Result, excerpt, into_source};
use crate::json::bounded::Bounded;
use crate::json::budget::Budget;

/// Converts a parser's error about a response body.
///
/// A body that ends inside a value was truncated by the connection: [`Error::Transport`]. Every other malformed body is
/// [`Error::Decode`].
pub(crate) fn malformed_body(
    body: &[u8],
    status: u16,
    request_id: Option<&str>,
    error: serde_json::Error,
) -> Error {
    if error.is_eof() {
        return Error::transport(true, into_source(error));
    }
    decode_error(body, status, request_id, error)
}

/// [`Error::Decode`] with the position of a parser's error and an excerpt.
pub(crate) fn decode_error(
    body: &[u8],
    status: u16,
    request_id: Option<&str>,
    error: serde_json::Error,
) -> Error {
    let at = offset(body, error.line(), error.column());
    let from = at.saturating_sub(EXCERPT / 4);
    Error::Decode {
        status,
        at: format!("byte {at} of {}", body.len()),
        excerpt: excerpt(&body[from..]),
        request_id: request_id.map(str::to_owned),
        source: into_source(error),
        target: None,
    }
}

/// The text without a byte order mark.
pub(crate) fn without_bom(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(json)
}

/// Parses a value; malformed JSON is repaired and parsed again.
pub(crate) fn parse<R: DeserializeOwned>(json: &[u8]) -> serde_json::Result<R> {
    // Checking the whole text for UTF-8 is cheaper than checking each string.
    let parsed = match std::str::from_utf8(json) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(json),
    };
    parsed.or_else(|error| repair(json).map_or(Err(error), |repaired| serde_json::from_str(&repaired)))
}

/// [`parse`] within a budget.
pub(crate) fn parse_bounded<R: Bounded>(json: &[u8], budget: &Budget) -> serde_json::Result<R> {
    fn read<'de, R: Bounded>(json: impl serde_json::de::Read<'de>, budget: &Budget) -> serde_json::Result<R> {
        let mut deserializer = serde_json::Deserializer::new(json);
        let value = R::read(&mut deserializer, budget)?;
        deserializer.end().map(|()| value)
    }
    let parsed = match std::str::from_utf8(json) {
        Ok(text) => read(StrRead::new(text), budget),
        Err(_) => read(SliceRead::new(json), budget),
    };
    let repaired = |error| match budget.excess() {
        Some(_) => Err(error),
        None => repair(json).map_or(Err(error), |repaired| read(StrRead::new(&repaired), budget)),
    };
    parsed.or_else(repaired)
}

/// Decodes a value from model-written text. Truncated text is [`Error::Decode`] too, because the connection isn't at fault.
pub(crate) fn decode_model_text<R: DeserializeOwned>(text: &str, request_id: Option<&str>) -> Result<R> {
    parse(text.as_bytes()).map_err(|error| decode_error(text.as_bytes(), 200, request_id, error))
}

/// The offset of a line and a column, both counted from 1; at most the body's length.
fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let before: usize =
        body.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(body.len())
}

/// Repairs malformed JSON that servers are known to send. `None` if there is nothing to repair.
///
/// - A lone surrogate (`\ud83e` without its second half, RFC 8259 section 8.2), which a server produces by splitting an
///   escaped text, becomes U+FFFD.
/// - A byte that isn't UTF-8 becomes U+FFFD.
/// - `NaN` and `Infinity` in place of a number, which Python writes, become null.
///
/// It is called only after parsing has failed, so it needn't be fast.
pub(crate) fn repair(json: &[u8]) -> Option<String> {
    let mut repaired = Vec::with_capacity(json.len());
    let mut rest = json;
    let mut in_string = false;
    let mut changed = false;
    while let Some(first) = rest.first() {
        let (length, replacement): (usize, &[u8]) = match first {
            b'\\' if in_string => match surrogate(rest) {
                None => (rest.len().min(2), &rest[..rest.len().min(2)]),
                Some(0xD800..=0xDBFF) if matches!(surrogate(&rest[6..]), Some(0xDC00..=0xDFFF)) => {
                    (12, &rest[..12])
                }
                Some(_) => (6, b"\\ufffd"),
            },
            b'N' | b'I' | b'-' if !in_string => match non_finite_length(rest) {
                Some(length) => (length, b"null"),
                None => (1, &rest[..1]),
            },
            _ => (1, &rest[..1]),
        };
        in_string ^= *first == b'"';
        changed |= !rest.starts_with(replacement);
        repaired.extend_from_slice(replacement);
        rest = &rest[length..];
    }
    match String::from_utf8(repaired) {
        Ok(repaired) => changed.then_some(repaired),
        Err(error) => Some(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// The escaped surrogate at the beginning of `json`, if there is one.
pub(crate) fn surrogate(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    let unit = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xD800..0xE000).contains(&unit).then_some(unit)
}

/// The length of a non-finite number at the beginning of `json`, as Python writes it.
fn non_finite_length(json: &[u8]) -> Option<usize> {
    ["NaN", "-NaN", "Infinity", "-Infinity"]
        .iter()
        .find(|word| json.starts_with(word.as_bytes()))
        .map(|word| word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(body: &str) -> Error {
        let error = parse::<Vec<u32>>(body.as_bytes()).unwrap_err();
        malformed_body(body.as_bytes(), 200, Some("req-1"), error)
    }

    #[test]
    fn an_error_names_the_offset_and_shows_an_excerpt() {
        let error = fail("[1,\n2, oops]");
        let shown = "can't read the answer (status 200) at byte 7 of 12: `[1, 2, oops]`";
        assert_eq!(error.to_string(), shown);
        assert_eq!((error.status(), error.request_id()), (Some(200), Some("req-1")));
    }

    #[test]
    fn a_truncated_body_is_a_transport_error() {
        assert!(matches!(fail("[1, 2"), Error::Transport { answered: true, .. }));
    }

    #[test]
    fn the_excerpt_is_bounded_and_contains_the_offset() {
        let body = format!("[{}oops{}", "1,".repeat(10_000), "x".repeat(10_000_000));
        let Error::Decode { excerpt, at, .. } = fail(&body) else { panic!() };
        assert!(excerpt.len() <= EXCERPT + '…'.len_utf8() && excerpt.contains("1,oops"), "{at} {excerpt}");
    }

    #[test]
    fn malformed_json_of_servers_is_repaired() {
        let read = |json: &[u8]| parse::<serde_json::Value>(json).unwrap();
        for (json, expected) in [
            (&br#""a\ud83eb""#[..], "a\u{fffd}b"),
            (br#""\ud83e""#, "\u{fffd}"),
            (br#""\udd80""#, "\u{fffd}"),
            (br#""\ud83e\ud83e\udd80""#, "\u{fffd}🦀"),
            (br#""\ud83e\n""#, "\u{fffd}\n"),
            (br#""\ud83e\u0041""#, "\u{fffd}A"),
            (br#""\\ud83e \ud83e""#, "\\ud83e \u{fffd}"),
            (b"\"a\xFFb\"", "a\u{fffd}b"),
        ] {
            assert_eq!(read(json), expected, "{}", String::from_utf8_lossy(json));
        }
        let numbers = read(br#"[NaN, -Infinity, Infinity, "NaN", {"Infinity": 1, "x": -NaN}]"#);
        assert_eq!(numbers, serde_json::json!([null, null, null, "NaN", {"Infinity": 1, "x": null}]));
    }

    #[test]
    fn json_that_needs_no_repair_is_not_changed() {
        for json in [
            r#"{"a": "\ud83e\udd80 \\ud83e", "b": [1, "x"]}"#,
            "",
            "\"",
            "\\",
            r#""\"#,
            r#""\u"#,
            r#""\u12"#,
            "{]",
        ] {
            assert_eq!(repair(json.as_bytes()), None, "{json}");
        }
        assert_eq!(repair(br#""\ud83e"#).as_deref(), Some(r#""\ufffd"#));
    }
}
