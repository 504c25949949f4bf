//! One call: its attempts, what is told of them, and what becomes of the last one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::adaptive::{Change, HandlerRegistry};
use crate::client::config::Observer;
use crate::client::decode::Reader;
use crate::client::event::Event;
use crate::error::{Error, Reason, Result};
use crate::http::transport::{Answer, Budget, Outgoing, Terms, Transport};
use crate::limits::RateLimits;
use crate::meta::Meta;
use crate::policy::backoff::RetryConfig;
use crate::policy::classify;
use crate::retry::{self, Brought, Failure, Loop, Step, Trail};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// What all clones of a client and all its streams share.
pub(crate) struct Core {
    pub(crate) transport: Arc<Transport>,
    pub(crate) models: Arc<HandlerRegistry>,
    pub(crate) clock: Clock,
    /// Ends all exchanges.
    pub(crate) stop: Arc<Cancel>,
    /// Ends all waits, and lets no attempt begin.
    pub(crate) gate: Cancel,
    pub(crate) observer: Option<Observer>,
    pub(crate) reader: Reader,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) parts: Parts,
}

/// What ends together with a client.
#[derive(Default)]
pub(crate) struct Parts {
    cores: Mutex<Vec<Weak<Core>>>,
    /// Told when it has ended.
    ended: Option<Box<dyn Fn() + Send + Sync>>,
}

/// What a call is about.
pub(crate) struct Ask<'a> {
    pub(crate) retry: &'a RetryConfig,
    pub(crate) deadline: Option<Duration>,
    pub(crate) background: bool,
    pub(crate) model: &'a str,
    /// Begins with a slash and stays below the base address.
    pub(crate) path: &'a str,
    /// JSON to POST; without it the call is a GET.
    pub(crate) body: Option<&'a [u8]>,
}

impl Core {
    /// A client of the same service, with the same handlers but connections and a stop of its own: it can be shut down
    /// alone, and is with the whole. `ended` is told of either.
    pub(crate) fn part(&self, ended: impl Fn() + Send + Sync + 'static) -> Arc<Core> {
        let stop = Arc::new(Cancel::default());
        let core = Arc::new(Core {
            transport: Arc::new(self.transport.part(Arc::clone(&stop))),
            models: Arc::clone(&self.models),
            clock: self.clock.clone(),
            stop,
            gate: Cancel::default(),
            observer: self.observer.clone(),
            reader: self.reader.clone(),
            idempotency: self.idempotency.as_ref().map(|_| Idempotency::new()),
            parts: Parts { cores: Mutex::default(), ended: Some(Box::new(ended)) },
        });
        let mut cores = lock(&self.parts.cores);
        cores.retain(|core| core.strong_count() > 0);
        cores.push(Arc::downgrade(&core));
        drop(cores);
        // Either may have come too early to see it.
        if self.gate.is_cancelled() {
            core.drain();
        }
        if self.stop.is_cancelled() {
            core.shutdown();
        }
        core
    }

    /// Ends all waits, and those of all parts, at once and for good.
    pub(crate) fn drain(&self) {
        self.gate.cancel();
        self.models.wake();
        self.with_parts(Core::drain);
    }

    /// Ends all waits and exchanges, and those of all parts, at once and for good.
    pub(crate) fn shutdown(&self) {
        self.stop.cancel();
        self.gate.cancel();
        self.models.wake();
        self.transport.shutdown();
        self.with_parts(Core::shutdown);
    }

    fn with_parts(&self, end: impl Fn(&Core)) {
        let parts: Vec<_> = lock(&self.parts.cores).iter().filter_map(Weak::upgrade).collect();
        parts.iter().for_each(|part| end(part));
        if let Some(ended) = &self.parts.ended {
            ended();
        }
    }

    /// Makes a call whose answer comes as a whole; `open` makes something of it.
    pub(crate) fn call<T>(&self, ask: &Ask<'_>, open: impl Fn(&Answer) -> Result<T>) -> Result<(T, Meta)> {
        self.run(ask, |outgoing, terms, limits| {
            let answer = self.transport.exchange(outgoing, terms)?;
            *limits = answer.headers.rate_limits;
            let value = open(&answer)?;
            Ok((value, answer.meta()))
        })
    }

