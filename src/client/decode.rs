//! Decodes a response: to a value, or to the error in its status or its body.

mod expected;

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use self::expected::{Expected, Unread};
pub(crate) use self::expected::{too_large, warn_of_omitted};
use crate::api::{ChatChunk, ChatResponse, EmbeddingRequest, EmbeddingResponse};
use crate::client::key_provider::KeyProvider;
use crate::error::{Error, Result, Source, excerpt, into_source};
use crate::http::options::Endpoint;
use crate::http::transport::HttpResponse;
use crate::json;
use crate::json::bounded::Bounded;
use crate::json::budget::Budget;
use crate::json::empty_body::EmptyBody;
use crate::json::lenient::is_filled;
use crate::meta::Meta;
use crate::wire::completion::{decode_response, decode_response_as_chunk};
use crate::wire::error_body::ErrorBody;
use crate::wire::headers::Headers;
use crate::wire::secrets::Secrets;
use crate::wire::success::{document, error_in, error_instead_of_answer};

/// Decodes the responses of one service.
#[derive(Clone)]
pub(crate) struct ResponseDecoder {
    /// Redacted if the server echoes them.
    secrets: Arc<Secrets>,
    /// Its keys are redacted, too.
    keys: Option<Arc<KeyProvider>>,
    /// The base address has no path, so that a 404 probably means that `/v1` is missing.
    without_path: bool,
}

