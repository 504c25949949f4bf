//! Streamed chat completions, with detection of truncated ones.

mod iterator;
mod receive;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::adaptive::StreamPlace;
use crate::api::{ChatChunk, ChatResponse};
use crate::client::call::{Call, CallOptions, CallSpec};
use crate::client::core::Core;
use crate::client::decode::{meta, too_large, warn_of_omitted};
use crate::client::report::StreamReport;
use crate::client::stream::receive::Received;
use crate::error::{Error, Result, Source, into_source};
use crate::http::body::ResponseBody;
use crate::http::transport::ResponseHead;
use crate::json::budget::Budget;
use crate::meta::{Attempt, Meta};
use crate::wire::accumulate::Accumulator;
use crate::wire::headers::Headers;
use crate::wire::sse::{Decoder, Event};
use crate::wire::stream_event::StreamEvent;

/// The chunks of an answer, as they arrive. Created by [`Client::chat_stream`](crate::Client::chat_stream).
///
/// It ends with `None` only if the service said that the answer is complete; a truncated stream ends with
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
    options: Arc<CallOptions>,
    /// The call that opened the stream, as long as no chunk was returned, so that it can be retried.
    call: Option<Box<Call<'static>>>,
    /// The number of choices requested.
    choices: u64,
    /// `None` once the stream has ended.
    body: Option<ResponseBody>,
    decoder: Decoder,
    accumulator: Accumulator,
    /// Chunks read before the stream was returned, because a retry is possible until the first one.
    ready: VecDeque<ChatChunk>,
    headers: Headers,
    meta: Meta,
    /// Bytes read.
    bytes: u64,
    /// The time spent waiting for the server since the last content. Pings and empty chunks are not content, and the
    /// time that the consumer takes doesn't count.
    idle: Duration,
    /// A chunk with content arrived.
    has_content: bool,
    /// Once all choices have their finish reason: the time spent waiting for usage and `[DONE]` since the last content.
    ending: Option<Duration>,
    /// A chunk was returned to the caller.
    delivered: bool,
    /// The error that ended it, after that was returned.
    failed: Option<Error>,
    /// The place of the call among those in flight; `None` before the stream is opened and after the end.
    place: Option<StreamPlace>,
    /// Reports the end of the call; `None` before the stream is opened and after the end.
    report: Option<Box<StreamReport>>,
}

/// How long to wait for the end of a stream once all choices have their finish reason: services send usage and `[DONE]`
/// at once, but some keep the connection open. The time that the consumer takes doesn't count.
const END_TIME: Duration = Duration::from_secs(1);

/// The maximum number of chunks buffered before the first one with content: services send one about the prompt, and one
/// with the role.
const MAX_READY: usize = 64;

/// The number of bytes after which no further chunk is buffered: the memory limit applies to each chunk, not to their
/// sum.
const MAX_READY_BYTES: u64 = 64 * 1024;

impl ChatStream {
    /// Makes a streamed call, up to the first chunk with content. `choices` is the number requested.
    pub(crate) fn open(core: &Arc<Core>, spec: CallSpec<'_>, choices: u64) -> Result<ChatStream> {
        let mut call = core.begin(spec);
        let mut report = Box::new(StreamReport::new(core, call.name(), call.started()));
        let stream = ChatStream::make(core, &mut call, None, choices, &mut report)?;
        let call = Some(Box::new(call.into_owned()));
        Ok(ChatStream { call, choices, report: Some(report), ..stream })
    }

    /// Makes the attempts of a call. `failed` is the failure of the stream that the last attempt had opened, if any.
    fn make(
        core: &Arc<Core>,
        call: &mut Call<'_>,
        failed: Option<Error>,
        choices: u64,
        report: &mut StreamReport,
    ) -> Result<ChatStream> {
        let options = Arc::clone(call.options());
        let Attempt { result, meta } = core.run(call, failed, |request| match core.transport.send(request) {
            Ok(head) => {
                let meta = meta(head.status, head.headers.clone());
                Attempt { result: ChatStream::start(core, &options, head, &meta, choices), meta }
            }
            Err(error) => Err(error).into(),
        });
        report.opened(&meta, result.as_ref().map(ChatStream::has_finished));
        result.map(|stream| ChatStream { meta, ..stream })
    }

