//! Walks through JSON and builds nothing: what is wanted is cut out, all the rest is passed over.
//!
//! A stream repeats the same dozen fields hundreds of times a second, and two of them matter. A parser that has to
//! understand every one of them costs twice as much as this walk, which knows strings, brackets and commas only. So
//! it takes some texts that are no JSON; whatever it cuts out is read by the real parser.

use std::borrow::Cow;

use serde_json::Value;

use crate::json::repair;

/// What is left of a JSON text.
#[derive(Clone)]
pub(crate) struct JsonCursor<'a> {
    rest: &'a [u8],
}

/// A text that can't be walked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyntaxError;

/// A value that was cut out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RawValue<'a> {
    /// A string without its quotes.
    Text(&'a [u8]),
    /// A string with its quotes, that holds a backslash.
    Escaped(&'a [u8]),
    /// Anything else.
    Other(&'a [u8]),
}

impl<'a> JsonCursor<'a> {
    pub(crate) fn new(json: &'a [u8]) -> JsonCursor<'a> {
        JsonCursor { rest: json }
    }

    /// Enters the object or the list that comes next; anything else is passed over, and there is nothing to enter.
    pub(crate) fn enter(&mut self, bracket: u8) -> Result<bool, SyntaxError> {
        match self.after_space() {
            Some((first, rest)) if first == bracket => {
                self.rest = rest;
                Ok(true)
            }
            _ => self.value().map(|_| false),
        }
    }

    /// The name of the next field of the object that was entered; none at its end, which is passed over. The value
    /// has to be taken before the next name.
    #[inline]
    pub(crate) fn name(&mut self) -> Result<Option<Cow<'a, [u8]>>, SyntaxError> {
        // The usual forms first; what has whitespace in it takes the longer way.
        if let [b',', b'"', ..] = self.rest {
            self.rest = &self.rest[1..];
        }
        let rest = if let [b'"', rest @ ..] = self.rest {
            rest
        } else {
            if !self.more(b'}')? {
                return Ok(None);
            }
            let Some((b'"', rest)) = self.after_space() else { return Err(SyntaxError) };
            rest
        };
        let name = self.string(rest)?;
        self.rest = match self.rest {
            [b':', rest @ ..] => rest,
            _ => match self.after_space() {
                Some((b':', rest)) => rest,
                _ => return Err(SyntaxError),
            },
        };
        Ok(Some(match name {
            RawValue::Text(name) | RawValue::Other(name) => Cow::Borrowed(name),
            RawValue::Escaped(json) => Cow::Owned(unescape(json)?.into_bytes()),
        }))
    }

    /// Whether the list that was entered goes on; its end is passed over. The item has to be taken before the next one.
    pub(crate) fn item(&mut self) -> Result<bool, SyntaxError> {
        self.more(b']')
    }

    /// Cuts out the next value.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<RawValue<'a>, SyntaxError> {
        match self.after_space() {
            Some((b'"', rest)) => self.string(rest),
            Some((b'{' | b'[', _)) => self.nested(),
            _ => self.word(),
        }
    }

    /// Passes over a null, if that is what comes next.
    pub(crate) fn null(&mut self) -> bool {
        self.after_space();
        self.rest.strip_prefix(b"null").map(|rest| self.rest = rest).is_some()
    }

    /// What was walked over since `before`, which is an earlier state of this walk.
    pub(crate) fn since(&self, before: &JsonCursor<'a>) -> &'a [u8] {
        let length = before.rest.len().saturating_sub(self.rest.len());
        before.rest.get(..length).unwrap_or_default()
    }

    /// Makes sure that nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), SyntaxError> {
        self.after_space().map_or(Ok(()), |_| Err(SyntaxError))
    }

    /// Passes over whitespace, then over the end or over one comma.
    #[inline]
    fn more(&mut self, end: u8) -> Result<bool, SyntaxError> {
        let (first, rest) = self.after_space().ok_or(SyntaxError)?;
        if first == end || first == b',' {
            self.rest = rest;
        }
        Ok(first != end)
    }

    /// Passes over whitespace; the byte that comes then, and what comes after it.
    #[inline]
    fn after_space(&mut self) -> Option<(u8, &'a [u8])> {
        loop {
            match self.rest.split_first()? {
                (b' ' | b'\n' | b'\r' | b'\t', rest) => self.rest = rest,
                (first, rest) => return Some((*first, rest)),
            }
        }
    }

    /// Cuts out the string that begins here; `inside` is what comes after its first quote.
    #[inline]
    fn string(&mut self, inside: &'a [u8]) -> Result<RawValue<'a>, SyntaxError> {
        let length = find_either(inside, b'"', b'\\').ok_or(SyntaxError)?;
        if inside[length] == b'"' {
            self.rest = &inside[length + 1..];
            return Ok(RawValue::Text(&inside[..length]));
        }
        self.escaped(length + 1)
    }

    /// Cuts out the string that begins here and has its first backslash at this place.
    fn escaped(&mut self, mut at: usize) -> Result<RawValue<'a>, SyntaxError> {
        loop {
            at += 2;
            at += find_either(self.rest.get(at..).ok_or(SyntaxError)?, b'"', b'\\').ok_or(SyntaxError)?;
            if self.rest[at] == b'"' {
                let (string, rest) = self.rest.split_at(at + 1);
                self.rest = rest;
                return Ok(RawValue::Escaped(string));
            }
        }
    }

    /// Cuts out the object or the list that begins here. It isn't understood but for its depth, which is a number and
    /// no stack.
    fn nested(&mut self) -> Result<RawValue<'a>, SyntaxError> {
        let start = self.rest;
        let mut depth = 0usize;
        while let Some((first, rest)) = self.rest.split_first() {
            match first {
                b'"' => {
                    self.string(rest)?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.rest = rest;
            if depth == 0 {
                return Ok(RawValue::Other(&start[..start.len() - rest.len()]));
            }
        }
        Err(SyntaxError)
    }

    /// Cuts out what is neither string nor nested: a number, a truth value, a null.
    #[inline]
    fn word(&mut self) -> Result<RawValue<'a>, SyntaxError> {
        let length =
            self.rest.iter().position(|byte| !IN_WORD[usize::from(*byte)]).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        if word.is_empty() { Err(SyntaxError) } else { Ok(RawValue::Other(word)) }
    }
}

/// The bytes of numbers, truth values, nulls and what comes in their place. One look at a table is cheaper than a
/// dozen comparisons.
static IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            matches!(byte as u8, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.' | b'_');
        byte += 1;
    }
    table
};

