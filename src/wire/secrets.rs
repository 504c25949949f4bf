//! Keeps secrets out of errors and logs: redacts them in text from servers, and has placeholders for other crates' logs.

use std::borrow::Cow;
use std::fmt;

/// The secret values of headers.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    secrets: Vec<Secret>,
}

#[derive(Clone)]
struct Secret {
    /// The value that is sent.
    value: String,
    /// The text that other crates see instead: of the same length, and random.
    placeholder: String,
    /// The secret part of the value: the key without `Bearer`.
    bare: String,
}

/// Shorter values aren't redacted: they occur in ordinary text.
const MIN_LENGTH: usize = 8;

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.secrets.len())
    }
}

impl Secrets {
    /// Adds a secret value and returns its placeholder. `letter` returns random letters.
    pub(crate) fn add(&mut self, value: &str, mut letter: impl FnMut() -> char) -> String {
        if value.len() < MIN_LENGTH || !value.is_ascii() {
            return value.to_owned();
        }
        let placeholder: String = value.bytes().map(|_| letter()).collect();
        let bare = value.rsplit(' ').next().filter(|bare| bare.len() >= MIN_LENGTH).unwrap_or(value);
        self.secrets.push(Secret {
            value: value.to_owned(),
            placeholder: placeholder.clone(),
            bare: bare.to_owned(),
        });
        placeholder
    }

    /// The number of secrets.
    pub(crate) fn len(&self) -> usize {
        self.secrets.len()
    }

    /// Replaces the placeholders in the head of a request by their values, and returns the number of replacements.
    /// `offsets` remembers where they were, because most heads of a client have them at the same offsets.
    pub(crate) fn substitute(&self, head: &mut [u8], offsets: &mut Vec<usize>) -> usize {
        offsets.resize(self.secrets.len(), 0);
        let mut found = 0;
        for (secret, offset) in self.secrets.iter().zip(offsets) {
            let (placeholder, length) = (secret.placeholder.as_bytes(), secret.value.len());
            let mut is_here = head.get(*offset..).is_some_and(|rest| rest.starts_with(placeholder));
            if !is_here {
                let at = head.windows(length).position(|window| window == placeholder);
                is_here = at.is_some();
                *offset = at.unwrap_or(*offset);
            }
            if is_here {
                head[*offset..*offset + length].copy_from_slice(secret.value.as_bytes());
                found += 1;
            }
        }
        found
    }

    /// The text with the secrets redacted.
    pub(crate) fn redact<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut redacted = Cow::Borrowed(text);
        for secret in &self.secrets {
            for value in [&secret.value, &secret.bare] {
                if redacted.windows(value.len()).any(|window| window == value.as_bytes()) {
                    // Secrets are ASCII, so the lossy conversion doesn't change them.
                    let clean = String::from_utf8_lossy(&redacted).replace(value.as_str(), "…");
                    redacted = Cow::Owned(clean.into_bytes());
                }
            }
        }
        redacted
    }

    /// The string with the secrets redacted.
    pub(crate) fn redact_text(&self, text: String) -> String {
        match self.redact(text.as_bytes()) {
            Cow::Borrowed(_) => text,
            Cow::Owned(clean) => String::from_utf8_lossy(&clean).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_secret(value: &str) -> (Secrets, String) {
        let mut secrets = Secrets::default();
        let mut letters = ('a'..='z').cycle();
        let placeholder = secrets.add(value, || letters.next().unwrap());
        (secrets, placeholder)
    }

    #[test]
    fn a_placeholder_has_the_length_of_its_value_and_is_substituted() {
        let (secrets, placeholder) = with_secret("Bearer sk-0123456789");
        assert_eq!(placeholder, "abcdefghijklmnopqrst");
        let mut head = format!("POST / HTTP/1.1\r\nauthorization: {placeholder}\r\n\r\n").into_bytes();
        let again = head.clone();
        let mut offsets = Vec::new();
        assert_eq!(secrets.substitute(&mut head, &mut offsets), 1);
        assert_eq!(head, b"POST / HTTP/1.1\r\nauthorization: Bearer sk-0123456789\r\n\r\n");
        assert_eq!(secrets.substitute(&mut head, &mut offsets), 0);
        let mut longer = [b"xx", again.as_slice()].concat();
        assert_eq!(secrets.substitute(&mut longer, &mut offsets), 1, "at another offset too");
        assert_eq!(secrets.substitute(&mut Vec::new(), &mut offsets), 0);
    }

    #[test]
    fn secrets_in_text_of_a_server_are_redacted() {
        let (secrets, _) = with_secret("Bearer sk-0123456789");
        assert_eq!(secrets.redact(b"wrong key: sk-0123456789!").as_ref(), "wrong key: …!".as_bytes());
        assert_eq!(secrets.redact(b"\xffBearer sk-0123456789").as_ref(), "\u{fffd}…".as_bytes());
        assert!(matches!(secrets.redact(b"nothing here"), Cow::Borrowed(_)));
        assert_eq!(secrets.redact_text("sk-0123456789".to_owned()), "…");
    }

    #[test]
    fn short_values_are_not_redacted() {
        assert_eq!(with_secret("no").1, "no");
        assert_eq!(with_secret("no").0.len(), 0);
    }
}
