//! The fields of a line as they were written, to be read one by one or to come back byte for byte.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The fields of a JSON object, in their order.
pub(crate) struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// Reads a line; the error says what is wrong with it.
    pub(crate) fn parse(line: &str) -> Result<Fields, String> {
        let bad = |error: serde_json::Error| {
            if error.is_data() {
                "isn't a JSON object".to_owned()
            } else {
                format!("isn't JSON (column {})", error.column())
            }
        };
        serde_json::from_str(line).or_else(|error| match repair(line) {
            Cow::Owned(repaired) => serde_json::from_str(&repaired).map_err(bad),
            Cow::Borrowed(_) => Err(bad(error)),
        })
    }

    /// Takes a field out; the last one where it is repeated.
    pub(crate) fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        let mut taken = None;
        self.0.retain_mut(|(other, value)| {
            let found = other == name;
            if found {
                taken = Some(std::mem::take(value));
            }
            !found
        });
        taken
    }

    /// Takes the values of these fields out, where there are any.
    pub(crate) fn take_all(&mut self, names: &[&str]) -> Map<String, Value> {
        let mut taken = Map::new();
        for name in names {
            match self.take(name).map(|raw| value(&raw)) {
                None | Some(Value::Null) => {}
                Some(value) => drop(taken.insert((*name).to_owned(), value)),
            }
        }
        taken
    }

    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().rev().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Whether the field is there and is an object.
    pub(crate) fn has_object(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get().starts_with('{'))
    }

    pub(crate) fn into_vec(self) -> Vec<(String, Box<RawValue>)> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Reads a value that is known to be JSON. The unpaired half of a surrogate pair becomes U+FFFD, as it does in answers.
pub(crate) fn value(raw: &RawValue) -> Value {
    let read = |text: &str| serde_json::from_str(text);
    read(raw.get()).or_else(|_| read(&repair(raw.get()))).unwrap_or_default()
}

/// What Python writes for numbers that JSON doesn't have.
const NOT_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Repairs what Python writes and parsers refuse: escapes of unpaired surrogates (RFC 8259, section 8.2) become that of
/// U+FFFD, and numbers that JSON doesn't have become null.
fn repair(json: &str) -> Cow<'_, str> {
    let unit = |at: usize| -> Option<u16> {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut repaired, mut copied, mut at, mut in_string) = (String::new(), 0, 0, false);
    while let Some(byte) = json.as_bytes().get(at) {
        let not_number = || NOT_NUMBERS.iter().find(|word| json[at..].starts_with(**word));
        let (length, replacement) = match byte {
            b'\\' => match (unit(at), unit(at + 6)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, None),
                (Some(0xD800..=0xDFFF), _) => (6, Some("\\ufffd")),
                _ => (2, None),
            },
            b'N' | b'I' | b'-' if !in_string => match not_number() {
                Some(word) => (word.len(), Some("null")),
                None => (1, None),
            },
            _ => (1, None),
        };
        in_string ^= *byte == b'"';
        if let Some(replacement) = replacement {
            repaired = repaired + &json[copied..at] + replacement;
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    Cow::Owned(repaired + &json[copied..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_repaired_and_nothing_else() {
        for (json, expected) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""a\ud83d\ud83d\ude00\ude00z""#, r#""a\ufffd\ud83d\ude00\ufffdz""#),
            (r#""\ud83d\n\uD83D\u0041""#, r#""\ufffd\n\ufffd\u0041""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\ud83d\ude00 é\é""#, r#""\ud83d\ude00 é\é""#),
            (
                r#"{"a":NaN,"b":[-Infinity,-1,Infinity],"c":"NaN \"NaN"}"#,
                r#"{"a":null,"b":[null,-1,null],"c":"NaN \"NaN"}"#,
            ),
            ("\"\\ud83", "\"\\ud83"),
            ("\\", "\\"),
        ] {
            assert_eq!(repair(json), expected);
        }
    }
}
