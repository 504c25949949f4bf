//! An answer that comes piece by piece, and never passes for whole when it isn't.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::api::{ChatChunk, ChatResponse};
use crate::client::call::{Ask, Core};
use crate::error::{Error, Phase, Result, Source};
use crate::http::body::Incoming;
use crate::http::transport::Answer;
use crate::json;
use crate::meta::Meta;
use crate::wire::accumulate::{Accumulator, TooMany};
use crate::wire::headers::Headers;
use crate::wire::sse::{Decoder, Event, TooLong};
use crate::wire::stream_event::StreamEvent;

/// The pieces of an answer, as they come. Made by [`Client::chat_stream`](crate::Client::chat_stream).
///
/// It ends with `None` only when the service said that the answer is whole; a cut stream ends with
/// [`Error::StreamTruncated`]. Dropping it closes the connection at once.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let client = Client::from_env()?;
/// for chunk in client.chat_stream(&ChatRequest::new("gpt-4.1").user("Tell me a story."))? {
///     print!("{}", chunk?.text());
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
pub struct ChatStream {
    core: Arc<Core>,
    /// None once the stream has ended, one way or the other.
    body: Option<Incoming>,
    decoder: Decoder,
    accumulator: Accumulator,
    /// Read before the stream was handed over, for somebody has to see the first piece.
    ready: VecDeque<ChatChunk>,
    headers: Headers,
    meta: Meta,
    /// Bytes read.
    bytes: u64,
    /// The time waited for the server since it last said something: pings and empty chunks are nothing, and the time that
    /// the reader takes isn't the server's.
    quiet: Duration,
    /// It ended with an error, which was told.
    failed: bool,
}

/// Chunks kept that come before the first piece of the answer: services send one, about the prompt.
const MOST_READY: usize = 64;

/// What a step of reading brought.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for one step; a box would cost each chunk an allocation"
)]
enum Progress {
    Chunk(ChatChunk),
    Ended,
    More,
}

impl ChatStream {
    /// Makes a call whose answer is a stream, up to the first piece of the answer.
    ///
    /// `answers` is how many were asked for.
    pub(crate) fn open(core: &Arc<Core>, ask: &Ask<'_>, answers: u64) -> Result<ChatStream> {
        let (mut stream, meta) = core.run(ask, |outgoing, terms, limits| {
            let opened = core.transport.open(outgoing, terms)?;
            *limits = opened.headers.rate_limits;
            let meta = Meta {
                status: opened.status,
                request_id: opened.headers.request_id.clone(),
                rate_limits: opened.headers.rate_limits,
                ..Meta::default()
            };
            if !(200..300).contains(&opened.status) || opened.headers.json {
                let answer = core.transport.read(opened, terms)?;
                return Ok((ChatStream::of_whole(core, &answer)?, meta));
            }
            let (status, headers) = (opened.status, opened.headers.clone());
            let mut body = Incoming::new(opened, Arc::clone(&core.transport), *terms);
            if !body.may_be_events()? {
                let body = body.whole(core.transport.max_response_bytes())?;
                return Ok((ChatStream::of_whole(core, &Answer { status, headers, body })?, meta));
            }
            let mut stream = ChatStream::new(core, Some(body), headers);
            stream.meta = meta.clone();
            stream.accumulator.expect(answers);
            stream.begin()?;
            Ok((stream, meta))
        })?;
        stream.meta = meta;
        Ok(stream)
    }

    fn new(core: &Arc<Core>, body: Option<Incoming>, headers: Headers) -> ChatStream {
        ChatStream {
            core: Arc::clone(core),
            body,
            decoder: Decoder::new(),
            accumulator: Accumulator::new(),
            ready: VecDeque::new(),
            headers,
            meta: Meta::default(),
            bytes: 0,
            quiet: Duration::ZERO,
            failed: false,
        }
    }

