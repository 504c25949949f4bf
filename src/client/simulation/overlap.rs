//! Calls that overlap: streams that are held while other calls are made, batches that are taken item by item, and calls
//! that another thread makes in the middle of an exchange.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::{chat, read_to_end};
use super::invariants::{Call, Outcome};
use super::operations::{MODELS, Simulation};
use crate::api::ChatRequest;
use crate::client::batch::BatchItem;
use crate::client::stream::ChatStream;
use crate::http::simulation::Current;
use crate::runtime::cancel::Cancel;
use crate::runtime::sync::lock;

/// The most items of a batch.
const MAX_ITEMS: usize = 16;

/// What has begun and is continued from time to time.
pub(super) enum Open {
    Stream(Box<HeldStream>),
    Batch(HeldBatch),
}

/// A stream whose caller does something else before its end.
pub(super) struct HeldStream {
    pub(super) number: usize,
    pub(super) model: String,
    stream: ChatStream,
    text: String,
    attempts: u32,
    due: Option<Instant>,
    cancel: Cancel,
}

/// A batch of which some items were taken.
pub(super) struct HeldBatch {
    /// The number of its first call.
    pub(super) number: usize,
    items: Box<dyn Iterator<Item = BatchItem>>,
    pub(super) count: usize,
    taken: Vec<Call>,
    in_order: bool,
    cancel: Cancel,
}

/// The calls that another thread made in the middle of an exchange.
pub(super) type Nested = Arc<Mutex<Vec<Call>>>;

impl Simulation {
    pub(super) fn hold_stream(&mut self, number: usize, model: &str, stream: ChatStream) {
        let Current { due, cancel, .. } = self.network.state().current.clone();
        let attempts = stream.meta().attempts;
        let (model, text) = (model.to_owned(), String::new());
        let held = HeldStream { number, model, stream, text, attempts, due, cancel };
        self.open.push(Open::Stream(Box::new(held)));
    }

    /// Begins a batch of chats.
    pub(super) fn begin_batch(&mut self) {
        let (number, count) = (self.next_call, self.random.usize(1..=MAX_ITEMS));
        self.next_call += count;
        lock(&self.reports).batches.insert(number);
        let requests: Vec<ChatRequest> = (number..number + count)
            .map(|call| ChatRequest::new(MODELS[self.random.usize(..MODELS.len())]).user(self.prompt(call)))
            .collect();
        let (cancel, in_order, concurrency) = (Cancel::new(), self.random.bool(), self.random.usize(1..=8));
        let client = self.client.with_cancel(&cancel);
        self.network.note(format_args!("calls {number} to {}: a batch of {concurrency}", self.next_call - 1));
        let items = client.batch(requests).concurrency(concurrency).in_order(in_order).start(0);
        let (items, taken) = (Box::new(items), Vec::new());
        self.open.push(Open::Batch(HeldBatch { number, items, count, taken, in_order, cancel }));
    }

    /// Continues something that is open, or ends it if `to_end`.
    pub(super) fn continue_open(&mut self, to_end: bool) {
        let index = self.random.usize(..self.open.len());
        match self.open.swap_remove(index) {
            Open::Stream(held) => self.continue_stream(held, to_end),
            Open::Batch(held) => self.continue_batch(held, to_end),
        }
    }

    fn continue_stream(&mut self, mut held: Box<HeldStream>, to_end: bool) {
        let number = held.number;
        self.network.note(format_args!("call {number}: continued"));
        self.begin(number, held.due, &held.cancel);
        if !to_end && self.random.bool() {
            for _ in 0..self.random.usize(0..5) {
                match held.stream.next() {
                    Some(Ok(chunk)) => held.text += chunk.text(),
                    Some(Err(error)) => {
                        let outcome = Outcome::failed(error, held.text);
                        return self.end_stream(number, held.attempts, outcome);
                    }
                    None => return self.end_stream(number, held.attempts, Outcome::Answer(held.text)),
                }
            }
            self.network.disarm();
            return self.open.push(Open::Stream(held));
        }
        let outcome = match self.random.u8(0..4) {
            0 => {
                drop(held.stream);
                Outcome::Dropped(held.text)
            }
            1 => {
                let result = held.stream.into_response();
                match result {
                    Ok(response) => Outcome::Answer(response.text().to_owned()),
                    Err(error) => Outcome::failed(error, held.text),
                }
            }
            _ => read_to_end(held.stream, held.text),
        };
        self.end_stream(number, held.attempts, outcome);
    }

    fn end_stream(&mut self, number: usize, attempts: u32, outcome: Outcome) {
        // A stream that fails before its first chunk may be requested again.
        let attempts = matches!(outcome, Outcome::Dropped(_)).then_some(attempts);
        let call = self.ended(number, true, attempts, outcome);
        self.network.disarm();
        self.check_call(&call);
    }

    fn continue_batch(&mut self, mut held: HeldBatch, to_end: bool) {
        let number = held.number;
        self.network.note(format_args!("batch {number}: continued"));
        self.begin(number, None, &held.cancel);
        let began = self.network.now();
        let most = if to_end { usize::MAX } else { self.random.usize(1..6) };
        for _ in 0..most {
            let Some(item) = held.items.next() else {
                self.network.disarm();
                return self.check_batch(held.number, held.count, &held.taken, true);
            };
            let due_index = held.taken.len();
            if held.in_order && item.index != due_index && !held.cancel.is_cancelled() {
                self.network.violated(format_args!("item {} came as number {due_index}", item.index));
            }
            self.check_item_time(&item, began);
            let attempts = item.result.as_ref().ok().map(|response| response.meta().attempts);
            let outcome = Outcome::of(item.result.map(|response| response.text().to_owned()));
            held.taken.push(self.ended(number + item.index, false, attempts, outcome));
        }
        self.network.disarm();
        if self.random.u8(0..8) == 0 {
            drop(held.items);
            return self.check_batch(held.number, held.count, &held.taken, false);
        }
        self.open.push(Open::Batch(held));
    }

    /// A call that waits for a permit doesn't spend its deadline, but one that another thread held up here does.
    fn check_item_time(&self, item: &BatchItem, began: Instant) {
        let (Some(deadline), Ok(response)) = (self.settings.deadline, &item.result) else { return };
        let spent = response.meta().elapsed.saturating_sub(response.meta().waited);
        let was_held_up = self.network.state().current.resumed > began;
        if spent > deadline && !was_held_up {
            let what = format_args!("item {} took {spent:?}, and its deadline is {deadline:?}", item.index);
            self.network.violated(what);
        }
    }

    /// Lets another thread make a call in the middle of what is done next.
    pub(super) fn nest_call(&mut self) {
        let (steps, number) = (self.random.u64(0..12), self.next_call);
        self.next_call += 1;
        let model = MODELS[self.random.usize(..MODELS.len())];
        let limit = Duration::from_secs(self.random.u64(1..200));
        let (client, prompt) = (self.client.with_deadline(Some(limit)), self.prompt(number));
        let (network, nested) = (self.network.clone(), Arc::clone(&self.nested));
        self.network.trigger(steps, move || {
            let outer = network.enter(number, Some(network.now() + limit), &Cancel::new());
            network.note(format_args!("call {number}: chat of another thread, {model}"));
            let other = network.clone();
            let thread = thread::spawn(move || {
                other.adopt_thread();
                chat(&other, &client, number, model, &prompt)
            });
            match thread.join() {
                Ok(call) => lock(&nested).push(call),
                Err(_) => network.violated(format_args!("call {number} panicked")),
            }
            network.resume(outer);
        });
    }
}
