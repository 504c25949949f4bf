//! The client, where all rooms meet: a request becomes bytes, bytes become attempts, attempts become an answer.

pub(crate) mod batch;
mod call;
pub(crate) mod config;
mod decode;
pub(crate) mod event;
pub(crate) mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::adaptive::{AdaptiveHandler, HandlerRegistry};
use crate::api::embeddings::{EmbeddingRequest, EmbeddingResponse};
use crate::api::models::{Model, ModelList};
use crate::api::{ChatRequest, ChatResponse};
use crate::client::call::{Ask, Core, Idempotency, Parts};
use crate::client::config::{Config, ConfigBuilder, SIGN_UP};
use crate::client::decode::Reader;
use crate::client::stream::{ChatStream, refuses_usage};
use crate::error::{Error, Result};
use crate::http::settings::LONGEST_PART;
use crate::http::transport::{Answer, Transport};
use crate::meta::Meta;
use crate::policy::backoff::{LONGEST, RetryConfig};
use crate::runtime::cancel::Cancel;

/// The shortest key that HolySheep gives out.
const SHORTEST_KEY: usize = 20;

/// Where chats are completed.
const CHAT: &str = "/chat/completions";

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
    core: Arc<Core>,
    retry: Arc<RetryConfig>,
    /// They were checked and are fine.
    retry_works: bool,
    deadline: Option<Duration>,
    /// Its calls are those of a batch.
    background: bool,
    /// The length of the key in characters, where the service is HolySheep's own and the key not the program's header.
    key_length: Option<usize>,
}

impl Client {
    /// A client with this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] where the proxy or the certificates can't be used.
    pub fn new(config: Config) -> Result<Client> {
        let Config { settings, key, deadline, retry, adaptive, handler, idempotency_key, observer, clock } =
            config;
        let models = Arc::new(handler.map_or_else(|| HandlerRegistry::new(adaptive), HandlerRegistry::One));
        let stop = Arc::new(Cancel::default());
        let key_length = (settings.base.holysheep && !key.is_empty()).then(|| key.chars().count());
        let bare = settings.base.url.ends_with(&settings.base.authority);
        let reader = Reader { secrets: Arc::clone(&settings.secrets), bare };
        let transport = Arc::new(Transport::new(settings, clock.clone(), Arc::clone(&stop))?);
        let idempotency = idempotency_key.then(Idempotency::new);
        let parts = Parts::default();
        let gate = Cancel::default();
        let core =
            Arc::new(Core { transport, models, clock, stop, gate, observer, reader, idempotency, parts });
        Ok(Client {
            core,
            retry: Arc::new(retry),
            retry_works: true,
            deadline,
            background: false,
            key_length,
        })
    }

    /// A client with the key in `HOLYSHEEP_API_KEY` and the address in `HOLYSHEEP_BASE_URL`, where that is set.
    ///
    /// # Errors
    /// [`Error::Config`] that names the variable which is missing or malformed, and says where to get a key.
    pub fn from_env() -> Result<Client> {
        Client::new(ConfigBuilder::from_env()?.build()?)
    }

    /// Asks for a chat completion.
    ///
    /// # Errors
    /// [`Error::Config`] before anything is sent where the request can't work, otherwise what the last attempt failed with.
    pub fn chat(&self, request: &ChatRequest) -> Result<ChatResponse> {
        request.check()?;
        let body = to_json(&request.whole())?;
        let ask = self.ask(request.model(), CHAT, Some(&body))?;
        let (mut response, meta) = self.core.call(&ask, |answer| self.core.reader.open_chat(answer))?;
        response.meta = meta;
        Ok(response)
    }

    /// Asks for a chat completion that comes piece by piece.
    ///
    /// Failures before the first piece are tried again like those of [`chat`](Client::chat); after it the stream ends
    /// with an error, never with a success that isn't one. The usage is asked for, unless the request says
    /// otherwise; a service that doesn't know how to tell it is asked once more without.
    ///
    /// # Errors
    /// As [`chat`](Client::chat).
    pub fn chat_stream(&self, request: &ChatRequest) -> Result<ChatStream> {
        request.check()?;
        let open = |usage: bool| {
            let body = to_json(&request.streamed(usage))?;
            ChatStream::open(&self.core, &self.ask(request.model(), CHAT, Some(&body))?, request.answers())
        };
        match open(true) {
            Err(error) if request.asks_for_usage() && refuses_usage(&error) => open(false),
            opened => opened,
        }
    }

    /// Asks for the vectors of texts.
    ///
    /// # Errors
    /// As [`chat`](Client::chat).
    pub fn embeddings(&self, request: &EmbeddingRequest) -> Result<EmbeddingResponse> {
        request.check()?;
        let (mut response, meta): (EmbeddingResponse, Meta) =
            self.exchange(request.model(), "/embeddings", Some(&to_json(request)?))?;
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
        if let Some(length @ ..SHORTEST_KEY) = self.key_length {
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
        self.core.models.get(model)
    }

    /// Ends all waits and calls of all clones at once and for good, with [`Error::Shutdown`].
    pub fn shutdown(&self) {
        self.core.shutdown();
    }

    /// Lets what is on the wire finish, and nothing else begin, for all clones and for good: who waits for a turn, for the
    /// service or between two attempts ends with [`Error::Shutdown`] at once, and so does every later call.
    ///
    /// For an end in which nothing that was paid for is lost. [`shutdown`](Client::shutdown) can still follow.
    pub fn drain(&self) {
        self.core.drain();
    }

    /// Whether no call begins any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.core.gate.is_cancelled()
    }

    /// A client for the calls of a batch: background, and to be shut down alone. `ended` is told when it is.
    pub(crate) fn part(&self, ended: impl Fn() + Send + Sync + 'static) -> Client {
        Client { core: self.core.part(ended), background: true, ..self.clone() }
    }

    /// `path` begins with a slash and stays below the base address.
    fn exchange<R: DeserializeOwned>(
        &self,
        model: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<(R, Meta)> {
        let ask = self.ask(model, path, body)?;
        self.core.call(&ask, |answer| self.core.reader.open(answer, Answer::read))
    }

    fn ask<'a>(&'a self, model: &'a str, path: &'a str, body: Option<&'a [u8]>) -> Result<Ask<'a>> {
        if !self.retry_works {
            self.retry.check()?;
        }
        let (deadline, background) = (self.deadline, self.background);
        Ok(Ask { retry: &self.retry, deadline, background, model, path, body })
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
    if path.len() > LONGEST_PART {
        let message = format!("is longer than {LONGEST_PART} bytes; put what it says into a body");
        return Err(Error::config("path", message));
    }
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
