//! Implements `Serialize` and `Deserialize`, from a table of the known fields, for structs that keep unknown fields.
//!
//! Serde's derive keeps unknown fields only with `flatten`, which buffers every value twice, loses known fields of an
//! unexpected type, and writes fields that `extra` overrides twice. Types without unknown fields use the derive.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Implements `Serialize`, `Deserialize` and [`Bounded`](crate::json::bounded) for a struct with a field `extra`.
///
/// A row of the table has `always` or `optional` (not written while it has its default), the field, its JSON name, and a
/// reader from [`lenient`](crate::json::lenient). With `serialize` or `deserialize` before the type, only that trait is
/// implemented, and the rows have no reader, or no `always` or `optional`. `finish` names a function that post-processes
/// the deserialized value.
///
/// A value that a reader rejects is kept in `extra` under the field's name, like every unknown field. Null counts as
/// missing. When an object is written, a field in `extra` replaces the known field of the same name.
macro_rules! json_object {
    (serialize $type:ident { $($mode:ident $field:ident: $name:literal),* $(,)? }) => {
        impl $type {
            /// Writes the known fields, in their order.
            pub(crate) fn write_fields<M: serde::ser::SerializeMap>(
                &self,
                object: &mut crate::json::object::ObjectWriter<'_, M>,
            ) -> Result<(), M::Error> {
                $(object.$mode($name, &self.$field)?;)*
                Ok(())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut object = crate::json::object::ObjectWriter::new(serializer, &self.extra)?;
                self.write_fields(&mut object)?;
                object.end()
            }
        }
    };
    ($type:ident { $($mode:ident $field:ident: $name:literal => $reader:expr),* $(,)? } $(finish $finish:expr)?) => {
        json_object!(serialize $type { $($mode $field: $name),* });
        json_object!(deserialize $type { $($field: $name => $reader),* } $(finish $finish)?);

        impl crate::json::object::KnownFields for $type {
            const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
    (deserialize $type:ident { $($field:ident: $name:literal => $reader:expr),* $(,)? } $(finish $finish:expr)?) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let budget = crate::json::budget::Budget::unlimited();
                crate::json::bounded::Bounded::read(deserializer, &budget)
            }
        }

        impl crate::json::bounded::Bounded for $type {
            fn read<'de, D: serde::Deserializer<'de>>(
                deserializer: D,
                budget: &crate::json::budget::Budget,
            ) -> Result<$type, D::Error> {
                struct Fields<'b>(&'b crate::json::budget::Budget);

                impl<'de> serde::de::Visitor<'de> for Fields<'_> {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut fields: A,
                    ) -> Result<$type, A::Error> {
                        let budget = self.0;
                        let mut object = <$type>::default();
                        let mut extra = serde_json::Map::new();
                        while let Some(name) = fields.next_key::<String>()? {
                            match name.as_str() {
                                $($name => match $reader(fields.next_value_seed(budget.seed())?) {
                                    Ok(read) => {
                                        object.$field = read.map(Into::into).unwrap_or_default();
                                        extra.remove($name); // the last duplicate wins
                                    }
                                    Err(value) => {
                                        object.$field = Default::default();
                                        budget.charge_field(extra.is_empty(), &name)?;
                                        extra.insert(name, value);
                                    }
                                },)*
                                _ => {
                                    budget.charge_field(extra.is_empty(), &name)?;
                                    extra.insert(name, fields.next_value_seed(budget.seed())?);
                                }
                            }
                        }
                        object.extra = extra.into();
                        $(let object = $finish(object);)?
                        Ok(object)
                    }
                }

                deserializer.deserialize_map(Fields(budget))
            }
        }
    };
}
pub(crate) use json_object;

/// The JSON names in an object's table.
pub(crate) trait KnownFields {
    /// In the order of the table.
    const NAMES: &'static [&'static str];
}

/// Writes an object. A field in `extra` replaces the known field of the same name.
pub(crate) struct ObjectWriter<'a, M> {
    map: M,
    extra: &'a Map<String, Value>,
    /// The field of `extra` that isn't written.
    omitted: Option<&'static str>,
}

