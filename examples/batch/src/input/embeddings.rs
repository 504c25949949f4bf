//! Requests for embeddings: an input in a line.

use holysheep::{EmbeddingRequest, EmbeddingResponse};
use serde_json::{Map, Value};

use crate::endpoint::{Answer, Endpoint, Kind};
use crate::input::line::Fields;
use crate::options::Defaults;

impl Endpoint for EmbeddingRequest {
    const KIND: Kind = Kind::Embeddings;

    fn take_parameters(fields: &mut Fields, _: &Defaults) -> Result<Map<String, Value>, String> {
        if fields.get("input").is_none() {
            return Err("has neither request nor input".to_owned());
        }
        Ok(fields.take_all(EmbeddingRequest::FIELDS))
    }

    fn complete(request: &mut Map<String, Value>, _: &Defaults) -> Result<(), String> {
        match request.get("input") {
            Some(Value::String(_) | Value::Array(_)) => Ok(()),
            Some(_) => Err("has an input that is neither text nor a list".to_owned()),
            None => Err("has no input".to_owned()),
        }
    }

    fn check(&self) -> holysheep::Result<()> {
        self.check()
    }

    fn model(&self) -> &str {
        self.model()
    }

    fn unsendable() -> EmbeddingRequest {
        EmbeddingRequest::new("", "")
    }

    fn answer(response: EmbeddingResponse) -> Answer {
        Answer::Embeddings(response)
    }
}
