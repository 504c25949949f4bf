//! The invariants that hold after each call of a simulation.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::operations::{MODELS, Simulation, since};
use crate::client::event::Event;
use crate::error::{Error, Result};
use crate::http::simulation::answer_text;
use crate::runtime::sync::lock;

/// A call that has ended.
pub(super) struct Call {
    pub(super) number: usize,
    pub(super) is_stream: bool,
    pub(super) outcome: Outcome,
    /// The number of attempts that the result states.
    pub(super) attempts: Option<u32>,
}

/// How a call ended for its caller.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With this whole text.
    Answer(String),
    /// With an error, after this text.
    Failed { error: Error, text: String },
    /// The caller dropped the stream after this text.
    Dropped(String),
}

/// What callers have received so far.
#[derive(Default)]
pub(super) struct Delivered {
    answers: HashSet<usize>,
    keys: HashMap<String, usize>,
    /// The number of requests that were checked.
    requests: usize,
}

impl Outcome {
    pub(super) fn of(result: Result<String>) -> Outcome {
        match result {
            Ok(text) => Outcome::Answer(text),
            Err(error) => Outcome::failed(error, String::new()),
        }
    }

    pub(super) fn failed(error: Error, text: String) -> Outcome {
        Outcome::Failed { error, text }
    }

    fn text(&self) -> &str {
        match self {
            Outcome::Answer(text) | Outcome::Failed { text, .. } | Outcome::Dropped(text) => text,
        }
    }
}

impl Simulation {
    pub(super) fn check_call(&mut self, call: &Call, started: Instant) {
        self.network.note(format_args!("call {}: {:?}", call.number, call.outcome));
        self.check_events(call);
        self.check_time(call, started);
        self.check_idempotency_keys();
        self.check_answers(call);
        self.check_permits();
    }

    /// One end, no more attempts than allowed, and as many as the result states.
    fn check_events(&self, call: &Call) {
        let (number, events) = (call.number, lock(&self.events));
        let count =
            |is_counted: fn(&Event) -> bool| events.iter().filter(|event| is_counted(event)).count() as u32;
        let ends = count(|event| matches!(event, Event::End { .. }));
        if ends != 1 {
            self.network.violated(format_args!("call {number} has {ends} End events"));
        }
        let made = count(|event| matches!(event, Event::Attempt { .. }));
        let most = self.settings.max_attempts(call.is_stream, false);
        if made > most {
            self.network
                .violated(format_args!("call {number} made {made} attempts, and at most {most} are allowed"));
        }
        let stated = match (&call.outcome, call.attempts) {
            (Outcome::Failed { error: error @ Error::GaveUp { .. }, .. }, _) => Some(error.attempts()),
            (_, stated) => stated,
        };
        if let Some(stated) = stated.filter(|stated| *stated != made) {
            self.network.violated(format_args!("call {number} made {made} attempts, and states {stated}"));
        }
    }

    fn check_time(&self, call: &Call, started: Instant) {
        let (number, took) = (call.number, since(&self.network, started));
        let due = self.network.state().due;
        if let Some(due) = due.filter(|due| self.network.now() > *due) {
            let allowed = due.saturating_duration_since(started);
            self.network
                .violated(format_args!("call {number} took {took:?}, and its deadline is {allowed:?}"));
        }
    }

    /// One key a call, the same for all attempts, and another one for each call.
    fn check_idempotency_keys(&mut self) {
        let requests = self.network.state().requests[self.delivered.requests..].to_vec();
        self.delivered.requests += requests.len();
        for request in requests {
            let expects = request.is_post && self.settings.sends_idempotency_keys;
            let call = request.call;
            match request.idempotency_key {
                Some(key) if expects => {
                    let owner = *self.delivered.keys.entry(key).or_insert(call);
                    if owner != call {
                        self.network.violated(format_args!("calls {owner} and {call} have the same key"));
                    }
                    let keys = self.delivered.keys.values().filter(|owner| **owner == call).count();
                    if keys > 1 {
                        self.network.violated(format_args!("call {call} has {keys} idempotency keys"));
                    }
                }
                None if !expects => {}
                key => self.network.violated(format_args!("call {call} has the key {key:?}")),
            }
        }
    }

    /// What was returned was sent whole, once; what was sent whole was returned.
    fn check_answers(&mut self, call: &Call) {
        let (network, number) = (self.network.clone(), call.number);
        let answers = network.state().answers.clone();
        let own = answers.iter().enumerate().filter(|(_, answer)| answer.call == number);
        let text = call.outcome.text();
        let is_of = |index: usize| answer_text(index, number).starts_with(text);
        let source = own.clone().map(|(index, _)| index).find(|index| is_of(*index));
        if source.is_none() && !text.is_empty() {
            network
                .violated(format_args!("call {number} returned text that is of no answer to it: {text:?}"));
        }
        if let (Outcome::Answer(text), Some(index)) = (&call.outcome, source) {
            let answer = &answers[index];
            if *text != answer_text(index, number) || answer.read < answer.content {
                network.violated(format_args!(
                    "call {number} succeeded, but answer {index} was not sent whole: {} of {} bytes",
                    answer.read, answer.content
                ));
            }
            if !self.delivered.answers.insert(index) {
                network.violated(format_args!("answer {index} was returned twice"));
            }
        }
        let flawless: Vec<usize> = own
            .filter(|(_, answer)| answer.is_flawless && answer.read == answer.length)
            .map(|(index, _)| index)
            .collect();
        let has_ended = network.state().halted.is_some() || matches!(call.outcome, Outcome::Dropped(_));
        let is_returned = match flawless[..] {
            [] => true,
            [index] => source == Some(index) && matches!(call.outcome, Outcome::Answer(_)),
            _ => false,
        };
        if !is_returned && !has_ended {
            network.violated(format_args!(
                "call {number} was answered by {flawless:?}, but: {:?}",
                call.outcome
            ));
        }
    }

    fn check_permits(&self) {
        for model in MODELS.into_iter().chain([""]) {
            let snapshot = self.client.handler(model).snapshot();
            if snapshot.in_flight != 0 || snapshot.waiting != 0 {
                self.network.violated(format_args!("{model} keeps a permit: {snapshot:?}"));
            }
        }
    }
}
