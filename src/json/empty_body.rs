//! A deserializer for empty response bodies.

use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// Deserializes `()`, unit structs and `Option`, as `None`. Every other type is an error, also one that accepts JSON's null,
/// such as `serde_json::Value`.
pub(crate) struct EmptyBody;

impl<'de> Deserializer<'de> for EmptyBody {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("the body is empty"))
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
    fn only_types_without_a_value_are_read() {
        #[derive(Deserialize)]
        struct Unit;
        assert!(<()>::deserialize(EmptyBody).is_ok() && Unit::deserialize(EmptyBody).is_ok());
        assert_eq!(Option::<Value>::deserialize(EmptyBody), Ok(None));
        assert!(Value::deserialize(EmptyBody).is_err() && IgnoredAny::deserialize(EmptyBody).is_err());
        assert!(Vec::<u8>::deserialize(EmptyBody).is_err() && String::deserialize(EmptyBody).is_err());
    }
}
