//! Reads values in whatever dress a server sends them: numbers as text, null for absent, the odd type kept aside.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// A count: an integer, a float without a fraction worth keeping, or either as text.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| from_float(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| from_float(text.parse().ok()?))
        }
        _ => None,
    }
}

/// Rounds a float that is a count.
fn from_float(number: f64) -> Option<u64> {
    // Beyond 2^53 a float doesn't tell neighbours apart, and nothing counted here is that many.
    (0.0..=9_007_199_254_740_992.0).contains(&number).then(|| number.round() as u64)
}

/// A number: an integer, a float, or either as text.
pub(crate) fn float(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Words: a string, or what a number or a truth value looks like. Anything else is handed back.
pub(crate) fn text(value: Value) -> Result<String, Value> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(other),
    }
}

/// Takes a field out of an object if it can be read; what can't be stays there. A null counts as absent.
pub(crate) fn take<T>(
    object: &mut Map<String, Value>,
    name: &str,
    read: impl FnOnce(Value) -> Result<T, Value>,
) -> Option<T> {
    match object.remove(name)? {
        Value::Null => None,
        value => match read(value) {
            Ok(read) => Some(read),
            Err(value) => {
                object.insert(name.to_owned(), value);
                None
            }
        },
    }
}

/// [`take`] for words.
pub(crate) fn take_text(object: &mut Map<String, Value>, name: &str) -> Option<String> {
    take(object, name, text)
}

/// [`take`] for a count.
pub(crate) fn take_whole(object: &mut Map<String, Value>, name: &str) -> Option<u64> {
    take(object, name, |value| whole(&value).ok_or(value))
}

/// [`take`] for a number.
pub(crate) fn take_float(object: &mut Map<String, Value>, name: &str) -> Option<f64> {
    take(object, name, |value| float(&value).ok_or(value))
}

/// [`take`] for a truth value.
pub(crate) fn take_bool(object: &mut Map<String, Value>, name: &str) -> Option<bool> {
    take(object, name, |value| value.as_bool().ok_or(value))
}

/// [`take`] for a list of objects; a lone object counts as a list of one, and what isn't an object is left out.
pub(crate) fn take_objects<T>(
    object: &mut Map<String, Value>,
    name: &str,
    read: impl Fn(Map<String, Value>) -> T,
) -> Vec<T> {
    take(object, name, objects).unwrap_or_default().into_iter().map(read).collect()
}

/// The objects in a list; a lone object counts as a list of one.
pub(crate) fn objects(value: Value) -> Result<Vec<Map<String, Value>>, Value> {
    let object = |value| match value {
        Value::Object(object) => Some(object),
        _ => None,
    };
    match value {
        Value::Array(items) => Ok(items.into_iter().filter_map(object).collect()),
        Value::Object(object) => Ok(vec![object]),
        other => Err(other),
    }
}

/// Whether an `error` field says that there is one. Some servers send the field always, with nothing in it, or an object
/// of nothings.
pub(crate) fn says_something(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(words) => !words.is_empty(),
        Value::Object(object) => object.values().any(says_something),
        Value::Array(items) => items.iter().any(says_something),
    }
}

/// Writes an object whose unknown fields were kept: those win over a known field of the same name.
pub(crate) struct Fields<'a, S: SerializeMap> {
    map: S,
    extra: &'a Map<String, Value>,
    /// The kept field that isn't written.
    left_out: Option<&'static str>,
}

impl<'a, S: SerializeMap> Fields<'a, S> {
    pub(crate) fn new<T: Serializer<SerializeMap = S, Ok = S::Ok, Error = S::Error>>(
        serializer: T,
        extra: &'a Map<String, Value>,
    ) -> Result<Self, S::Error> {
        Ok(Fields { map: serializer.serialize_map(None)?, extra, left_out: None })
    }

    /// Writes a field.
    pub(crate) fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), S::Error> {
        if self.extra.contains_key(name) && self.left_out != Some(name) {
            Ok(())
        } else {
            self.map.serialize_entry(name, value)
        }
    }

    /// Writes a field that is there.
    pub(crate) fn some(&mut self, name: &str, value: &Option<impl Serialize>) -> Result<(), S::Error> {
        value.as_ref().map_or(Ok(()), |value| self.field(name, value))
    }

    /// Writes a list that isn't empty.
    pub(crate) fn list(&mut self, name: &str, value: &[impl Serialize]) -> Result<(), S::Error> {
        if value.is_empty() { Ok(()) } else { self.field(name, value) }
    }

    /// Leaves a kept field out.
    pub(crate) fn without(&mut self, name: &'static str) {
        self.left_out = Some(name);
    }

    /// Writes the kept fields and ends the object.
    pub(crate) fn end(mut self) -> Result<S::Ok, S::Error> {
        for (name, value) in self.extra.iter().filter(|(name, _)| self.left_out != Some(name.as_str())) {
            self.map.serialize_entry(name, value)?;
        }
        self.map.end()
    }
}

/// Implements `Deserialize` for types that read themselves from an object.
macro_rules! read_from_object {
    ($($type:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                serde_json::Map::deserialize(deserializer).map(<$type>::read)
            }
        }
    )*};
}
pub(crate) use read_from_object;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_in_any_dress() {
        for (value, count) in [
            (json!(7), Some(7)),
            (json!(7.0), Some(7)),
            (json!("7"), Some(7)),
            (json!(" 7.0 "), Some(7)),
            (json!(0), Some(0)),
            (json!(-1), None),
            (json!("seven"), None),
            (json!(null), None),
            (json!(1e300), None),
            (json!([7]), None),
        ] {
            assert_eq!(whole(&value), count, "{value}");
        }
        assert_eq!(float(&json!("0.5")), Some(0.5));
        assert_eq!(float(&json!("NaN")), None);
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let Value::Object(mut object) = json!({"a": 1, "b": {"c": 2}, "d": null}) else { panic!() };
        assert_eq!(take_text(&mut object, "a").as_deref(), Some("1"));
        assert_eq!(take_text(&mut object, "b"), None);
        assert_eq!(take_text(&mut object, "d"), None);
        assert_eq!(Value::Object(object), json!({"b": {"c": 2}}));
    }
}
