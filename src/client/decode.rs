//! What an answer means: a value, or the error that it carries in its status or its body.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::api::{ChatChunk, ChatResponse};
use crate::error::{Error, Result, excerpt};
use crate::http::options::Endpoint;
use crate::http::transport::HttpResponse;
use crate::json;
use crate::meta::Meta;
use crate::wire::completion::{decode_response, decode_response_as_chunk};
use crate::wire::error_body::{self, ErrorBody};
use crate::wire::headers::Headers;
use crate::wire::secrets::Secrets;

/// Decodes the answers of one service.
#[derive(Clone)]
pub(crate) struct ResponseDecoder {
    /// Redacted where the server repeats them.
    secrets: Arc<Secrets>,
    /// The base address has no path, so that a 404 probably means that `/v1` is missing.
    without_path: bool,
}

impl HttpResponse {
    /// The body as JSON.
    pub(crate) fn json<R: DeserializeOwned>(&self) -> Result<R> {
        json::decode(&self.body, self.status, self.headers.request_id.as_deref())
    }

    /// The body as a chat completion.
    pub(crate) fn chat(&self) -> Result<ChatResponse> {
        json::decode_with(&self.body, self.status, self.headers.request_id.as_deref(), decode_response)
    }

    /// The body as the only chunk of a stream.
    fn chunk(&self) -> Result<ChatChunk> {
        json::decode_with(
            &self.body,
            self.status,
            self.headers.request_id.as_deref(),
            decode_response_as_chunk,
        )
    }

    /// What the status and the headers say of the call.
    pub(crate) fn into_meta(self) -> Meta {
        meta(self.status, self.headers)
    }
}

/// What a status and headers say of a call.
pub(crate) fn meta(status: u16, headers: Headers) -> Meta {
    let Headers { request_id, rate_limits, .. } = headers;
    Meta { status, request_id, rate_limits, ..Meta::default() }
}

impl ResponseDecoder {
    pub(crate) fn new(endpoint: &Endpoint) -> ResponseDecoder {
        let without_path = endpoint.base.url.ends_with(&endpoint.base.authority);
        ResponseDecoder { secrets: Arc::clone(&endpoint.headers.secrets), without_path }
    }

    /// The same for a client that has further secrets.
    pub(crate) fn with_secrets(&self, secrets: &Arc<Secrets>) -> ResponseDecoder {
        ResponseDecoder { secrets: Arc::clone(secrets), ..*self }
    }

    /// Decodes an answer with `read`, unless it is an error.
    pub(crate) fn decode<T>(
        &self,
        response: &HttpResponse,
        read: impl Fn(&HttpResponse) -> Result<T>,
    ) -> Result<T> {
        if !(200..300).contains(&response.status) {
            let response = self.redacted(response);
            return Err(self.api_error(&response, response.status, ErrorBody::parse(&response.body)));
        }
        if let Some(error) = error_body::inside_success(&response.body) {
            let response = self.redacted(response);
            let error = error_body::inside_success(&response.body).unwrap_or(error);
            return Err(self.api_error(&response, error.status().unwrap_or(500), error));
        }
        read(response).or_else(|_| read(&self.redacted(response))) // the error shows what couldn't be read
    }

    /// Decodes a chat completion, unless the answer is an error.
    pub(crate) fn decode_chat(&self, response: &HttpResponse) -> Result<ChatResponse> {
        // A completion contains no error; only what can't be read as one is examined for errors.
        match response.status {
            200..300 => response.chat().or_else(|_| self.decode(response, HttpResponse::chat)),
            _ => self.decode(response, HttpResponse::chat),
        }
    }

    /// Decodes a whole answer to the request for a stream, unless it is an error.
    pub(crate) fn decode_chunk(&self, response: &HttpResponse) -> Result<ChatChunk> {
        match response.chunk() {
            Ok(chunk) if (200..300).contains(&response.status) && !chunk.choices.is_empty() => Ok(chunk),
            _ => self.decode(response, HttpResponse::chunk),
        }
    }

    /// The error that came as an event of a stream.
    pub(crate) fn stream_error(&self, headers: &Headers, mut body: ErrorBody) -> Error {
        for text in [&mut body.code, &mut body.kind, &mut body.message, &mut body.param] {
            *text = text.take().map(|text| self.secrets.redact_text(text));
        }
        let status = body.status().unwrap_or(500);
        let response = HttpResponse { status: 200, headers: headers.clone(), body: Vec::new() };
        self.api_error(&self.redacted(&response), status, body)
    }

    /// The error of data in a stream that can't be read.
    pub(crate) fn unreadable(&self, meta: &Meta, data: &[u8], error: serde_json::Error) -> Error {
        json::decode_error(&self.secrets.redact(data), meta.status, meta.request_id.as_deref(), error)
    }

    /// The answer without the secrets that it repeats.
    fn redacted(&self, response: &HttpResponse) -> HttpResponse {
        let mut redacted = HttpResponse {
            status: response.status,
            headers: response.headers.clone(),
            body: self.secrets.redact(&response.body).into_owned(),
        };
        let id = redacted.headers.request_id.take();
        redacted.headers.request_id = id.map(|id| self.secrets.redact_text(id));
        redacted
    }

    /// The error that the service sent.
    fn api_error(&self, response: &HttpResponse, status: u16, body: ErrorBody) -> Error {
        let headers = &response.headers;
        let message = match (&headers.location, body.message) {
            (Some(location), _) if (300..400).contains(&status) => {
                format!(
                    "redirected to {location}; the key is never sent to another address, so set base_url to it"
                )
            }
            (_, Some(message)) => message,
            (_, None) => usual_name(status).to_owned(),
        };
        let hint = match status {
            401 => "; the key is missing, mistyped, revoked or for another service",
            403 => "; the key is valid but lacks permission",
            404 if self.without_path => "; base_url has no path, and most services need /v1 there",
            _ => "",
        };
        Error::Api {
            status,
            code: body.code,
            kind: body.kind,
            message: message + hint,
            param: body.param,
            request_id: headers.request_id.clone(),
            // On a success it is no order, whatever the body says.
            retry_after: headers.retry_after.filter(|_| !(200..300).contains(&response.status)),
            should_retry: headers.should_retry,
            body: excerpt(&response.body),
        }
    }
}

/// The meaning of a status, for a server that says nothing more.
fn usual_name(status: u16) -> &'static str {
    match status {
        400 => "bad request",
        401 => "unauthorized",
        402 => "payment required",
        403 => "forbidden",
        404 => "not found",
        408 => "request timeout",
        409 => "conflict",
        413 => "the request is too large",
        422 => "the request can't be processed",
        429 => "too many requests",
        500 => "internal server error",
        502 => "bad gateway",
        503 => "service unavailable",
        504 => "gateway timeout",
        529 => "overloaded",
        _ if status < 400 => "a redirect without an address",
        _ if status < 500 => "the request was refused",
        _ => "the server failed",
    }
}
