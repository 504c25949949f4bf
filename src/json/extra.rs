//! Unknown fields, kept as JSON text and parsed on first access.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::{Deref, Range};
use std::sync::{LazyLock, OnceLock};

use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::budget::Budget;
use crate::json::cursor::JsonCursor;

/// The fields of a response that its type doesn't define: a map that is parsed on first access.
///
/// Every response and every chunk of a stream has such fields, and few programs read them. So their JSON text is kept and
/// parsed only when they are read. In a large response, fields that would take far more memory than the response has bytes
/// are left out, and a warning is logged.
///
/// ```
/// # let json = r#"{"choices": [], "provider": "x"}"#;
/// let answer: holysheep::ChatResponse = serde_json::from_str(json)?;
/// assert_eq!(answer.extra["provider"], "x");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Extra {
    /// The text of an object, possibly without its closing brace; empty if the map wasn't parsed from text.
    json: Vec<u8>,
    /// Whether a field in the text is known and not part of the map. A thin pointer, because a chunk has two of these maps,
    /// and copying a chunk of more than 256 bytes takes twice as long.
    is_known: Option<fn(&[u8]) -> bool>,
    map: OnceLock<Map<String, Value>>,
}

impl Extra {
    /// The fields of a JSON object, except the known ones.
    pub(crate) fn new(json: Vec<u8>, is_known: fn(&[u8]) -> bool) -> Extra {
        Extra { json, is_known: Some(is_known), map: OnceLock::new() }
    }

    /// The text from which the fields are parsed; empty if they weren't parsed from text.
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// Removes the fields that don't fit into the budget. The map must not have been parsed yet.
    #[inline]
    pub(crate) fn bound(&mut self, budget: &Budget) {
        if let (false, Some(is_known)) = (budget.is_unlimited(), self.is_known) {
            blank_omitted(&mut self.json, is_known, budget);
        }
    }

    /// Whether there are certainly no fields, without parsing the text.
    pub(crate) fn is_unset(&self) -> bool {
        self.map.get().map_or(self.json.is_empty(), Map::is_empty)
    }

    /// Appends a field to the text. The map must not have been parsed yet.
    pub(crate) fn push_raw(&mut self, name: &[u8], json: &[u8]) {
        self.json.reserve(name.len() + json.len() + "{\"\":".len());
        self.json.push(if self.json.is_empty() { b'{' } else { b',' });
        if name.iter().any(|byte| matches!(byte, b'"' | b'\\' | ..=0x1F)) {
            let name = Value::String(String::from_utf8_lossy(name).into_owned());
            self.json.extend_from_slice(name.to_string().as_bytes());
        } else {
            self.json.push(b'"');
            self.json.extend_from_slice(name);
            self.json.push(b'"');
        }
        self.json.push(b':');
        self.json.extend_from_slice(json);
    }

    /// The value at this offset of the text, unless it is an object or a list.
    pub(crate) fn scalar_at(&self, offset: NonZeroU32) -> Option<Value> {
        JsonCursor::new(self.json.get(offset.get() as usize..)?).value().ok()?.scalar()
    }

    /// Sets a field.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let mut fields = self.map.take().unwrap_or_else(|| self.parse());
        fields.insert(name.into(), value.into());
        self.map = OnceLock::from(fields);
    }

    /// Parses the text. Its syntax was checked when it was received; a value that still can't be parsed is left out.
    fn parse(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut cursor = JsonCursor::new(&self.json);
        if cursor.enter(b'{') != Ok(true) {
            return fields;
        }
        while let Ok(Some(name)) = cursor.next_name() {
            let Ok(value) = cursor.value() else { break };
            if self.is_known.is_some_and(|is_known| is_known(&name)) {
                continue;
            }
            // It was charged when its text was kept.
            if let Ok(value) = value.parse(&Budget::unlimited()) {
                fields.insert(String::from_utf8_lossy(&name).into_owned(), value);
            }
        }
        fields
    }
}

/// Overwrites the unknown fields that don't fit into the budget, and the commas before them, with spaces, so that the
/// offsets of the other fields don't change.
fn blank_omitted(json: &mut [u8], is_known: fn(&[u8]) -> bool, budget: &Budget) {
    let mut omitted: Vec<Range<usize>> = Vec::new();
    let mut cursor = JsonCursor::new(json);
    if cursor.enter(b'{') != Ok(true) {
        return;
    }
    loop {
        let start = json.len() - cursor.remaining();
        let Ok(Some(name)) = cursor.next_name() else { break };
        let value = cursor.clone();
        if cursor.value().is_err() {
            break;
        }
        if !is_known(&name) && !budget.try_keep_field(&name, cursor.text_since(&value)) {
            let end = json.len() - cursor.remaining();
            match omitted.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => omitted.push(start..end),
            }
        }
    }
    omitted.into_iter().for_each(|field| json[field].fill(b' '));
}

