//! The client, where all rooms meet: a request becomes bytes, bytes become attempts, attempts become an answer.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::adaptive::{AdaptiveHandler, Change, Models};
use crate::answer::Reader;
use crate::config::{Config, Observer, SIGN_UP};
use crate::error::{Error, Reason, Result};
use crate::event::Event;
use crate::io::clock::{Clock, Stop};
use crate::io::transport::{Answer, Budget, Outgoing, Terms, Transport};
use crate::limits::RateLimits;
use crate::meta::Meta;
use crate::policy::backoff::{LONGEST, RetryConfig};
use crate::policy::verdict;
use crate::retry::{self, Brought, Failure, Loop, Step, Trail};
use crate::wire::chat::{ChatRequest, ChatResponse};
use crate::wire::models::{Model, ModelList};

/// The shortest key that HolySheep gives out.
const SHORTEST_KEY: usize = 20;

/// The name that stands for calls without a model, where each model has a handler.
const NO_MODEL: &str = "";

/// How long the question whether a key is valid may take.
const VALIDATION_TIME: Duration = Duration::from_secs(5);

/// A client of one service. Clones share the connections and the shutdown, and are cheap.
///
/// ```no_run
/// use holysheep::{ChatRequest, Client};
///
/// let client = Client::from_env()?;
/// let answer = client.chat(&ChatRequest::new("gpt-4.1").user("Capital of France?"))?;
/// println!("{}", answer.text());
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    retry: Arc<RetryConfig>,
    /// They were checked and are fine.
    retry_works: bool,
    deadline: Option<Duration>,
}

/// What all clones share.
struct Shared {
    transport: Transport,
    models: Models,
    clock: Clock,
    stop: Arc<Stop>,
    observer: Option<Observer>,
    reader: Reader,
    holysheep: bool,
    /// In characters; 0 where the authorization is the program's own.
    key_length: usize,
    idempotency: Option<Idempotency>,
}

impl Client {
    /// A client with this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] where the proxy or the certificates can't be used.
    pub fn new(config: Config) -> Result<Client> {
        let Config { settings, key, deadline, retry, adaptive, handler, idempotency_key, observer, clock } =
            config;
        let models = handler.map_or_else(|| Models::new(adaptive), Models::One);
        let stop = Arc::new(Stop::default());
        let (holysheep, key_length) = (settings.base.holysheep, key.chars().count());
        let bare = settings.base.url.ends_with(&settings.base.authority);
        let reader = Reader { secrets: Arc::clone(&settings.secrets), bare };
        let transport = Transport::new(settings, clock.clone(), Arc::clone(&stop))?;
        let idempotency = idempotency_key.then(Idempotency::new);
        let shared =
            Shared { transport, models, clock, stop, observer, reader, holysheep, key_length, idempotency };
        Ok(Client { shared: Arc::new(shared), retry: Arc::new(retry), retry_works: true, deadline })
    }

    /// A client with the key in `HOLYSHEEP_API_KEY` and the address in `HOLYSHEEP_BASE_URL`, where that is set.
    ///
    /// # Errors
    /// [`Error::Config`] that names the variable which is missing or malformed, and says where to get a key.
    pub fn from_env() -> Result<Client> {
        Client::new(Config::from_env()?)
    }

    /// Asks for a chat completion.
    ///
    /// # Errors
    /// [`Error::Config`] before anything is sent where the request can't work, otherwise what the last attempt failed with.
    pub fn chat(&self, request: &ChatRequest) -> Result<ChatResponse> {
        request.check()?;
        let body = to_json(&request.whole())?;
        let (mut response, meta) =
            self.call(request.model(), "/chat/completions", Some(&body), Answer::read_chat)?;
        response.meta = meta;
        Ok(response)
    }

