//! Implements serde's `Deserialize` for the types that a cursor reads, for programs that store responses as JSON.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value};

use crate::api::{ChatChunk, ChatResponse, Usage};
use crate::json::budget::Budget;
use crate::json::cursor::JsonCursor;
use crate::wire::completion::{decode_chunk, decode_response};
use crate::wire::usage::read_usage;

impl<'de> Deserialize<'de> for ChatResponse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChatResponse, D::Error> {
        let fields = Map::<String, Value>::deserialize(deserializer)?;
        if !fields.get("choices").is_some_and(Value::is_array) {
            return Err(D::Error::custom("there are no choices"));
        }
        let json = Value::Object(fields).to_string();
        let response = decode_response(json.as_bytes(), &Budget::unlimited());
        response.map(|response| *response).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ChatChunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChatChunk, D::Error> {
        let json = Map::<String, Value>::deserialize(deserializer).map(Value::Object)?.to_string();
        match decode_chunk(json.into_bytes(), &Budget::unlimited()) {
            Ok(decoded) => Ok(decoded.chunk),
            Err((error, _)) => Err(D::Error::custom(error)),
        }
    }
}

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Usage, D::Error> {
        let json = Value::deserialize(deserializer)?.to_string();
        let usage = read_usage(&mut JsonCursor::new(json.as_bytes()), &Budget::unlimited()).ok().flatten();
        usage.ok_or_else(|| D::Error::custom("usage without any of its three counts"))
    }
}