impl HttpResponse {
    /// The metadata from the status and the headers.
    pub(crate) fn into_meta(self) -> Meta {
        meta(self.status, self.headers)
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The metadata from a status and headers.
pub(crate) fn meta(status: u16, headers: Headers) -> Meta {
    let Headers { request_id, rate_limits, all, .. } = headers;
    Meta { status, request_id, rate_limits, headers: all, ..Meta::default() }
}

impl ResponseDecoder {
    pub(crate) fn new(endpoint: &Endpoint, keys: Option<Arc<KeyProvider>>) -> ResponseDecoder {
        let without_path = endpoint.base.url.ends_with(&endpoint.base.authority);
        ResponseDecoder { secrets: Arc::clone(&endpoint.headers.secrets), keys, without_path }
    }

    /// The same decoder with other secrets.
    pub(crate) fn with_secrets(&self, secrets: &Arc<Secrets>) -> ResponseDecoder {
        ResponseDecoder { secrets: Arc::clone(secrets), ..self.clone() }
    }

    /// The text without the secrets of the client.
    fn redact<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let redacted = self.secrets.redact(text);
        match &self.keys {
            Some(keys) => Cow::Owned(keys.secrets().redact(&redacted).into_owned()),
            None => redacted,
        }
    }

    fn redact_in_place(&self, text: &mut String) {
        self.secrets.redact_in_place(text);
        self.keys.iter().for_each(|keys| keys.secrets().redact_in_place(text));
    }

    /// Decodes a response of any type, unless it is an error. An empty body is valid for types that can be empty.
    pub(crate) fn decode_any<R: DeserializeOwned>(&self, response: &HttpResponse) -> Result<R> {
        let is_empty = response.is_success() && is_blank(&response.body);
        if let Some(nothing) = is_empty.then(|| nothing(response.status)).flatten() {
            return Ok(nothing);
        }
        // The caller chooses the type, and so the memory that it takes.
        let (budget, read) = (|_: &[u8]| Budget::unlimited(), |body: &[u8], _: &Budget| json::parse(body));
        self.decode(response, &Expected { list: None, budget, read, is_answer: |_| true })
    }

    /// Decodes a response with its values in the field `list`, unless it is an error.
    pub(crate) fn decode_list<R: Bounded>(&self, response: &HttpResponse, list: &'static str) -> Result<R> {
        let (budget, read) = (Budget::of_answer, json::parse_bounded);
        self.decode(response, &Expected { list: Some(list), budget, read, is_answer: |_| true })
    }

    /// Decodes embeddings, unless the response is an error or doesn't match the request.
    pub(crate) fn decode_embeddings(
        &self,
        response: &HttpResponse,
        request: &EmbeddingRequest,
    ) -> Result<EmbeddingResponse> {
        let embeddings: EmbeddingResponse = self.decode_list(response, "data")?;
        match embeddings.mismatch(request.texts()) {
            None => Ok(embeddings),
            Some(mismatch) if embeddings.data.is_empty() => {
                Err(no_answer(&self.redacted(response), mismatch))
            }
            Some(mismatch) => Err(Error::Decode {
                status: response.status,
                at: mismatch,
                excerpt: String::new(),
                request_id: response.headers.request_id.clone(),
                source: into_source("the vectors don't match the texts of the request"),
                target: None,
            }),
        }
    }

    /// Decodes a chat completion, unless the response is an error.
    pub(crate) fn decode_chat(&self, response: &HttpResponse) -> Result<Box<ChatResponse>> {
        let (budget, read) = (Budget::of_answer, decode_response);
        self.decode(
            response,
            &Expected { list: Some("choices"), budget, read, is_answer: |response| response.has_content() },
        )
    }

    /// Decodes a JSON response to a request for a stream, unless it is an error.
    pub(crate) fn decode_chunk(&self, response: &HttpResponse) -> Result<ChatChunk> {
        let (budget, read) = (Budget::of_chunk, decode_response_as_chunk);
        let is_answer = ChatChunk::has_content;
        self.decode(response, &Expected { list: Some("choices"), budget, read, is_answer })
    }

    /// Checks that a success status isn't an error in disguise, for calls without a value.
    pub(crate) fn check(&self, response: &HttpResponse) -> Result<()> {
        self.decode_any::<IgnoredAny>(response)?;
        let response = self.redacted(response);
        error_instead_of_answer(&response.body)
            .map_or(Ok(()), |error| Err(self.inner_error(&response, error)))
    }

    fn decode<T>(&self, response: &HttpResponse, expected: &Expected<T>) -> Result<T> {
        // A response with the expected list is no error; a value of any other form may be one.
        let is_answer =
            response.is_success() && (expected.list.is_some() || error_in(&response.body).is_none());
        // Drops a value that isn't an answer before the body is read again.
        let read = |body: &[u8]| expected.read(body).ok().filter(expected.is_answer);
        // An answer isn't redacted: its text may coincide with a header's.
        let inner = || document(&response.body).filter(|inner| inner.len() < response.body.len());
        let answer = match expected.list {
            _ if !is_answer => None,
            Some(_) => read(&response.body).or_else(|| inner().and_then(read)),
            None => read(&response.body),
        };
        answer.map_or_else(|| self.decode_other(&self.redacted(response), expected), Ok)
    }

    /// Decodes a response that isn't an answer.
    fn decode_other<T>(&self, response: &HttpResponse, expected: &Expected<T>) -> Result<T> {
        if !response.is_success() {
            return Err(self.api_error(response, response.status, ErrorBody::parse(&response.body)));
        }
        if is_blank(&response.body) {
            return Err(no_answer(response, "the body is empty".to_owned()));
        }
        let Some(list) = expected.list else {
            return match error_in(&response.body) {
                Some(error) => Err(self.inner_error(response, error)),
                None => expected.read(&response.body).map_err(|unread| unread.into_error(response)),
            };
        };
        let body = document(&response.body).unwrap_or(&response.body);
        let unread = match expected.read(body) {
            Ok(_) => None,
            Err(Unread::Malformed(_)) if lacks(body, list) => None,
            Err(unread) => Some(unread),
        };
        let error = match unread {
            // It may be an answer, in which fields of other names aren't errors.
            Some(Unread::TooLarge(_)) => error_in(body),
            _ => error_instead_of_answer(body),
        };
        Err(match (error, unread) {
            (Some(error), _) => self.inner_error(response, error),
            (None, Some(unread)) => unread.into_error(response),
            (None, None) => no_answer(response, format!("the list {list} is missing or empty")),
        })
    }

    /// The error in the body of a response with a success status.
    fn inner_error(&self, response: &HttpResponse, error: ErrorBody) -> Error {
        self.api_error(response, error.status().unwrap_or(500), error)
    }

    /// The error in an event of a stream.
    pub(crate) fn stream_error(&self, headers: &Headers, mut body: ErrorBody) -> Error {
        let texts = [&mut body.code, &mut body.kind, &mut body.message, &mut body.param];
        texts.into_iter().flatten().for_each(|text| self.redact_in_place(text));
        let status = body.status().unwrap_or(500);
        let response = HttpResponse { status: 200, headers: headers.clone(), body: Vec::new() };
        self.api_error(&response, status, body)
    }

    /// The error of a stream that ended without an answer; `line` is a line outside of any event, if there is one.
    pub(crate) fn no_answer_in_stream(&self, meta: &Meta, line: &[u8]) -> Error {
        Error::NoAnswer {
            status: meta.status,
            missing: "the stream ended without a choice that has content".to_owned(),
            request_id: meta.request_id.clone(),
            body: excerpt(&self.redact(line)),
            target: None,
        }
    }

    /// The error for a body that is neither JSON nor an event stream; `line` is its first line.
    pub(crate) fn neither_json_nor_events(&self, meta: &Meta, line: &[u8]) -> Error {
        self.unreadable(meta, line, serde::de::Error::custom("neither JSON nor an event stream"))
    }

    /// Text in a stream that isn't data, as the cause of an error.
    pub(crate) fn stray_text(&self, text: &[u8]) -> Source {
        into_source(excerpt(self.redact(text).trim_ascii()))
    }

    /// The error for stream data that can't be decoded.
    pub(crate) fn unreadable(&self, meta: &Meta, data: &[u8], error: serde_json::Error) -> Error {
        json::decode_error(&self.redact(data), meta.status, meta.request_id.as_deref(), error)
    }

    /// The response without the secrets that its body echoes; its headers are redacted already.
    fn redacted(&self, response: &HttpResponse) -> HttpResponse {
        HttpResponse {
            status: response.status,
            headers: response.headers.clone(),
            body: self.redact(&response.body).into_owned(),
        }
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
            403 => "; the key may be invalid, or may lack access to this model or from this region",
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
            // Ignored with a success status, even if the body has one.
            retry_after: headers.retry_after.or(body.retry_delay).filter(|_| !response.is_success()),
            should_retry: headers.should_retry,
            body: excerpt(&response.body),
            target: None,
        }
    }
}

