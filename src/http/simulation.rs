//! A simulated network and service for tests. There are no sockets, only one thread runs at a time, and all time is that of
//! a fake clock.
//!
//! ureq reads the system's clock, which stands still in a simulation, so the transport itself computes when each limit of
//! its exchange runs out. Limits that this crate measures in real time (the rest of an error's body, the rest of a stream
//! after its last chunk) apply to each read instead of their sum.

mod answers;
mod fate;
mod transport;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::config::Timeouts;

pub(crate) use self::answers::answer_text;
use self::transport::{SimulatedConnector, SimulatedResolver};
use crate::error::Result;
use crate::http::options::{Endpoint, HttpOptions};
use crate::http::transport::Transport;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// More steps than any simulation takes: a call that takes more doesn't end.
const MAX_STEPS: u64 = 200_000;

thread_local! {
    /// Whether this thread belongs to a simulation.
    static IS_SIMULATED: Cell<bool> = const { Cell::new(false) };
}

/// A network with one service. Clones share their state.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    clock: Clock,
    steps: AtomicU64,
    trigger: Mutex<Option<Trigger>>,
    state: Mutex<State>,
}

/// What happens at a certain step.
struct Trigger {
    step: u64,
    action: Box<dyn FnOnce() + Send>,
}

/// What has happened, and what may happen.
pub(crate) struct State {
    pub(crate) random: fastrand::Rng,
    pub(crate) weather: Weather,
    pub(crate) current: Current,
    /// The client was shut down, so nothing may be sent.
    pub(crate) is_shut_down: bool,
    /// The client was shut down or drained, so no attempt may begin.
    pub(crate) is_drained: bool,
    pub(crate) requests: Vec<Request>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) violations: Vec<String>,
    /// What happened, if that is recorded.
    pub(crate) trace: Option<Vec<String>>,
    connections: u64,
}

/// The call, or the batch, that is being made now.
#[derive(Clone)]
pub(crate) struct Current {
    /// Its number, for requests that don't name their call.
    pub(crate) call: usize,
    /// When it must be over.
    pub(crate) due: Option<Instant>,
    /// The token that ends it.
    pub(crate) cancel: Cancel,
    /// When it last began or continued: other calls may have been made in between.
    pub(crate) resumed: Instant,
    /// The exchange that was begun and has no connection yet.
    pending: Option<Exchange>,
}

/// How the network and the service behave.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// The probability that something goes wrong in an exchange.
    pub(crate) faults: f64,
    /// The probability that a fault is a refusal for the rate or the load.
    pub(crate) refusals: f64,
    /// The longest time to an answer.
    pub(crate) latency: Duration,
    /// The service rejects requests for the usage of a stream.
    pub(crate) refuses_usage: bool,
}

/// A request that the service received.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `None` if the service read too little of it to know.
    pub(crate) call: Option<usize>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) is_post: bool,
}

/// An answer with a success status that the service sent.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) call: usize,
    /// The bytes of its head and body.
    pub(crate) length: usize,
    /// The number of bytes in which its content is complete.
    pub(crate) content: usize,
    /// Nothing is wrong with it, however slowly it arrives.
    pub(crate) is_flawless: bool,
    /// The bytes that the client has read.
    pub(crate) read: usize,
}

/// The limits of one exchange.
#[derive(Debug, Clone, Copy)]
struct Exchange {
    began: Instant,
    timeouts: Timeouts,
    per_read: Option<Duration>,
    per_write: Option<Duration>,
}

impl Network {
    pub(crate) fn new(clock: &Clock, seed: u64) -> Network {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            weather: Weather { faults: 0.0, refusals: 0.0, latency: Duration::ZERO, refuses_usage: false },
            current: Current {
                call: 0,
                due: None,
                cancel: Cancel::new(),
                resumed: clock.now(),
                pending: None,
            },
            is_shut_down: false,
            is_drained: false,
            requests: Vec::new(),
            answers: Vec::new(),
            violations: Vec::new(),
            trace: None,
            connections: 0,
        };
        Network(Arc::new(Shared {
            clock: clock.clone(),
            steps: AtomicU64::new(0),
            trigger: Mutex::default(),
            state: Mutex::new(state),
        }))
    }

    /// Opens a transport over this network.
    pub(crate) fn open(
        &self,
        options: &HttpOptions,
        endpoint: Endpoint,
        clock: Clock,
        cancel: Cancel,
    ) -> Result<Transport> {
        let (network, secrets) = (self.clone(), Arc::clone(&endpoint.headers.secrets));
        let new_agent = Arc::new(move |config, cancel| {
            let network = network.clone();
            let connector =
                SimulatedConnector { network: network.clone(), secrets: Arc::clone(&secrets), cancel };
            Agent::with_parts(config, connector, SimulatedResolver { network })
        });
        Transport::with_agents(options, endpoint, clock, cancel, new_agent)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// Makes `call` the current one. Returns the one before, to be [resumed](Network::resume).
    pub(crate) fn enter(&self, call: usize, due: Option<Instant>, cancel: &Cancel) -> Current {
        let current = Current { call, due, cancel: cancel.clone(), resumed: self.now(), pending: None };
        std::mem::replace(&mut self.state().current, current)
    }

    /// Returns to the call that another one interrupted.
    pub(crate) fn resume(&self, current: Current) {
        let resumed = self.now();
        self.state().current = Current { resumed, ..current };
    }

    /// Lets this thread get answers.
    pub(crate) fn adopt_thread(&self) {
        IS_SIMULATED.set(true);
    }

    /// Runs `action` at the next step after this number of steps.
    pub(crate) fn trigger(&self, steps: u64, action: impl FnOnce() + Send + 'static) {
        let step = self.0.steps.load(Ordering::Relaxed) + steps;
        *lock(&self.0.trigger) = Some(Trigger { step, action: Box::new(action) });
    }

    /// Removes the action that hasn't run.
    pub(crate) fn disarm(&self) {
        *lock(&self.0.trigger) = None;
    }

    /// A moment at which something else may happen. No lock is held.
    pub(crate) fn step(&self) {
        let step = self.0.steps.fetch_add(1, Ordering::Relaxed);
        assert!(step < MAX_STEPS, "a call does not end");
        let due = lock(&self.0.trigger).take_if(|trigger| trigger.step <= step);
        if let Some(trigger) = due {
            (trigger.action)();
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.state().trace {
            trace.push(line.to_string());
        }
    }

    /// Records that an invariant doesn't hold.
    pub(crate) fn violated(&self, what: fmt::Arguments<'_>) {
        self.note(format_args!("VIOLATED: {what}"));
        self.state().violations.push(what.to_string());
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.0.clock.advance(time);
    }
}

impl State {
    /// Why nothing may be sent, if so.
    pub(crate) fn silenced(&self) -> Option<&'static str> {
        let is_cancelled = self.current.cancel.is_cancelled();
        if is_cancelled { Some("a cancellation") } else { self.is_shut_down.then_some("a shutdown") }
    }

    /// Why no attempt may begin, if so.
    pub(crate) fn halted(&self) -> Option<&'static str> {
        self.silenced().or(self.is_drained.then_some("a drain"))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}
