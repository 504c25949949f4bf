//! A line of the output, in the tool's own format or in that of OpenAI's Batch API.

use std::borrow::Cow;

use holysheep::{ChatResponse, EmbeddingResponse, Error, Usage};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::endpoint::Answer;
use crate::job::Pending;
use crate::judge::{Flag, ItemFailure, Verdict};
use crate::options::{Defaults, Format};

/// The keys of a line, in both formats.
pub(crate) const KEYS: [&str; 16] = [
    "id",
    "index",
    "crc32",
    "settings",
    "answer",
    "embeddings",
    "finish_reason",
    "model",
    "usage",
    "response",
    "flags",
    "error",
    "columns",
    "attempts",
    "seconds",
    "custom_id",
];

/// A result and all that is written of it.
pub(crate) struct Line<'a> {
    pub(crate) pending: &'a Pending,
    pub(crate) result: &'a Result<Answer, Error>,
    pub(crate) verdict: &'a Verdict,
    pub(crate) settings: u32,
}

/// A checksum of what all requests share.
pub(crate) fn settings(defaults: &Defaults) -> u32 {
    let Defaults { model, system, parameters, template } = defaults;
    let template = template.as_ref().map(|template| &template.text);
    let all = serde_json::to_vec(&(model, system, parameters, template)).unwrap_or_default();
    crc32fast::hash(&all)
}

impl Line<'_> {
    /// The line with its newline.
    pub(crate) fn to_bytes(&self, format: Format) -> serde_json::Result<Vec<u8>> {
        let json = match format {
            Format::Native => serde_json::to_vec(&self.native()),
            Format::OpenAi => serde_json::to_vec(&self.openai()),
        }?;
        let mut line = escape_line_separators(json);
        line.push(b'\n');
        Ok(line)
    }

    fn native(&self) -> Native<'_> {
        let (answer, chat) = (self.answer(), self.answer().and_then(Answer::chat));
        let (attempts, seconds) = match self.result {
            _ if self.pending.bad.is_some() => (0, None),
            Ok(answer) => (answer.meta().attempts, Some(answer.meta().elapsed)),
            Err(error) => (error.attempts(), error.elapsed()),
        };
        Native {
            id: self.pending.id.as_deref(),
            index: self.pending.index,
            crc32: self.pending.crc32,
            settings: self.settings,
            answer: chat.map(ChatResponse::text),
            embeddings: answer.and_then(Answer::embeddings),
            finish_reason: chat.and_then(ChatResponse::finish_reason),
            model: answer.map(Answer::model),
            usage: answer.and_then(Answer::usage),
            response: chat.filter(|chat| has_more_than_text(chat)),
            flags: &self.verdict.flags,
            error: self.verdict.failure.as_ref().map(NativeError::from),
            columns: Columns(&self.pending.columns),
            attempts,
            seconds: seconds.map(|seconds| seconds.as_secs_f64()),
        }
    }

    fn openai(&self) -> OpenAi<'_> {
        let Pending { index, crc32, .. } = *self.pending;
        let failure = self.verdict.failure.as_ref();
        let refused =
            failure.and_then(|failure| Some((failure, failure.status.filter(|status| *status >= 300)?)));
        let response = match (self.answer(), refused) {
            (Some(answer), _) => Some(OpenAiResponse {
                status_code: 200,
                request_id: answer.meta().request_id.as_deref().unwrap_or_default(),
                body: answer.into(),
            }),
            (None, Some((failure, status_code))) => {
                let request_id = self.result.as_ref().err().and_then(Error::request_id).unwrap_or_default();
                let error = ServiceError::new(self.result.as_ref().err(), failure);
                Some(OpenAiResponse { status_code, request_id, body: OpenAiBody::Refused { error } })
            }
            (None, None) => None,
        };
        let error = failure.filter(|_| refused.is_none());
        OpenAi {
            id: format!("batch_req_{index}_{crc32:08x}_{:08x}", self.settings),
            custom_id: self.custom_id(),
            response,
            error: error.map(|failure| OpenAiError {
                code: failure.kind.replace(' ', "_"),
                message: &failure.message,
            }),
            flags: &self.verdict.flags,
            columns: Columns(&self.pending.columns),
        }
    }

    fn answer(&self) -> Option<&Answer> {
        self.result.as_ref().ok().filter(|_| self.pending.bad.is_none())
    }

    /// The id as text, as the format wants it; the index where there is none.
    fn custom_id(&self) -> Cow<'_, RawValue> {
        let text = match self.pending.id.as_deref() {
            Some(id) if id.get().starts_with('"') => return Cow::Borrowed(id),
            Some(id) => id.get().to_owned(),
            None => self.pending.index.to_string(),
        };
        serde_json::value::to_raw_value(&text).map_or_else(|_| Cow::Borrowed(RawValue::NULL), Cow::Owned)
    }
}

