//! The response that model-written JSON came from, so that a decoding error can report truncation and the request id.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result, incompleteness};
use crate::json;

/// The response that a tool call came with. Comparison and serialisation ignore it.
#[derive(Clone, Default)]
pub(crate) struct Origin(Option<Arc<Answer>>);

struct Answer {
    finish_reason: Option<String>,
    request_id: Option<String>,
}

impl Origin {
    pub(crate) fn new(finish_reason: Option<&str>, request_id: Option<&str>) -> Origin {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (finish_reason, request_id) = (owned(finish_reason), owned(request_id));
        Origin(Some(Arc::new(Answer { finish_reason, request_id })))
    }

    /// Decodes JSON from this response.
    pub(crate) fn decode<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        let answer = self.0.as_deref();
        let finish_reason = answer.and_then(|answer| answer.finish_reason.as_deref());
        decode(text, finish_reason, answer.and_then(|answer| answer.request_id.as_deref()))
    }
}

/// Decodes model-written JSON. If that fails and the finish reason means that the answer is incomplete, the error is
/// [`Error::Incomplete`] instead of the parser's.
pub(crate) fn decode<T: DeserializeOwned>(
    text: &str,
    finish_reason: Option<&str>,
    request_id: Option<&str>,
) -> Result<T> {
    json::decode_model_text(text, request_id).map_err(|error| {
        match finish_reason.filter(|reason| incompleteness(reason).is_some()) {
            Some(reason) => Error::Incomplete {
                finish_reason: reason.to_owned(),
                request_id: request_id.map(str::to_owned),
            },
            None => error,
        }
    })
}

impl PartialEq for Origin {
    fn eq(&self, _: &Origin) -> bool {
        true
    }
}