    /// Reads a response up to its first chunk.
    fn start(
        core: &Arc<Core>,
        options: &Arc<CallOptions>,
        head: ResponseHead,
        meta: &Meta,
        choices: u64,
    ) -> Result<ChatStream> {
        match ChatStream::receive(core, options, head, meta, choices)? {
            Received::Document(response) => ChatStream::of_whole(core, options, &response),
            Received::Events(mut stream) => {
                stream.read_first_chunk()?;
                Ok(*stream)
            }
        }
    }

    fn new(
        core: &Arc<Core>,
        options: &Arc<CallOptions>,
        body: Option<ResponseBody>,
        headers: Headers,
    ) -> ChatStream {
        ChatStream {
            core: Arc::clone(core),
            options: Arc::clone(options),
            call: None,
            choices: 1,
            body,
            decoder: Decoder::new(),
            accumulator: Accumulator::new(),
            ready: VecDeque::new(),
            headers,
            meta: Meta::default(),
            bytes: 0,
            idle: Duration::ZERO,
            has_content: false,
            ending: None,
            delivered: false,
            failed: None,
            place: None,
            report: None,
        }
    }

    /// The text of the first choice so far, from the chunks that were returned; also available after an error.
    pub fn partial(&self) -> &str {
        self.accumulator.partial()
    }

