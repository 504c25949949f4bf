//! The client: a request becomes bytes, bytes become attempts, attempts become an answer.

pub(crate) mod batch;
mod call;
mod call_key;
mod cancellation;
pub(crate) mod config;
mod core;
mod decode;
pub(crate) mod event;
mod final_error;
pub(crate) mod key_provider;
mod path;
mod report;
pub(crate) mod stream;
mod usage_option;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adaptive::AdaptiveHandler;
use crate::api::models::ModelList;
use crate::api::{ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse, Model};
use crate::client::call::{Call, CallOptions, CallSpec};
use crate::client::cancellation::Cancellation;
use crate::client::config::{
    AUTHORIZATION, Config, ConfigBuilder, SIGN_UP, clamped_deadline, clamped_timeout, with_header,
};
use crate::client::core::Core;
use crate::client::decode::ResponseDecoder;
use crate::client::key_provider::KeyProvider;
use crate::client::path::checked_path;
use crate::client::stream::ChatStream;
use crate::error::{Error, Result};
use crate::http::request::HttpRequest;
use crate::http::transport::HttpResponse;
use crate::meta::Attempt;
use crate::policy::backoff::RetryConfig;
use crate::retry::clamped;
use crate::runtime::cancel::Cancel;

/// The length of the shortest key that HolySheep issues, in characters.
const MIN_KEY_LENGTH: usize = 20;

const CHAT: &str = "/chat/completions";
const EMBEDDINGS: &str = "/embeddings";
const MODELS: &str = "/models";

/// The name of the handler for calls without a model.
const NO_MODEL: &str = "";

/// The deadline of [`Client::validate_api_key`].
const VALIDATION_TIME: Duration = Duration::from_secs(5);

/// A client of one service. Clones are cheap; they share connections, adaptive handlers and shutdown.
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
    options: Arc<CallOptions>,
    /// The length of the key in characters, where the service is HolySheep's own and the key isn't in a header.
    key_length: Option<usize>,
}

impl Client {
    /// A client with this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] where the proxy or the certificates can't be used.
    pub fn new(config: Config) -> Result<Client> {
        let Config { settings, endpoint } = config;
        let is_own = endpoint.base.holysheep && !settings.api_key.is_empty();
        let key_length = is_own.then(|| settings.api_key.chars().count());
        let secrets = || Arc::clone(&endpoint.headers.secrets);
        let function = settings.key_function.clone();
        let keys = function.map(|function| Arc::new(KeyProvider::new(function, secrets())));
        let options = Arc::new(CallOptions {
            retry: settings.retry.clone(),
            deadline: settings.deadline,
            timeout: settings.http.timeout,
            headers: endpoint.headers.clone(),
            decoder: ResponseDecoder::new(&endpoint, keys.clone()),
            keys,
            background: false,
            cancellation: None,
        });
        Ok(Client { core: Arc::new(Core::new(&settings, endpoint)?), options, key_length })
    }

    /// A client with the key in `HOLYSHEEP_API_KEY` and the address in `HOLYSHEEP_BASE_URL`, where that is set. A loopback
    /// address needs no key.
    ///
    /// # Errors
    /// [`Error::Config`] that names the variable which is missing or malformed, and says what to do.
    pub fn from_env() -> Result<Client> {
        Client::new(ConfigBuilder::from_env()?.build()?)
    }

    /// Requests a chat completion.
    ///
    /// # Errors
    /// [`Error::Config`] before anything is sent where the request can't work, otherwise the error of the call.
    pub fn chat(&self, request: &ChatRequest) -> Result<ChatResponse> {
        let mut call = self.begin_chat(request)?;
        let send = |sent: &HttpRequest<'_>| self.send_chat(request, sent);
        let Attempt { result, meta } =
            self.core.complete(&mut call, send, |response| response.usage.as_ref());
        result.map(|response| response.with_meta(meta))
    }

    /// Requests a chat completion that arrives in chunks.
    ///
    /// Failures before the first chunk are retried like those of [`chat`](Client::chat). After it the stream ends with an
    /// error, never with a success that isn't one. The usage is asked for, unless the request says otherwise; a service
    /// that refuses to report it is asked once more without, and that is remembered.
    ///
    /// # Errors
    /// As [`chat`](Client::chat).
    pub fn chat_stream(&self, request: &ChatRequest) -> Result<ChatStream> {
        request.check()?;
        let may_ask = self.core.may_ask_for_usage(request.model());
        let body = to_json(&request.stream_body(may_ask))?;
        let asks_for_usage = may_ask && request.asks_for_usage();
        let spec = CallSpec { asks_for_usage, ..self.spec(request.model(), CHAT, Some(body)) };
        ChatStream::open(&self.core, spec, request.answers())
    }

