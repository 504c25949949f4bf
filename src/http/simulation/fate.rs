//! What happens to each exchange, drawn at random: faults of the network, and answers of a service that refuses, fails,
//! delays, cuts and states wrong lengths.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::answers::{Asked, Body, Framing, StreamParts, document, events, framed, read_request};
use super::{Answer, Request, State};

/// What a look-up finds.
pub(super) enum LookUpFate {
    Found,
    NotFound,
}

/// How a connect ends.
pub(super) enum ConnectFate {
    Connects(Duration),
    Refused,
    Hangs,
}

/// What becomes of the bytes of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum WriteFate {
    Accepts,
    /// The connection breaks when more than this many bytes are sent.
    Breaks(usize),
    /// No more than this many bytes are accepted.
    Stalls(usize),
    /// The service answers after this many bytes, and reads no more.
    AnswersEarly(usize),
}

/// How the connection continues after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    KeepsAlive,
    Closes,
    Resets,
    Hangs,
}

/// A part of a response: the bytes up to `end` arrive after this time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) end: usize,
    pub(super) after: Duration,
}

/// A response and its timing.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
    /// The length of the head.
    pub(super) head: usize,
    pub(super) parts: Vec<Part>,
    pub(super) end: End,
    /// The number of the answer, if it is a success.
    pub(super) answer: Option<usize>,
    pub(super) description: String,
}

impl State {
    /// Whether something goes wrong here; `share` of all faults are of this kind.
    fn goes_wrong(&mut self, share: f64) -> bool {
        let faults = self.weather.faults * share;
        self.random.f64() < faults
    }
}

impl LookUpFate {
    pub(super) fn draw(state: &mut State) -> LookUpFate {
        if state.goes_wrong(0.03) { LookUpFate::NotFound } else { LookUpFate::Found }
    }
}

impl ConnectFate {
    pub(super) fn draw(state: &mut State) -> ConnectFate {
        if !state.goes_wrong(0.2) {
            return ConnectFate::Connects(Duration::from_millis(state.random.u64(0..50)));
        }
        match state.random.u8(0..4) {
            0 => ConnectFate::Hangs,
            1 => ConnectFate::Connects(Duration::from_secs(state.random.u64(1..20))),
            _ => ConnectFate::Refused,
        }
    }
}

impl WriteFate {
    pub(super) fn draw(state: &mut State) -> WriteFate {
        if !state.goes_wrong(0.15) {
            return WriteFate::Accepts;
        }
        let at = state.random.usize(0..2000);
        match state.random.u8(0..3) {
            0 => WriteFate::Breaks(at),
            1 => WriteFate::Stalls(at),
            _ => WriteFate::AnswersEarly(at),
        }
    }
}

/// The error statuses of a faulty service.
const ERRORS: [u16; 14] = [400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 502, 503, 504, 520];
/// The statuses of a service that refuses for the rate or the load.
const REFUSALS: [u16; 4] = [429, 429, 503, 529];

/// Header fields about limits and retries, as services send them, wrong and unreadable ones included.
const ADVICE: [&str; 14] = [
    "retry-after: 0\r\n",
    "retry-after: 1\r\n",
    "retry-after: 7\r\n",
    "retry-after: 90\r\n",
    "retry-after: 86400\r\n",
    "retry-after: 0.25\r\n",
    "retry-after: soon\r\n",
    "retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n",
    "retry-after-ms: 1500\r\n",
    "x-should-retry: true\r\n",
    "x-should-retry: false\r\n",
    "x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 30s\r\n",
    "x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\nx-ratelimit-reset-requests: 1s\r\n",
    "x-ratelimit-limit-tokens: 9\r\nx-ratelimit-remaining-tokens: -5\r\nx-ratelimit-reset-tokens: 99d\r\n",
];

/// The bodies of errors.
const ERROR_BODIES: [&str; 5] = [
    r#"{"error": {"message": "it failed", "type": "server_error", "code": null}}"#,
    r#"{"error": {"message": "you exceeded your quota", "code": "insufficient_quota"}}"#,
    "<html><body>Bad Gateway</body></html>",
    "",
    r#"{"error": {"mess"#,
];

/// What makes a stream fall back to a request without its usage.
const USAGE_REFUSED: &str =
    r#"{"error": {"message": "unknown field stream_options", "param": "stream_options"}}"#;

