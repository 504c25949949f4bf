//! Keeps secrets out of errors and logs: redacts them in text from servers, and gives other crates placeholders to log.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::wire::encoded_secret::{encoded_length, first_bytes, in_base64};

/// The secret values of headers and of the query.
#[derive(Clone)]
pub(crate) struct Secrets {
    secrets: Vec<Secret>,
    /// For each byte, whether a secret may begin with it: [`PLAIN`] and [`BASE64`].
    first_bytes: [u8; 256],
}

/// In any encoding but Base64.
const PLAIN: u8 = 1;
const BASE64: u8 = 2;

#[derive(Clone)]
struct Secret {
    /// The value that is sent.
    value: String,
    /// Where the value is in a request's head.
    place: Place,
    /// The line of the head or the field of the query that other crates see, with a random placeholder of the same length
    /// instead of the value. Empty if the value isn't sent.
    line: String,
    /// The texts to redact in text from servers: the value, and the key without `Bearer` or the decoded value of a query.
    redacted: Vec<String>,
    /// The last of them in Base64.
    base64: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Query,
}

/// The minimum length of a redacted text, in bytes. Shorter values occur in ordinary text.
const MIN_LENGTH: usize = 8;

/// Headers and query fields whose values are no secrets: services repeat them in their answers, where they are needed.
const PUBLIC: [&str; 5] =
    ["api-version", "x-request-id", "x-client-request-id", "x-correlation-id", "traceparent"];

/// The maximum number of attempts to draw a placeholder that differs from the value and from other placeholders of the same
/// header. Most values need one attempt, a single letter may need a few.
const MAX_DRAWS: usize = 100;

/// The replacement for redacted text, and the end of an excerpt.
const ELLIPSIS: &str = "…";

impl Default for Secrets {
    fn default() -> Secrets {
        Secrets { secrets: Vec::new(), first_bytes: [0; 256] }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.secrets.len())
    }
}

impl Secrets {
    /// Adds the secret value of a header, whose name is in lower case, and returns its placeholder. `letter` returns random
    /// letters.
    pub(crate) fn add(&mut self, name: &str, value: &str, letter: impl FnMut() -> char) -> String {
        let bare = value.rsplit(' ').next().unwrap_or_default();
        let line = |placeholder: &str| line(name, placeholder);
        self.insert(Place::Header, name, line, [value.to_owned(), bare.to_owned()], letter)
    }

    /// Adds the values of a query, and returns the query with placeholders in their place. A field without a name is a value.
    /// `letter` returns random letters.
    pub(crate) fn add_query(&mut self, query: &str, mut letter: impl FnMut() -> char) -> String {
        let mut add = |field: &str| {
            let (begin, value) = field.split_at(field.find('=').map_or(0, |at| at + 1));
            let field = |placeholder: &str| [begin, placeholder].concat();
            let name = begin.trim_end_matches('=');
            field(&self.insert(Place::Query, name, field, [value.to_owned(), decoded(value)], &mut letter))
        };
        query.split('&').map(&mut add).collect::<Vec<_>>().join("&")
    }

    /// Adds a secret that is redacted but not sent.
    pub(crate) fn add_unsent(&mut self, value: &str) {
        self.push(Place::Header, String::new(), vec![value.to_owned()]);
    }

    /// Adds the secrets of another list, which are redacted but not sent.
    pub(crate) fn add_all_unsent(&mut self, other: &Secrets) {
        for secret in &other.secrets {
            self.push(Place::Header, String::new(), secret.redacted.clone());
        }
    }

    /// Adds a value that is sent. `with` makes its line or field from a placeholder. The first item of `redacted` is the value.
    fn insert(
        &mut self,
        place: Place,
        name: &str,
        with: impl Fn(&str) -> String,
        redacted: [String; 2],
        mut letter: impl FnMut() -> char,
    ) -> String {
        let mut placeholder = String::new();
        if redacted[0].is_empty() {
            return placeholder;
        }
        for _ in 0..MAX_DRAWS {
            placeholder = redacted[0].bytes().map(|_| letter()).collect();
            let line = with(&placeholder);
            if placeholder != redacted[0] && self.secrets.iter().all(|secret| secret.line != line) {
                break;
            }
        }
        self.push(place, with(&placeholder), redacted.into());
        if PUBLIC.iter().any(|public| public.eq_ignore_ascii_case(name)) {
            let public = self.secrets.last_mut().into_iter();
            public.for_each(|public| (public.redacted, public.base64) = (Vec::new(), Vec::new()));
        }
        placeholder
    }

