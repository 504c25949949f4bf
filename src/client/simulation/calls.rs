//! The single calls of a simulation, and how their results are used.

use super::invariants::{Call, Outcome};
use super::operations::Simulation;
use crate::api::{ChatRequest, EmbeddingRequest};
use crate::client::Client;
use crate::client::stream::ChatStream;
use crate::error::Result;
use crate::http::simulation::{Network, answer_text};

/// How a stream is read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    ToEnd,
    Assembled,
    DroppedAfter(usize),
    /// Other calls are made while it is read.
    Held,
}

/// What `get` returns.
#[derive(serde::Deserialize)]
struct Thing {
    text: String,
}

impl Simulation {
    pub(super) fn chat(&mut self, client: &Client, number: usize, model: &str) -> Call {
        self.network.note(format_args!("call {number}: chat, {model}"));
        let prompt = self.prompt(number);
        chat(&self.network, client, number, model, &prompt)
    }

    /// Makes a streamed call. `None` if the stream is held: its end is checked later.
    pub(super) fn stream(&mut self, client: &Client, number: usize, model: &str) -> Option<Call> {
        let reading = match self.random.u8(0..6) {
            0 => Reading::DroppedAfter(self.random.usize(0..6)),
            1 => Reading::Assembled,
            2 | 3 => Reading::Held,
            _ => Reading::ToEnd,
        };
        self.network.note(format_args!("call {number}: stream, {reading:?}, {model}"));
        let opened = client.chat_stream(&ChatRequest::new(model).user(self.prompt(number)));
        let stream = match opened {
            Err(error) => return Some(self.ended(number, true, None, Outcome::of(Err(error)))),
            Ok(stream) => stream,
        };
        let attempts = Some(stream.meta().attempts);
        Some(match reading {
            Reading::Held => {
                self.hold_stream(number, model, stream);
                return None;
            }
            Reading::Assembled => {
                let result = stream.into_response().map(|response| response.text().to_owned());
                self.ended(number, true, None, Outcome::of(result)) // there may be more attempts
            }
            Reading::ToEnd => self.ended(number, true, attempts, read_to_end(stream, String::new())),
            Reading::DroppedAfter(chunks) => {
                let read: Vec<_> = stream.take(chunks).collect();
                let text = read.iter().flatten().map(|chunk| chunk.text()).collect();
                self.ended(number, true, attempts, Outcome::Dropped(text))
            }
        })
    }

    pub(super) fn embeddings(&mut self, client: &Client, number: usize, model: &str) -> Call {
        let texts = self.random.usize(1..4);
        self.network.note(format_args!("call {number}: embeddings of {texts}"));
        let request = EmbeddingRequest::new(model, vec![self.prompt(number); texts]);
        let result = client.embeddings(&request);
        let attempts = result.as_ref().ok().map(|response| response.meta().attempts);
        let outcome = Outcome::of(result.map(|response| {
            let numbers: Vec<_> = response.data.iter().map(|item| item.embedding[0]).collect();
            answer_text(numbers[0] as usize, number)
        }));
        self.ended(number, false, attempts, outcome)
    }

    pub(super) fn models(&mut self, client: &Client, number: usize) -> Call {
        self.network.note(format_args!("call {number}: models"));
        let outcome = Outcome::of(client.models().map(|models| models[0].id.clone()));
        self.ended(number, false, None, outcome)
    }

    pub(super) fn get(&mut self, client: &Client, number: usize) -> Call {
        self.network.note(format_args!("call {number}: get"));
        let result: Result<Thing> = client.get(&format!("/things/call-{number}"));
        let outcome = Outcome::of(result.map(|thing| thing.text));
        self.ended(number, false, None, outcome)
    }

    pub(super) fn ended(
        &self,
        number: usize,
        is_stream: bool,
        attempts: Option<u32>,
        outcome: Outcome,
    ) -> Call {
        Call::ended(&self.network, number, is_stream, attempts, outcome)
    }

    /// A prompt that names the call. Long ones are sent in several parts.
    pub(super) fn prompt(&mut self, number: usize) -> String {
        let length = if self.random.u8(0..16) == 0 { 12_000 } else { 20 };
        format!("call-{number} {}", "x".repeat(length))
    }
}

/// Makes a chat call.
pub(super) fn chat(network: &Network, client: &Client, number: usize, model: &str, prompt: &str) -> Call {
    let result = client.chat(&ChatRequest::new(model).user(prompt));
    let attempts = result.as_ref().ok().map(|response| response.meta().attempts);
    let outcome = Outcome::of(result.map(|response| response.text().to_owned()));
    Call::ended(network, number, false, attempts, outcome)
}

/// Reads the rest of a stream after this text.
pub(super) fn read_to_end(
    stream: impl Iterator<Item = <ChatStream as Iterator>::Item>,
    mut text: String,
) -> Outcome {
    let mut failed = None;
    for chunk in stream {
        match chunk {
            Ok(chunk) => text += chunk.text(),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Outcome::Answer(text.clone()), |error| Outcome::failed(error, text))
}
