//! Readers for values of unexpected types: numbers sent as strings, null for a missing field, a lone object for a list.
//!
//! Each reader returns what it read, `None` for null, or the value itself where it has another type, so that
//! [`json_object!`](crate::json::object) can keep it among the unknown fields. Everything that becomes a list or an
//! unknown field passes through here and through `json_object!`: limits on their size belong into these two files.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What a reader returns: the value, `None` for null, or the JSON of an unexpected type.
pub(crate) type Lenient<T> = Result<Option<T>, Value>;

/// The value as a count: an integer, a float, which is rounded, or either as a string.
pub(crate) fn to_count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| round(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| round(text.parse().ok()?))
        }
        _ => None,
    }
}

fn round(number: f64) -> Option<u64> {
    // Floats beyond 2^53 can't represent every integer, and no count here is that large.
    (0.0..=9_007_199_254_740_992.0).contains(&number).then(|| number.round() as u64)
}

/// The value as a finite number: an integer, a float, or either as a string.
pub(crate) fn to_float(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Whether a value holds anything. Some servers always send an `error` field, with null, an empty value, or an object of
/// empty values.
pub(crate) fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Object(object) => object.values().any(is_filled),
        Value::Array(items) => items.iter().any(is_filled),
    }
}

/// Reads a string; a number or a boolean becomes its text.
pub(crate) fn text(value: Value) -> Lenient<String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(boolean) => Ok(Some(boolean.to_string())),
        other => Err(other),
    }
}

/// Reads a count; see [`to_count`].
pub(crate) fn count(value: Value) -> Lenient<u64> {
    to_count(&value).map_or_else(|| null_or(value), |count| Ok(Some(count)))
}

/// Reads a number; see [`to_float`].
pub(crate) fn float(value: Value) -> Lenient<f64> {
    to_float(&value).map_or_else(|| null_or(value), |number| Ok(Some(number)))
}

/// Reads a value of exactly the type that is expected.
pub(crate) fn exact<T: DeserializeOwned>(value: Value) -> Lenient<T> {
    T::deserialize(&value).map_or_else(|_| null_or(value), |read| Ok(Some(read)))
}

/// Reads a value of a type that takes any JSON.
pub(crate) fn any<T: From<Value>>(value: Value) -> Lenient<T> {
    Ok(if value.is_null() { None } else { Some(value.into()) })
}

fn null_or<T>(value: Value) -> Lenient<T> {
    if value.is_null() { Ok(None) } else { Err(value) }
}

/// Reads an object.
pub(crate) fn object<T>(object: Object<T>) -> Lenient<T> {
    object.0
}

/// Reads a list of objects: a lone object becomes a list of one, and items that aren't objects are skipped.
pub(crate) fn list<T>(list: List<T>) -> Lenient<Vec<T>> {
    list.0
}

/// An object, or a value that isn't one.
pub(crate) struct Object<T>(pub(crate) Lenient<T>);

/// A list of objects, or a value that isn't one.
pub(crate) struct List<T>(pub(crate) Lenient<Vec<T>>);

/// Implements [`Deserialize`] for a type that takes any JSON and has its own way with objects and lists.
macro_rules! deserialize_any_value {
    ($type:ident, $visit_map:item, $visit_seq:item) => {
        impl<'de, T: Deserialize<'de>> Deserialize<'de> for $type<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type<T>, D::Error> {
                struct AnyValue<T>(PhantomData<T>);

                impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyValue<T> {
                    type Value = $type<T>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("any JSON value")
                    }

                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok($type(Ok(None)))
                    }

                    fn visit_bool<E>(self, boolean: bool) -> Result<Self::Value, E> {
                        Ok($type(Err(boolean.into())))
                    }

                    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                        Ok($type(Err(number.into())))
                    }

                    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                        Ok($type(Err(number.into())))
                    }

                    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                        Ok($type(Err(number.into())))
                    }

                    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                        Ok($type(Err(text.into())))
                    }

                    $visit_map

                    $visit_seq
                }

                deserializer.deserialize_any(AnyValue(PhantomData))
            }
        }
    };
}

deserialize_any_value!(
    Object,
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|object| Object(Ok(Some(object))))
    },
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Object<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Value>()? {
            list.push(item);
        }
        Ok(Object(Err(Value::Array(list))))
    }
);

deserialize_any_value!(
    List,
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|object| List(Ok(Some(vec![object]))))
    },
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Object<T>>()? {
            list.extend(item.0.ok().flatten());
        }
        Ok(List(Ok(Some(list))))
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, from_value, json};

    #[test]
    fn counts_and_numbers_of_any_type() {
        for (value, expected) in [
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
            assert_eq!(to_count(&value), expected, "{value}");
        }
        assert_eq!(to_float(&json!("0.5")), Some(0.5));
        assert_eq!(to_float(&json!("NaN")), None);
    }

    #[test]
    fn a_value_of_an_unexpected_type_is_returned() {
        assert_eq!(text(json!(1)), Ok(Some("1".to_owned())));
        assert_eq!(text(json!(true)), Ok(Some("true".to_owned())));
        assert_eq!(text(json!({"c": 2})), Err(json!({"c": 2})));
        assert_eq!((count(json!("x")), float(json!([]))), (Err(json!("x")), Err(json!([]))));
        assert_eq!((exact::<bool>(json!(true)), exact::<bool>(json!(1))), (Ok(Some(true)), Err(json!(1))));
        assert_eq!(
            (text(Value::Null), count(Value::Null), float(Value::Null)),
            (Ok(None), Ok(None), Ok(None))
        );
        assert_eq!((exact::<u8>(Value::Null), any::<Value>(Value::Null)), (Ok(None), Ok(None)));
    }

    #[test]
    fn objects_and_lists_of_objects() {
        type Fields = Map<String, Value>;
        let one = || Fields::from_iter([("a".to_owned(), json!(1))]);
        let list = |value: Value| from_value::<List<Fields>>(value).unwrap().0;
        let object = |value: Value| from_value::<Object<Fields>>(value).unwrap().0;
        assert_eq!(list(json!([{"a": 1}, null, 7, [{"b": 1}], "x", {"a": 1}])), Ok(Some(vec![one(), one()])));
        assert_eq!(list(json!({"a": 1})), Ok(Some(vec![one()])));
        assert_eq!(object(json!({"a": 1})), Ok(Some(one())));
        assert_eq!((list(Value::Null), object(Value::Null)), (Ok(None), Ok(None)));
        for other in [json!(true), json!(1), json!(-1), json!(0.5), json!("x")] {
            assert_eq!((list(other.clone()), object(other.clone())), (Err(other.clone()), Err(other)));
        }
        assert_eq!(object(json!([1, {"a": 1}])), Err(json!([1, {"a": 1}])));
    }
}
