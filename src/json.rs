//! Reading JSON that a server sent, and saying where it can't be read.

pub(crate) mod cursor;
pub(crate) mod extra;
pub(crate) mod lenient;

use serde::de::DeserializeOwned;

use crate::error::{EXCERPT, Error, Result, excerpt};

/// Reads a value from the body of an answer with this status.
///
/// A body that ends in the middle of a value was cut on its way: [`Error::Transport`]. Any other one that can't be read
/// is [`Error::Decode`].
pub(crate) fn read<R: DeserializeOwned>(body: &[u8], status: u16, request_id: Option<&str>) -> Result<R> {
    read_with(body, status, request_id, lenient)
}

/// [`read`] with a reader of one's own.
pub(crate) fn read_with<R>(
    body: &[u8],
    status: u16,
    request_id: Option<&str>,
    reader: impl FnOnce(&[u8]) -> serde_json::Result<R>,
) -> Result<R> {
    reader(body).map_err(|error| {
        if error.is_eof() && !body.trim_ascii().is_empty() {
            return Error::Transport { answered: true, source: error.into() };
        }
        unreadable(body, status, request_id, error)
    })
}

pub(crate) fn unreadable(
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
        source: error.into(),
    }
}

/// Reads a value and, if that fails, what can be repaired of it.
pub(crate) fn lenient<R: DeserializeOwned>(json: &[u8]) -> serde_json::Result<R> {
    // One look at the whole for UTF-8 is cheaper than one at each string.
    let read = match std::str::from_utf8(json) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(json),
    };
    read.or_else(|error| repair(json).map_or(Err(error), |repaired| serde_json::from_str(&repaired)))
}

/// The byte at a line and a column, both counted from 1, at most the length.
fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let before: usize =
        body.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(body.len())
}

/// Reads a value from words that a model wrote. Words that end too early are its own doing: [`Error::Decode`] as well.
pub(crate) fn read_words<R: DeserializeOwned>(words: &str) -> Result<R> {
    lenient(words.as_bytes()).map_err(|error| unreadable(words.as_bytes(), 200, None, error))
}

/// Mends what parsers refuse in JSON and servers send all the same, if anything of it is there:
///
/// - half of a surrogate pair (`\ud83e` alone, RFC 8259 section 8.2), which a server makes by cutting an escaped text
///   between its two halves; it becomes U+FFFD as an invalid byte does;
/// - bytes that aren't UTF-8, which become U+FFFD;
/// - `NaN` and `Infinity` in place of a number, which Python writes; they become null.
///
/// Only a text that could not be read comes here, so it may take its time.
pub(crate) fn repair(json: &[u8]) -> Option<String> {
    let mut repaired = Vec::with_capacity(json.len());
    let mut rest = json;
    let mut in_string = false;
    let mut changed = false;
    while let Some(first) = rest.first() {
        let (taken, put): (usize, &[u8]) = match first {
            b'\\' if in_string => match surrogate(rest) {
                None => (rest.len().min(2), &rest[..rest.len().min(2)]),
                Some(0xD800..=0xDBFF) if matches!(surrogate(&rest[6..]), Some(0xDC00..=0xDFFF)) => {
                    (12, &rest[..12])
                }
                Some(_) => (6, b"\\ufffd"),
            },
            b'N' | b'I' | b'-' if !in_string => match not_a_number(rest) {
                Some(length) => (length, b"null"),
                None => (1, &rest[..1]),
            },
            _ => (1, &rest[..1]),
        };
        in_string ^= *first == b'"';
        changed |= !rest.starts_with(put);
        repaired.extend_from_slice(put);
        rest = &rest[taken..];
    }
    match String::from_utf8(repaired) {
        Ok(repaired) => changed.then_some(repaired),
        Err(error) => Some(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// The half of a surrogate pair at the beginning of `json`, if there is one.
fn surrogate(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    let unit = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xD800..0xE000).contains(&unit).then_some(unit)
}

/// The length of Python's words for numbers that JSON doesn't have.
fn not_a_number(json: &[u8]) -> Option<usize> {
    ["NaN", "-NaN", "Infinity", "-Infinity"]
        .iter()
        .find(|word| json.starts_with(word.as_bytes()))
        .map(|word| word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(body: &str) -> Error {
        read::<Vec<u32>>(body.as_bytes(), 200, Some("req-1")).unwrap_err()
    }

    #[test]
    fn says_where_and_shows_what_is_there() {
        let error = fail("[1,\n2, oops]");
        let shown = "can't read the answer (status 200) at byte 7 of 12: `[1, 2, oops]`";
        assert_eq!(error.to_string(), shown);
        assert_eq!((error.status(), error.request_id()), (Some(200), Some("req-1")));
        assert!(fail("").to_string().ends_with("(status 200): byte 0 of 0"));
    }

    #[test]
    fn a_cut_body_is_a_broken_connection() {
        assert!(matches!(fail("[1, 2"), Error::Transport { answered: true, .. }));
    }

    #[test]
    fn the_excerpt_is_bounded_and_shows_the_place() {
        let body = format!("[{}oops{}", "1,".repeat(10_000), "x".repeat(10_000_000));
        let Error::Decode { excerpt, at, .. } = fail(&body) else { panic!() };
        assert!(excerpt.len() <= EXCERPT + '…'.len_utf8() && excerpt.contains("1,oops"), "{at} {excerpt}");
    }

    #[test]
    fn what_servers_send_and_parsers_refuse_is_mended() {
        let read = |json: &[u8]| crate::json::read::<serde_json::Value>(json, 200, None).unwrap();
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
    fn what_needs_no_mending_is_left_alone() {
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
