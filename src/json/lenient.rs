//! Readers that tolerate unexpected types: numbers sent as strings, null for a missing field, an object for a list of one.
//!
//! A reader returns the value that it read, `None` for null, or the original JSON if its type doesn't fit, which
//! [`json_object!`](crate::json::object) keeps among the unknown fields. Lists and values are read within a [`Budget`].

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::json::bounded::Bounded;
use crate::json::budget::Budget;

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

/// Parses an integer of 1 to 18 decimal digits, which a `u64` and an `i64` can hold, without a sign.
#[inline]
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if !(1..=18).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 { Some(sum * 10 + u64::from(digit)) } else { None }
    })
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

/// Whether a value has content. Some servers always send an `error` field, with null, an empty value, or an object of empty
/// values.
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

/// Reads a value of exactly the expected type.
pub(crate) fn exact<T: DeserializeOwned>(value: Value) -> Lenient<T> {
    T::deserialize(&value).map_or_else(|_| null_or(value), |read| Ok(Some(read)))
}

/// Reads a value of a type that accepts any JSON.
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

/// Reads a list of objects: a single object becomes a list of one, and items that aren't objects are skipped.
pub(crate) fn list<T>(list: List<T>) -> Lenient<Vec<T>> {
    list.0
}

/// [`list`] of at most `MAX` objects.
pub(crate) fn short_list<T, const MAX: usize>(list: List<T, MAX>) -> Lenient<Vec<T>> {
    list.0
}

/// An object, or a value that isn't one.
pub(crate) struct Object<T>(pub(crate) Lenient<T>);

/// A list of at most `MAX` objects, or a value that isn't one.
pub(crate) struct List<T, const MAX: usize = { usize::MAX }>(pub(crate) Lenient<Vec<T>>);

impl<T: Bounded> Bounded for Object<T> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Object<T>, D::Error> {
        let visitor = ObjectOrValue { budget, object: PhantomData };
        deserializer.deserialize_any(visitor).map(Object)
    }
}

impl<T: Bounded, const MAX: usize> Bounded for List<T, MAX> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<List<T, MAX>, D::Error> {
        let visitor = ListOrValue::<T, MAX> { budget, item: PhantomData };
        deserializer.deserialize_any(visitor).map(List)
    }
}

struct ObjectOrValue<'b, T> {
    budget: &'b Budget,
    object: PhantomData<T>,
}

struct ListOrValue<'b, T, const MAX: usize> {
    budget: &'b Budget,
    item: PhantomData<T>,
}

/// The methods of a visitor that return null as `None`, and other scalars unchanged.
macro_rules! visit_other_values {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON value")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Ok(None))
        }

        fn visit_bool<E>(self, boolean: bool) -> Result<Self::Value, E> {
            Ok(Err(boolean.into()))
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Err(number.into()))
        }

        fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Err(number.into()))
        }

        fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
            Ok(Err(number.into()))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Err(text.into()))
        }
    };
}

impl<'de, T: Bounded> Visitor<'de> for ObjectOrValue<'_, T> {
    type Value = Lenient<T>;

    visit_other_values!();

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Lenient<T>, A::Error> {
        T::read(MapAccessDeserializer::new(fields), self.budget).map(|object| Ok(Some(object)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Lenient<T>, A::Error> {
        Value::read(SeqAccessDeserializer::new(items), self.budget).map(Err)
    }
}

impl<'de, T: Bounded, const MAX: usize> Visitor<'de> for ListOrValue<'_, T, MAX> {
    type Value = Lenient<Vec<T>>;

    visit_other_values!();

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Lenient<Vec<T>>, A::Error> {
        T::read(MapAccessDeserializer::new(fields), self.budget).map(|object| Ok(Some(vec![object])))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Lenient<Vec<T>>, A::Error> {
        let mut list = Vec::new();
        while let Some(Object(item)) = items.next_element_seed(self.budget.seed::<Object<T>>())? {
            if let Ok(Some(item)) = item {
                self.budget.check_entries(list.len() + 1, MAX).map_err(A::Error::custom)?;
                self.budget.charge_item::<T, A::Error>(list.is_empty())?;
                list.push(item);
            }
        }
        Ok(Ok(Some(list)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::budget::Excess;
    use serde_json::{Map, json};

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
        let budget = Budget::unlimited();
        let list = |value: Value| List::<Fields>::read(value, &budget).unwrap().0;
        let object = |value: Value| Object::<Fields>::read(value, &budget).unwrap().0;
        assert_eq!(list(json!([{"a": 1}, null, 7, [{"b": 1}], "x", {"a": 1}])), Ok(Some(vec![one(), one()])));
        assert_eq!(list(json!({"a": 1})), Ok(Some(vec![one()])));
        assert_eq!(object(json!({"a": 1})), Ok(Some(one())));
        assert_eq!((list(Value::Null), object(Value::Null)), (Ok(None), Ok(None)));
        for other in [json!(true), json!(1), json!(-1), json!(0.5), json!("x")] {
            assert_eq!((list(other.clone()), object(other.clone())), (Err(other.clone()), Err(other)));
        }
        assert_eq!(object(json!([1, {"a": 1}])), Err(json!([1, {"a": 1}])));
    }

    #[test]
    fn the_length_of_a_list_may_be_bounded() {
        let read = |value: Value, budget: &Budget| {
            List::<Map<String, Value>, 2>::read(value, budget).map(|list| list.0)
        };
        let budget = Budget::unlimited();
        let list = read(json!([{"a": 1}, null, {"a": 1}, 7]), &budget).unwrap();
        assert_eq!((list.unwrap().unwrap().len(), budget.excess()), (2, None), "only objects count");
        assert!(read(json!([{}, {}, {}]), &budget).is_err());
        assert_eq!(budget.excess(), Some(Excess::Entries(2)));
    }
}