/// The error for a success status without an answer.
fn no_answer(response: &HttpResponse, missing: String) -> Error {
    Error::NoAnswer {
        status: response.status,
        missing,
        request_id: response.headers.request_id.clone(),
        body: excerpt(response.body.trim_ascii()),
        target: None,
    }
}

impl Unread {
    /// The error for a success status with a body that can't be decoded.
    fn into_error(self, response: &HttpResponse) -> Error {
        match self {
            Unread::Malformed(error) => undecodable(response, error),
            Unread::TooLarge(excess) => too_large(excess),
        }
    }
}

/// The error for a success status with malformed JSON or an HTML page.
fn undecodable(response: &HttpResponse, error: serde_json::Error) -> Error {
    let HttpResponse { status, headers, body } = response;
    let request_id = headers.request_id.as_deref();
    let document = json::without_bom(body).trim_ascii_start();
    if !document.starts_with(b"<") {
        return json::malformed_body(body, *status, request_id, error);
    }
    let problem = "an HTML page in place of JSON, so base_url may be a website's and not the API's";
    let at = format!("byte 0 of {}: {problem}", body.len());
    let page = ErrorBody::parse(document).message.map(|text| into_source(format!("the page says: {text}")));
    let (excerpt, request_id) = (excerpt(document), headers.request_id.clone());
    let source = page.unwrap_or_else(|| into_source(error));
    Error::Decode { status: *status, at, excerpt, request_id, source, target: None }
}

fn is_blank(body: &[u8]) -> bool {
    json::without_bom(body).trim_ascii().is_empty()
}

/// Whether the field `list` of a JSON body is missing or empty.
fn lacks(body: &[u8], list: &str) -> bool {
    let body = json::without_bom(body);
    match json::parse_bounded::<Value>(body, &Budget::of_answer(body)) {
        Ok(Value::Object(fields)) => !fields.get(list).is_some_and(is_filled),
        Ok(value) => !is_filled(&value),
        Err(_) => false,
    }
}

/// The value of an empty body: that of null for 204 and 205, which have no content (RFC 9110, sections 15.3.5 and
/// 15.3.6), otherwise `()` or the `None` of an `Option`. Other types have none.
fn nothing<R: DeserializeOwned>(status: u16) -> Option<R> {
    if matches!(status, 204 | 205) { json::parse(b"null").ok() } else { R::deserialize(EmptyBody).ok() }
}

/// The name of a status, for a server that sends no message.
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
        300..=303 | 307 | 308 => "a redirect without an address",
        _ if status < 400 => "neither an answer nor an error",
        _ if status < 500 => "the request was refused",
        _ => "the server failed",
    }
}