    /// The first item of `redacted` is the value.
    fn push(&mut self, place: Place, line: String, mut redacted: Vec<String>) {
        let value = redacted.first().cloned().unwrap_or_default();
        redacted.dedup();
        redacted.retain(|text| text.len() >= MIN_LENGTH);
        for byte in redacted.iter().flat_map(|text| first_bytes(text)) {
            self.first_bytes[usize::from(byte)] |= PLAIN;
        }
        let base64 = redacted.last().map(|text| in_base64(text)).unwrap_or_default();
        for byte in base64.iter().filter_map(|text| text.bytes().next()) {
            self.first_bytes[usize::from(byte)] |= BASE64;
        }
        self.secrets.push(Secret { value, place, line, redacted, base64 });
    }

    /// Removes the placeholders of this header. Its values are no longer sent, but still redacted.
    pub(crate) fn retire(&mut self, name: &str) {
        let prefix = line(name, "");
        let prefix = prefix.trim_end();
        let of_header =
            |secret: &&mut Secret| secret.place == Place::Header && secret.line.starts_with(prefix);
        self.secrets.iter_mut().filter(of_header).for_each(|secret| secret.line.clear());
    }

    /// The number of placeholders in a head.
    pub(crate) fn len(&self) -> usize {
        self.secrets.iter().filter(|secret| !secret.line.is_empty()).count()
    }

    /// Replaces the placeholders in a part of a request's head with their values, and returns the number of replacements. A
    /// placeholder is matched with its whole line or field, because a short one may occur elsewhere. `offsets` caches their
    /// positions, which are the same in most heads of a client.
    pub(crate) fn substitute(&self, head: &mut [u8], offsets: &mut Vec<usize>) -> usize {
        offsets.resize(self.secrets.len(), 0);
        let mut found = 0;
        for (secret, offset) in self.secrets.iter().zip(offsets) {
            if secret.line.is_empty() {
                continue;
            }
            if !secret.is_at(*offset, head) {
                let Some(at) = (0..secret.place.end(head)).find(|at| secret.is_at(*at, head)) else {
                    continue;
                };
                *offset = at;
            }
            let line_end = if secret.place == Place::Header { LINE_END.len() } else { 0 };
            let end = *offset + secret.line.len() - line_end;
            head[end - secret.value.len()..end].copy_from_slice(secret.value.as_bytes());
            found += 1;
        }
        found
    }

    /// The text with the secrets redacted, in any [encoding](crate::wire::encoded_secret). A secret that is cut off at the
    /// end of the text is redacted too.
    pub(crate) fn redact<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let searched = text.strip_suffix(ELLIPSIS.as_bytes()).unwrap_or(text);
        let mut clean = Vec::new();
        let mut copied = 0;
        while let Some(found) = self.find(searched, copied) {
            clean.extend_from_slice(&text[copied..found.start]);
            clean.extend_from_slice(ELLIPSIS.as_bytes());
            copied = found.end;
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        clean.extend_from_slice(&text[copied..]);
        Cow::Owned(clean)
    }

    /// Overwrites the secrets with asterisks, which keeps the length. Returns whether there are any.
    pub(crate) fn blank(&self, text: &mut [u8]) -> bool {
        let mut end = 0;
        while let Some(found) = self.find(text, end) {
            end = found.end;
            text[found].fill(b'*');
        }
        end > 0
    }

    /// Redacts the secrets in a string.
    pub(crate) fn redact_in_place(&self, text: &mut String) {
        if let Cow::Owned(clean) = self.redact(text.as_bytes()) {
            *text = String::from_utf8_lossy(&clean).into_owned();
        }
    }

