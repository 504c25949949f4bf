//! Turns the bytes of an event stream into events, however they are cut (WHATWG HTML, section 9.2).

use std::fmt;
use std::mem;

use crate::json::cursor::find_either;

/// The longest line in bytes. A model that paints sends a whole picture as one base64 line, which is a few megabytes;
/// a line beyond this one is no event stream.
pub(crate) const LINE_LIMIT: usize = 16 << 20;

/// The most data of one event in bytes: events of several lines are short ones, so two of the longest lines suffice.
pub(crate) const EVENT_LIMIT: usize = 2 * LINE_LIMIT;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The event's type; empty where the stream named none, which the specification calls `message`.
    pub(crate) kind: String,
    /// The data lines, joined by line feeds. Whoever reads a text out of them makes U+FFFD of an invalid byte, so that it
    /// harms no more than that text.
    pub(crate) data: Vec<u8>,
}

/// What makes a stream unreadable.
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
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            TooLong::Line => "a line",
            TooLong::Event => "an event",
        };
        write!(f, "{what} of the event stream is longer than {} bytes", self.limit())
    }
}

impl std::error::Error for TooLong {}

/// The decoder: takes bytes as they arrive and gives events as soon as they are complete.
///
/// Lines end with LF, CR or CRLF (9.2.5). A CR ends its line at once, without waiting to see whether an LF follows.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of a line whose end hasn't arrived.
    line: Vec<u8>,
    /// The data lines of the event under way, joined by LF; none yet is different from one that is empty.
    data: Option<Vec<u8>>,
    /// The type of the event under way.
    kind: String,
    last_id: String,
    retry: Option<u64>,
    /// The byte before was a CR: an LF now belongs to it.
    after_cr: bool,
    /// The first line has been read: what looks like a byte order mark from here on is content.
    begun: bool,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes bytes off the front of `input` until an event is complete or all are taken.
    ///
    /// The event that comes back is the one that ended with the last byte taken, so the next call goes on with what is
    /// left of the same input. `None` means that the input is used up.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, TooLong> {
        while !input.is_empty() {
            if mem::take(&mut self.after_cr) && input[0] == b'\n' {
                *input = &input[1..];
                continue;
            }
            let Some(length) = line_length(input) else {
                let rest = mem::take(input);
                return self.keep(rest).map(|()| None);
            };
            self.after_cr = input[length] == b'\r';
            let line = &input[..length];
            *input = &input[length + 1..];
            if let Some(event) = self.line(line)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Ends the stream and gives the event that was under way, if it has data.
    ///
    /// The specification throws such an event away (9.2.6, end of file), which suits a browser that connects again.
    /// Some chat services leave the last blank line out, and what they said last is often the finish reason.
    pub(crate) fn finish(&mut self) -> Result<Option<Event>, TooLong> {
        let event = if self.line.is_empty() { None } else { self.line(b"")? };
        Ok(event.or_else(|| self.dispatch()))
    }

    /// The last event id that the stream set; an empty one unsets it.
    #[allow(
        dead_code,
        reason = "a part of the format; chat services can't resume a stream, so nothing sends it back"
    )]
    pub(crate) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The reconnection time that the stream set, in milliseconds.
    #[allow(
        dead_code,
        reason = "a part of the format; chat services can't resume a stream, so nothing waits for it"
    )]
    pub(crate) fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Keeps a piece of a line until the rest arrives.
    fn keep(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + piece.len() > LINE_LIMIT {
            return Err(TooLong::Line);
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    /// Takes the end of a line; the beginning may have been kept.
    fn line(&mut self, end: &[u8]) -> Result<Option<Event>, TooLong> {
        if self.line.is_empty() {
            return if end.len() > LINE_LIMIT { Err(TooLong::Line) } else { self.whole_line(end) };
        }
        self.keep(end)?;
        let mut line = mem::take(&mut self.line);
        let event = self.whole_line(&line);
        line.clear();
        self.line = line; // its memory serves the next cut line
        event
    }

    /// Takes a line without its end (9.2.6): blank, a comment, or a field with its value.
    fn whole_line(&mut self, mut line: &[u8]) -> Result<Option<Event>, TooLong> {
        if !mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        // Almost every line is this one; the others look for their colon.
        if let Some(value) = line.strip_prefix(b"data:") {
            self.data_line(without_space(value))?;
            return Ok(None);
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], without_space(&line[colon + 1..])),
            None => (line, &[][..]),
        };
        match name {
            b"data" => self.data_line(value)?,
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.last_id = String::from_utf8_lossy(value).into_owned(),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry =
                    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).or(self.retry);
            }
            _ => {} // a comment (its name is empty) or a field that isn't known
        }
        Ok(None)
    }

    fn data_line(&mut self, value: &[u8]) -> Result<(), TooLong> {
        match &mut self.data {
            // Exactly as much as one line needs: most events have one.
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

    /// Ends the event under way; without a data line there is none (9.2.6, dispatch).
    fn dispatch(&mut self) -> Option<Event> {
        let kind = mem::take(&mut self.kind);
        self.data.take().map(|data| Event { kind, data })
    }
}

/// The bytes before the first CR or LF.
///
/// A search that may stop at every byte costs eight instructions a byte, one that looks at a whole block before it
/// decides is compiled to vector instructions and costs less than one. So blocks without an end are passed over first.
fn line_length(input: &[u8]) -> Option<usize> {
    const BLOCK: usize = 16;
    let is_end = |byte: &u8| u8::from(*byte == b'\n') | u8::from(*byte == b'\r');
    let has_end = |block: &&[u8]| block.iter().fold(0, |hit, byte| hit | is_end(byte)) != 0;
    let passed = BLOCK * input.chunks_exact(BLOCK).take_while(|block| !has_end(block)).count();
    find_either(&input[passed..], b'\n', b'\r').map(|length| passed + length)
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

    /// What is seen of an event: its type and its data.
    type Seen = (String, String);

    /// Decodes pieces as they arrive, without the event that the end of the stream may complete.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, Decoder) {
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for mut piece in pieces {
            while let Some(event) = decoder.next(&mut piece).unwrap() {
                events.push((event.kind, String::from_utf8_lossy(&event.data).into_owned()));
            }
            assert!(piece.is_empty(), "all input is taken when there is no event");
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

    /// An expected event: its data, or an object that names its type too.
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
    fn an_invalid_byte_harms_one_event_only() {
        let seen = |data: &str| (String::new(), data.to_owned());
        let bytes = b"data: a\xFFb\n\ndata: \xF0\x9F\n\ndata: c\n\n";
        check("invalid", bytes, &[seen("a\u{fffd}b"), seen("\u{fffd}"), seen("c")]);
    }

    #[test]
    fn the_last_id_and_the_retry_time_are_kept() {
        let (_, decoder) = decode([&b"id: 1\nretry: 10x\nretry: 20\ndata: a\n\n"[..]]);
        assert_eq!((decoder.last_id(), decoder.retry()), ("1", Some(20)));
        let (_, decoder) = decode([&b"id: 1\nid\nid: a\0b\nretry: 99999999999999999999999\nretry:\n\n"[..]]);
        assert_eq!((decoder.last_id(), decoder.retry()), ("", None));
    }

    #[test]
    fn an_event_comes_with_its_last_byte() {
        for end in ["\n\n", "\r\r", "\r\n\r"] {
            assert_eq!(decode([format!("data: a{end}").as_bytes()]).0.len(), 1, "{end:?}");
        }
    }

    #[test]
    fn lines_and_events_are_bounded() {
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
        let shown = "a line of the event stream is longer than 16777216 bytes";
        assert_eq!(TooLong::Line.to_string(), shown);
        assert_eq!(TooLong::Event.to_string(), "an event of the event stream is longer than 33554432 bytes");
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
            let pieces: Vec<Vec<u8>> = pieces.map(|piece| base64(piece.as_str().unwrap())).collect();
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

    fn base64(text: &str) -> Vec<u8> {
        let value = |c: u8| {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|x| *x == c)
        };
        let bits: Vec<usize> = text.bytes().map_while(value).collect();
        let group = |four: &[usize]| {
            let word = four.iter().fold(0, |word, six| word << 6 | six) << (6 * (4 - four.len()));
            (word as u32).to_be_bytes()[1..four.len()].to_vec()
        };
        bits.chunks(4).flat_map(group).collect()
    }
}