    /// Requests the embeddings of texts.
    ///
    /// # Errors
    /// As [`chat`](Client::chat).
    pub fn embeddings(&self, request: &EmbeddingRequest) -> Result<EmbeddingResponse> {
        let mut call = self.begin_embeddings(request)?;
        let send = |sent: &HttpRequest<'_>| self.send_embeddings(request, sent);
        let Attempt { result, meta } =
            self.core.complete(&mut call, send, |response| response.usage.as_ref());
        result.map(|response| EmbeddingResponse { meta, ..response })
    }

    /// The models that the service offers.
    ///
    /// # Errors
    /// The error of the call.
    pub fn models(&self) -> Result<Vec<Model>> {
        let decode = |response: &HttpResponse| self.options.decoder.decode_list(response, "data");
        let mut call = self.core.begin(self.spec(NO_MODEL, MODELS, None));
        self.core.call(&mut call, decode).result.map(ModelList::into_vec)
    }

    /// Checks whether the service accepts the key: requests the list of models, one attempt, 5 s.
    ///
    /// # Errors
    /// [`Error::Api`] with status 401 or 403 where the key is refused; [`Error::Config`] without a request where the key
    /// can't be one of HolySheep's; any other error says nothing about the key.
    pub fn validate_api_key(&self) -> Result<()> {
        if let Some(length @ ..MIN_KEY_LENGTH) = self.key_length {
            let message = format!(
                "has {length} characters, HolySheep's have {MIN_KEY_LENGTH} or more; copy it from {SIGN_UP}"
            );
            return Err(Error::config("api_key", message));
        }
        let time = self.options.deadline.map_or(VALIDATION_TIME, |deadline| deadline.min(VALIDATION_TIME));
        let once = self.with_retry(RetryConfig::default().max_retries(0)).with_deadline(Some(time));
        let check = |response: &HttpResponse| once.options.decoder.check(response);
        once.core.call(&mut once.core.begin(once.spec(NO_MODEL, MODELS, None)), check).result
    }

    /// Requests a path below the base address, for parts of an API that have no method here.
    ///
    /// An empty answer is `()` or the `None` of an `Option`, and a failure that is retried for every other type.
    ///
    /// What the answer takes in memory depends on `R`: only its bytes are limited, by
    /// [`max_response_bytes`](ConfigBuilder::max_response_bytes). A [`Value`](serde_json::Value) may take 200 times as many.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid path, otherwise the error of the call.
    pub fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R> {
        self.exchange(&checked_path(path)?, None)
    }

    /// Posts JSON to a path below the base address, for parts of an API that have no method here. What [`get`](Client::get) says
    /// of empty answers and of memory holds here too.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid path or body, otherwise the error of the call.
    pub fn post<B: Serialize + ?Sized, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R> {
        self.exchange(&checked_path(path)?, Some(to_json(body)?))
    }

    /// This client with other retry settings. A setting that can't work is replaced by the nearest one that can, with a
    /// warning in the log.
    pub fn with_retry(&self, retry: RetryConfig) -> Client {
        self.with(|options| options.retry = clamped(retry))
    }

    /// This client with another bound over all attempts and waits of a call, or with none. One of zero has passed already, so
    /// that nothing is sent. More than 24 hours count as 24 hours, with a warning in the log.
    pub fn with_deadline(&self, deadline: Option<Duration>) -> Client {
        self.with(|options| options.deadline = deadline.map(clamped_deadline))
    }

