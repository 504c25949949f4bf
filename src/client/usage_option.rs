//! The stream option `include_usage`, which older services reject.

use serde_json::{Map, Value};

use crate::error::Error;

/// Removes `include_usage` from the body of a stream request: the only option that the caller didn't set.
pub(super) fn without_usage(body: Vec<u8>) -> Vec<u8> {
    let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(&body) else { return body };
    if let Some(options) = fields.get_mut("stream_options").and_then(Value::as_object_mut) {
        options.remove("include_usage");
        if options.is_empty() {
            fields.remove("stream_options");
        }
    }
    serde_json::to_vec(&fields).unwrap_or(body)
}

/// Whether a service rejected `include_usage`. The rest of the body doesn't count: validation errors repeat the request.
pub(super) fn refuses_usage(error: &Error) -> bool {
    let Error::Api { status: 400 | 422, message, param, .. } = error else { return false };
    let option = |words: &str| words.contains("stream_options") || words.contains("include_usage");
    option(message) || param.as_deref().is_some_and(option)
}
