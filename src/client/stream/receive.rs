//! Receives a chat completion as JSON or as an event stream, as its first bytes say, not its Content-Type.

use std::sync::Arc;

use crate::api::ChatResponse;
use crate::client::call::CallOptions;
use crate::client::core::Core;
use crate::client::decode::{meta, too_large};
use crate::client::stream::{ChatStream, END_TIME};
use crate::error::{Error, Phase, Result};
use crate::http::body::ResponseBody;
use crate::http::request::HttpRequest;
use crate::http::transport::{HttpResponse, ResponseHead};
use crate::meta::{Attempt, Meta};
use crate::runtime::clock::Clock;
use crate::wire::accumulate::Accumulator;
use crate::wire::sse::is_event_stream;

/// A response in one of its two forms.
pub(super) enum Received {
    /// A JSON document, an HTML page, an empty body, or any response without a success status.
    Document(HttpResponse),
    /// An event stream, none of which has been read.
    Events(Box<ChatStream>),
}

/// A byte order mark, which may precede either form.
const BYTE_ORDER_MARK: [u8; 3] = *b"\xEF\xBB\xBF";

impl ChatStream {
    /// Makes one attempt of a call that isn't streamed. Some gateways send an event stream anyway.
    pub(crate) fn whole(
        core: &Arc<Core>,
        options: &Arc<CallOptions>,
        request: &HttpRequest<'_>,
        choices: u64,
    ) -> Attempt<Box<ChatResponse>> {
        let head = match core.transport.send(request) {
            Ok(head) => head,
            Err(error) => return Err(error).into(),
        };
        if !head.headers.json {
            let meta = meta(head.status, head.headers.clone());
            let received = ChatStream::receive(core, options, head, &meta, choices);
            return Attempt { result: received.and_then(|received| received.assemble(options)), meta };
        }
        // Almost every response is JSON, and reading it at once costs less.
        let response = match core.transport.read_body(head) {
            Ok(response) => response,
            Err(error) => return Err(error).into(),
        };
        if !is_event_stream(&response.body) {
            let result = options.decoder.decode_chat(&response);
            return Attempt { result, meta: response.into_meta() };
        }
        let meta = meta(response.status, response.headers.clone());
        let head = ResponseHead::of(response, request.limits.clone());
        let received = ChatStream::receive(core, options, head, &meta, choices);
        Attempt { result: received.and_then(|received| received.assemble(options)), meta }
    }

    /// A stream with a single chunk, for a service that sends the whole answer at once.
    pub(super) fn of_whole(
        core: &Arc<Core>,
        options: &Arc<CallOptions>,
        response: &HttpResponse,
    ) -> Result<ChatStream> {
        let mut chunk = options.decoder.decode_chunk(response)?;
        let mut stream = ChatStream::new(core, options, None, response.headers.clone());
        stream.accumulator.add(&mut chunk).map_err(too_large)?;
        stream.accumulator.end();
        stream.ready.push_back(chunk);
        Ok(stream)
    }

    /// Reads as much of a response as determines its form.
    pub(super) fn receive(
        core: &Arc<Core>,
        options: &Arc<CallOptions>,
        head: ResponseHead,
        meta: &Meta,
        choices: u64,
    ) -> Result<Received> {
        if !(200..300).contains(&head.status) || head.headers.content_encoding.is_some() {
            return core.transport.read_body(head).map(Received::Document);
        }
        let (status, headers) = (head.status, head.headers.clone());
        let body = ResponseBody::new(head, Arc::clone(&core.transport));
        let mut stream = ChatStream::new(core, options, Some(body), headers);
        stream.meta = meta.clone();
        stream.accumulator.expect(choices);
        // No line of an event stream begins like a JSON document or an HTML page.
        let is_document = matches!(stream.first_byte()?, None | Some(b'{' | b'[' | b'<'));
        match stream.body.take_if(|_| is_document) {
            Some(body) => {
                let body = body.read_to_end()?;
                if let Some(ended) = stream.ended() {
                    return Err(ended); // that may have truncated the body
                }
                Ok(Received::Document(HttpResponse { status, headers: stream.headers, body }))
            }
            None => Ok(Received::Events(Box::new(stream))),
        }
    }

    /// Waits until bytes of the body are available. At the end of the body there are none.
    pub(super) fn wait(&mut self) -> Result<()> {
        if let Some(ended) = self.ended() {
            return Err(ended);
        }
        let Some(body) = &mut self.body else { return Ok(()) };
        if !body.buffered().is_empty() {
            return Ok(()); // without reading the clock, which costs more than decoding a few events
        }
        let timeout = body.timeout();
        // Until there is content, the call still waits for the model, whatever else arrives.
        let phase = if self.has_content { Phase::Reading } else { Phase::Waiting };
        if self.idle > timeout || self.ending.is_some_and(|waited| waited >= END_TIME) {
            return Err(Error::timeout(phase, timeout));
        }
        let asked = self.core.clock.now();
        if let Some(place) = &self.place {
            place.read(asked);
        }
        let filled = match &mut self.ending {
            Some(waited) => {
                let started = Clock::system().now();
                let filled = body.fill_within(END_TIME.saturating_sub(*waited));
                *waited += Clock::system().now().saturating_duration_since(started);
                filled
            }
            None => body.fill(),
        };
        filled.map_err(|error| match error {
            Error::Timeout { phase: Phase::Reading, after, .. } => Error::timeout(phase, after),
            error => error,
        })?;
        self.idle += self.core.clock.now().saturating_duration_since(asked);
        Ok(())
    }

    /// Skips a byte order mark and blank lines, over any number of packets, and returns the byte that follows, or
    /// `None` at the end of the body.
    fn first_byte(&mut self) -> Result<Option<u8>> {
        let limit = self.core.transport.max_response_bytes();
        let mut mark = BYTE_ORDER_MARK.into_iter().peekable();
        loop {
            self.wait()?;
            let Some(body) = &mut self.body else { return Ok(None) };
            let mut is_skipped = |byte: &&u8| mark.next_if_eq(*byte).is_some() || byte.is_ascii_whitespace();
            let arrived = body.buffered();
            let skipped = arrived.iter().take_while(&mut is_skipped).count();
            let (is_end, next) = (arrived.is_empty(), arrived.get(skipped).copied());
            body.consume(skipped);
            self.bytes += skipped as u64;
            if is_end || next.is_some() {
                return Ok(next);
            }
            if self.bytes > limit {
                return Err(Error::too_large("body", limit));
            }
        }
    }

    /// Reads a whole answer without returning chunks, so that a failure can be retried.
    fn assemble(mut self) -> Result<ChatResponse> {
        while let Some(chunk) = self.advance() {
            chunk.map_err(|error| match error {
                Error::StreamTruncated { .. } if self.decoder.begins_stray() => {
                    self.options.decoder.neither_json_nor_events(&self.meta, self.decoder.stray_line())
                }
                error => error,
            })?;
        }
        Ok(std::mem::replace(&mut self.accumulator, Accumulator::new()).into_response())
    }
}

impl Received {
    /// Decodes the whole answer.
    fn assemble(self, options: &CallOptions) -> Result<Box<ChatResponse>> {
        match self {
            Received::Document(response) => options.decoder.decode_chat(&response),
            Received::Events(stream) => stream.assemble().map(Box::new),
        }
    }
}