    /// This client with another inactivity timeout: the longest time without progress while sending, waiting for, or reading
    /// a response. 1 ms to 24 hours; the nearest allowed value replaces another one, with a warning in the log.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        self.with(|options| options.timeout = clamped_timeout(timeout))
    }

    /// This client with a further header in every request, or with another value of one that it has. The value is redacted
    /// in logs and errors as keys are.
    ///
    /// ```no_run
    /// # let client = holysheep::Client::from_env()?;
    /// let traced = client.with_header("x-trace-id", "6f1d")?;
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for a name or a value that can't be sent, and for a header that the client sets itself.
    pub fn with_header(&self, name: &str, value: &str) -> Result<Client> {
        let headers = with_header(&self.options.headers, name, value)?;
        let decoder = self.options.decoder.with_secrets(&headers.secrets);
        let replaces_key = name.eq_ignore_ascii_case(AUTHORIZATION);
        Ok(self.with(|options| {
            (options.headers, options.decoder) = (headers, decoder);
            options.keys = options.keys.take().filter(|_| !replaces_key);
        }))
    }

    /// This client with calls that end with [`Error::Cancelled`] at once when the token is cancelled: their waits, look-ups,
    /// connects and exchanges, and the streams that they opened. The connection pool, the handlers and the calls of other
    /// clones continue. It replaces a token that this client had before.
    ///
    /// ```no_run
    /// use holysheep::{Cancel, ChatRequest, Client};
    ///
    /// let cancel = Cancel::new();
    /// let client = Client::from_env()?.with_cancel(&cancel);
    /// // In a Ctrl-C handler or another thread: cancel.cancel();
    /// let answer = client.chat(&ChatRequest::new("gpt-4.1").user("A long story, please."));
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    pub fn with_cancel(&self, cancel: &Cancel) -> Client {
        self.with(|options| options.cancellation = Some(Cancellation::new(&self.core, cancel)))
    }

    fn with(&self, change: impl FnOnce(&mut CallOptions)) -> Client {
        let mut options = CallOptions::clone(&self.options);
        change(&mut options);
        Client { options: Arc::new(options), ..self.clone() }
    }

    /// The handler that paces the calls of a model, or all calls where the configuration gave one for all. Calls without a
    /// model have the one of the empty name. Of many models the least recently used is forgotten.
    pub fn handler(&self, model: &str) -> AdaptiveHandler {
        self.core.handlers.get(model)
    }

    /// Ends all waits, calls and streams of all clones at once and for good, with [`Error::Shutdown`].
    pub fn shutdown(&self) {
        self.core.shutdown.cancel();
    }

    /// Stops starting new requests and lets in-flight requests finish, for all clones and for good: calls that wait for a
    /// turn, for the service or between two attempts end with [`Error::Shutdown`] at once, and so does every later call.
    ///
    /// For an end in which nothing that was paid for is lost. [`shutdown`](Client::shutdown) can still follow.
    pub fn drain(&self) {
        self.core.draining.cancel();
    }

    /// Whether no further call starts.
    pub(crate) fn is_drained(&self) -> bool {
        self.core.draining.is_cancelled()
    }

    /// A client for the calls of a batch, which can be shut down alone. `ended` is called when it is, or drained.
    pub(crate) fn child(&self, ended: impl Fn() + Send + Sync + 'static) -> Client {
        let user = self.options.cancellation.as_ref().map(|ends| ends.user.clone());
        let core = Arc::new(self.core.child(user.as_ref(), ended));
        let client = self.with(|options| {
            options.background = true;
            options.cancellation = user.map(|user| Cancellation::new(&core, &user));
        });
        Client { core, ..client }
    }

    /// `path` begins with a slash and stays below the base address.
    fn exchange<R: DeserializeOwned>(&self, path: &str, body: Option<Vec<u8>>) -> Result<R> {
        let decode = |response: &HttpResponse| self.options.decoder.decode_any(response);
        self.core.call(&mut self.core.begin(self.spec(NO_MODEL, path, body)), decode).result
    }

    fn begin_chat<'a>(&self, request: &'a ChatRequest) -> Result<Call<'a>> {
        request.check()?;
        Ok(self.core.begin(self.spec(request.model(), CHAT, Some(to_json(&request.body())?))))
    }

    /// Makes an attempt of a chat.
    fn send_chat(&self, request: &ChatRequest, sent: &HttpRequest<'_>) -> Attempt<ChatResponse> {
        ChatStream::whole(&self.core, &self.options, sent, request.answers())
    }

    fn begin_embeddings<'a>(&self, request: &'a EmbeddingRequest) -> Result<Call<'a>> {
        request.check()?;
        Ok(self.core.begin(self.spec(request.model(), EMBEDDINGS, Some(to_json(request)?))))
    }

    /// Makes an attempt of a call for embeddings.
    fn send_embeddings(
        &self,
        request: &EmbeddingRequest,
        sent: &HttpRequest<'_>,
    ) -> Attempt<EmbeddingResponse> {
        let decoder = &self.options.decoder;
        self.core.send_whole(sent, |response| decoder.decode_embeddings(response, request))
    }

    fn spec<'a>(&self, model: &'a str, path: &'a str, body: Option<Vec<u8>>) -> CallSpec<'a> {
        let options = Arc::clone(&self.options);
        CallSpec { options, model: model.into(), path: path.into(), body, asks_for_usage: false }
    }
}

/// A request body.
fn to_json<B: Serialize + ?Sized>(body: &B) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|source| Error::Config {
        setting: "body",
        message: "can't be serialised as JSON".to_owned(),
        source: Some(source.into()),
    })
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("retry", &self.options.retry)
            .field("deadline", &self.options.deadline)
            .finish_non_exhaustive()
    }
}