impl Deref for Extra {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Map<String, Value> {
        // Shared, because to initialise a map costs more than to write a short message.
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        if self.json.is_empty() {
            return self.map.get().unwrap_or(&EMPTY);
        }
        self.map.get_or_init(|| self.parse())
    }
}

impl From<Map<String, Value>> for Extra {
    fn from(fields: Map<String, Value>) -> Extra {
        Extra { map: OnceLock::from(fields), ..Extra::default() }
    }
}

impl From<Extra> for Map<String, Value> {
    fn from(mut extra: Extra) -> Map<String, Value> {
        extra.map.take().unwrap_or_else(|| extra.parse())
    }
}

impl<'a> IntoIterator for &'a Extra {
    type Item = (&'a String, &'a Value);
    type IntoIter = serde_json::map::Iter<'a>;

    fn into_iter(self) -> serde_json::map::Iter<'a> {
        self.iter()
    }
}

impl PartialEq for Extra {
    fn eq(&self, other: &Extra) -> bool {
        **self == **other
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl fmt::Debug for Extra {
    /// Shows only the names of the fields: the values may hold content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn extra(json: &str) -> Extra {
        Extra::new(json.as_bytes().to_vec(), |name| matches!(name, b"known" | b"id"))
    }

    #[test]
    fn holds_the_unknown_fields() {
        let extra = extra(r#"{"known": {"a": 1}, "x": [1], "y": "\ud83e", "n": NaN, "id": "i"}"#);
        assert_eq!(json!(extra), json!({"x": [1], "y": "\u{fffd}", "n": null}));
        assert_eq!((&extra).into_iter().count(), 3);
        assert_eq!(extra.get("x"), Some(&json!([1])));
        assert_eq!(Extra::from(Map::from(extra.clone())), extra);
    }

    #[test]
    fn values_that_are_not_json_are_left_out() {
        for json in ["", "[]", "{", "7"] {
            assert!(extra(json).is_empty(), "{json}");
        }
        assert_eq!(json!(extra(r#"{"x": oops, "y": 1, "z""#)), json!({"y": 1}));
        assert!(Extra::default().is_empty());
    }

    #[test]
    fn grows_field_by_field() {
        let mut extra = Extra::default();
        assert!(extra.is_unset());
        extra.push_raw(b"a", b"1");
        extra.push_raw(b"b\"\\", b" {\"x\": null}");
        assert!(!extra.is_unset());
        assert_eq!(json!(extra), json!({"a": 1, "b\"\\": {"x": null}}));
        let value_at = |extra: &Extra, offset| extra.scalar_at(NonZeroU32::new(offset).unwrap());
        assert_eq!((value_at(&extra, 5), value_at(&extra, 99)), (Some(json!(1)), None));
        extra.insert("c", "d");
        assert_eq!(value_at(&extra, 5), Some(json!(1)), "the text survives a change to the map");
        extra.insert("a", 2);
        assert_eq!(json!(extra), json!({"a": 2, "b\"\\": {"x": null}, "c": "d"}));
    }

    #[test]
    fn fields_that_do_not_fit_are_blanked_and_offsets_stay() {
        let large = format!("[{}0]", "0,".repeat(1_000_000));
        let fields = [("id", "7"), ("x", &large), ("known", &large), ("y", "1"), ("z", &large), ("w", "2")];
        for first in 0..fields.len() {
            let rotated = fields.iter().cycle().skip(first).take(fields.len());
            let texts: Vec<String> = rotated.map(|(name, value)| format!(" \"{name}\" : {value} ")).collect();
            let json = format!("{{{}}}", texts.join(","));
            let offset = NonZeroU32::new(json.find('7').unwrap() as u32).unwrap();
            let budget = Budget::of_chunk(json.as_bytes());
            let mut extra = extra(&json);
            extra.bound(&budget);
            assert_eq!(json!(extra), json!({"y": 1, "w": 2}), "{first}");
            assert_eq!((extra.scalar_at(offset), budget.omits_fields()), (Some(json!(7)), true));
        }
    }

    #[test]
    fn nested_values_are_not_scalars() {
        let at = |json: &str| extra(json).scalar_at(NonZeroU32::new(6).unwrap());
        assert_eq!(
            (at(r#"{"id":"a"}"#), at(r#"{"id":[1]}"#), at(r#"{"id":{}}"#)),
            (Some(json!("a")), None, None)
        );
    }

    #[test]
    fn debug_shows_names_only() {
        assert_eq!(format!("{:?}", extra(r#"{"x": "secret"}"#)), r#"{"x"}"#);
    }
}
