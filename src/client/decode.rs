//! What an answer means: a value, or the error that it carries in its status or its body.

mod expected;

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use self::expected::{Expected, Unread};
pub(crate) use self::expected::{too_large, warn_of_omitted};
use crate::api::{ChatChunk, ChatResponse, EmbeddingRequest, EmbeddingResponse};
use crate::client::key_provider::KeyProvider;
use crate::error::{Error, Result, Source, excerpt};
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

/// Decodes the answers of one service.
#[derive(Clone)]
pub(crate) struct ResponseDecoder {
    /// Redacted where the server repeats them.
    secrets: Arc<Secrets>,
    /// Its keys are redacted, too.
    keys: Option<Arc<KeyProvider>>,
    /// The base address has no path, so that a 404 probably means that `/v1` is missing.
    without_path: bool,
}

impl HttpResponse {
    /// What the status and the headers say of the call.
    pub(crate) fn into_meta(self) -> Meta {
        meta(self.status, self.headers)
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// What a status and headers say of a call.
pub(crate) fn meta(status: u16, headers: Headers) -> Meta {
    let Headers { request_id, rate_limits, all, .. } = headers;
    Meta { status, request_id, rate_limits, headers: all, ..Meta::default() }
}

impl ResponseDecoder {
    pub(crate) fn new(endpoint: &Endpoint, keys: Option<Arc<KeyProvider>>) -> ResponseDecoder {
        let without_path = endpoint.base.url.ends_with(&endpoint.base.authority);
        ResponseDecoder { secrets: Arc::clone(&endpoint.headers.secrets), keys, without_path }
    }

    /// The same for a client that has further secrets.
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

    /// Decodes an answer of any form, unless it is an error. An empty body is an answer for a type that can be nothing.
    pub(crate) fn decode_any<R: DeserializeOwned>(&self, response: &HttpResponse) -> Result<R> {
        let is_empty = response.is_success() && is_blank(&response.body);
        if let Some(nothing) = is_empty.then(|| nothing(response.status)).flatten() {
            return Ok(nothing);
        }
        // The type is the caller's own, and so is what it takes.
        let (budget, read) = (|_: &[u8]| Budget::unlimited(), |body: &[u8], _: &Budget| json::parse(body));
        self.decode(response, &Expected { list: None, budget, read, is_answer: |_| true })
    }

    /// Decodes an answer that has its values in the list of this name, unless it is an error.
    pub(crate) fn decode_list<R: Bounded>(&self, response: &HttpResponse, list: &'static str) -> Result<R> {
        let (budget, read) = (Budget::of_answer, json::parse_bounded);
        self.decode(response, &Expected { list: Some(list), budget, read, is_answer: |_| true })
    }

    /// Decodes embeddings, unless the answer is an error or doesn't match the request.
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
                source: "the vectors don't match the texts of the request".into(),
            }),
        }
    }

    /// Decodes a chat completion, unless the answer is an error.
    pub(crate) fn decode_chat(&self, response: &HttpResponse) -> Result<ChatResponse> {
        let (budget, read) = (Budget::of_answer, decode_response);
        let is_answer = ChatResponse::has_content;
        self.decode(response, &Expected { list: Some("choices"), budget, read, is_answer })
    }

    /// Decodes a whole answer to the request for a stream, unless it is an error.
    pub(crate) fn decode_chunk(&self, response: &HttpResponse) -> Result<ChatChunk> {
        let (budget, read) = (Budget::of_chunk, decode_response_as_chunk);
        let is_answer = ChatChunk::has_content;
        self.decode(response, &Expected { list: Some("choices"), budget, read, is_answer })
    }

    /// Whether a success is an error all the same, for a call of which nothing else matters.
    pub(crate) fn check(&self, response: &HttpResponse) -> Result<()> {
        self.decode_any::<IgnoredAny>(response)?;
        let response = self.redacted(response);
        error_instead_of_answer(&response.body)
            .map_or(Ok(()), |error| Err(self.inner_error(&response, error)))
    }

    fn decode<T>(&self, response: &HttpResponse, expected: &Expected<T>) -> Result<T> {
        // An answer in a list of its own contains no error; a value of any form may be one.
        let is_answer =
            response.is_success() && (expected.list.is_some() || error_in(&response.body).is_none());
        // What isn't an answer is gone before the body is read again.
        let read = |body: &[u8]| expected.read(body).ok().filter(expected.is_answer);
        // An answer isn't redacted: it may have words in common with a header.
        let inner = || document(&response.body).filter(|inner| inner.len() < response.body.len());
        let answer = match expected.list {
            _ if !is_answer => None,
            Some(_) => read(&response.body).or_else(|| inner().and_then(read)),
            None => read(&response.body),
        };
        answer.map_or_else(|| self.decode_other(&self.redacted(response), expected), Ok)
    }

    /// Decodes what isn't an answer.
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
            // It may be an answer, beside which other names mean nothing.
            Some(Unread::TooLarge(_)) => error_in(body),
            _ => error_instead_of_answer(body),
        };
        Err(match (error, unread) {
            (Some(error), _) => self.inner_error(response, error),
            (None, Some(unread)) => unread.into_error(response),
            (None, None) => no_answer(response, format!("the list {list} is missing or empty")),
        })
    }

    /// The error in the body of a success.
    fn inner_error(&self, response: &HttpResponse, error: ErrorBody) -> Error {
        self.api_error(response, error.status().unwrap_or(500), error)
    }

    /// The error that came as an event of a stream.
    pub(crate) fn stream_error(&self, headers: &Headers, mut body: ErrorBody) -> Error {
        let texts = [&mut body.code, &mut body.kind, &mut body.message, &mut body.param];
        texts.into_iter().flatten().for_each(|text| self.redact_in_place(text));
        let status = body.status().unwrap_or(500);
        let response = HttpResponse { status: 200, headers: headers.clone(), body: Vec::new() };
        self.api_error(&response, status, body)
    }

    /// The error of a stream that ended without an answer; `line` is a line in it that belongs to no event, if there is one.
    pub(crate) fn no_answer_in_stream(&self, meta: &Meta, line: &[u8]) -> Error {
        Error::NoAnswer {
            status: meta.status,
            missing: "the stream ended without a choice that has content".to_owned(),
            request_id: meta.request_id.clone(),
            body: excerpt(&self.redact(line)),
        }
    }

    /// The error of a body that begins with this line.
    pub(crate) fn neither_json_nor_events(&self, meta: &Meta, line: &[u8]) -> Error {
        self.unreadable(meta, line, serde::de::Error::custom("neither JSON nor an event stream"))
    }

    /// Words in a stream that are no data, as the cause of an error.
    pub(crate) fn words(&self, words: &[u8]) -> Source {
        excerpt(self.redact(words).trim_ascii()).into()
    }

    /// The error of data in a stream that can't be read.
    pub(crate) fn unreadable(&self, meta: &Meta, data: &[u8], error: serde_json::Error) -> Error {
        json::decode_error(&self.redact(data), meta.status, meta.request_id.as_deref(), error)
    }

    /// The answer without the secrets that its body repeats; those in its headers are redacted already.
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
            retry_after: headers.retry_after.or(body.retry_delay).filter(|_| !response.is_success()),
            should_retry: headers.should_retry,
            body: excerpt(&response.body),
        }
    }
}