    /// Finds the next secret at or after this offset.
    fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let mut start = from;
        loop {
            let rest = text.get(start..)?;
            start += rest.iter().position(|byte| self.first_bytes[usize::from(*byte)] != 0)?;
            match self.length_at(&text[start..]) {
                Some(length) => return Some(start..start + length),
                None => start += 1,
            }
        }
    }

    /// The length of the secret at the beginning of the text.
    fn length_at(&self, text: &[u8]) -> Option<usize> {
        let first = self.first_bytes[usize::from(*text.first()?)];
        let length = |secret: &String| encoded_length(text, secret, MIN_LENGTH);
        let plain = self.secrets.iter().filter(|_| first & PLAIN != 0).flat_map(|secret| &secret.redacted);
        let longest = plain.filter_map(length).max();
        if first & BASE64 == 0 {
            return longest;
        }
        // The second character excludes most of them at little cost.
        let begins = |secret: &&String| secret.as_bytes().get(1) == text.get(1);
        let base64 = self.secrets.iter().flat_map(|secret| &secret.base64).filter(begins);
        longest.max(base64.filter_map(length).max())
    }
}

impl Secret {
    /// Whether its line or field begins at this offset.
    fn is_at(&self, at: usize, head: &[u8]) -> bool {
        let Some(rest) = head.get(at..).filter(|rest| rest.starts_with(self.line.as_bytes())) else {
            return false;
        };
        let (before, after) = (at.checked_sub(1).map(|at| head[at]), rest.get(self.line.len()));
        match self.place {
            Place::Header => before.is_none_or(|byte| byte == b'\n'),
            Place::Query => {
                let is_field = matches!(before, Some(b'?' | b'&')) && matches!(after, Some(b'&' | b' '));
                is_field && at < self.place.end(head)
            }
        }
    }
}

impl Place {
    /// Where the search ends: a query is in the first line of a head.
    fn end(self, head: &[u8]) -> usize {
        match self {
            Place::Header => head.len(),
            Place::Query => {
                let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
                if line.ends_with(b" HTTP/1.1\r") { line.len() } else { 0 }
            }
        }
    }
}

const LINE_END: &str = "\r\n";

/// A line of a head, as ureq writes it.
fn line(name: &str, value: &str) -> String {
    [name, ": ", value, LINE_END].concat()
}

/// The minimum length of a word with letters and digits that is treated as a key. Services' keys have more than twenty
/// characters.
const LIKELY_KEY: usize = 20;

/// Redacts words that look like keys or tokens, for messages of unknown origin.
pub(crate) fn redact_likely_keys(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '=');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
        let is_likely = word.len() >= LIKELY_KEY && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
        clean.push_str(if is_likely { "…" } else { word });
        let (between, after) = after.split_at(after.find(is_part).unwrap_or(after.len()));
        clean.push_str(between);
        rest = after;
    }
    clean
}

