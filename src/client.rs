//! The client: its calls, and clones of it with other options.

mod answer;
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
mod open;
mod path;
mod report;
#[cfg(test)]
mod simulation;
pub(crate) mod stream;
mod usage_option;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adaptive::{AdaptiveHandler, valid};
use crate::api::models::ModelList;
use crate::api::{ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse, Model};
use crate::client::call::{Call, CallOptions, CallSpec};
use crate::client::cancellation::Cancellation;
use crate::client::config::{
    AUTHORIZATION, Config, ConfigBuilder, SIGN_UP, clamped_deadline, clamped_timeout, with_header,
};
use crate::client::core::Core;
use crate::client::path::checked_path;
use crate::client::stream::ChatStream;
use crate::error::{Error, Result, into_source};
use crate::http::request::HttpRequest;
use crate::http::transport::{HttpResponse, Transport};
use crate::meta::Attempt;
use crate::policy::backoff::RetryConfig;
use crate::runtime::cancel::Cancel;

/// The length of the shortest key that HolySheep issues, in characters.
const MIN_KEY_LENGTH: usize = 20;

const CHAT: &str = "/chat/completions";
const EMBEDDINGS: &str = "/embeddings";
const MODELS: &str = "/models";

/// The name of the handler for calls without a model.
const NO_MODEL: &str = "";

/// The deadline of [`Client::validate_api_key`].
const VALIDATION_DEADLINE: Duration = Duration::from_secs(5);

/// A client for one service. Clones are cheap; they share connections, adaptive handlers and shutdown.
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
    /// The length of the key in characters, if the service is HolySheep's own and the key isn't in a header.
    key_length: Option<usize>,
}

impl Client {
    /// Creates a client with this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] if the proxy or the certificates can't be used.
    pub fn new(config: Config) -> Result<Client> {
        Client::with_transport(config, Transport::new)
    }

    /// Creates a client with the key in `HOLYSHEEP_API_KEY`, and with the address in `HOLYSHEEP_BASE_URL` if that is
    /// set. A loopback address needs no key.
    ///
    /// # Errors
    /// [`Error::Config`] that names the missing or malformed variable and says what to do.
    pub fn from_env() -> Result<Client> {
        Client::new(ConfigBuilder::from_env()?.build()?)
    }

    /// Requests a chat completion.
    ///
    /// It may wait before it is sent: while the model's [handler](crate::AdaptiveHandler) limits the rate, or for as long as a
    /// `Retry-After` to an earlier call asks. [`with_deadline`](Client::with_deadline) bounds the whole call.
    ///
    /// # Errors
    /// [`Error::Config`] before anything is sent if the request is invalid, otherwise the error of the call.
    pub fn chat(&self, request: &ChatRequest) -> Result<ChatResponse> {
        let mut call = self.begin_chat(request)?;
        let send = |sent: &HttpRequest<'_>| self.send_chat(request, sent);
        let Attempt { result, meta } = self.core.complete(&mut call, send);
        result.map(|response| response.with_meta(meta))
    }