/// Bodies with a success status that hold no answer.
const EMPTY_ANSWERS: [&str; 7] = [
    "",
    r#"{"choices": []}"#,
    r#"{"error": {"message": "overloaded", "code": 503}}"#,
    r#"{"error": {"message": "slow down", "code": "429"}}"#,
    "<html><body>Please log in</body></html>",
    "data: [DONE]\n\n",
    r#"{"object": "list"}"#,
];

impl Response {
    /// The service's response to a request, of which it may have read only the beginning.
    pub(super) fn draw(state: &mut State, request: &[u8], is_early: bool) -> Response {
        let (asked, named) = read_request(request);
        // The beginning of a request may not name its call yet.
        let call = if is_early { named } else { named.or(Some(state.current.call)) };
        let text = String::from_utf8_lossy(request);
        let key = text.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).map(str::to_owned);
        state.requests.push(Request { call, idempotency_key: key, is_post: text.starts_with("POST") });
        let refuses = state.goes_wrong(state.weather.refusals);
        let fails = is_early || state.goes_wrong(0.25);
        let is_stale = state.goes_wrong(0.08);
        let refuses_usage = state.weather.refuses_usage && asked == Asked::Stream { with_usage: true };
        let mut response = match () {
            () if is_stale => stale(&mut state.random),
            () if refuses || fails => error(&mut state.random, refuses),
            () if refuses_usage => usage_refused(&mut state.random),
            () if state.goes_wrong(0.08) => empty(&mut state.random),
            () => success(state, &asked, call.unwrap_or(state.current.call)),
        };
        if is_early {
            response.end = if state.random.bool() { End::Resets } else { End::Closes };
        }
        response.set_times(state);
        if state.goes_wrong(0.25) {
            response.cut(state);
        }
        response
    }

    fn of(description: String, head: &str, body: &Body, framing: Framing, stated: usize) -> Response {
        let (bytes, head, _) = framed(head, body, framing, stated);
        let end = if framing == Framing::UntilClose { End::Closes } else { End::KeepsAlive };
        Response { bytes, head, parts: Vec::new(), end, answer: None, description }
    }

    /// Sends the response in a few parts, after a time.
    fn set_times(&mut self, state: &mut State) {
        let random = &mut state.random;
        let latency = state.weather.latency.mul_f64(random.f64());
        let mut after = latency;
        let length = self.bytes.len();
        let mut ends: Vec<usize> = (0..random.usize(0..4)).map(|_| random.usize(0..=length)).collect();
        ends.push(length);
        ends.sort_unstable();
        ends.dedup(); // a close comes with the last bytes
        let is_slow = random.f64() < state.weather.faults * 0.3;
        for end in ends {
            self.parts.push(Part { end, after });
            let pause = if is_slow { random.u64(0..90_000) } else { random.u64(0..300) };
            after += Duration::from_millis(pause);
        }
    }

    /// Ends the response before its end.
    fn cut(&mut self, state: &mut State) {
        let at = state.random.usize(0..=self.bytes.len());
        self.bytes.truncate(at);
        self.parts.iter_mut().for_each(|part| part.end = part.end.min(at));
        self.end = match state.random.u8(0..3) {
            0 => End::Closes,
            1 => End::Resets,
            _ => End::Hangs,
        };
        self.description += &format!(", cut at {at} ({:?})", self.end);
        if let Some(answer) = self.answer {
            state.answers[answer].is_flawless = false;
        }
    }
}

/// A connection that the service had closed: it ends without an answer.
fn stale(random: &mut Rng) -> Response {
    let end = if random.bool() { End::Resets } else { End::Closes };
    let description = format!("no answer ({end:?})");
    Response { bytes: Vec::new(), head: 0, parts: Vec::new(), end, answer: None, description }
}

fn error(random: &mut Rng, refuses: bool) -> Response {
    let status = *random.choice(if refuses { &REFUSALS[..] } else { &ERRORS[..] }).unwrap_or(&500);
    let mut head = format!("HTTP/1.1 {status} Error\r\n");
    for _ in 0..random.usize(0..3) {
        head += random.choice(ADVICE).unwrap_or_default();
    }
    let body = *random.choice(&ERROR_BODIES).unwrap_or(&"");
    let description = format!("{} {body:.40}", head.trim_end().replace("\r\n", ", "));
    let body = Body { bytes: body.into(), content: 0 };
    Response::of(description, &head, &body, framing(random), body.bytes.len())
}

