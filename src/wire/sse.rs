//! Decodes server-sent events (WHATWG HTML, section 9.2) from a byte stream that may be split at any byte.

use std::mem;

use crate::error::EXCERPT;
use crate::json::cursor::find_either;

/// The maximum length of a line in bytes. Image models send an image as one line of base64, which has a few megabytes.
pub(crate) const LINE_LIMIT: usize = 16 << 20;

/// The maximum length of the data of an event in bytes. Events of several lines are short, so twice the limit of a line
/// suffices.
pub(crate) const EVENT_LIMIT: usize = 2 * LINE_LIMIT;

/// An event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The event's type; empty if the stream sets none, which the specification calls `message`.
    pub(crate) kind: String,
    /// The data lines, joined by line feeds. They may contain invalid UTF-8, which is replaced by U+FFFD only in the texts, so
    /// that the rest of the event stays readable.
    pub(crate) data: Vec<u8>,
}

/// A line or an event exceeds its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooLong {
    /// A line of more than [`LINE_LIMIT`] bytes.
    Line,
    /// An event of more than [`EVENT_LIMIT`] bytes.
    Event,
}

impl TooLong {
    /// The limit that was exceeded, in bytes.
    pub(crate) fn limit(self) -> usize {
        match self {
            TooLong::Line => LINE_LIMIT,
            TooLong::Event => EVENT_LIMIT,
        }
    }

    /// What exceeded it, as errors name it.
    pub(crate) fn part(self) -> &'static str {
        match self {
            TooLong::Line => "line",
            TooLong::Event => "event",
        }
    }
}

/// An incremental decoder: it takes bytes as they arrive and returns each event as soon as it is complete.
///
/// Lines end with LF, CR or CRLF (9.2.5). A CR ends its line at once, whether or not an LF follows.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The first part of a line whose end hasn't arrived.
    line: Vec<u8>,
    /// The data lines of the current event, joined by LF. `None` differs from one empty line.
    data: Option<Vec<u8>>,
    /// The type of the current event.
    kind: String,
    /// The previous byte was a CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    /// The first line has been read: a later byte order mark is content.
    begun: bool,
    /// The beginning of the first line that isn't a field of an event.
    stray_line: Vec<u8>,
    /// `stray_line` is the very first line, so this isn't an event stream.
    begins_stray: bool,
}

