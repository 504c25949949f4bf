//! The calls of a simulation: which ones are made, how their results are used, and what interrupts them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::invariants::{Call, Delivered, Outcome};
use super::settings::Settings;
use crate::api::{ChatRequest, EmbeddingRequest};
use crate::client::Client;
use crate::client::event::Event;
use crate::error::{Error, Result};
use crate::http::simulation::{CANCELLED, Network, Weather};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// The models of a simulation: each has a handler of its own.
pub(super) const MODELS: [&str; 2] = ["model-a", "model-b"];

/// One simulation.
pub(super) struct Simulation {
    pub(super) network: Network,
    pub(super) settings: Settings,
    pub(super) client: Client,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    /// The number of the next call.
    pub(super) next_call: usize,
    pub(super) delivered: Delivered,
    random: fastrand::Rng,
}

/// What ends calls early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    Cancel,
    Shutdown,
    Drain,
}

/// How a stream is read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    ToEnd,
    Assembled,
    DroppedAfter(usize),
}

/// What `get` returns.
#[derive(serde::Deserialize)]
struct Thing {
    text: String,
}

impl Simulation {
    pub(super) fn new(seed: u64) -> Simulation {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = Settings::draw(&mut random);
        let clock = Clock::fake();
        let network = Network::new(&clock, random.u64(..));
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let observer = {
            let (network, events) = (network.clone(), Arc::clone(&events));
            move |event: &Event| observe(&network, &events, event)
        };
        let client = settings.client(&network, &clock, observer);
        Simulation {
            network,
            settings,
            client,
            events,
            next_call: 0,
            delivered: Delivered::default(),
            random,
        }
    }

    /// Makes some calls and checks each; then the service recovers.
    pub(super) fn run(&mut self) {
        self.network.note(format_args!("{:?}", self.settings));
        for _ in 0..self.random.usize(1..12) {
            if self.random.u8(0..3) == 0 {
                let weather = self.draw_weather();
                self.network.note(format_args!("{weather:?}"));
                self.network.state().weather = weather;
            }
            let pause = *self.random.choice(&[0, 0, 1, 30, 600]).unwrap_or(&0);
            self.network.advance(Duration::from_secs(pause));
            self.make_call();
            if self.network.state().violations.len() > 3 {
                return;
            }
        }
        self.check_recovery();
    }

    fn draw_weather(&mut self) -> Weather {
        let random = &mut self.random;
        Weather {
            faults: *random.choice(&[0.0, 0.05, 0.3, 0.6, 1.0]).unwrap_or(&0.0),
            refusals: *random.choice(&[0.0, 0.2, 0.8]).unwrap_or(&0.0),
            latency: Duration::from_secs(*random.choice(&[1, 5, 30, 200]).unwrap_or(&1)),
            refuses_usage: random.u8(0..4) == 0,
        }
    }

    /// Makes one call, possibly interrupted, and checks it.
    fn make_call(&mut self) {
        let interruption = match self.random.u8(0..40) {
            0..6 => Some(Interruption::Cancel),
            6 => Some(Interruption::Shutdown),
            7 => Some(Interruption::Drain),
            _ => None,
        };
        let (cancel, steps) = (Cancel::new(), self.random.u64(0..40));
        let client = if self.random.u8(0..4) == 0 || interruption == Some(Interruption::Cancel) {
            self.client.with_cancel(&cancel)
        } else {
            self.client.clone()
        };
        if let Some(interruption) = interruption {
            let (network, interrupted) = (self.network.clone(), client.clone());
            self.network.trigger(steps, move || interrupt(&network, &interrupted, &cancel, interruption));
        }
        let number = self.begin_call();
        let started = self.network.now();
        self.network.state().due = self.settings.deadline.map(|deadline| started + deadline);
        let model = MODELS[self.random.usize(..MODELS.len())];
        let call = match self.random.u8(0..10) {
            0..3 => self.chat(&client, number, model),
            3..7 => self.stream(&client, number, model),
            7 => self.embeddings(&client, number, model),
            8 => self.models(&client, number),
            _ => self.get(&client, number),
        };
        self.network.disarm();
        self.check_call(&call, started);
        if interruption == Some(Interruption::Cancel) {
            self.network.state().allow();
        }
    }

    /// The number of the next call.
    fn begin_call(&mut self) -> usize {
        let number = self.next_call;
        self.next_call += 1;
        self.network.state().call = number;
        lock(&self.events).clear();
        number
    }

    pub(super) fn chat(&mut self, client: &Client, number: usize, model: &str) -> Call {
        self.network.note(format_args!("call {number}: chat, {model}"));
        let request = ChatRequest::new(model).user(self.prompt(number));
        let result = client.chat(&request);
        let attempts = result.as_ref().ok().map(|response| response.meta().attempts);
        let outcome = Outcome::of(result.map(|response| response.text().to_owned()));
        Call { number, is_stream: false, outcome, attempts }
    }

