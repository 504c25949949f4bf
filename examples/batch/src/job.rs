//! What the input, the calls and the display share of a run: what is on its way, how many tokens may go, why it stops.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holysheep::{ChatResponse, Client, Error, Snapshot, Usage};
use serde_json::Value;

use crate::report::Tally;

/// A run.
pub(crate) struct Job {
    client: Client,
    state: Mutex<State>,
    /// Rung when the run stops or tokens come back.
    changed: Condvar,
}

struct State {
    /// By the number that the batch gives them.
    under_way: HashMap<usize, Tag>,
    tokens: Option<Bucket>,
    model: String,
    stop: Option<Stop>,
    tally: Tally,
}

/// What has to be remembered of an item until its answer comes.
pub(crate) struct Tag {
    pub(crate) index: usize,
    /// Of its line.
    pub(crate) crc32: u32,
    pub(crate) id: Option<Value>,
    /// What is wrong with its line.
    pub(crate) bad: Option<String>,
    /// What it is thought to need; 0 if nothing is sent.
    pub(crate) tokens: u64,
}

/// Why no further item is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    Interrupted,
    /// An item failed, and that was to be the end.
    Failed,
    /// Every further item would fail as this one did.
    Hopeless(String),
    /// The input can't be read, or isn't the right one.
    Broken(String),
}

/// Tokens a minute: a bucket that holds those of a second and may be overdrawn, for what an answer needs is known only when
/// it is there.
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
    /// What the answers so far needed.
    used: u64,
    answers: u64,
}

impl Job {
    pub(crate) fn new(client: Client, tokens_per_minute: Option<f64>, tally: Tally) -> Job {
        let bucket = |per_minute: f64| {
            let per_second = per_minute / 60.0;
            Bucket { per_second, level: per_second, at: Instant::now(), used: 0, answers: 0 }
        };
        let (under_way, model, tokens) = (HashMap::new(), String::new(), tokens_per_minute.map(bucket));
        Job {
            client,
            state: Mutex::new(State { under_way, tokens, model, stop: None, tally }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an item begin when there are tokens for it; false if the run stops first.
    pub(crate) fn admit(&self, number: usize, model: &str, mut tag: Tag) -> bool {
        let mut state = self.lock();
        while state.stop.is_none() {
            let Some(wait) = state.tokens.as_mut().and_then(|bucket| bucket.wait(Instant::now())) else {
                if let Some(bucket) = &mut state.tokens {
                    tag.tokens = bucket.take(tag.tokens);
                }
                state.under_way.insert(number, tag);
                if state.model != model && !model.is_empty() {
                    model.clone_into(&mut state.model);
                }
                return true;
            };
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// The item is back.
    pub(crate) fn back(&self, number: usize, result: &Result<ChatResponse, Error>) -> Option<Tag> {
        let mut state = self.lock();
        let tag = state.under_way.remove(&number)?;
        if let Some(bucket) = &mut state.tokens {
            match result.as_ref().map(|answer| answer.usage.as_ref().and_then(tokens)) {
                Ok(Some(used)) => bucket.settle(tag.tokens, used),
                Ok(None) => {} // the guess stands
                Err(_) => bucket.level += tag.tokens as f64,
            }
            self.changed.notify_all();
        }
        Some(tag)
    }

    /// No further call shall begin. The first reason stays.
    pub(crate) fn stop(&self, why: Stop) {
        self.lock().stop.get_or_insert(why);
        self.changed.notify_all();
        self.client.drain();
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.lock().stop.clone()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stop.is_some()
    }

    /// An item was done before.
    pub(crate) fn skip(&self) {
        self.tally(|tally| tally.skipped += 1);
    }

    /// What the handler of the latest request's model says.
    pub(crate) fn handler(&self) -> Snapshot {
        let model = self.lock().model.clone();
        self.client.handler(&model).snapshot()
    }

    pub(crate) fn tally<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.lock().tally)
    }

    /// Whether tokens are what the next item waits for.
    pub(crate) fn lacks_tokens(&self) -> bool {
        self.lock().tokens.as_mut().is_some_and(|bucket| bucket.wait(Instant::now()).is_some())
    }
}

impl Bucket {
    /// The time until something is in it; none if something is.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let filled = self.level + now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.level, self.at) = (filled.min(self.per_second), now);
        (self.level <= 0.0)
            .then(|| Duration::from_secs_f64((-self.level / self.per_second).clamp(0.001, 60.0)))
    }

    /// Takes what an item is thought to need: as much as others did, or before there are any the guess. It is nothing where
    /// nothing is sent.
    fn take(&mut self, guess: u64) -> u64 {
        let need = if guess == 0 { 0 } else { self.used.checked_div(self.answers).unwrap_or(guess) };
        self.level -= need as f64;
        need
    }

    fn settle(&mut self, thought: u64, used: u64) {
        self.level += thought as f64 - used as f64;
        self.used = self.used.saturating_add(used);
        self.answers += 1;
    }
}

fn tokens(usage: &Usage) -> Option<u64> {
    let parts = || Some(usage.prompt_tokens?.saturating_add(usage.completion_tokens.unwrap_or_default()));
    usage.total_tokens.or_else(parts)
}
