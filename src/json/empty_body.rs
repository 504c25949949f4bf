//! A deserializer without a value: only a type that can be nothing is read from it.

use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// Deserializes `()`, a unit struct, and an `Option`, which is none. Every other type is an error, in contrast to JSON's null,
/// which is a value of some.
pub(crate) struct Nothing;

impl<'de> Deserializer<'de> for Nothing {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("there is no value"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    #[test]
    fn only_types_that_can_be_nothing_are_read() {
        #[derive(Deserialize)]
        struct Unit;
        assert!(<()>::deserialize(Nothing).is_ok() && Unit::deserialize(Nothing).is_ok());
        assert_eq!(Option::<Value>::deserialize(Nothing), Ok(None));
        assert!(Value::deserialize(Nothing).is_err() && IgnoredAny::deserialize(Nothing).is_err());
        assert!(Vec::<u8>::deserialize(Nothing).is_err() && String::deserialize(Nothing).is_err());
    }
}
