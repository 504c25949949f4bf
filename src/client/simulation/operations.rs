//! The course of a simulation: what is done next, and what interrupts it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::invariants::{Delivered, Outcome};
use super::overlap::{Nested, Open};
use super::reports::Reports;
use super::settings::Settings;
use crate::client::Client;
use crate::client::event::Event;
use crate::error::Error;
use crate::http::simulation::{Network, Weather};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// The models of a simulation: each has a handler of its own.
pub(super) const MODELS: [&str; 2] = ["model-a", "model-b"];

/// The most streams and batches that are open at once.
const MAX_OPEN: usize = 4;

/// One simulation.
pub(super) struct Simulation {
    pub(super) network: Network,
    pub(super) settings: Settings,
    pub(super) client: Client,
    pub(super) reports: Arc<Mutex<Reports>>,
    /// The number of the next call.
    pub(super) next_call: usize,
    pub(super) delivered: Delivered,
    pub(super) open: Vec<Open>,
    pub(super) nested: Nested,
    pub(super) random: fastrand::Rng,
}

/// What ends calls early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Cancel,
    Shutdown,
    Drain,
}

impl Simulation {
    pub(super) fn new(seed: u64) -> Simulation {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = Settings::draw(&mut random);
        let clock = Clock::fake();
        let network = Network::new(&clock, random.u64(..));
        network.adopt_thread();
        let reports: Arc<Mutex<Reports>> = Arc::default();
        let observer = {
            let (network, reports) = (network.clone(), Arc::clone(&reports));
            let has_budget = settings.has_budget();
            move |event: &Event| {
                lock(&reports).add(&network, event, has_budget);
                network.step();
            }
        };
        let client = settings.client(&network, &clock, observer);
        Simulation {
            network,
            settings,
            client,
            reports,
            next_call: 0,
            delivered: Delivered::default(),
            open: Vec::new(),
            nested: Nested::default(),
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
            match self.random.u8(0..10) {
                0 if self.open.len() < MAX_OPEN => self.begin_batch(),
                1..4 if !self.open.is_empty() => self.continue_open(false),
                _ => self.make_call(),
            }
            self.check_nested();
            if self.network.state().violations.len() > 3 {
                return;
            }
        }
        while !self.open.is_empty() && self.network.state().violations.is_empty() {
            self.continue_open(true);
            self.check_nested();
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

    /// Makes one call and checks it, unless it is a stream that is held.
    fn make_call(&mut self) {
        let (cancel, number) = (Cancel::new(), self.next_call);
        self.next_call += 1;
        let due = self.settings.deadline.map(|deadline| self.network.now() + deadline);
        self.begin(number, due, &cancel);
        let client = self.client.with_cancel(&cancel);
        let model = MODELS[self.random.usize(..MODELS.len())];
        let call = match self.random.u8(0..10) {
            0..3 => Some(self.chat(&client, number, model)),
            3..7 => self.stream(&client, number, model),
            7 => Some(self.embeddings(&client, number, model)),
            8 => Some(self.models(&client, number)),
            _ => Some(self.get(&client, number)),
        };
        self.network.disarm();
        if let Some(call) = call {
            self.check_call(&call);
        }
    }

    /// Begins or continues a call or a batch. It may be interrupted, or another thread may make a call meanwhile.
    pub(super) fn begin(&mut self, number: usize, due: Option<Instant>, cancel: &Cancel) {
        self.network.enter(number, due, cancel);
        let interruption = match self.random.u8(0..40) {
            0..6 => Interruption::Cancel,
            6 => Interruption::Shutdown,
            7 => Interruption::Drain,
            8..16 => return self.nest_call(),
            _ => return,
        };
        let (network, client, cancel) = (self.network.clone(), self.client.clone(), cancel.clone());
        self.network
            .trigger(self.random.u64(0..40), move || interrupt(&network, &client, &cancel, interruption));
    }

    /// Checks the calls that other threads made meanwhile.
    fn check_nested(&mut self) {
        let nested = std::mem::take(&mut *lock(&self.nested));
        nested.iter().for_each(|call| self.check_call(call));
    }

    /// Checks that calls succeed once the service has recovered.
    fn check_recovery(&mut self) {
        let latency = self.settings.timeout.mul_f64(self.random.f64() * 0.7);
        self.network.state().weather = Weather { faults: 0.0, refusals: 0.0, latency, refuses_usage: false };
        self.network.note(format_args!("recovered, {latency:?}"));
        for model in MODELS {
            self.network.advance(Duration::from_secs(self.random.u64(0..60)));
            let client = self.client.with_deadline(None);
            for remaining in (0..4).rev() {
                let number = self.next_call;
                self.next_call += 1;
                self.network.enter(number, None, &Cancel::new());
                let call = self.chat(&client, number, model);
                self.check_call(&call);
                match (&call.outcome, call.was_halted) {
                    (Outcome::Failed { error: Error::Shutdown, .. }, true) | (Outcome::Answer(_), false) => {
                        break;
                    }
                    (Outcome::Failed { error: Error::CircuitOpen { retry_in, .. }, .. }, false)
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

fn interrupt(network: &Network, client: &Client, cancel: &Cancel, interruption: Interruption) {
    network.note(format_args!("    {interruption:?}"));
    match interruption {
        Interruption::Cancel => cancel.cancel(),
        Interruption::Shutdown => client.shutdown(),
        Interruption::Drain => client.drain(),
    }
    let mut state = network.state();
    state.is_shut_down |= interruption == Interruption::Shutdown;
    state.is_drained |= interruption != Interruption::Cancel;
}
