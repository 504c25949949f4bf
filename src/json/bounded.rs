//! Deserializes values within a [`Budget`], which is charged before anything is allocated.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::json::budget::Budget;

/// A type that can be deserialized within a budget.
pub(crate) trait Bounded: Sized {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Self, D::Error>;
}

/// Deserializes a bounded type within a budget.
pub(crate) struct BoundedSeed<'b, T> {
    budget: &'b Budget,
    read: PhantomData<T>,
}

impl Budget {
    /// The seed that deserializes a type within this budget.
    pub(crate) fn seed<T: Bounded>(&self) -> BoundedSeed<'_, T> {
        BoundedSeed { budget: self, read: PhantomData }
    }
}

impl<'de, T: Bounded> DeserializeSeed<'de> for BoundedSeed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::read(deserializer, self.budget)
    }
}

impl Bounded for Value {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue(budget))
    }
}

impl Bounded for Map<String, Value> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Self, D::Error> {
        match Value::read(deserializer, budget)? {
            Value::Object(fields) => Ok(fields),
            _ => Err(D::Error::custom("not an object")),
        }
    }
}

/// With serde_json's feature `arbitrary_precision`, which another crate in the program may enable, a number is deserialized
/// as a map with this field, whose value is the text of the number.
const NUMBER: &str = "$serde_json::private::Number";

/// Reads any JSON, like serde_json's own visitor.
struct AnyValue<'b>(&'b Budget);

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::read(deserializer, self.0)
    }

    fn visit_bool<E>(self, boolean: bool) -> Result<Value, E> {
        Ok(boolean.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.charge_text(text)?;
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.0.charge_text(&text)?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.0.seed())? {
            self.0.charge_item::<Value, A::Error>(list.is_empty())?;
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if name == NUMBER {
                let text: String = fields.next_value()?;
                return text.parse().map(Value::Number).map_err(A::Error::custom);
            }
            self.0.charge_field(map.is_empty(), &name)?;
            map.insert(name, fields.next_value_seed(self.0.seed())?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse_bounded;

    fn read(json: &str) -> serde_json::Result<Value> {
        parse_bounded(json.as_bytes(), &Budget::unlimited())
    }

    #[test]
    fn values_are_read_as_by_serde_json() {
        for json in [
            r#"{"a": [1, -2, 0.5, 1e300, 18446744073709551616, "x\u00e9\n", null, true, {}, []], "a": {"b": false}}"#,
            "\"text\"",
            "null",
            " [[[]]] ",
            "",
            "[1,]",
            "[1] 2",
            r#"{"a" 1}"#,
            "nul",
        ] {
            let (ours, theirs) = (read(json), serde_json::from_str::<Value>(json));
            assert_eq!(
                ours.map_err(|error| error.to_string()),
                theirs.map_err(|error| error.to_string()),
                "{json}"
            );
        }
        assert!(read(&"[".repeat(100_000)).is_err(), "the depth is limited");
        assert_eq!(Value::read(serde_json::json!({"a": ["b"]}), &Budget::unlimited()).unwrap()["a"][0], "b");
    }

    #[test]
    fn malformed_json_is_repaired() {
        assert_eq!(read(r#"["\ud83e", NaN]"#).unwrap(), serde_json::json!(["\u{fffd}", null]));
        assert_eq!(parse_bounded::<Value>(b"\"a\xFF\"", &Budget::unlimited()).unwrap(), "a\u{fffd}");
    }

    #[test]
    fn numbers_of_arbitrary_precision_stay_numbers() {
        assert_eq!(read(r#"[{"$serde_json::private::Number": "1.5"}]"#).unwrap(), serde_json::json!([1.5]));
    }

    #[test]
    fn maps_are_objects() {
        let map = |json: &str| parse_bounded::<Map<String, Value>>(json.as_bytes(), &Budget::unlimited());
        assert_eq!(map(r#"{"a": 1}"#).unwrap()["a"], 1);
        assert!(map("[]").is_err());
    }
}