    /// Metadata of the call up to the first chunk: `elapsed` is the time to the first token, including retries and
    /// waits.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Reads the rest and assembles the answer: text, reasoning, refusals, tool calls, usage.
    ///
    /// # Errors
    /// The error that the stream ends with, if any; also if it was returned before.
    ///
    /// If no chunk was taken from the stream, a failure is retried like one before the first chunk.
    pub fn into_response(mut self) -> Result<ChatResponse> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut report = self.report.take();
        loop {
            let mut call = self.call.take();
            let Some(error) = std::iter::from_fn(|| self.advance()).find_map(Result::err) else { break };
            let (Some(retried), Some(report)) = (call.as_mut(), &mut report) else {
                self.report = report;
                let error = self.of_call(error);
                self.report_end(Some(&error));
                return Err(error);
            };
            let choices = self.choices;
            let again = ChatStream::make(&self.core, retried, Some(error), choices, report)?;
            self = ChatStream { call, choices, ..again };
        }
        self.report = report;
        self.report_end(None);
        let accumulator = std::mem::replace(&mut self.accumulator, Accumulator::new());
        Ok(accumulator.into_response().with_meta(self.meta.clone()))
    }

    /// Buffers chunks up to the first one with content, until which a retry is possible.
    fn read_first_chunk(&mut self) -> Result<()> {
        while let Some(chunk) = self.next_chunk()? {
            self.ready.push_back(chunk);
            let is_full = self.ready.len() == MAX_READY || self.bytes >= MAX_READY_BYTES;
            if self.has_content || is_full {
                break;
            }
        }
        Ok(())
    }

    /// The next chunk, or the error that ends the stream.
    fn advance(&mut self) -> Option<Result<ChatChunk>> {
        if let Some(chunk) = self.ready.pop_front() {
            return Some(Ok(chunk));
        }
        let error = match self.next_chunk() {
            Ok(Some(chunk)) => return Some(Ok(chunk)),
            Ok(None) => {
                self.report_end(None);
                return None;
            }
            Err(error) => error,
        };
        self.body = None;
        let error = match error {
            // The answer is complete; only the end of the stream itself is missing or unreadable.
            Error::Transport { .. }
            | Error::Timeout { .. }
            | Error::Deadline { .. }
            | Error::Decode { .. }
            | Error::StreamTruncated { .. }
                if self.accumulator.is_complete() =>
            {
                self.report_end(None);
                return None;
            }
            Error::Transport { source, .. } => self.truncated(Some(source)),
            error => error,
        };
        let error = self.of_call(error);
        self.report_end(Some(&error));
        self.failed = Some(error.clone());
        Some(Err(error))
    }

    /// The next chunk; `None` at the end of the answer.
    fn next_chunk(&mut self) -> Result<Option<ChatChunk>> {
        while self.body.is_some() {
            let Some((event, at_end)) = self.next_event()? else { continue };
            let budget = Budget::of_chunk(&event.data);
            let mut decoded = StreamEvent::decode(event, &budget);
            // In place: moving the chunk to a variable first costs 80 instructions.
            if let Ok(StreamEvent::Chunk(chunk)) = &mut decoded {
                warn_of_omitted(&budget);
                if chunk.has_content() {
                    (self.has_content, self.idle) = (true, Duration::ZERO);
                }
                self.accumulator.add(chunk).map_err(too_large)?;
                // Some gateways send the finish reason with each chunk, so content delays the end.
                if self.accumulator.is_complete() && (self.ending.is_none() || chunk.has_delta()) {
                    self.ending = Some(Duration::ZERO);
                    self.report.iter_mut().for_each(|report| report.finished());
                }
            }
            match decoded {
                Ok(StreamEvent::Chunk(chunk)) => return Ok(Some(chunk)),
                Ok(StreamEvent::Done) => {
                    let rest = self.accumulator.end();
                    if let Some(body) = self.body.take() {
                        body.drain();
                    }
                    if !self.has_content {
                        let line = self.decoder.stray_line();
                        return Err(self.options.decoder.no_answer_in_stream(&self.meta, line));
                    }
                    if rest.is_some() {
                        return Ok(rest);
                    }
                }
                Ok(StreamEvent::Failure(body)) => {
                    return Err(self.options.decoder.stream_error(&self.headers, body));
                }
                Ok(StreamEvent::Ignored) => {}
                Err((error, data)) => {
                    return Err(match budget.excess() {
                        Some(excess) => too_large(excess),
                        None if at_end => {
                            // Text that doesn't begin like JSON says more than the parser's error.
                            let is_json = matches!(data.trim_ascii_start(), [b'{' | b'[', ..]);
                            let cause = if is_json {
                                into_source(error)
                            } else {
                                self.options.decoder.stray_text(&data)
                            };
                            self.truncated(Some(cause))
                        }
                        None => self.options.decoder.unreadable(&self.meta, &data, error),
                    });
                }
            }
        }
        Ok(None)
    }

    /// Reads the next event from what has arrived, and whether the stream ended there, so that the event itself may be
    /// truncated. `None` if no event is complete yet, or none follows.
    fn next_event(&mut self) -> Result<Option<(Event, bool)>> {
        self.wait()?;
        let Some(body) = &mut self.body else { return Ok(None) };
        let (length, mut rest) = (body.buffered().len(), body.buffered());
        let event = if length == 0 { self.decoder.finish() } else { self.decoder.next(&mut rest) };
        let used = length - rest.len();
        body.consume(used);
        self.bytes += used as u64;
        let event = event.map_err(|long| Error::too_large(long.part(), long.limit() as u64))?;
        let limit = self.core.transport.max_response_bytes();
        match event {
            _ if self.bytes > limit => Err(Error::too_large("body", limit)),
            Some(event) => Ok(Some((event, length == 0))),
            None if length > 0 => Ok(None),
            None if self.accumulator.is_complete() => {
                self.body = None; // read to its end, so that the connection can be reused
                Ok(None)
            }
            None => Err(self.ended().unwrap_or_else(|| {
                let line = Some(self.decoder.stray_line()).filter(|line| !line.is_empty());
                self.truncated(line.map(|line| self.options.decoder.stray_text(line)))
            })),
        }
    }

    /// The error of a stream that was shut down or cancelled.
    fn ended(&self) -> Option<Error> {
        let cancelled = || {
            let ends = self.options.cancellation.as_ref();
            ends.is_some_and(|ends| ends.user.is_cancelled()).then_some(Error::Cancelled)
        };
        self.core.shutdown.is_cancelled().then_some(Error::Shutdown).or_else(cancelled)
    }

    /// The error of a stream that ended before its answer did.
    fn truncated(&self, source: Option<Source>) -> Error {
        Error::StreamTruncated {
            received: self.partial().to_owned(),
            delivered: self.delivered,
            source,
            target: None,
        }
    }
}
