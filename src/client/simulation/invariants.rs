//! The invariants that hold after each call of a simulation.

use std::collections::{HashMap, HashSet};

use super::operations::{MODELS, Simulation};
use super::overlap::Open;
use super::reports::Report;
use crate::error::{Error, Result};
use crate::http::simulation::{Network, answer_text};
use crate::runtime::sync::lock;

/// A call that has ended.
pub(super) struct Call {
    pub(super) number: usize,
    pub(super) is_stream: bool,
    pub(super) outcome: Outcome,
    /// The number of attempts that the result states.
    pub(super) attempts: Option<u32>,
    /// It, or the client, was ended by its caller.
    pub(super) was_halted: bool,
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

impl Call {
    /// A call that ends now.
    pub(super) fn ended(
        network: &Network,
        number: usize,
        is_stream: bool,
        attempts: Option<u32>,
        outcome: Outcome,
    ) -> Call {
        check_time(network);
        let was_halted = network.state().halted().is_some();
        Call { number, is_stream, outcome, attempts, was_halted }
    }
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
    pub(super) fn check_call(&mut self, call: &Call) {
        let reports = lock(&self.reports).take(call.number);
        if reports.len() != 1 {
            self.network.violated(format_args!("call {} has events of {} calls", call.number, reports.len()));
        }
        for report in &reports {
            self.check_attempts(call, report);
        }
        self.check_result(call);
        self.check_permits();
    }

    /// Checks a batch whose items were `taken`, of `count`: all of them, if it came `to_end`.
    pub(super) fn check_batch(&mut self, number: usize, count: usize, taken: &[Call], to_end: bool) {
        let reports = lock(&self.reports).take(number);
        let most = self.settings.max_attempts(false, true);
        for report in &reports {
            if report.ends != 1 || report.attempts > most {
                let Report { attempts, ends, .. } = report;
                self.network.violated(format_args!(
                    "a call of batch {number} made {attempts} attempts, of {most}, and ended {ends} times"
                ));
            }
        }
        let was_halted = taken.iter().any(|call| call.was_halted) || self.network.state().halted().is_some();
        let begun = if was_halted { reports.len() } else { count };
        if to_end && (taken.len() != begun || reports.len() != begun) {
            self.network.violated(format_args!(
                "batch {number} returned {} items and reported {} calls of {begun}",
                taken.len(),
                reports.len()
            ));
        }
        let numbers: HashSet<usize> = taken.iter().map(|call| call.number).collect();
        let is_of = |call: &usize| (number..number + count).contains(call);
        if numbers.len() != taken.len() || !numbers.iter().all(is_of) {
            self.network.violated(format_args!("batch {number} returned an item twice, or another one's"));
        }
        for call in taken {
            self.check_result(call);
        }
        self.check_permits();
    }

    fn check_result(&mut self, call: &Call) {
        self.network.note(format_args!("call {}: {:?}", call.number, call.outcome));
        self.check_idempotency_keys();
        self.check_answers(call);
    }

    /// One end, no more attempts than allowed, and as many as the result states.
    fn check_attempts(&self, call: &Call, report: &Report) {
        let (number, ends, made) = (call.number, report.ends, report.attempts);
        if ends != 1 {
            self.network.violated(format_args!("call {number} has {ends} End events"));
        }
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

    /// One key a call, the same for all attempts, and another one for each call.
    fn check_idempotency_keys(&mut self) {
        let requests = self.network.state().requests[self.delivered.requests..].to_vec();
        self.delivered.requests += requests.len();
        for request in requests {
            let expects = request.is_post && self.settings.sends_idempotency_keys;
            let Some(call) = request.call else { continue };
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
        let has_ended = call.was_halted || matches!(call.outcome, Outcome::Dropped(_));
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

    /// Nobody has a permit or waits for one, but the streams and batches that are open.
    fn check_permits(&self) {
        for model in MODELS.into_iter().chain([""]) {
            let snapshot = self.client.handler(model).snapshot();
            let (mut in_flight, mut waiting) = (0, 0);
            for open in &self.open {
                match open {
                    Open::Stream(held) => in_flight += u32::from(held.model == model),
                    Open::Batch(held) => waiting += held.count,
                }
            }
            if snapshot.in_flight > in_flight || snapshot.waiting > waiting {
                self.network.violated(format_args!("{model} keeps a permit: {snapshot:?}"));
            }
        }
    }
}

/// A call ends by its deadline, or at once if other calls were made until then.
fn check_time(network: &Network) {
    let (now, current) = (network.now(), network.state().current.clone());
    let end = current.due.map(|due| due.max(current.resumed));
    if let Some(end) = end.filter(|end| now > *end) {
        network.violated(format_args!("call {} ended {:?} after its deadline", current.call, now - end));
    }
}
