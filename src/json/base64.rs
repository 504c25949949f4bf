//! Base64 (RFC 4648, section 4): the encoding of images in requests and of embeddings in answers.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the encoding of `bytes`, padded.
pub(crate) fn encode(bytes: &[u8], out: &mut String) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            // Three bytes make four digits; each missing byte removes one.
            let symbol = if digit <= group.len() { ALPHABET[word >> (18 - 6 * digit) & 63] } else { b'=' };
            out.push(char::from(symbol));
        }
    }
}

/// Decodes, with or without padding, in the standard or the URL-safe alphabet (section 5); `None` for anything else.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        if group.len() == 1 {
            return None; // six bits, less than a byte
        }
        let mut word = 0u32;
        for digit in group {
            word = word << 6 | u32::from(digit_value(*digit)?);
        }
        word <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn digit_value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 4648, section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = String::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out, coded);
            assert_eq!(decode(coded).as_deref(), Some(plain.as_bytes()));
            assert_eq!(decode(coded.trim_end_matches('=')).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn all_bytes_and_both_alphabets() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut out = String::new();
        encode(&bytes, &mut out);
        assert_eq!(decode(&out), Some(bytes.clone()));
        assert_eq!(decode(&out.replace('+', "-").replace('/', "_")), Some(bytes));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["A", "AAAAA", "A A=", "ä", "AA=A"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