    /// Requests a chat completion as a stream of chunks. Returns when the first one with content has arrived.
    ///
    /// Failures before the first chunk are retried like those of [`chat`](Client::chat). Later failures end the stream
    /// with an error; a truncated answer is never reported as a success. The usage is requested unless the request says
    /// otherwise. If a service rejects that, the request is sent once more without it, and the client remembers this.
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
        let Attempt { result, meta } = self.core.complete(&mut call, send);
        result.map(|response| EmbeddingResponse { meta, ..*response })
    }

    /// Lists the models that the service offers.
    ///
    /// # Errors
    /// The error of the call.
    pub fn models(&self) -> Result<Vec<Model>> {
        let decode = |response: &HttpResponse| self.options.decoder.decode_list(response, "data");
        let mut call = self.core.begin(self.spec(NO_MODEL, MODELS, None));
        self.core.call(&mut call, decode).map(ModelList::into_vec)
    }

    /// Checks whether the service accepts the key: requests the list of models once, for at most 5 s, and
    /// with [`api_key_from`](ConfigBuilder::api_key_from) once more with a new key if the first one is rejected.
    ///
    /// # Errors
    /// [`Error::Api`] with status 401 if the key is rejected, with some services 403; [`Error::Config`] without a request if the key is
    /// too short for HolySheep. Any other error says nothing about the key.
    pub fn validate_api_key(&self) -> Result<()> {
        if let Some(length @ ..MIN_KEY_LENGTH) = self.key_length {
            let message = format!(
                "is too short for HolySheep: {length} of at least {MIN_KEY_LENGTH} characters; copy it from {SIGN_UP}"
            );
            return Err(Error::config("api_key", message));
        }
        let deadline =
            self.options.deadline.map_or(VALIDATION_DEADLINE, |deadline| deadline.min(VALIDATION_DEADLINE));
        let once = self.with_retry(RetryConfig::default().max_retries(0)).with_deadline(Some(deadline));
        let check = |response: &HttpResponse| once.options.decoder.check(response);
        once.core.call(&mut once.core.begin(once.spec(NO_MODEL, MODELS, None)), check)
    }

    /// Sends a GET to a path below the base URL, for endpoints that have no method here.
    ///
    /// An empty body is `()` or the `None` of an `Option`; for every other type it is a failure, which is retried.
    ///
    /// The memory that the response takes depends on `R`: only its bytes are limited, by
    /// [`max_response_bytes`](ConfigBuilder::max_response_bytes). A [`Value`](serde_json::Value) may take 200 times as
    /// much.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid path, otherwise the error of the call.
    pub fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R> {
        self.exchange(&checked_path(path)?, None)
    }

    /// Posts JSON to a path below the base URL, for endpoints that have no method here. Empty bodies and memory are as
    /// for [`get`](Client::get).
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid path or body, otherwise the error of the call.
    pub fn post<B: Serialize + ?Sized, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R> {
        self.exchange(&checked_path(path)?, Some(to_json(body)?))
    }

    /// This client with other retry settings. An invalid setting is replaced by the nearest valid one, with a warning
    /// in the log.
    pub fn with_retry(&self, retry: RetryConfig) -> Client {
        self.with(|options| options.retry = valid(Cow::Owned(retry)).into_owned())
    }

    /// This client with another deadline for all attempts and waits of a call, or with none. With a deadline of zero
    /// nothing is sent. More than 24 hours count as 24 hours, with a warning in the log. A call ends within a few tens of
    /// milliseconds of it. While the request itself is being sent, it may end up to an eighth later, because the operating
    /// system rounds the timeout of a write.
    pub fn with_deadline(&self, deadline: Option<Duration>) -> Client {
        self.with(|options| options.deadline = deadline.map(clamped_deadline))
    }

    /// This client with another inactivity timeout: the longest time without progress while sending, waiting for, or
    /// reading a response. 1 ms to 24 hours; any other value is replaced by the nearest allowed one, with a warning in
    /// the log.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        self.with(|options| options.timeout = clamped_timeout(timeout))
    }

    /// This client with an additional header in every request, or another value of an existing one. Its value is redacted as
    /// with [`header`](ConfigBuilder::header).
    ///
    /// ```no_run
    /// # let client = holysheep::Client::from_env()?;
    /// let traced = client.with_header("x-trace-id", "6f1d")?;
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid name or value, and for a header that the client sets itself.
    pub fn with_header(&self, name: &str, value: &str) -> Result<Client> {
        let headers = with_header(&self.options.headers, name, value)?;
        let decoder = self.options.decoder.with_secrets(&headers.secrets);
        let replaces_key = name.eq_ignore_ascii_case(AUTHORIZATION);
        let client = self.with(|options| {
            (options.headers, options.decoder) = (headers, decoder);
            options.keys = options.keys.take().filter(|_| !replaces_key);
        });
        Ok(Client { key_length: self.key_length.filter(|_| !replaces_key), ..client })
    }

    /// This client with calls that end with [`Error::Cancelled`] as soon as the token is cancelled, including their
    /// waits, DNS lookups, connects, exchanges and streams. The connection pool, the handlers and the calls of other
    /// clones are not affected. The token replaces an earlier one.
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

    /// The handler that paces the calls of a model, or all calls if the configuration sets one for all. Calls without a
    /// model use the empty name. If there are too many models, the least recently used handler is dropped.
    pub fn handler(&self, model: &str) -> AdaptiveHandler {
        self.core.handlers.get(model)
    }

    /// Permanently ends all waits, calls and streams of all clones at once, with [`Error::Shutdown`].
    pub fn shutdown(&self) {
        self.core.shutdown.cancel();
    }

    /// Permanently stops starting new requests and lets in-flight requests finish, for all clones: calls that wait for
    /// a permit or between two attempts end with [`Error::Shutdown`] at once, and so does every later call.
    ///
    /// No response that was paid for is lost. [`shutdown`](Client::shutdown) can still follow.
    pub fn drain(&self) {
        self.core.draining.cancel();
    }

    /// Whether the client was drained or shut down, so that no further call starts.
    pub(crate) fn is_drained(&self) -> bool {
        self.core.draining.is_cancelled()
    }

    /// A client for the calls of a batch, which can be shut down alone. `ended` is called when it is shut down or
    /// drained.
    pub(crate) fn child(&self, ended: impl Fn() + Send + Sync + 'static) -> Client {
        let user = self.options.cancellation.as_ref().map(|ends| ends.user.clone());
        let core = Arc::new(self.core.child(user.as_ref(), ended));
        let client = self.with(|options| {
            options.background = true;
            options.cancellation = user.map(|user| Cancellation::new(&core, &user));
        });
        Client { core, ..client }
    }

    /// `path` begins with a slash and stays below the base URL.
    fn exchange<R: DeserializeOwned>(&self, path: &str, body: Option<Vec<u8>>) -> Result<R> {
        let decode = |response: &HttpResponse| self.options.decoder.decode_any(response);
        self.core.call(&mut self.core.begin(self.spec(NO_MODEL, path, body)), decode)
    }

    fn begin_chat<'a>(&self, request: &'a ChatRequest) -> Result<Call<'a>> {
        request.check()?;
        Ok(self.core.begin(self.spec(request.model(), CHAT, Some(to_json(&request.body())?))))
    }

    /// Makes one attempt of a chat call.
    fn send_chat(&self, request: &ChatRequest, sent: &HttpRequest<'_>) -> Attempt<Box<ChatResponse>> {
        ChatStream::whole(&self.core, &self.options, sent, request.answers())
    }

    fn begin_embeddings<'a>(&self, request: &'a EmbeddingRequest) -> Result<Call<'a>> {
        request.check()?;
        Ok(self.core.begin(self.spec(request.model(), EMBEDDINGS, Some(to_json(request)?))))
    }

    /// Makes one attempt of an embeddings call.
    fn send_embeddings(
        &self,
        request: &EmbeddingRequest,
        sent: &HttpRequest<'_>,
    ) -> Attempt<Box<EmbeddingResponse>> {
        let decoder = &self.options.decoder;
        self.core.send_whole(sent, |response| decoder.decode_embeddings(response, request).map(Box::new))
    }

    fn spec<'a>(&self, model: &'a str, path: &'a str, body: Option<Vec<u8>>) -> CallSpec<'a> {
        let options = Arc::clone(&self.options);
        CallSpec { options, model: model.into(), path: path.into(), body, asks_for_usage: false }
    }
}

/// Serialises a request body.
fn to_json<B: Serialize + ?Sized>(body: &B) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|source| Error::Config {
        setting: "body",
        message: "can't be serialised as JSON".to_owned(),
        source: Some(into_source(source)),
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