    fn stream(&mut self, client: &Client, number: usize, model: &str) -> Call {
        let reading = match self.random.u8(0..4) {
            0 => Reading::DroppedAfter(self.random.usize(0..6)),
            1 => Reading::Assembled,
            _ => Reading::ToEnd,
        };
        self.network.note(format_args!("call {number}: stream, {reading:?}, {model}"));
        let request = ChatRequest::new(model).user(self.prompt(number));
        let (mut attempts, opened) = (None, client.chat_stream(&request));
        let outcome = match opened {
            Err(error) => Outcome::of(Err(error)),
            Ok(stream) => {
                attempts = Some(stream.meta().attempts);
                match reading {
                    Reading::Assembled => {
                        attempts = None; // there may be more of them
                        Outcome::of(stream.into_response().map(|response| response.text().to_owned()))
                    }
                    Reading::ToEnd => {
                        let mut text = String::new();
                        let mut failed = None;
                        for chunk in stream {
                            match chunk {
                                Ok(chunk) => text += chunk.text(),
                                Err(error) => failed = Some(error),
                            }
                        }
                        failed.map_or(Outcome::Answer(text.clone()), |error| Outcome::failed(error, text))
                    }
                    Reading::DroppedAfter(chunks) => {
                        let read: Vec<_> = stream.take(chunks).collect();
                        Outcome::Dropped(read.iter().flatten().map(|chunk| chunk.text()).collect())
                    }
                }
            }
        };
        Call { number, is_stream: true, outcome, attempts }
    }

    fn embeddings(&mut self, client: &Client, number: usize, model: &str) -> Call {
        let texts = self.random.usize(1..4);
        self.network.note(format_args!("call {number}: embeddings of {texts}"));
        let request = EmbeddingRequest::new(model, vec![self.prompt(number); texts]);
        let result = client.embeddings(&request);
        let attempts = result.as_ref().ok().map(|response| response.meta().attempts);
        let outcome = Outcome::of(result.map(|response| {
            let numbers: Vec<_> = response.data.iter().map(|item| item.embedding[0]).collect();
            crate::http::simulation::answer_text(numbers[0] as usize, number)
        }));
        Call { number, is_stream: false, outcome, attempts }
    }

    fn models(&mut self, client: &Client, number: usize) -> Call {
        self.network.note(format_args!("call {number}: models"));
        let outcome = Outcome::of(client.models().map(|models| models[0].id.clone()));
        Call { number, is_stream: false, outcome, attempts: None }
    }

    fn get(&mut self, client: &Client, number: usize) -> Call {
        self.network.note(format_args!("call {number}: get"));
        let result: Result<Thing> = client.get(&format!("/things/call-{number}"));
        let outcome = Outcome::of(result.map(|thing| thing.text));
        Call { number, is_stream: false, outcome, attempts: None }
    }

    /// A prompt that names the call. Long ones are sent in several parts.
    fn prompt(&mut self, number: usize) -> String {
        let length = if self.random.u8(0..16) == 0 { 12_000 } else { 20 };
        format!("call-{number} {}", "x".repeat(length))
    }

    /// Checks that calls succeed once the service has recovered.
    fn check_recovery(&mut self) {
        let latency = self.settings.timeout.mul_f64(self.random.f64() * 0.7);
        self.network.state().weather = Weather { faults: 0.0, refusals: 0.0, latency, refuses_usage: false };
        self.network.note(format_args!("recovered, {latency:?}"));
        let ended = self.network.state().halted;
        for model in MODELS {
            self.network.advance(Duration::from_secs(self.random.u64(0..60)));
            let client = self.client.with_deadline(None);
            for remaining in (0..4).rev() {
                let number = self.begin_call();
                self.network.state().due = None;
                let started = self.network.now();
                let call = self.chat(&client, number, model);
                self.check_call(&call, started);
                match (&call.outcome, ended) {
                    (Outcome::Failed { error: Error::Shutdown, .. }, Some(_))
                    | (Outcome::Answer(_), None) => break,
                    (Outcome::Failed { error: Error::CircuitOpen { retry_in, .. }, .. }, None)
                        if remaining > 0 =>
                    {
                        self.network.advance(*retry_in);
                    }
                    (outcome, _) => {
                        self.network.violated(format_args!("{model} has recovered, but: {outcome:?}"));
                        break;
                    }
                }
            }
        }
    }
}

/// Records an event. An attempt must not begin once the call or the client has ended.
fn observe(network: &Network, events: &Mutex<Vec<Event>>, event: &Event) {
    lock(events).push(event.clone());
    let halted = network.state().halted;
    match event {
        Event::Attempt { attempt, .. } => {
            network.note(format_args!("  attempt {attempt}"));
            if let Some(why) = halted {
                network.violated(format_args!("attempt {attempt} began after {why}"));
            }
        }
        Event::Answer { status, elapsed, .. } => {
            network.note(format_args!("    ended: {status:?} after {elapsed:?}"));
        }
        Event::Retry { wait, why, .. } => network.note(format_args!("    retrying in {wait:?}: {why}")),
        Event::Paced { waited, .. } => network.note(format_args!("    paced for {waited:?}")),
        Event::Breaker { state, .. } => network.note(format_args!("    the breaker is {state}")),
        Event::End { attempts, elapsed, error, .. } => {
            network.note(format_args!("  end after {attempts} attempts and {elapsed:?}: {error:?}"));
        }
        _ => {}
    }
    network.step();
}

fn interrupt(network: &Network, client: &Client, cancel: &Cancel, interruption: Interruption) {
    network.note(format_args!("    {interruption:?}"));
    match interruption {
        Interruption::Cancel => cancel.cancel(),
        Interruption::Shutdown => client.shutdown(),
        Interruption::Drain => client.drain(),
    }
    let mut state = network.state();
    let why = match interruption {
        Interruption::Cancel => CANCELLED,
        Interruption::Shutdown => "a shutdown",
        Interruption::Drain => "a drain",
    };
    // A cancellation ends with its call; the others are permanent.
    state.halted = state.halted.or(Some(why));
    if interruption != Interruption::Drain {
        state.silenced = state.silenced.or(Some(why));
    }
}

/// The time since a moment.
pub(super) fn since(network: &Network, moment: Instant) -> Duration {
    network.now().saturating_duration_since(moment)
}
