//! Recognises a secret in text from a server in any encoding: verbatim, with JSON escapes (RFC 8259 section 7) at any level
//! of nesting, percent-encoded (RFC 3986 section 2.1), as UTF-8 that was misread as Latin-1, or in Base64 (RFC 4648).

/// The maximum number of backslashes before a character: six levels of JSON in a string of JSON.
const MAX_BACKSLASHES: usize = 64;

/// The length of an escape with all of its backslashes.
const MAX_ESCAPE: usize = MAX_BACKSLASHES + "u0000".len();

/// The alphabets of Base64, the usual one and that for URLs (RFC 4648 sections 4 and 5).
const BASE64: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

/// The secret in Base64, as it is found after 0, 1 or 2 other bytes of a group of three, in both alphabets: the characters
/// that don't depend on what is before and after it.
pub(super) fn in_base64(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for (before, alphabet) in (0..3).flat_map(|before| BASE64.map(|alphabet| (before, alphabet))) {
        let bytes = [&[0; 3][..before], secret.as_bytes(), &[0]].concat();
        let digit = |at: usize| {
            let (byte, bit) = (6 * at / 8, 6 * at % 8);
            let pair = u16::from_be_bytes([bytes[byte], bytes[byte + 1]]);
            char::from(alphabet[usize::from((pair >> (10 - bit)) & 63)])
        };
        let form: String = ((8 * before).div_ceil(6)..8 * (before + secret.len()) / 6).map(digit).collect();
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    forms
}

/// The number of bytes at the beginning of `text` that encode the secret. If the text ends before the secret does, at least
/// `min` characters of it suffice.
pub(super) fn encoded_length(text: &[u8], secret: &str, min: usize) -> Option<usize> {
    let mut at = 0;
    // Backslashes in the secret are skipped, because those in the text are skipped before every character.
    for (count, character) in secret.chars().filter(|c| *c != '\\').enumerate() {
        let rest = &text[at..];
        match character_length(rest, character) {
            Some(length) => at += length,
            None if count >= min && is_cut(rest) => return Some(text.len()),
            None => return None,
        }
    }
    Some(at).filter(|length| *length > 0)
}

/// The bytes that an encoding of the secret may begin with.
pub(super) fn first_bytes(secret: &str) -> impl Iterator<Item = u8> {
    let first = secret.bytes().find(|byte| *byte != b'\\');
    // A non-ASCII byte that was misread as Latin-1 begins with one of two bytes in UTF-8.
    let misread = [0xC2, 0xC3].into_iter().filter(move |_| first.is_some_and(|byte| !byte.is_ascii()));
    first.into_iter().chain([b'\\', b'%']).chain(misread)
}

/// Whether the text ends here, or within a non-ASCII character, or within an escape.
fn is_cut(text: &[u8]) -> bool {
    match text {
        [b'\\' | b'%', ..] => {
            let in_escape = |byte: &u8| matches!(byte, b'\\' | b'u' | b'%') || byte.is_ascii_hexdigit();
            text.len() < MAX_ESCAPE && text.iter().all(in_escape)
        }
        _ => text.len() < 4 && !text.iter().any(u8::is_ascii), // also nothing at all
    }
}

/// The number of bytes at the beginning of `text` that encode the character.
#[inline]
fn character_length(text: &[u8], character: char) -> Option<usize> {
    let mut buffer = [0; 4];
    let utf8 = character.encode_utf8(&mut buffer).as_bytes();
    let length = unit_length(text, character, utf8);
    if length.is_some() || character.is_ascii() {
        return length;
    }
    // Each byte of it may have been misread as a Latin-1 character.
    let mut at = 0;
    for byte in utf8 {
        let mut buffer = [0; 4];
        let misread = char::from(*byte);
        at += unit_length(&text[at..], misread, misread.encode_utf8(&mut buffer).as_bytes())?;
    }
    Some(at)
}

#[inline]
fn unit_length(text: &[u8], character: char, utf8: &[u8]) -> Option<usize> {
    if text.starts_with(utf8) {
        return Some(utf8.len());
    }
    match text.first()? {
        b'\\' => escape_length(text, character, utf8),
        b'%' => percent_length(text, utf8).or_else(|| escape_length(text, character, utf8)),
        _ => None,
    }
}

/// The length of the escape of a character: backslashes, and then the character or the numbers of its UTF-16 code units.
fn escape_length(text: &[u8], character: char, utf8: &[u8]) -> Option<usize> {
    let start = backslashes(text);
    let rest = &text[start..];
    let plain = rest.starts_with(utf8).then_some(utf8.len());
    if let Some(length) = plain.or_else(|| percent_length(rest, utf8)) {
        return Some(start + length);
    }
    let mut at = 0;
    for unit in character.encode_utf16(&mut [0; 2]) {
        at += backslashes(&text[at..]);
        if number(&text[at..])? != *unit {
            return None;
        }
        at += "u0000".len();
    }
    Some(at)
}

/// The length of the backslashes at the beginning of `text`, some of which may be escaped themselves.
fn backslashes(text: &[u8]) -> usize {
    let mut at = 0;
    while at < MAX_BACKSLASHES {
        match text.get(at) {
            Some(b'\\') => at += 1,
            Some(b'%') if percent_length(&text[at..], b"\\").is_some() => at += "%5c".len(),
            Some(b'u') if at > 0 && number(&text[at..]) == Some(u16::from(b'\\')) => at += "u0000".len(),
            _ => break,
        }
    }
    at
}

/// The number after `u`, as in `\u0041` without its backslash.
fn number(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"u")?.get(..4)?;
    hex(digits)
}