    /// The models that the service offers.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub fn models(&self) -> Result<Vec<Model>> {
        self.get("/models").map(ModelList::into_vec)
    }

    /// Asks the service whether it takes the key: the list of models, one attempt, 5 s.
    ///
    /// # Errors
    /// [`Error::Api`] with status 401 or 403 where the key is refused; [`Error::Config`] without asking where HolySheep's
    /// own key is malformed; any other error says nothing about the key.
    pub fn validate_api_key(&self) -> Result<()> {
        let length = self.shared.key_length;
        if self.shared.holysheep && (1..SHORTEST_KEY).contains(&length) {
            let message = format!(
                "has {length} characters, HolySheep's have {SHORTEST_KEY} or more; copy it from {SIGN_UP}"
            );
            return Err(Error::config("api_key", message));
        }
        let time = self.deadline.map_or(VALIDATION_TIME, |deadline| deadline.min(VALIDATION_TIME));
        let once = self.with_retry(RetryConfig::default().max_retries(0)).with_deadline(Some(time));
        once.exchange::<IgnoredAny>(NO_MODEL, "/models", None).map(|_| ())
    }

    /// Gets what is at a path below the base address, for parts of an API that have no method here.
    ///
    /// # Errors
    /// [`Error::Config`] for a path that can't be one, otherwise what the last attempt failed with.
    pub fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R> {
        self.exchange(NO_MODEL, &checked_path(path)?, None).map(|(value, _)| value)
    }

    /// Posts JSON to a path below the base address, for parts of an API that have no method here.
    ///
    /// # Errors
    /// [`Error::Config`] for a path or a body that can't be one, otherwise what the last attempt failed with.
    pub fn post<B: Serialize + ?Sized, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R> {
        self.exchange(NO_MODEL, &checked_path(path)?, Some(&to_json(body)?)).map(|(value, _)| value)
    }

    /// This client with other retries. What is wrong with them is said by the calls.
    pub fn with_retry(&self, retry: RetryConfig) -> Client {
        Client { retry_works: retry.check().is_ok(), retry: Arc::new(retry), ..self.clone() }
    }

    /// This client with another bound over all attempts and waits of a call; `None`, or more than a day, for no bound.
    pub fn with_deadline(&self, deadline: Option<Duration>) -> Client {
        Client { deadline: deadline.filter(|deadline| *deadline <= LONGEST), ..self.clone() }
    }

    /// The handler that paces the calls of a model, or all calls where the configuration gave one for all. Calls that
    /// name no model have the one of the empty name. The least used of many models is forgotten.
    pub fn handler(&self, model: &str) -> AdaptiveHandler {
        self.shared.models.get(model)
    }

    /// Ends all waits and calls of all clones at once and for good, with [`Error::Shutdown`].
    pub fn shutdown(&self) {
        self.shared.stop.set();
        self.shared.models.wake();
        self.shared.transport.shutdown();
    }

    /// `path` begins with a slash and stays below the base address.
    fn exchange<R: DeserializeOwned>(
        &self,
        model: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<(R, Meta)> {
        self.call(model, path, body, Answer::read)
    }

    /// Makes a call: attempts, repeated as the policy says, until `read` makes something of an answer.
    fn call<T>(
        &self,
        model: &str,
        path: &str,
        body: Option<&[u8]>,
        read: impl Fn(&Answer) -> Result<T>,
    ) -> Result<(T, Meta)> {
        if !self.retry_works {
            self.retry.check()?;
        }
        let shared = &*self.shared;
        let key = body.and(shared.idempotency.as_ref()).map(Idempotency::next);
        let outgoing = Outgoing { path, body, idempotency_key: key.as_deref() };
        let started = shared.clock.now();
        let with = Loop {
            retry: &self.retry,
            handler: &shared.models.get(model),
            clock: &shared.clock,
            stop: &shared.stop,
            deadline: self.deadline.and_then(|deadline| started.checked_add(deadline)),
        };
        let attempt = |trail: &Trail| {
            let budget = self.deadline.map(|whole| {
                let left = whole.saturating_sub(shared.clock.now().saturating_duration_since(started));
                Budget { whole, left }
            });
            shared.attempt(&outgoing, &Terms { fresh: trail.fresh, deadline: budget }, trail, &read)
        };
        let judge = |error: &Error| verdict::judge(error, &self.retry);
        let observe = |trail: &Trail, step: &Step<'_, Error>| shared.observe(model, trail, step);
        let ((value, mut meta), trail) =
            retry::run(&with, judge, observe, attempt).map_err(|failure| self.give_up(failure))?;
        meta.attempts = trail.attempts;
        meta.waited = trail.waited;
        meta.elapsed = shared.clock.now().saturating_duration_since(trail.started);
        Ok((value, meta))
    }

    /// The error of a call that ended without success.
    fn give_up(&self, failure: Failure<Error>) -> Error {
        let (reason, trail, last) = match failure {
            Failure::GaveUp { last: Error::Shutdown, .. } | Failure::Barred { by: Error::Shutdown, .. } => {
                return Error::Shutdown;
            }
            Failure::Barred { by: Error::Deadline { .. }, last: None, .. } => {
                return Error::Deadline { after: self.deadline.unwrap_or_default() };
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
        let elapsed = self.shared.clock.now().saturating_duration_since(trail.started);
        Error::GaveUp { reason, attempts: trail.attempts, elapsed, last: Box::new(last) }
    }
}

impl Shared {
    /// One attempt: sends, and makes a value or an error of what comes back.
    fn attempt<T>(
        &self,
        outgoing: &Outgoing<'_>,
        terms: &Terms,
        trail: &Trail,
        read: impl Fn(&Answer) -> Result<T>,
    ) -> Brought<(T, Meta), Error> {
        let attempt = trail.attempts;
        log::trace!("attempt {attempt}: {}", outgoing.path);
        self.tell(|| Event::Attempt { attempt });
        let sent = self.clock.now();
        let mut limits = RateLimits::default();
        let result = self.transport.exchange(outgoing, terms).and_then(|answer| {
            limits = answer.headers.rate_limits;
            let value = self.reader.open(&answer, &read)?;
            Ok((value, answer.meta()))
        });
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
}

/// Keys that no other call has: chance that is this client's own, and a number.
struct Idempotency {
    client: String,
    calls: AtomicU64,
}

impl Idempotency {
    fn new() -> Idempotency {
        // The standard library's keys come from the system; a seed that makes tests repeatable must not repeat these.
        let chance = RandomState::new().build_hasher().finish();
        Idempotency { client: format!("holysheep-{chance:016x}-"), calls: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{}{:x}", self.client, self.calls.fetch_add(1, Ordering::Relaxed))
    }
}

fn to_json<B: Serialize + ?Sized>(body: &B) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|source| Error::Config {
        setting: "body",
        message: "can't be written as JSON".to_owned(),
        source: Some(source.into()),
    })
}

/// A path that stays below the base address.
fn checked_path(path: &str) -> Result<String> {
    let place = path.split('?').next().unwrap_or_default();
    let up = |part: &str| part.to_ascii_lowercase().replace("%2e", ".") == "..";
    if place.contains("://") || place.split('/').any(up) {
        return Err(Error::config(
            "path",
            "leaves the base address; give what comes after it, such as /models",
        ));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("retry", &self.retry)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
