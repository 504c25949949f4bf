//! What an answer means: a value, or the error that it carries in its status or in its body.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::api::ChatResponse;
use crate::error::{Error, Result, excerpt};
use crate::http::transport::Answer;
use crate::json;
use crate::meta::Meta;
use crate::wire::error_body::{self, ErrorBody};
use crate::wire::headers::Headers;
use crate::wire::secrets::Secrets;

/// Reads answers of one service.
#[derive(Clone)]
pub(crate) struct Reader {
    /// To know them where the server repeats them.
    pub(crate) secrets: Arc<Secrets>,
    /// The base address has no path, so that a 404 probably means that `/v1` is missing.
    pub(crate) bare: bool,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn read<R: DeserializeOwned>(&self) -> Result<R> {
        json::read(&self.body, self.status, self.headers.request_id.as_deref())
    }

    /// The body as a chat completion.
    pub(crate) fn read_chat(&self) -> Result<ChatResponse> {
        json::read_with(&self.body, self.status, self.headers.request_id.as_deref(), ChatResponse::decode)
    }

    /// What is known of the call when it has come so far.
    pub(crate) fn meta(self) -> Meta {
        let Headers { request_id, rate_limits, .. } = self.headers;
        Meta { status: self.status, request_id, rate_limits, ..Meta::default() }
    }
}

impl Reader {
    /// Makes a value of an answer with `read`, unless it is an error.
    pub(crate) fn open<T>(&self, answer: &Answer, read: impl Fn(&Answer) -> Result<T>) -> Result<T> {
        if !(200..300).contains(&answer.status) {
            let answer = self.masked(answer);
            return Err(self.refusal(&answer, answer.status, ErrorBody::read(&answer.body)));
        }
        if let Some(error) = error_body::inside_success(&answer.body) {
            let answer = self.masked(answer);
            let error = error_body::inside_success(&answer.body).unwrap_or(error);
            return Err(self.refusal(&answer, error.status().unwrap_or(500), error));
        }
        read(answer).or_else(|_| read(&self.masked(answer))) // an error shows what couldn't be read
    }

    /// A chat completion of an answer, unless it is an error.
    pub(crate) fn open_chat(&self, answer: &Answer) -> Result<ChatResponse> {
        // What reads as a completion holds no error; only what doesn't is worth a second look.
        match answer.status {
            200..300 => answer.read_chat().or_else(|_| self.open(answer, Answer::read_chat)),
            _ => self.open(answer, Answer::read_chat),
        }
    }

    /// The error that came as an event of a stream.
    pub(crate) fn failure(&self, headers: &Headers, mut said: ErrorBody) -> Error {
        for word in [&mut said.code, &mut said.kind, &mut said.message, &mut said.param] {
            *word = word.take().map(|word| self.secrets.mask_word(word));
        }
        let status = said.status().unwrap_or(500);
        let answer = Answer { status: 200, headers: headers.clone(), body: Vec::new() };
        self.refusal(&self.masked(&answer), status, said)
    }

    /// The answer without the secrets that it repeats.
    fn masked(&self, answer: &Answer) -> Answer {
        let mut masked = Answer {
            status: answer.status,
            headers: answer.headers.clone(),
            body: self.secrets.mask(&answer.body).into_owned(),
        };
        let id = masked.headers.request_id.take();
        masked.headers.request_id = id.map(|id| self.secrets.mask_word(id));
        masked
    }

    /// The error that the service sent.
    fn refusal(&self, answer: &Answer, status: u16, said: ErrorBody) -> Error {
        let headers = &answer.headers;
        let message = match (&headers.location, said.message) {
            (Some(location), _) if (300..400).contains(&status) => {
                format!(
                    "moved to {location}; the key goes to no other address by itself, so set base_url to it"
                )
            }
            (_, Some(words)) => words,
            (_, None) => usual_name(status).to_owned(),
        };
        let hint = match status {
            401 => "; the key is missing, mistyped, revoked or of another service",
            403 => "; the key is known but may not do this",
            404 if self.bare => "; base_url has no path, and most services need /v1 there",
            _ => "",
        };
        Error::Api {
            status,
            code: said.code,
            kind: said.kind,
            message: message + hint,
            param: said.param,
            request_id: headers.request_id.clone(),
            // On a success it is no order, whatever its body says.
            retry_after: headers.retry_after.filter(|_| !(200..300).contains(&answer.status)),
            should_retry: headers.should_retry,
            body: excerpt(&answer.body),
        }
    }
}

/// What a status means, for a server that says nothing more.
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