/// Reads index, checksum and settings from the id of a line in OpenAI's format.
pub(crate) fn read_openai_id(id: &str) -> Option<(usize, u32, u32)> {
    let mut parts = id.strip_prefix("batch_req_")?.split('_');
    let index = parts.next()?.parse().ok()?;
    let mut checksum = || u32::from_str_radix(parts.next()?, 16).ok();
    Some((index, checksum()?, checksum()?))
}

#[derive(Serialize)]
struct Native<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    index: usize,
    crc32: u32,
    settings: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Vec<&'a [f32]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Usage>,
    /// All of it, where it has more than the text: it was paid for.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a ChatResponse>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    flags: &'a [Flag],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<NativeError<'a>>,
    #[serde(skip_serializing_if = "Columns::is_empty")]
    columns: Columns<'a>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct NativeError<'a> {
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    retryable: bool,
}

impl<'a> From<&'a ItemFailure> for NativeError<'a> {
    fn from(failure: &'a ItemFailure) -> Self {
        let ItemFailure { kind, message, status, retryable, .. } = failure;
        NativeError { kind, message, status: *status, retryable: *retryable }
    }
}

#[derive(Serialize)]
struct OpenAi<'a> {
    id: String,
    custom_id: Cow<'a, RawValue>,
    response: Option<OpenAiResponse<'a>>,
    error: Option<OpenAiError<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    flags: &'a [Flag],
    #[serde(skip_serializing_if = "Columns::is_empty")]
    columns: Columns<'a>,
}

#[derive(Serialize)]
struct OpenAiResponse<'a> {
    status_code: u16,
    request_id: &'a str,
    body: OpenAiBody<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OpenAiBody<'a> {
    Chat(&'a ChatResponse),
    Embeddings(&'a EmbeddingResponse),
    Refused { error: ServiceError<'a> },
}

impl<'a> From<&'a Answer> for OpenAiBody<'a> {
    fn from(answer: &'a Answer) -> Self {
        match answer {
            Answer::Chat(response) => OpenAiBody::Chat(response),
            Answer::Embeddings(response) => OpenAiBody::Embeddings(response),
        }
    }
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    code: String,
    message: &'a str,
}

/// An error of the service, as its body says it.
#[derive(Serialize)]
struct ServiceError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl<'a> ServiceError<'a> {
    fn new(error: Option<&'a Error>, failure: &'a ItemFailure) -> ServiceError<'a> {
        match error {
            Some(Error::GaveUp { last, .. }) => ServiceError::new(Some(last), failure),
            Some(Error::Api { message, kind, param, code, .. }) => ServiceError {
                message,
                kind: kind.as_deref(),
                param: param.as_deref(),
                code: code.as_deref(),
            },
            _ => ServiceError { message: &failure.message, kind: None, param: None, code: None },
        }
    }
}

/// Fields of the input that come back as they were.
struct Columns<'a>(&'a [(String, Box<RawValue>)]);

impl Columns<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Whether an answer has more than one text.
fn has_more_than_text(response: &ChatResponse) -> bool {
    let [choice] = &response.choices[..] else { return true };
    let message = &choice.message;
    let is_something = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    message.refusal.is_some()
        || !message.tool_calls.is_empty()
        || message.function_call.is_some()
        || message.extra.iter().any(|(_, value)| is_something(value))
        || choice.logprobs.is_some()
        || message.text().is_empty()
}

/// Escapes U+2028, U+2029 and U+0085, at which some readers split lines. In JSON they are only inside strings.
fn escape_line_separators(json: Vec<u8>) -> Vec<u8> {
    let is_one = |bytes: &[u8]| matches!(bytes, [0xE2, 0x80, 0xA8 | 0xA9, ..] | [0xC2, 0x85, ..]);
    if !(0..json.len()).any(|at| is_one(&json[at..])) {
        return json;
    }
    let (mut escaped, mut rest) = (Vec::with_capacity(json.len() + 64), &json[..]);
    while let Some(first) = rest.first() {
        let (text, length): (&[u8], usize) = match rest {
            [0xE2, 0x80, 0xA8, ..] => (b"\\u2028", 3),
            [0xE2, 0x80, 0xA9, ..] => (b"\\u2029", 3),
            [0xC2, 0x85, ..] => (b"\\u0085", 2),
            _ => (std::slice::from_ref(first), 1),
        };
        escaped.extend_from_slice(text);
        rest = &rest[length..];
    }
    escaped
}