/// The length of these bytes at the beginning of `text`, percent-encoded.
fn percent_length(text: &[u8], utf8: &[u8]) -> Option<usize> {
    let mut at = 0;
    for byte in utf8 {
        let digits = text[at..].strip_prefix(b"%")?.get(..2)?;
        if hex(digits)? != u16::from(*byte) {
            return None;
        }
        at += "%00".len();
    }
    Some(at)
}

fn hex(digits: &[u8]) -> Option<u16> {
    let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk-A/b+c=é\"\\x";

    #[test]
    fn a_text_that_ends_within_a_character_or_an_escape_is_cut() {
        let longest = [b"\\".repeat(64).as_slice(), b"u00e"].concat();
        for cut in [b"".as_slice(), b"\\", b"\\u00e", b"%", b"%C", &longest, b"\xC3", b"\xF0\x9F\x98"] {
            assert!(is_cut(cut), "{cut:?}");
        }
        let whole = [longest.as_slice(), b"9"].concat();
        for other in [b"a".as_slice(), b"\\x", b"%C-", &whole, b"\xC3a", b"\xF0\x9F\x98\x80"] {
            assert!(!is_cut(other), "{other:?}");
        }
    }

    fn each(encode: impl Fn(char) -> String) -> String {
        SECRET.chars().map(encode).collect()
    }

    /// The secret in every encoding.
    fn encodings() -> Vec<String> {
        let number = |c: char| format!("\\u{:04x}", c as u32);
        let json = serde_json::to_string(SECRET).unwrap();
        let json = json[1..json.len() - 1].to_owned();
        let numbers = each(number);
        let mut encodings = vec![SECRET.to_owned(), json.clone(), json.replace('/', "\\/"), numbers.clone()];
        encodings.push(each(|c| format!("\\u{:04X}", c as u32)));
        encodings.push(numbers.replace('\\', "\\\\"));
        encodings.push(numbers.replace('\\', "\\\\\\\\"));
        encodings.push(numbers.replace('\\', "\\u005c"));
        encodings.push(numbers.replace('\\', "\\\\u005C"));
        encodings.push(each(|c| if c.is_ascii_lowercase() { c.to_string() } else { number(c) }));
        encodings.push(SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect());
        encodings.push(SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect());
        encodings.push(SECRET.bytes().map(|byte| number(char::from(byte))).collect());
        encodings.push(SECRET.bytes().map(char::from).collect());
        encodings
    }

    #[test]
    fn a_secret_is_recognised_in_every_encoding() {
        for encoding in encodings() {
            let text = encoding.clone() + "\", and more";
            assert_eq!(encoded_length(text.as_bytes(), SECRET, 8), Some(encoding.len()), "{encoding}");
            assert!(first_bytes(SECRET).any(|byte| byte == text.as_bytes()[0]), "{encoding}");
        }
    }

    #[test]
    fn a_truncated_secret_is_recognised_by_its_first_characters() {
        for encoding in encodings() {
            let bytes = encoding.as_bytes();
            let first =
                (0..bytes.len()).find(|end| encoded_length(&bytes[..*end], SECRET, 4).is_some()).unwrap();
            for end in first..bytes.len() {
                assert_eq!(encoded_length(&bytes[..end], SECRET, 4), Some(end), "{encoding} up to {end}");
            }
            assert!(encoded_length(&bytes[..first - 1], SECRET, 4).is_none());
            let decoded = bytes[..first].iter().filter(|byte| **byte == b'u' || **byte == b'%').count();
            assert!(decoded <= 9 && first <= 4 * 17, "{encoding}: {first}");
        }
    }

    #[test]
    fn other_text_is_not_the_secret() {
        for text in [
            "",
            "sk",
            "sk-A/b+d",
            "\\",
            "\\u",
            "\\u0074",
            "%74",
            "%",
            "%7",
            "\\\\n",
            "\\u+073",
            "sk-A/b\\u002",
            "x",
        ] {
            assert_eq!(encoded_length(text.as_bytes(), SECRET, 8), None, "{text}");
        }
        assert_eq!(encoded_length(&[b'\\'; 1000], SECRET, 1), None);
        assert_eq!(encoded_length(b"anything", "\\", 1), None, "nothing is left to look for");
    }

    #[test]
    fn characters_of_two_units() {
        for text in ["🦀", "\u{f0}\u{9f}\u{a6}\u{80}", "\\ud83e\\udd80", "\\\\uD83E\\\\uDD80", "%f0%9f%a6%80"]
        {
            assert_eq!(encoded_length(text.as_bytes(), "🦀", 8), Some(text.len()), "{text}");
            assert!(first_bytes("🦀").any(|byte| byte == text.as_bytes()[0]), "{text}");
        }
        assert_eq!(encoded_length(b"\\ud83e\\ud83e", "🦀", 8), None);
    }
}
