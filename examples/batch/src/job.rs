//! The state that the input, the requests and the display of a run share: what is in flight, what may be sent, why it stops.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use holysheep::{Client, Error, Snapshot, Usage};
use serde_json::value::RawValue;

use crate::budget::{Budget, Guess};
use crate::endpoint::Answer;
use crate::report::service::Service;
use crate::report::tally::Tally;
use crate::tokens::TokenBucket;

/// A run.
pub(crate) struct Job {
    client: Client,
    pub(crate) service: Service,
    state: Mutex<State>,
    /// Notified when the run stops or tokens are returned.
    changed: Condvar,
}

struct State {
    /// By the number that the batch gives them.
    in_flight: HashMap<usize, Pending>,
    tokens: Option<TokenBucket>,
    budget: Budget,
    /// Of the latest request.
    model: String,
    stop: Option<Stop>,
    tally: Tally,
}

/// What has to be kept of an item until its answer comes.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) index: usize,
    /// Of its line.
    pub(crate) crc32: u32,
    pub(crate) id: Option<Box<RawValue>>,
    pub(crate) columns: Vec<(String, Box<RawValue>)>,
    /// What is wrong with its line.
    pub(crate) bad: Option<String>,
    pub(crate) wants_json: bool,
    /// What it will probably use; nothing if it isn't sent.
    pub(crate) guess: Guess,
    /// What was taken from `--tpm` for it.
    pub(crate) taken: u64,
}

/// Why no further item is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    Interrupted,
    /// An item failed, and `--fail-fast` was given.
    FirstFailure,
    /// `--max-cost` or `--max-tokens` is reached.
    Budget(String),
    /// Every further item would fail.
    Hopeless(String),
    /// The input can't be read, or isn't the one of before.
    Input(String),
}

impl Job {
    pub(crate) fn new(
        client: Client,
        service: Service,
        tokens_per_minute: Option<f64>,
        budget: Budget,
        tally: Tally,
    ) -> Job {
        let tokens = tokens_per_minute.map(|limit| TokenBucket::new(limit, Instant::now()));
        let state =
            State { in_flight: HashMap::new(), tokens, budget, model: String::new(), stop: None, tally };
        Job { client, service, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are tokens for an item; `false` if the run stops first.
    pub(crate) fn admit(&self, number: usize, model: &str, mut pending: Pending) -> bool {
        let mut state = self.lock();
        while state.stop.is_none() {
            if let Some(why) = state.budget.reached(state.in_flight.len()) {
                drop(state);
                self.stop(Stop::Budget(why));
                return false;
            }
            let Some(wait) = state.tokens.as_mut().and_then(|bucket| bucket.wait(Instant::now())) else {
                if let Some(bucket) = &mut state.tokens {
                    pending.taken = bucket.take(pending.guess.total());
                }
                state.in_flight.insert(number, pending);
                if state.model != model && !model.is_empty() {
                    model.clone_into(&mut state.model);
                }
                return true;
            };
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Takes an item out whose result is there.
    pub(crate) fn finish(&self, number: usize, result: &Result<Answer, Error>) -> Option<Pending> {
        let mut state = self.lock();
        let pending = state.in_flight.remove(&number)?;
        let usage = result.as_ref().map(Answer::usage);
        if let Some(bucket) = &mut state.tokens {
            match usage.map(|usage| usage.and_then(total)) {
                Ok(Some(used)) => bucket.settle(pending.taken, used),
                Ok(None) => {} // the guess stands
                Err(_) => bucket.give_back(pending.taken),
            }
            self.changed.notify_all();
        }
        if let Ok(usage) = usage {
            state.budget.spend(usage, pending.guess);
        }
        Some(pending)
    }

    /// Sends no further request. The first reason stays.
    pub(crate) fn stop(&self, why: Stop) {
        self.lock().stop.get_or_insert(why);
        self.changed.notify_all();
        self.client.drain();
    }

    /// Stops, and aborts the requests in flight.
    pub(crate) fn abort(&self, why: Stop) {
        self.stop(why);
        self.client.shutdown();
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.lock().stop.clone()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stop.is_some()
    }

    /// The state of the handler of the latest request's model.
    pub(crate) fn handler(&self) -> Snapshot {
        let model = self.lock().model.clone();
        self.client.handler(&model).snapshot()
    }

    pub(crate) fn tally<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.lock().tally)
    }

    pub(crate) fn budget<T>(&self, look: impl FnOnce(&Budget) -> T) -> T {
        look(&self.lock().budget)
    }

    /// Whether the next item waits for `--tpm`.
    pub(crate) fn lacks_tokens(&self) -> bool {
        self.lock().tokens.as_mut().is_some_and(|bucket| bucket.wait(Instant::now()).is_some())
    }
}

/// All tokens of an answer.
pub(crate) fn total(usage: &Usage) -> Option<u64> {
    let sum = || Some(usage.prompt_tokens?.saturating_add(usage.completion_tokens.unwrap_or_default()));
    usage.total_tokens.or_else(sum)
}