/// The error of a success that holds no answer.
fn no_answer(response: &HttpResponse, missing: String) -> Error {
    Error::NoAnswer {
        status: response.status,
        missing,
        request_id: response.headers.request_id.clone(),
        body: excerpt(response.body.trim_ascii()),
    }
}

impl Unread {
    /// The error of a success that can't be read.
    fn into_error(self, response: &HttpResponse) -> Error {
        match self {
            Unread::Malformed(error) => undecodable(response, error),
            Unread::TooLarge(excess) => too_large(excess),
        }
    }
}

/// The error of a success that isn't what it should be.
fn undecodable(response: &HttpResponse, error: serde_json::Error) -> Error {
    let HttpResponse { status, headers, body } = response;
    let request_id = headers.request_id.as_deref();
    let document = json::without_bom(body).trim_ascii_start();
    if !document.starts_with(b"<") {
        return json::malformed_body(body, *status, request_id, error);
    }
    let page = ErrorBody::parse(document).message.unwrap_or_default();
    Error::Decode {
        status: *status,
        at: format!("byte 0 of {}, where an HTML page begins", body.len()),
        excerpt: excerpt(document),
        request_id: headers.request_id.clone(),
        source: format!("an HTML page in place of JSON; base_url may be that of a website: {page}").into(),
    }
}

fn is_blank(body: &[u8]) -> bool {
    json::without_bom(body).trim_ascii().is_empty()
}

/// Whether JSON holds nothing in the list of this name.
fn lacks(body: &[u8], list: &str) -> bool {
    let body = json::without_bom(body);
    match json::parse_bounded::<Value>(body, &Budget::of_answer(body)) {
        Ok(Value::Object(fields)) => !fields.get(list).is_some_and(is_filled),
        Ok(value) => !is_filled(&value),
        Err(_) => false,
    }
}

/// The value of an empty body: any that null has where the status says that there is no content (RFC 9110, sections 15.3.5
/// and 15.3.6), otherwise `()`, or none of an `Option`. For other types an empty body is no answer.
fn nothing<R: DeserializeOwned>(status: u16) -> Option<R> {
    if matches!(status, 204 | 205) { json::parse(b"null").ok() } else { R::deserialize(EmptyBody).ok() }
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