    /// Makes a call: repeats `exchange` as the policy says.
    pub(crate) fn run<T>(
        &self,
        ask: &Ask<'_>,
        exchange: impl Fn(&Outgoing<'_>, &Terms, &mut RateLimits) -> Result<(T, Meta)>,
    ) -> Result<(T, Meta)> {
        let key = ask.body.and(self.idempotency.as_ref()).map(Idempotency::next);
        let outgoing = Outgoing { path: ask.path, body: ask.body, idempotency_key: key.as_deref() };
        let with = Loop {
            retry: ask.retry,
            handler: &self.models.get(ask.model),
            clock: &self.clock,
            stop: &self.gate,
            deadline: ask.deadline,
            background: ask.background,
        };
        let attempt = |trail: &Trail| {
            let left = |due: Instant| due.saturating_duration_since(self.clock.now());
            let deadline = ask.deadline.zip(trail.due).map(|(whole, due)| Budget { whole, left: left(due) });
            let terms = Terms { fresh: trail.fresh, deadline };
            self.attempt(ask, trail, |limits| exchange(&outgoing, &terms, limits))
        };
        let classify = |error: &Error| classify::classify(error, ask.retry);
        let observe = |trail: &Trail, step: &Step<'_, Error>| self.observe(ask.model, trail, step);
        let ((value, mut meta), trail) =
            retry::run(&with, classify, observe, attempt).map_err(|failure| self.give_up(ask, failure))?;
        meta.attempts = trail.attempts;
        meta.waited = trail.waited;
        meta.elapsed = self.clock.now().saturating_duration_since(trail.started);
        Ok((value, meta))
    }

    /// One attempt, and what is told of it.
    fn attempt<T>(
        &self,
        ask: &Ask<'_>,
        trail: &Trail,
        exchange: impl FnOnce(&mut RateLimits) -> Result<(T, Meta)>,
    ) -> Brought<(T, Meta), Error> {
        let attempt = trail.attempts;
        log::trace!("attempt {attempt}: {}", ask.path);
        self.tell(|| Event::Attempt { attempt });
        let sent = self.clock.now();
        let mut limits = RateLimits::default();
        let result = exchange(&mut limits);
        self.tell(|| Event::Answer {
            attempt,
            status: result.as_ref().map_or_else(Error::status, |(_, meta)| Some(meta.status)),
            elapsed: self.clock.now().saturating_duration_since(sent),
        });
        Brought { result, limits }
    }

    /// Tells the log and the program what happens between attempts.
    fn observe(&self, model: &str, trail: &Trail, step: &Step<'_, Error>) {
        let attempt = trail.attempts;
        match *step {
            Step::Paced(waited) => {
                log::debug!("attempt {} waited {waited:?} for its turn", attempt + 1);
                self.tell(|| Event::Paced { attempt: attempt + 1, waited });
            }
            Step::Learned(Change { rate_per_minute, breaker }) => {
                if let Some(per_minute) = rate_per_minute {
                    log::debug!("{model}: at most {per_minute:.1} calls a minute from now on");
                    self.tell(|| Event::Rate { model: model.to_owned(), per_minute });
                }
                if let Some(state) = breaker {
                    log::warn!("{model}: the breaker is {state}");
                    self.tell(|| Event::Breaker { model: model.to_owned(), state });
                }
            }
            Step::Again(error, wait) => {
                let why = error.outline();
                log::warn!("attempt {attempt} failed ({why}); the next one in {wait:?}");
                self.tell(|| Event::Retry { attempt, status: error.status(), wait, why });
            }
        }
    }

    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            observer(&event());
        }
    }

    /// The error of a call that ended without success.
    fn give_up(&self, ask: &Ask<'_>, failure: Failure<Error>) -> Error {
        let (reason, trail, last) = match failure {
            Failure::GaveUp { last: Error::Shutdown, .. } | Failure::Barred { by: Error::Shutdown, .. } => {
                return Error::Shutdown;
            }
            Failure::Barred { by: Error::Deadline { .. }, last: None, .. } => {
                return Error::Deadline { after: ask.deadline.unwrap_or_default() };
            }
            Failure::Barred { by, last: None, .. } => return by,
            Failure::Barred { by: Error::Deadline { .. }, trail, last: Some(last) } => {
                (Reason::Deadline, trail, last)
            }
            Failure::Barred { trail, last: Some(last), .. } => (Reason::CircuitOpen, trail, last),
            Failure::GaveUp { reason: Reason::NotRetryable | Reason::RetriesSpent, trail, last, .. }
                if trail.attempts == 1 =>
            {
                return last;
            }
            // What failed before says more than that time ran out.
            Failure::GaveUp { trail, last: last @ Error::Deadline { .. }, before, .. } => {
                (Reason::Deadline, trail, before.unwrap_or(last))
            }
            Failure::GaveUp { reason, trail, last, .. } => (reason, trail, last),
        };
        let elapsed = self.clock.now().saturating_duration_since(trail.started);
        Error::GaveUp { reason, attempts: trail.attempts, elapsed, last: Box::new(last) }
    }
}

/// Keys that no other call has: chance that is this client's own, and a number.
pub(crate) struct Idempotency {
    client: String,
    calls: AtomicU64,
}

impl Idempotency {
    pub(crate) fn new() -> Idempotency {
        // The standard library's keys come from the system; a seed that makes tests repeatable must not repeat these.
        let chance = RandomState::new().build_hasher().finish();
        Idempotency { client: format!("holysheep-{chance:016x}-"), calls: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        [self.client.as_str(), &self.calls.fetch_add(1, Ordering::Relaxed).to_string()].concat()
    }
}