/// The refusal of a request for the usage of a stream.
fn usage_refused(random: &mut Rng) -> Response {
    let body = Body { bytes: USAGE_REFUSED.into(), content: 0 };
    let head = "HTTP/1.1 400 Bad Request\r\n";
    Response::of("400 for stream_options".to_owned(), head, &body, framing(random), body.bytes.len())
}

/// A success without an answer.
fn empty(random: &mut Rng) -> Response {
    let body = *random.choice(&EMPTY_ANSWERS).unwrap_or(&"");
    let description = format!("200 without an answer: {body:.40}");
    let body = Body { bytes: body.into(), content: 0 };
    Response::of(description, "HTTP/1.1 200 OK\r\n", &body, framing(random), body.bytes.len())
}

fn framing(random: &mut Rng) -> Framing {
    *random
        .choice(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::UntilClose])
        .unwrap_or(&Framing::Length)
}

/// An answer, possibly with something wrong in it.
fn success(state: &mut State, asked: &Asked, call: usize) -> Response {
    let number = state.answers.len();
    let is_odd = state.goes_wrong(0.2);
    let random = &mut state.random;
    // Gateways stream what wasn't to be streamed, and the other way round.
    let is_chat = matches!(asked, Asked::Chat | Asked::Stream { .. });
    let streams = is_chat && matches!(asked, Asked::Stream { .. }) != (random.u8(0..12) == 0);
    let mut is_flawless = true;
    let body = if streams {
        let mut parts = StreamParts {
            role: random.bool(),
            pings: random.bool(),
            finish_reason: random.u8(0..8) > 0,
            usage: *asked == Asked::Stream { with_usage: true },
            done: random.u8(0..8) > 0,
            error_after: None,
        };
        // Only a fault leaves out both.
        parts.done |= !is_odd && !parts.finish_reason;
        if is_odd && random.bool() {
            parts.error_after = Some(random.usize(0..4));
        }
        is_flawless = parts.error_after.is_none() && (parts.finish_reason || parts.done);
        events(parts, number, call)
    } else {
        document(asked, number, call)
    };
    let framing = framing(random);
    let mut stated = body.bytes.len();
    if is_odd && framing == Framing::Length && random.bool() {
        stated = random.usize(0..2 * stated);
        is_flawless &= stated == body.bytes.len();
    }
    let kind = if streams { "text/event-stream" } else { "application/json" };
    let interim = if is_odd && random.bool() { "HTTP/1.1 103 Early Hints\r\n\r\n" } else { "" };
    let head = format!("{interim}HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n");
    let description = format!("200, answer {number} to call {call}, {kind}, {framing:?} {stated}");
    let mut response = Response::of(description, &head, &body, framing, stated);
    let (bytes, _, content) = framed(&head, &body, framing, stated);
    state.answers.push(Answer { call, length: bytes.len(), content, is_flawless, read: 0 });
    response.answer = Some(number);
    response
}

/// A response on its way.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) response: Response,
    pub(super) since: Instant,
    pub(super) read: usize,
    pub(super) head_at: Option<Instant>,
}

impl Arriving {
    /// When something more arrives: bytes, or the end of the connection.
    pub(super) fn next(&self) -> Option<Instant> {
        let Response { parts, end, bytes, .. } = &self.response;
        let part = parts.iter().find(|part| part.end > self.read);
        match part {
            Some(part) => self.since.checked_add(part.after),
            None if matches!(end, End::Hangs | End::KeepsAlive) => None,
            None => {
                debug_assert_eq!(self.read, bytes.len());
                self.since.checked_add(parts.last().map_or(Duration::ZERO, |part| part.after))
            }
        }
    }

    /// The bytes that have arrived and were not read.
    pub(super) fn arrived(&self, now: Instant) -> &[u8] {
        let since = now.saturating_duration_since(self.since);
        let arrived = self.response.parts.iter().take_while(|part| part.after <= since).last();
        let end = arrived.map_or(0, |part| part.end);
        &self.response.bytes[self.read..end.max(self.read)]
    }
}