/// Percent-decodes a value of a query. An invalid sequence is kept.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_secrets(fields: &[(&str, &str)]) -> (Secrets, Vec<String>) {
        let mut secrets = Secrets::default();
        let mut letters = ('a'..='z').cycle();
        let mut add = |field: &(&str, &str)| secrets.add(field.0, field.1, || letters.next().unwrap());
        let placeholders = fields.iter().map(&mut add).collect();
        (secrets, placeholders)
    }

    fn in_place(secrets: &Secrets, text: &str) -> String {
        let mut text = text.to_owned();
        secrets.redact_in_place(&mut text);
        text
    }

    fn with_secret(value: &str) -> Secrets {
        with_secrets(&[("authorization", value)]).0
    }

    #[test]
    fn values_of_a_query_are_redacted_encoded_and_decoded() {
        let mut secrets = Secrets::default();
        let mut letters = ('a'..='z').cycle();
        let query =
            secrets.add_query("api-version=2024-02-01&flag&key=s3cr%2Bt%2F99%zz", || letters.next().unwrap());
        assert_eq!(query, "api-version=abcdefghij&klmn&key=opqrstuvwxyzabcd");
        let mut head = format!("GET /v1/models?{query} HTTP/1.1\r\n\r\n").into_bytes();
        assert_eq!(secrets.substitute(&mut head, &mut Vec::new()), 3);
        let sent = "GET /v1/models?api-version=2024-02-01&flag&key=s3cr%2Bt%2F99%zz HTTP/1.1\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), sent);
        for text in ["wrong: s3cr%2Bt%2F99%zz", "wrong: s3cr+t/99%zz"] {
            assert_eq!(in_place(&secrets, text), "wrong: …");
        }
    }

    #[test]
    fn ids_and_versions_are_sent_by_placeholders_but_not_redacted() {
        let (mut secrets, _) =
            with_secrets(&[("x-request-id", "request-0123456789"), ("x-tenant", "tenant-0123456789")]);
        secrets.add_query("API-Version=2024-10-21&sig=abcdefghij", || 'a');
        assert_eq!(secrets.len(), 4);
        let text = "request-0123456789: no gpt-4o-2024-10-21 for tenant-0123456789, sig abcdefghij";
        assert_eq!(in_place(&secrets, text), "request-0123456789: no gpt-4o-2024-10-21 for …, sig …");
    }

    #[test]
    fn words_that_look_like_keys_are_redacted() {
        for (text, expected) in [
            ("wrong key sk-0123456789abcdefghij!", "wrong key …!"),
            ("?token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIi&x", "?…&x"),
            ("/run/secrets/token.json: No such file or directory (os error 2)", ""),
            ("can't connect to a-very-long-name.of-a-host.example:443", ""),
            ("für 0123456789, 01234567890123456789012345", ""),
            ("", ""),
        ] {
            let expected = if expected.is_empty() { text } else { expected };
            assert_eq!(redact_likely_keys(text), expected);
        }
    }

    #[test]
    fn placeholders_of_a_query_are_substituted_only_in_whole_fields_of_the_first_line() {
        let mut secrets = Secrets::default();
        let mut letters = ('a'..='z').cycle();
        assert_eq!(secrets.add_query("v=1&key=22&flag=&k", || letters.next().unwrap()), "v=a&key=bc&flag=&d");
        let mut sent = b"GET /v=a?vv=a&v=ab&v=a&key=bc&d HTTP/1.1\r\nx: ?v=a&d HTTP/1.1\r\n\r\n".to_vec();
        let mut offsets = Vec::new();
        assert_eq!(secrets.substitute(&mut sent, &mut offsets), 3);
        let expected = "GET /v=a?vv=a&v=ab&v=1&key=22&k HTTP/1.1\r\nx: ?v=a&d HTTP/1.1\r\n\r\n";
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
        for other in ["x: /?v=a HTTP/1.1\n", "x: /?v=a \r\n", "{\"a\":\"?v=a \"}"] {
            assert_eq!(secrets.substitute(&mut other.as_bytes().to_vec(), &mut offsets), 0, "{other}");
        }
    }

    #[test]
    fn secrets_that_are_not_sent_are_redacted() {
        let mut secrets = with_secret("Bearer sk-0123456789");
        let mut earlier = Secrets::default();
        earlier.add_unsent("sk-earlier-key");
        secrets.add_all_unsent(&earlier);
        assert_eq!((secrets.len(), earlier.len()), (1, 0));
        assert_eq!(in_place(&secrets, "sk-earlier-key, sk-0123456789"), "…, …");
    }

    #[test]
    fn a_placeholder_has_the_length_of_its_value_and_is_substituted() {
        let (secrets, placeholders) = with_secrets(&[("authorization", "Bearer sk-0123456789")]);
        assert_eq!(placeholders, ["abcdefghijklmnopqrst"]);
        let mut head = b"POST / HTTP/1.1\r\nauthorization: abcdefghijklmnopqrst\r\n\r\n".to_vec();
        let again = head.clone();
        let mut offsets = Vec::new();
        assert_eq!(secrets.substitute(&mut head, &mut offsets), 1);
        assert_eq!(head, b"POST / HTTP/1.1\r\nauthorization: Bearer sk-0123456789\r\n\r\n");
        assert_eq!(secrets.substitute(&mut head, &mut offsets), 0);
        let mut longer = [b"x\n", again.as_slice()].concat();
        assert_eq!(secrets.substitute(&mut longer, &mut offsets), 1, "at another offset too");
        let mut part = again[again.windows(4).position(|four| four == b"auth").unwrap()..].to_vec();
        assert_eq!(secrets.substitute(&mut part, &mut offsets), 1, "at the beginning of a part too");
        assert_eq!(secrets.substitute(&mut Vec::new(), &mut offsets), 0);
    }

    #[test]
    fn short_placeholders_are_substituted_only_in_their_own_line() {
        let fields = [("x-a", "no"), ("x-b", "für"), ("x-c", "1"), ("x-c", "2"), ("x-c", "g"), ("x-d", "")];
        let (secrets, placeholders) = with_secrets(&fields);
        assert_eq!(placeholders, ["ab", "cdef", "g", "h", "i", ""]);
        let head = |values: [&str; 6]| {
            let lines: String =
                fields.iter().zip(values).map(|((name, _), value)| line(name, value)).collect();
            format!("POST /ab?x-a: ab HTTP/1.1\r\nhost: ab\r\nx-aa: x-a: ab\r\n{lines}x-ab: cdef\r\n\r\n")
        };
        let mut sent = head(["ab", "cdef", "g", "h", "i", ""]).into_bytes();
        assert_eq!(secrets.substitute(&mut sent, &mut Vec::new()), 5);
        assert_eq!(String::from_utf8(sent).unwrap(), head(["no", "für", "1", "2", "g", ""]));
    }

    #[test]
    fn the_placeholders_of_a_header_can_be_replaced() {
        let (mut secrets, _) = with_secrets(&[("x", "old-value"), ("x-y", "other"), ("x", "older-value")]);
        secrets.retire("x");
        assert_eq!(secrets.add("x", "new", || 'z'), "zzz");
        assert_eq!(secrets.len(), 2);
        let mut head = b"GET / HTTP/1.1\r\nx-y: jklmn\r\nx: zzz\r\n\r\n".to_vec();
        assert_eq!(secrets.substitute(&mut head, &mut Vec::new()), 2);
        assert_eq!(head, b"GET / HTTP/1.1\r\nx-y: other\r\nx: new\r\n\r\n");
        assert_eq!(in_place(&secrets, "old-value, older-value"), "…, …");
    }

    #[test]
    fn a_placeholder_differs_from_the_value_and_from_others_of_its_header() {
        let mut secrets = Secrets::default();
        let mut letters = "aabaabbc".chars();
        let mut letter = || letters.next().unwrap();
        assert_eq!(secrets.add("x", "a", &mut letter), "b");
        assert_eq!(secrets.add("y", "a", &mut letter), "b", "another header may have the same one");
        assert_eq!(secrets.add("x", "z", &mut letter), "c");
        assert_eq!(secrets.add("x", "z", || 'c'), "c", "drawing ends");
    }

    #[test]
    fn secrets_in_text_of_a_server_are_redacted() {
        let secrets = with_secret("Bearer sk-0123456789");
        let redacted = |text: &str| String::from_utf8(secrets.redact(text.as_bytes()).into_owned()).unwrap();
        for (text, clean) in [
            ("wrong key: sk-0123456789!", "wrong key: …!"),
            ("Bearer sk-0123456789", "…"),
            ("bearer sk-0123456789, sk-0123456789", "bearer …, …"),
            (r#"{"key":"\u0073k-0123456789"}"#, r#"{"key":"…"}"#),
            ("cut off: sk-012345", "cut off: …"),
            ("cut off: sk-012345…", "cut off: ……"),
            (r"cut off: sk-012345\u003", "cut off: …"),
            ("no key at all: sk-0123", "no key at all: sk-0123"),
            ("another key: sk-0123456780", "another key: sk-0123456780"),
            ("Authorization: Bearer", "Authorization: Bearer"),
            // In Base64, after 0, 1, 2 and 7 other bytes, and before others.
            ("c2stMDEyMzQ1Njc4OQ==", "…Q=="),
            ("YXNrLTAxMjM0NTY3ODkhPw==", "YX…khPw=="),
            ("YWJzay0wMTIzNDU2Nzg5IT8=", "YWJ…IT8="),
            (r#"{"header":"QmVhcmVyIHNrLTAxMjM0NTY3ODk="}"#, r#"{"header":"QmVhcmVyIH…k="}"#),
        ] {
            assert_eq!(redacted(text), clean, "{text}");
        }
        let mut text = b"key sk-0123456789, \\u0073k-0123456789 and sk-012345".to_vec();
        assert!(secrets.blank(&mut text) && !secrets.blank(&mut text));
        assert_eq!(text, b"key *************, ****************** and *********");
        assert_eq!(secrets.redact(b"\xffsk-0123456789").as_ref(), b"\xff\xe2\x80\xa6");
        assert!(matches!(secrets.redact(b"nothing here"), Cow::Borrowed(_)));
        assert_eq!(in_place(&secrets, "sk-0123456789"), "…");
    }

    #[test]
    fn short_values_have_a_placeholder_and_are_not_redacted() {
        let secrets = with_secret("no");
        assert_eq!((secrets.len(), secrets.redact(b"no way").as_ref()), (1, &b"no way"[..]));
        let secrets = with_secret("Basic abc");
        assert_eq!(in_place(&secrets, "Basic abc: abc"), "…: abc");
    }
}
