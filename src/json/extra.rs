//! Unknown fields, kept as JSON and read when somebody asks for them.

use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::cursor::JsonCursor;

/// The fields of an answer that its type doesn't know: a map that is made when it is first looked at.
///
/// Every answer has some, a stream has them in each of its chunks, and hardly anyone looks at them. So the JSON is kept
/// and read a second time for those who do.
///
/// ```
/// # let json = r#"{"choices": [], "provider": "x"}"#;
/// let answer: holysheep::ChatResponse = serde_json::from_str(json)?;
/// assert_eq!(answer.extra["provider"], "x");
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Extra {
    /// An object, perhaps without its end; empty where the map was made another way.
    json: Vec<u8>,
    /// The fields that aren't unknown.
    known: &'static [&'static str],
    map: OnceLock<Map<String, Value>>,
}

impl Extra {
    /// The fields of a JSON object, except the known ones.
    pub(crate) fn new(json: Vec<u8>, known: &'static [&'static str]) -> Extra {
        Extra { json, known, map: OnceLock::new() }
    }

    /// Whether there is nothing, said without reading what there is.
    pub(crate) fn has_nothing(&self) -> bool {
        self.json.is_empty() && self.map.get().is_none_or(Map::is_empty)
    }

    /// Keeps a field that was just walked over. Only for what wasn't looked at yet.
    pub(crate) fn keep(&mut self, name: &[u8], json: &[u8]) {
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

    /// Sets a field.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let mut fields = Map::from(std::mem::take(self));
        fields.insert(name.into(), value.into());
        *self = Extra::from(fields);
    }

    /// A known field that nobody has read yet.
    pub(crate) fn known(&self, name: &str) -> Option<Value> {
        let mut cursor = JsonCursor::new(&self.json);
        cursor.enter(b'{').ok().filter(|entered| *entered)?;
        while let Ok(Some(field)) = cursor.name() {
            let value = cursor.value().ok()?;
            if &*field == name.as_bytes() {
                return value.value().ok();
            }
        }
        None
    }

    /// Reads what is kept. It was walked through once, so what can't be read now is left out.
    fn read(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut cursor = JsonCursor::new(&self.json);
        if cursor.enter(b'{') != Ok(true) {
            return fields;
        }
        while let Ok(Some(name)) = cursor.name() {
            let Ok(value) = cursor.value() else { break };
            if self.known.iter().any(|known| known.as_bytes() == &*name) {
                continue;
            }
            if let Ok(value) = value.value() {
                fields.insert(String::from_utf8_lossy(&name).into_owned(), value);
            }
        }
        fields
    }
}

impl Deref for Extra {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Map<String, Value> {
        self.map.get_or_init(|| self.read())
    }
}

impl From<Map<String, Value>> for Extra {
    fn from(fields: Map<String, Value>) -> Extra {
        Extra { map: OnceLock::from(fields), ..Extra::default() }
    }
}

impl From<Extra> for Map<String, Value> {
    fn from(mut extra: Extra) -> Map<String, Value> {
        extra.map.take().unwrap_or_else(|| extra.read())
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
    /// Shows what may be logged: the names of the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn extra(json: &str) -> Extra {
        Extra::new(json.as_bytes().to_vec(), &["known", "id"])
    }

    #[test]
    fn holds_what_is_not_known() {
        let extra = extra(r#"{"known": {"a": 1}, "x": [1], "y": "\ud83e", "n": NaN, "id": "i"}"#);
        assert_eq!(json!(extra), json!({"x": [1], "y": "\u{fffd}", "n": null}));
        assert_eq!((extra.known("id"), extra.known("nothing")), (Some(json!("i")), None));
        assert_eq!((&extra).into_iter().count(), 3);
        assert_eq!(extra.get("x"), Some(&json!([1])));
        assert_eq!(Extra::from(Map::from(extra.clone())), extra);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for json in ["", "[]", "{", "7"] {
            assert!(extra(json).is_empty(), "{json}");
            assert_eq!(extra(json).known("id"), None);
        }
        assert_eq!(json!(extra(r#"{"x": oops, "y": 1, "z""#)), json!({"y": 1}));
        assert!(Extra::default().is_empty());
    }

    #[test]
    fn grows_field_by_field() {
        let mut extra = Extra::default();
        assert!(extra.has_nothing());
        extra.keep(b"a", b"1");
        extra.keep(b"b\"\\", b" {\"x\": null}");
        assert!(!extra.has_nothing());
        assert_eq!(json!(extra), json!({"a": 1, "b\"\\": {"x": null}}));
        extra.insert("c", "d");
        extra.insert("a", 2);
        assert_eq!(json!(extra), json!({"a": 2, "b\"\\": {"x": null}, "c": "d"}));
    }

    #[test]
    fn debug_shows_names_only() {
        assert_eq!(format!("{:?}", extra(r#"{"x": "secret"}"#)), r#"{"x"}"#);
    }
}