/// The fields of an event.
const FIELDS: [&[u8]; 5] = [b"data", b"event", b"id", b"retry", b"error"];

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder::default()
    }

    /// Consumes bytes of `input` until an event is complete or the input is empty.
    ///
    /// The returned event ended with the last consumed byte, so the next call continues with the rest of the same
    /// input. `None` means that the input is empty.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, TooLong> {
        while !input.is_empty() {
            if mem::take(&mut self.after_cr) && input[0] == b'\n' {
                *input = &input[1..];
                continue;
            }
            let Some(length) = line_length(input) else {
                let rest = mem::take(input);
                return self.append_to_line(rest).map(|()| None);
            };
            self.after_cr = input[length] == b'\r';
            let line = &input[..length];
            *input = &input[length + 1..];
            if let Some(event) = self.finish_line(line)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Ends the stream and returns the current event, if it has data.
    ///
    /// The specification discards such an event (9.2.6, end of file), because a browser connects again. Some chat services
    /// omit the last blank line, and their last event often has the finish reason.
    pub(crate) fn finish(&mut self) -> Result<Option<Event>, TooLong> {
        let event = if self.line.is_empty() { None } else { self.finish_line(b"")? };
        Ok(event.or_else(|| self.dispatch()))
    }

    /// The beginning of the first line that isn't a field of an event: some proxies write the cause of a failure into the
    /// stream as plain text. Empty if there is none.
    pub(crate) fn stray_line(&self) -> &[u8] {
        &self.stray_line
    }

    /// Whether the first line isn't a field of an event, which means that this isn't an event stream.
    pub(crate) fn begins_stray(&self) -> bool {
        self.begins_stray
    }

    /// Keeps the first part of a line until the rest arrives.
    fn append_to_line(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + part.len() > LINE_LIMIT {
            return Err(TooLong::Line);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    /// Processes a line whose last part is `end`; the first part may have been kept.
    fn finish_line(&mut self, end: &[u8]) -> Result<Option<Event>, TooLong> {
        if self.line.is_empty() {
            return if end.len() > LINE_LIMIT { Err(TooLong::Line) } else { self.process_line(end) };
        }
        self.append_to_line(end)?;
        let mut line = mem::take(&mut self.line);
        let event = self.process_line(&line);
        line.clear();
        self.line = line; // the next split line reuses its memory
        event
    }

    /// Processes a line without its line end (9.2.6): blank, a comment, or a field with its value. The fields `id` and
    /// `retry` are ignored like unknown ones, because chat services can't resume a stream. An `error` field and a
    /// line of JSON, which the specification doesn't have, become events and discard the current one.
    fn process_line(&mut self, mut line: &[u8]) -> Result<Option<Event>, TooLong> {
        let is_first = !mem::replace(&mut self.begun, true);
        if is_first {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        // Fast path for the most frequent kind of line.
        if let Some(value) = line.strip_prefix(b"data:") {
            self.append_data(without_space(value))?;
            return Ok(None);
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], without_space(&line[colon + 1..])),
            None => (line, &[][..]),
        };
        match name {
            b"data" => self.append_data(value)?,
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            // llama.cpp's form of an error, which isn't in the specification.
            b"error" => return Ok(Some(self.interrupt("error", value))),
            // Other servers send an error without a field name.
            [b'{', ..] => return Ok(Some(self.interrupt("", line))),
            b"" | b"id" | b"retry" => {} // without a name it is a comment
            _ if self.stray_line.is_empty() && is_stray(line) => {
                self.stray_line = line[..line.len().min(EXCERPT)].to_vec();
                self.begins_stray = is_first;
            }
            _ => {}
        }
        Ok(None)
    }

    fn append_data(&mut self, value: &[u8]) -> Result<(), TooLong> {
        match &mut self.data {
            // With the exact capacity, because most events have one line.
            None => self.data = Some(value.to_vec()),
            Some(data) => {
                if data.len() + 1 + value.len() > EVENT_LIMIT {
                    return Err(TooLong::Event);
                }
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
        Ok(())
    }

    /// Discards the current event and returns one of a single line instead.
    fn interrupt(&mut self, kind: &str, data: &[u8]) -> Event {
        (self.kind, self.data) = (String::new(), None);
        Event { kind: kind.to_owned(), data: data.to_vec() }
    }

    /// Ends the current event; without a data line there is none (9.2.6, dispatch).
    fn dispatch(&mut self) -> Option<Event> {
        let kind = mem::take(&mut self.kind);
        self.data.take().map(|data| Event { kind, data })
    }
}

/// Whether the first non-blank line of a body is a field or a comment of an event stream.
pub(crate) fn is_event_stream(body: &[u8]) -> bool {
    let start = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii_start();
    let name = start.split(|byte| matches!(byte, b':' | b'\n' | b'\r')).next().unwrap_or_default();
    start.starts_with(b":") || FIELDS.contains(&name)
}

/// Whether a line is neither blank nor the beginning of a field name, at which the stream may have been cut off.
fn is_stray(line: &[u8]) -> bool {
    !line.trim_ascii().is_empty() && !FIELDS.iter().any(|name| name.starts_with(line))
}

/// The number of bytes before the first CR or LF.
///
/// A search that may stop at every byte takes eight instructions per byte. A test of a whole block is compiled to vector
/// instructions and takes less than one. So blocks without a line end are skipped first.
fn line_length(input: &[u8]) -> Option<usize> {
    const BLOCK: usize = 16;
    let is_end = |byte: &u8| u8::from(*byte == b'\n') | u8::from(*byte == b'\r');
    let has_end = |block: &&[u8]| block.iter().fold(0, |hit, byte| hit | is_end(byte)) != 0;
    let skipped = BLOCK * input.chunks_exact(BLOCK).take_while(|block| !has_end(block)).count();
    find_either(&input[skipped..], b'\n', b'\r').map(|length| skipped + length)
}

/// One space after the colon belongs to the syntax, further ones to the value.
fn without_space(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::json::base64;

    /// The type and the data of an event.
    type Seen = (String, String);

    /// Decodes pieces as they arrive, without the event that the end of the stream may complete.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, Decoder) {
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for mut piece in pieces {
            while let Some(event) = decoder.next(&mut piece).unwrap() {
                events.push((event.kind, String::from_utf8_lossy(&event.data).into_owned()));
            }
            assert!(piece.is_empty(), "all input is consumed where there is no event");
        }
        (events, decoder)
    }

    /// Asserts the same events from the whole input, from its single bytes and from every cut into two.
    #[track_caller]
    fn check(name: &str, bytes: &[u8], expected: &[Seen]) {
        assert_eq!(decode([bytes]).0, expected, "{name}, whole");
        assert_eq!(decode(bytes.chunks(1)).0, expected, "{name}, byte by byte");
        // Long input is cut only around the ends of lines, or the test would take minutes.
        let near_an_end = |at: &usize| {
            bytes.len() < 3000
                || bytes[at.saturating_sub(3)..bytes.len().min(at + 3)].iter().any(|b| *b < b' ')
        };
        for at in (0..=bytes.len()).filter(near_an_end) {
            let (a, b) = bytes.split_at(at);
            assert_eq!(decode([a, b]).0, expected, "{name}, cut at {at}");
        }
    }

    fn cases(path: &str) -> Value {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// An expected event: its data, or an object with its type and data.
    fn seen(event: &Value) -> Seen {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if event.is_string() {
            (String::new(), word(event))
        } else {
            (word(&event["kind"]), word(&event["data"]))
        }
    }

    #[test]
    fn every_rule_of_the_format_holds_at_every_cut() {
        let cases = cases("tests/data/sse.json");
        for case in cases.as_array().unwrap() {
            let (name, input) = (case["name"].as_str().unwrap(), case["input"].as_str().unwrap().as_bytes());
            let expected: Vec<Seen> = case["events"].as_array().unwrap().iter().map(seen).collect();
            check(name, input, &expected);
            for cut in 0..=input.len() {
                let (a, b) = input.split_at(cut);
                let mut decoder = decode([a, b]).1;
                let last = decoder.finish().unwrap();
                let last = last.map(|event| String::from_utf8_lossy(&event.data).into_owned());
                assert_eq!(last.as_deref(), case["at_end"].as_str(), "{name}, at the end, cut at {cut}");
                assert_eq!(decoder.finish().unwrap(), None, "{name}");
            }
        }
    }

    #[test]
    fn an_invalid_byte_affects_one_event_only() {
        let seen = |data: &str| (String::new(), data.to_owned());
        let bytes = b"data: a\xFFb\n\ndata: \xF0\x9F\n\ndata: c\n\n";
        check("invalid", bytes, &[seen("a\u{fffd}b"), seen("\u{fffd}"), seen("c")]);
    }

    #[test]
    fn events_have_types_and_ids_and_retry_times_are_ignored() {
        let seen = |kind: &str, data: &str| (kind.to_owned(), data.to_owned());
        let bytes =
            b"event: e\nid: 1\nretry: 20\ndata: a\n\nid: 2\n\ndata: b\n\nid\nretry\nevent\ndata: c\n\n";
        check("fields", bytes, &[seen("e", "a"), seen("", "b"), seen("", "c")]);
    }

    #[test]
    fn a_field_named_error_is_an_event() {
        let seen = |kind: &str, data: &str| (kind.to_owned(), data.to_owned());
        check("alone", b"error: {\"a\":1}\n\ndata: b\n\n", &[seen("error", "{\"a\":1}"), seen("", "b")]);
        check("without a blank line", b"id: 1\nerror:no\ndata: b\n\n", &[seen("error", "no"), seen("", "b")]);
        check("within an event", b"event: e\ndata: a\nerror: no\n\n", &[seen("error", "no")]);
        check("no name", b"data: a\n\n{\"error\": 1}\n\n", &[seen("", "a"), seen("", "{\"error\": 1}")]);
        check("other names", b"errors: no\nerror\n\n", &[seen("error", "")]);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.next(&mut &b"error: no"[..]), Ok(None));
        assert_eq!(decoder.finish().unwrap().unwrap().data, b"no", "without a line end");
    }

    #[test]
    fn an_event_stream_is_recognised_by_its_first_line() {
        for body in [
            "data: a",
            "data:a\n\n",
            "\n \r\ndata: a",
            "\u{feff}event: e\ndata: a",
            ": ping",
            "id: 1",
            "retry: 2",
            "error: no",
        ] {
            assert!(is_event_stream(body.as_bytes()), "{body:?}");
        }
        for body in [
            "",
            "\n\n",
            "{}",
            "[]",
            "<html>",
            "null",
            "\"data: a\"",
            "database down",
            "upstream: no",
            "data error: no",
        ] {
            assert!(!is_event_stream(body.as_bytes()), "{body:?}");
        }
    }

    #[test]
    fn the_first_line_that_is_not_a_field_is_kept() {
        for (input, expected) in [
            ("upstream connect error\nmore\n\ndata: a\n\n", "upstream connect error"),
            ("data: a\n\nInternal: no", "Internal: no"),
            (": ping\nid: 1\nretry: 2\nevent: e\nerror: x\ndata: a\n\n", ""),
            ("data: a\n\nda", ""),
            (" \n\t\n", ""),
        ] {
            let mut decoder = Decoder::new();
            let mut rest = input.as_bytes();
            while decoder.next(&mut rest).unwrap().is_some() {}
            decoder.finish().unwrap();
            assert_eq!(decoder.stray_line(), expected.as_bytes(), "{input}");
            assert_eq!(decoder.begins_stray(), input.starts_with("upstream"), "{input}");
        }
        let mut decoder = Decoder::new();
        decoder.next(&mut &[b"x".repeat(EXCERPT + 1), b"\n".to_vec()].concat()[..]).unwrap();
        assert_eq!(decoder.stray_line().len(), EXCERPT);
    }

    #[test]
    fn an_event_is_returned_with_its_last_byte() {
        for end in ["\n\n", "\r\r", "\r\n\r"] {
            assert_eq!(decode([format!("data: a{end}").as_bytes()]).0.len(), 1, "{end:?}");
        }
    }

    #[test]
    fn lines_and_events_are_limited() {
        let long = vec![b'x'; LINE_LIMIT + 1];
        assert_eq!(Decoder::new().next(&mut &long[..]), Err(TooLong::Line));
        let mut line = long.clone();
        line.push(b'\n');
        assert_eq!(Decoder::new().next(&mut &line[..]), Err(TooLong::Line));
        let mut decoder = Decoder::new();
        assert_eq!(decoder.next(&mut &long[1..]), Ok(None));
        assert_eq!(decoder.next(&mut &b"x"[..]), Err(TooLong::Line));

        let mut decoder = Decoder::new();
        let line = [b"data:", &long[..LINE_LIMIT - 10], b"\n"].concat();
        assert_eq!(decoder.next(&mut &line[..]), Ok(None));
        assert_eq!(decoder.next(&mut &line[..]), Ok(None));
        assert_eq!(decoder.next(&mut &line[..]), Err(TooLong::Event));
        assert_eq!([TooLong::Line, TooLong::Event].map(TooLong::limit), [LINE_LIMIT, EVENT_LIMIT]);
        assert_eq!([TooLong::Line, TooLong::Event].map(TooLong::part), ["line", "event"]);
    }

    /// The cases of the web platform's tests and of another project's contract tests.
    #[test]
    #[ignore = "needs ../shared/corpora"]
    fn every_case_in_shared_corpora_holds_at_every_cut() {
        let cases = cases("../shared/corpora/sse.json");
        let follows = |case: &&Value| case["follows_spec"] != false;
        let mut passed = 0;
        for case in cases["cases"].as_array().unwrap().iter().filter(follows) {
            let name = case["name"].as_str().unwrap();
            let pieces = case["chunks_b64"].as_array().unwrap().iter();
            let pieces: Vec<Vec<u8>> =
                pieces.map(|piece| base64::decode(piece.as_str().unwrap()).unwrap()).collect();
            let expected = case["events"].as_array().unwrap().iter().map(|event| {
                let word = |name: &str| event[name].as_str().unwrap().to_owned();
                let kind = word("event");
                // The specification gives events without a type the type "message".
                (if kind == "message" { String::new() } else { kind }, word("data"))
            });
            let expected: Vec<Seen> = expected.collect();
            assert_eq!(decode(pieces.iter().map(|piece| &piece[..])).0, expected, "{name}");
            check(name, &pieces.concat(), &expected);
            passed += 1;
        }
        assert_eq!(passed, 92);
    }
}
