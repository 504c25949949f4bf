//! Keeps secrets out of errors and logs: redacts them in text from servers, and has placeholders for other crates' logs.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::wire::spelling::{first_bytes, spelled};

/// The secret values of headers.
#[derive(Clone)]
pub(crate) struct Secrets {
    secrets: Vec<Secret>,
    /// The bytes that a secret may begin with, in any spelling.
    first_bytes: [bool; 256],
}

#[derive(Clone)]
struct Secret {
    /// The value that is sent.
    value: String,
    /// The line of a request's head that other crates see instead: the value is replaced by a placeholder, which is random
    /// and has the same length. Empty where the value isn't sent any more.
    line: String,
    /// What is redacted in text from servers: the value, and the key without `Bearer`.
    redacted: Vec<String>,
}

/// The minimum length of what is redacted, in bytes. Shorter values occur in ordinary text.
const MIN_LENGTH: usize = 8;

/// How often a placeholder is drawn until it differs from the value and from other placeholders of the same header: most
/// values need one attempt, a single letter may need a few.
const MAX_DRAWS: usize = 100;

/// What redacted text is replaced by, and also the end of an excerpt.
const ELLIPSIS: &str = "…";

impl Default for Secrets {
    fn default() -> Secrets {
        Secrets { secrets: Vec::new(), first_bytes: [false; 256] }
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
    pub(crate) fn add(&mut self, name: &str, value: &str, mut letter: impl FnMut() -> char) -> String {
        if value.is_empty() {
            return String::new();
        }
        let mut placeholder = String::new();
        for _ in 0..MAX_DRAWS {
            placeholder = value.bytes().map(|_| letter()).collect();
            let line = line(name, &placeholder);
            if placeholder != value && self.secrets.iter().all(|secret| secret.line != line) {
                break;
            }
        }
        let bare = value.rsplit(' ').next().unwrap_or_default();
        let mut redacted = vec![value.to_owned(), bare.to_owned()];
        redacted.dedup();
        redacted.retain(|text| text.len() >= MIN_LENGTH);
        for byte in redacted.iter().flat_map(|text| first_bytes(text)) {
            self.first_bytes[usize::from(byte)] = true;
        }
        self.secrets.push(Secret { value: value.to_owned(), line: line(name, &placeholder), redacted });
        placeholder
    }

    /// Has no placeholders for this header any more, whose values aren't sent but stay secret.
    pub(crate) fn retire(&mut self, name: &str) {
        let prefix = line(name, "");
        let prefix = prefix.trim_end();
        let of_header = |secret: &&mut Secret| secret.line.starts_with(prefix);
        self.secrets.iter_mut().filter(of_header).for_each(|secret| secret.line.clear());
    }

    /// The number of placeholders in a head.
    pub(crate) fn len(&self) -> usize {
        self.secrets.iter().filter(|secret| !secret.line.is_empty()).count()
    }

    /// Replaces the placeholders in a part of a request's head by their values, and returns the number of replacements. A
    /// placeholder is recognised by its whole line, because one of a few letters may occur elsewhere. `offsets` remembers
    /// where the lines were, because most heads of a client have them at the same offsets.
    pub(crate) fn substitute(&self, head: &mut [u8], offsets: &mut Vec<usize>) -> usize {
        offsets.resize(self.secrets.len(), 0);
        let mut found = 0;
        for (secret, offset) in self.secrets.iter().zip(offsets) {
            let line = secret.line.as_bytes();
            if line.is_empty() {
                continue;
            }
            let is_line = |at: usize, head: &[u8]| {
                head.get(at..).is_some_and(|rest| rest.starts_with(line))
                    && (at == 0 || head[at - 1] == b'\n')
            };
            if !is_line(*offset, head) {
                let Some(at) = (0..head.len()).find(|at| is_line(*at, head)) else { continue };
                *offset = at;
            }
            let end = *offset + line.len() - LINE_END.len();
            head[end - secret.value.len()..end].copy_from_slice(secret.value.as_bytes());
            found += 1;
        }
        found
    }

    /// The text with the secrets redacted, however they are [spelled](crate::wire::spelling). A secret whose rest was cut
    /// off with the rest of the text counts too.
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

    /// Overwrites the secrets with asterisks, so that the length stays. Returns whether there are any.
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

    /// Where the next secret is from this offset on.
    fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let mut start = from;
        loop {
            let rest = text.get(start..)?;
            start += rest.iter().position(|byte| self.first_bytes[usize::from(*byte)])?;
            let redacted = self.secrets.iter().flat_map(|secret| &secret.redacted);
            let lengths = redacted.filter_map(|secret| spelled(&text[start..], secret, MIN_LENGTH));
            match lengths.max() {
                Some(length) => return Some(start..start + length),
                None => start += 1,
            }
        }
    }
}

const LINE_END: &str = "\r\n";

/// A line of a head, as ureq writes it.
fn line(name: &str, value: &str) -> String {
    [name, ": ", value, LINE_END].concat()
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
    fn placeholders_of_a_few_letters_are_substituted_in_their_own_line_only() {
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
    fn a_placeholder_differs_from_the_value_and_from_its_neighbours() {
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