impl<'a, M: SerializeMap> ObjectWriter<'a, M> {
    pub(crate) fn new<S>(serializer: S, extra: &'a Map<String, Value>) -> Result<Self, M::Error>
    where
        S: Serializer<SerializeMap = M, Ok = M::Ok, Error = M::Error>,
    {
        Ok(ObjectWriter { map: serializer.serialize_map(None)?, extra, omitted: None })
    }

    /// Leaves out a field of `extra`, so that a known field of the same name can be written.
    pub(crate) fn omit_extra(&mut self, name: &'static str) {
        self.omitted = Some(name);
    }

    /// Writes a field, unless `extra` replaces it.
    pub(crate) fn always(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), M::Error> {
        if self.extra.contains_key(name) && self.omitted != Some(name) {
            return Ok(());
        }
        self.map.serialize_entry(name, value)
    }

    /// Writes a field unless it has its default: `None` or an empty list.
    #[inline]
    pub(crate) fn optional<T>(&mut self, name: &str, value: &T) -> Result<(), M::Error>
    where
        T: Serialize + IsDefault,
    {
        if value.is_default() { Ok(()) } else { self.always(name, value) }
    }

    /// Writes the unknown fields and ends the object.
    pub(crate) fn end(mut self) -> Result<M::Ok, M::Error> {
        for (name, value) in self.extra.iter().filter(|(name, _)| self.omitted != Some(name.as_str())) {
            self.map.serialize_entry(name, value)?;
        }
        self.map.end()
    }
}

/// Whether an optional field is left out.
pub(crate) trait IsDefault {
    fn is_default(&self) -> bool;
}

impl<T> IsDefault for Option<T> {
    fn is_default(&self) -> bool {
        self.is_none()
    }
}

impl<T> IsDefault for Vec<T> {
    fn is_default(&self) -> bool {
        self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::lenient::{count, text};
    use serde_json::json;

    #[derive(Debug, Default, PartialEq)]
    struct Pair {
        name: String,
        size: Option<u64>,
        extra: Map<String, Value>,
    }

    fn named(mut pair: Pair) -> Pair {
        if pair.size == Some(0) {
            pair.name.push_str("empty");
        }
        pair
    }

    json_object!(Pair { always name: "name" => text, optional size: "size" => count } finish named);

    fn read(json: &str) -> Pair {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn known_fields_are_written_in_order_and_before_unknown_ones() {
        let written = |json: &str| serde_json::to_string(&read(json)).unwrap();
        assert_eq!(written(r#"{"x":[1],"size":"7","name":"a"}"#), r#"{"name":"a","size":7,"x":[1]}"#);
        assert_eq!(written(r#"{"size":null}"#), r#"{"name":""}"#);
    }

    #[test]
    fn the_names_are_those_of_the_table() {
        assert_eq!(Pair::NAMES, ["name", "size"]);
    }

    #[test]
    fn a_field_of_an_unexpected_type_is_kept_and_written_once() {
        let pair = read(r#"{"name": ["a"], "size": "many"}"#);
        assert_eq!((pair.name.as_str(), pair.size), ("", None));
        assert_eq!(json!(pair), json!({"name": ["a"], "size": "many"}));
        let mut pair = read(r#"{"name": "a"}"#);
        pair.extra.insert("name".to_owned(), json!("b"));
        assert_eq!(serde_json::to_string(&pair).unwrap(), r#"{"name":"b"}"#);
    }

    #[test]
    fn the_last_duplicate_wins() {
        assert_eq!(json!(read(r#"{"size": "many", "size": 1}"#)), json!({"name": "", "size": 1}));
        assert_eq!(json!(read(r#"{"size": 1, "size": "many"}"#)), json!({"name": "", "size": "many"}));
        assert_eq!(read(r#"{"size": 1, "size": null}"#).size, None);
    }

    #[test]
    fn a_type_can_post_process_its_value() {
        assert_eq!(read(r#"{"size": 0}"#).name, "empty");
    }

    #[test]
    fn a_value_that_is_not_an_object_is_an_error() {
        let error = serde_json::from_str::<Pair>("[]").unwrap_err().to_string();
        assert!(error.starts_with("invalid type: sequence, expected an object"), "{error}");
    }
}