impl<'a> RawValue<'a> {
    /// Whether it is a null.
    #[inline]
    pub(crate) fn is_null(self) -> bool {
        matches!(self, RawValue::Other(b"null"))
    }

    /// The text, if it is one: as it stands or, where it is escaped, read. An invalid byte becomes U+FFFD.
    #[inline]
    pub(crate) fn text(self) -> Result<Option<Cow<'a, str>>, SyntaxError> {
        Ok(match self {
            RawValue::Text(text) => Some(lossy(text)),
            RawValue::Escaped(json) => Some(Cow::Owned(unescape(json)?)),
            RawValue::Other(_) => None,
        })
    }

    /// A small count, in any dress.
    #[inline]
    pub(crate) fn index(self) -> Option<u32> {
        match self {
            RawValue::Other([digit @ b'0'..=b'9']) => Some(u32::from(digit - b'0')),
            cut => u32::try_from(cut.whole()?).ok(),
        }
    }

    /// A count, in any dress.
    pub(crate) fn whole(self) -> Option<u64> {
        let digits = |json: &[u8]| {
            let short = json.len() < 19 && !json.is_empty();
            short.then(|| {
                json.iter().try_fold(0, |n, c| c.is_ascii_digit().then(|| n * 10 + u64::from(c - b'0')))
            })?
        };
        match self {
            RawValue::Other(json) => {
                digits(json).or_else(|| crate::json::lenient::whole(&self.value().ok()?))
            }
            cut => crate::json::lenient::whole(&cut.value().ok()?),
        }
    }

    /// The value, whatever it is.
    pub(crate) fn value(self) -> Result<Value, SyntaxError> {
        match self {
            RawValue::Text(text) => Ok(Value::String(lossy(text).into_owned())),
            RawValue::Escaped(json) => unescape(json).map(Value::String),
            RawValue::Other(json) => read(json),
        }
    }
}

/// `String::from_utf8_lossy` for what is valid almost always: several times as fast.
#[inline]
fn lossy(text: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed)
}

/// Reads what was cut out, repaired if need be.
fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, SyntaxError> {
    let read = serde_json::from_slice(json);
    read.or_else(|error| repair(json).map_or(Err(error), |repaired| serde_json::from_str(&repaired)))
        .map_err(|_| SyntaxError)
}

fn unescape(json: &[u8]) -> Result<String, SyntaxError> {
    read(json)
}

