//! Deserializes one embedding, whose vector is a list of numbers or base64.

use std::fmt;

use serde::de::{self, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Embedding;
use crate::error::Result;
use crate::json::base64;
use crate::json::bounded::Bounded;
use crate::json::budget::Budget;
use crate::json::lenient::{Lenient, count, to_float};
use crate::json::object::json_object;

/// The wire format of [`Embedding`]: the index may be missing, and the vector may be base64.
#[derive(Default)]
pub(super) struct EmbeddingItem {
    pub(super) index: Option<u64>,
    embedding: Option<Vec<f32>>,
    extra: Map<String, Value>,
}

json_object!(deserialize EmbeddingItem { index: "index" => index, embedding: "embedding" => vector });

/// Reads an index: an integer, possibly written as a float or a string.
fn index(value: Value) -> Lenient<u64> {
    let is_whole = to_float(&value).is_none_or(|number| number.fract() == 0.0);
    if is_whole { count(value) } else { Err(value) }
}

impl EmbeddingItem {
    /// Converts the item; without an index, its position is used.
    pub(super) fn into_embedding(self, position: usize) -> Result<Embedding, &'static str> {
        let EmbeddingItem { index, embedding, extra } = self;
        let embedding = embedding.ok_or("an embedding without a vector")?;
        if extra.contains_key("index") {
            return Err("an embedding whose index isn't a non-negative integer");
        }
        Ok(Embedding { index: index.unwrap_or(position as u64), embedding, extra: extra.into() })
    }
}

impl TryFrom<EmbeddingItem> for Embedding {
    type Error = &'static str;

    fn try_from(item: EmbeddingItem) -> Result<Self, &'static str> {
        item.into_embedding(0)
    }
}

/// A vector as a list of numbers, or as base64 of little-endian floats of four bytes each.
struct Vector(Vec<f32>);

fn vector(Vector(numbers): Vector) -> Lenient<Vec<f32>> {
    Ok(Some(numbers))
}

impl Bounded for Vector {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<Vector, D::Error> {
        deserializer.deserialize_any(VectorVisitor(budget))
    }
}

struct VectorVisitor<'b>(&'b Budget);

impl<'de> Visitor<'de> for VectorVisitor<'_> {
    type Value = Vector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vector as a list of numbers or as base64")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vector, A::Error> {
        let mut numbers = Vec::new();
        while let Some(item) = items.next_element_seed(self.0.seed::<Value>())? {
            let number = to_float(&item)
                .ok_or_else(|| A::Error::custom("a vector with an item that isn't a number"))?;
            self.0.charge_item::<f32, A::Error>(numbers.is_empty())?;
            numbers.push(number as f32);
        }
        Ok(Vector(numbers))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vector, E> {
        let bytes = base64::decode(text).filter(|bytes| bytes.len() % 4 == 0);
        let bytes = bytes.ok_or_else(|| E::custom("a vector that isn't base64-encoded floats"))?;
        let floats = bytes.chunks_exact(4).filter_map(<[u8]>::first_chunk);
        Ok(Vector(floats.map(|float| f32::from_le_bytes(*float)).collect()))
    }
}