    /// A stream of the one piece that a service sends which answers in one piece all the same.
    fn of_whole(core: &Arc<Core>, answer: &Answer) -> Result<ChatStream> {
        let mut value: Value =
            core.reader.open(answer, |answer| answer.read_chat().and_then(|_| answer.read()))?;
        for choice in value.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(choice) = choice.as_object_mut() {
                let message = choice.remove("message").unwrap_or_default();
                choice.insert("delta".to_owned(), message);
            }
        }
        let mut stream = ChatStream::new(core, None, answer.headers.clone());
        let event = Event { kind: String::new(), data: value.to_string().into_bytes() };
        if let Progress::Chunk(chunk) = stream.read(event, false)? {
            stream.ready.push_back(chunk);
        }
        stream.accumulator.end();
        Ok(stream)
    }

    /// The text of the first answer so far, the pieces that were handed out and the errors notwithstanding.
    pub fn partial(&self) -> &str {
        self.accumulator.partial()
    }

    /// How the call went up to the first piece: `elapsed` is the time to the first token, retries and waits included.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Reads the rest and puts the pieces together: text, thoughts, refusals, tool calls, usage.
    ///
    /// # Errors
    /// What the stream ends with, if that isn't the end of the answer; also if that was told before.
    pub fn into_response(mut self) -> Result<ChatResponse> {
        for chunk in self.by_ref() {
            chunk?;
        }
        if self.failed {
            return Err(self.cut(None));
        }
        let mut response = std::mem::take(&mut self.accumulator).into_response();
        response.meta = self.meta.clone();
        Ok(response)
    }

    /// Reads to the first piece of the answer. What comes before it is kept, but can still be asked for again.
    fn begin(&mut self) -> Result<()> {
        loop {
            match self.pull() {
                Ok(Progress::Chunk(chunk)) => {
                    let first = !chunk.choices.is_empty();
                    self.ready.push_back(chunk);
                    if first || self.ready.len() == MOST_READY {
                        return Ok(());
                    }
                }
                Ok(Progress::Ended) => return Ok(()),
                Ok(Progress::More) => {}
                Err(Error::StreamTruncated { .. }) => {
                    let source = "the stream ended before it began".into();
                    return Err(Error::Transport { answered: true, source });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what has arrived, up to the next event.
    fn pull(&mut self) -> Result<Progress> {
        let Some(body) = &mut self.body else { return Ok(Progress::Ended) };
        if self.core.stop.is_cancelled() {
            return Err(Error::Shutdown);
        }
        let silence = self.core.transport.timeout();
        if self.quiet > silence {
            return Err(Error::Timeout { phase: Phase::Reading, after: silence }); // pings are no content
        }
        let asked = self.core.clock.now();
        let arrived = body.fill()?;
        self.quiet += self.core.clock.now().saturating_duration_since(asked);
        let (length, mut rest) = (arrived.len(), arrived);
        let event = if length == 0 { self.decoder.finish() } else { self.decoder.next(&mut rest) };
        let used = length - rest.len();
        body.consume(used);
        self.bytes += used as u64;
        let event = event.map_err(|long| Error::TooLarge {
            part: if long == TooLong::Line { "line" } else { "event" },
            limit: long.limit() as u64,
        })?;
        let most = self.core.transport.max_response_bytes();
        match event {
            _ if self.bytes > most => Err(Error::TooLarge { part: "body", limit: most }),
            Some(event) => self.read(event, length == 0),
            None if length > 0 => Ok(Progress::More),
            None if self.core.stop.is_cancelled() => Err(Error::Shutdown), // it may look like the end
            None if self.accumulator.is_complete() => {
                self.body = None; // read to its end, so that the connection is kept
                Ok(Progress::Ended)
            }
            None => Err(self.cut(None)),
        }
    }

    /// Makes of an event what it means. `at_end` says that nothing comes after it, so that it may be cut itself.
    fn read(&mut self, event: Event, at_end: bool) -> Result<Progress> {
        match StreamEvent::read(event) {
            Ok(StreamEvent::Chunk(chunk)) => {
                if says_something(&chunk) {
                    self.quiet = Duration::ZERO;
                }
                let too_many = |many: TooMany| Error::TooLarge { part: "parts", limit: many.limit() as u64 };
                self.accumulator.add(&chunk).map_err(too_many)?;
                Ok(Progress::Chunk(chunk))
            }
            Ok(StreamEvent::Done) => {
                self.accumulator.end();
                if let Some(body) = self.body.take() {
                    body.finish(&self.core.stop);
                }
                Ok(Progress::Ended)
            }
            Ok(StreamEvent::Failure(said)) => Err(self.core.reader.failure(&self.headers, said)),
            Ok(StreamEvent::Nothing) => Ok(Progress::More),
            Err((error, _)) if at_end => Err(self.cut(Some(error.into()))),
            Err((error, data)) => {
                let id = self.headers.request_id.as_deref();
                Err(json::unreadable(&self.core.reader.secrets.mask(&data), self.meta.status, id, error))
            }
        }
    }

    /// The error of a stream that ended before its answer did.
    fn cut(&self, source: Option<Source>) -> Error {
        Error::StreamTruncated { received: self.partial().to_owned(), source }
    }
}

impl Iterator for ChatStream {
    type Item = Result<ChatChunk>;

    fn next(&mut self) -> Option<Result<ChatChunk>> {
        if let Some(chunk) = self.ready.pop_front() {
            return Some(Ok(chunk));
        }
        loop {
            let error = match self.pull() {
                Ok(Progress::Chunk(chunk)) => return Some(Ok(chunk)),
                Ok(Progress::More) => continue,
                Ok(Progress::Ended) => return None,
                Err(error) => error,
            };
            self.body = None;
            let error = match error {
                // The answer had said why it ended; only the end of the stream itself is missing.
                Error::Transport { .. }
                | Error::Timeout { .. }
                | Error::Deadline { .. }
                | Error::StreamTruncated { .. }
                    if self.accumulator.is_complete() =>
                {
                    return None;
                }
                Error::Transport { source, .. } => self.cut(Some(source)),
                error => error,
            };
            self.failed = true;
            return Some(Err(error));
        }
    }
}

impl std::iter::FusedIterator for ChatStream {}

/// Whether a chunk brings anything of the answer.
fn says_something(chunk: &ChatChunk) -> bool {
    let full = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
    chunk.usage.is_some()
        || chunk.choices.iter().any(|choice| {
            let delta = &choice.delta;
            choice.finish_reason.is_some()
                || !delta.text().is_empty()
                || full(delta.reasoning())
                || full(delta.refusal.as_deref())
                || !delta.tool_calls.is_empty()
                || delta.function_call.is_some()
        })
}

/// Whether a service refused to tell the usage of a stream, which older ones don't know how to.
pub(crate) fn refuses_usage(error: &Error) -> bool {
    match error.innermost() {
        Error::Api { status: 400 | 422, message, param, body, .. } => {
            let words = [Some(message.as_str()), param.as_deref(), Some(body.as_str())];
            let option = |words: &str| words.contains("stream_options") || words.contains("include_usage");
            words.into_iter().flatten().any(option)
        }
        _ => false,
    }
}

impl fmt::Debug for ChatStream {
    /// Shows what may be logged: not what is said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream")
            .field("meta", &self.meta)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