/// The place of the first of two bytes. Eight bytes at a time: the standard library's fast search knows one byte only.
#[inline]
pub(crate) fn find_either(bytes: &[u8], a: u8, b: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The well-known test for a zero byte; the lowest byte that it marks is a zero for certain.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let mut rest = bytes;
    while let Some((block, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*block);
        let hits = zeros(word ^ (ONES * u64::from(a))) | zeros(word ^ (ONES * u64::from(b)));
        if hits != 0 {
            return Some(bytes.len() - rest.len() + hits.trailing_zeros() as usize / 8);
        }
        rest = after;
    }
    let last = rest.iter().position(|byte| *byte == a || *byte == b)?;
    Some(bytes.len() - rest.len() + last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn walks_through_an_object() {
        let mut cursor = JsonCursor::new(br#" { "a" : 1 , "b":[1,{"x":"]}"}], "c":null,"d":"q\"\u00e4" } "#);
        assert_eq!(cursor.enter(b'{'), Ok(true));
        let mut seen = Vec::new();
        while let Some(name) = cursor.name().unwrap() {
            seen.push((
                String::from_utf8(name.into_owned()).unwrap(),
                cursor.value().unwrap().value().unwrap(),
            ));
        }
        assert_eq!(cursor.end(), Ok(()));
        let expected =
            [("a", json!(1)), ("b", json!([1, {"x": "]}"}])), ("c", json!(null)), ("d", json!("q\"ä"))];
        assert_eq!(seen, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn walks_through_a_list_and_passes_over_what_is_none() {
        let mut cursor = JsonCursor::new(b"[1, [2], {\"a\": 3}]");
        assert_eq!(cursor.enter(b'['), Ok(true));
        let mut items = Vec::new();
        while cursor.item().unwrap() {
            items.push(cursor.value().unwrap().value().unwrap());
        }
        assert_eq!(json!(items), json!([1, [2], {"a": 3}]));
        for other in ["null", "1", "\"[\"", "{\"a\": []}"] {
            let mut cursor = JsonCursor::new(other.as_bytes());
            assert_eq!((cursor.enter(b'['), cursor.end()), (Ok(false), Ok(())), "{other}");
        }
    }

    #[test]
    fn an_escaped_name_is_read() {
        let mut cursor = JsonCursor::new(br#"{"x":"\"","\u0061\"":1}"#);
        cursor.enter(b'{').unwrap();
        cursor.name().unwrap();
        cursor.value().unwrap();
        assert_eq!(cursor.name().unwrap().as_deref(), Some(&b"a\""[..]));
    }

    #[test]
    fn what_is_cut_is_odd() {
        let whole = r#"{"a":"b\"c","d":[1,{"e":null}],"f":tr}"#;
        let walk = |json: &str| {
            let mut cursor = JsonCursor::new(json.as_bytes());
            if !cursor.enter(b'{')? {
                return Err(SyntaxError);
            }
            while cursor.name()?.is_some() {
                cursor.value()?;
            }
            cursor.end()
        };
        assert_eq!(walk(whole), Ok(()));
        for end in 0..whole.len() {
            assert_eq!(walk(&whole[..end]), Err(SyntaxError), "{}", &whole[..end]);
        }
        for odd in ["{]", "{\"a\"}", "{\"a\" 1}", "{a:1}", "{}x", "{\"a\":}"] {
            assert_eq!(walk(odd), Err(SyntaxError), "{odd}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let cut = JsonCursor::new(deep.as_bytes()).value().unwrap();
        assert_eq!(cut.value(), Err(SyntaxError)); // the real parser refuses it
    }

    proptest! {
        #[test]
        fn finds_what_a_simple_search_finds(bytes in proptest::collection::vec(0u8..6, 0..40), a in 0u8..6, b in 0u8..6) {
            prop_assert_eq!(find_either(&bytes, a, b), bytes.iter().position(|byte| *byte == a || *byte == b));
            let high: Vec<u8> = bytes.iter().map(|byte| byte.wrapping_mul(51).wrapping_add(127)).collect();
            prop_assert_eq!(find_either(&high, 127, 0x80), high.iter().position(|byte| matches!(byte, 127 | 0x80)));
        }

        #[test]
        fn never_panics(text in "[\\[\\]{}\",:\\\\a1 é]{0,40}") {
            let mut cursor = JsonCursor::new(text.as_bytes());
            let _ = cursor.enter(b'{');
            for _ in 0..50 {
                let _ = cursor.name();
                let _ = cursor.item();
                if let Ok(cut) = cursor.value() {
                    let _ = (cut.text(), cut.index(), cut.value(), cut.is_null());
                }
            }
        }
    }
}
