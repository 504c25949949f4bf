//! The configuration of a client: settings, their defaults, and a builder that validates them.

pub(crate) mod api_key;
mod build;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fmt};

use crate::adaptive::{AdaptiveConfig, AdaptiveHandler};
use crate::client::config::api_key::Origin;
use crate::client::event::Event;
use crate::client::key_provider::KeyFunction;
use crate::error::{Error, Result};
use crate::http::options::{ClientCertFiles, Endpoint, HttpOptions, ProxyChoice};
use crate::policy::backoff::RetryConfig;
use crate::runtime::clock::Clock;

/// The base URL of HolySheep's API.
const BASE_URL: &str = "https://api.holysheep.ai/v1";

/// Where users get a key.
pub(crate) const SIGN_UP: &str = "https://www.holysheep.ai/register";

/// The environment variables of [`ConfigBuilder::from_env`].
const KEY_VARIABLE: &str = "HOLYSHEEP_API_KEY";
const URL_VARIABLE: &str = "HOLYSHEEP_BASE_URL";

pub(crate) use self::build::{AUTHORIZATION, clamped_deadline, clamped_timeout, with_header};

pub(crate) type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// The configuration of a [`Client`](crate::Client). Created by [`Config::builder`].
///
/// ```
/// use holysheep::{Client, Config};
///
/// let config = Config::builder().api_key("sk-test").base_url("https://api.example.com/v1").build()?;
/// assert!(!format!("{config:?}").contains("sk-test")); // no key in Debug
/// let client = Client::new(config)?;
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) settings: ConfigBuilder,
    pub(crate) endpoint: Endpoint,
}

/// Builds a [`Config`]. The README lists the defaults.
///
/// ```
/// use holysheep::{Config, RetryConfig};
/// use std::time::Duration;
///
/// let config = Config::builder()
///     .api_key("sk-test")
///     .timeout(Duration::from_secs(120))
///     .deadline(Some(Duration::from_secs(600)))
///     .retry(RetryConfig::default().max_retries(3))
///     .build()?;
///
/// let error = Config::builder().api_key("sk-test").timeout(Duration::ZERO).build().unwrap_err();
/// assert_eq!(error.to_string(), "timeout: 0ns is below the minimum of 1 ms; 60 s is usual");
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "settings have no effect before build()"]
pub struct ConfigBuilder {
    pub(crate) api_key: String,
    key_origin: Origin,
    /// Provides the keys in place of `api_key`.
    pub(crate) key_function: Option<KeyFunction>,
    base_url: String,
    pub(crate) http: HttpOptions,
    headers: Vec<(String, String)>,
    allow_plain_http: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retry: RetryConfig,
    pub(crate) adaptive: AdaptiveConfig,
    pub(crate) handler: Option<AdaptiveHandler>,
    pub(crate) idempotency_key: bool,
    pub(crate) observer: Option<Observer>,
    pub(crate) clock: Clock,
}

impl Config {
    /// A builder with the defaults and no key.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder {
            api_key: String::new(),
            key_origin: Origin::Setting,
            key_function: None,
            base_url: BASE_URL.to_owned(),
            http: HttpOptions::default(),
            headers: Vec::new(),
            allow_plain_http: false,
            deadline: None,
            retry: RetryConfig::default(),
            adaptive: AdaptiveConfig::default(),
            handler: None,
            idempotency_key: true,
            observer: None,
            clock: Clock::system(),
        }
    }
}

impl ConfigBuilder {
    /// A builder with the key in `HOLYSHEEP_API_KEY` and the address in `HOLYSHEEP_BASE_URL`, if these are set. Without
    /// a key [`build`](ConfigBuilder::build) fails, unless the other settings make one unnecessary.
    ///
    /// # Errors
    /// [`Error::Config`] that names the malformed variable.
    pub fn from_env() -> Result<ConfigBuilder> {
        let read = |name: &'static str| match env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => {
                Err(Error::config(name, "is not valid Unicode; set it again"))
            }
        };
        build::from_variables(read(KEY_VARIABLE)?, read(URL_VARIABLE)?)
    }

    /// The API key, sent as `Authorization: Bearer …`. Whitespace and one pair of quotes around it are removed.
    ///
    /// No key is needed for a loopback address, or if a [`header`](ConfigBuilder::header) or the query of the base URL
    /// carries the credential, such as `Authorization`, `api-key`, `x-api-key` or `x-goog-api-key`.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        (self.api_key, self.key_origin, self.key_function) = (key.into(), Origin::Setting, None);
        self
    }

    /// A function that returns the current key, for keys that expire. It replaces [`api_key`](ConfigBuilder::api_key);
    /// whichever of the two is set last is used.
    ///
    /// It is called before each attempt, and again after a 401, so it should cache a key as long as that is valid. If
    /// the new key is a different one, the call is tried once more with it, which doesn't count as a retry. The
    /// function runs on a thread of its own, and never concurrently; calls that wait for it share its result, and wait
    /// at most for their `timeout` and deadline, or until they are cancelled. It must not use the client itself. If it
    /// fails, the call fails with [`Error::Config`] and isn't retried. The last 256 keys are redacted in errors.
    ///
    /// The function isn't told why it is called. To replace a cached key that was revoked, clear the cache when
    /// [`on_event`](ConfigBuilder::on_event) reports an [`Event::Answer`] with the status 401: that comes first.
    ///
    /// ```no_run
    /// use holysheep::{Client, Config};
    ///
    /// let config = Config::builder().api_key_from(|| Ok(std::fs::read_to_string("/run/secrets/token")?));
    /// let client = Client::new(config.build()?)?;
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    pub fn api_key_from(
        mut self,
        function: impl Fn() -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    ) -> Self {
        self.api_key.clear();
        self.key_function = Some(Arc::new(function));
        self
    }

    /// The base URL of the service, including `/v1` if it has that. Whitespace and one pair of quotes around it are
    /// removed.
    ///
    /// A query is sent with every request, for example the `api-version` of Azure. Its values are redacted in logs and
    /// errors like keys. A parameter in the path of [`Client::get`](crate::Client::get) or
    /// [`Client::post`](crate::Client::post) replaces one of the same name.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// The longest time for connecting, including TLS. A DNS lookup may take as long again. 1 ms to 24 hours.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.http.connect_timeout = time;
        self
    }

    /// Inactivity timeout: the longest time without progress while sending, waiting for, or reading a response. 1 ms to
    /// 24 hours.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.http.timeout = time;
        self
    }

    /// The deadline for all attempts and waits of a call together: 1 ms to 24 hours; `None` for no deadline.
    pub fn deadline(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    /// When and how often to retry.
    pub fn retry(mut self, retry: RetryConfig) -> Self {
        self.retry = retry;
        self
    }

    /// The settings of the adaptive handlers. Each model has its own handler.
    pub fn adaptive(mut self, adaptive: AdaptiveConfig) -> Self {
        self.adaptive = adaptive;
        self
    }

    /// One adaptive handler for all models, which may be shared with other clients.
    pub fn handler(mut self, handler: AdaptiveHandler) -> Self {
        self.handler = Some(handler);
        self
    }

    /// A header to send with every request. `Authorization` replaces the one made from the key.
    ///
    /// Values of at least 8 bytes are redacted like keys: in errors, logs and what is read of answers. Ids that a service
    /// repeats aren't: `x-request-id`, `x-client-request-id`, `x-correlation-id` and `traceparent`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The value of the `User-Agent` header.
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.http.user_agent = name.into();
        self
    }

    /// A proxy such as `http://proxy.example:3128`, instead of the one from the environment (`HTTPS_PROXY` and similar
    /// variables).
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.http.proxy = ProxyChoice::Url(url.into());
        self
    }

    /// No proxy; ignores the environment.
    pub fn no_proxy(mut self) -> Self {
        self.http.proxy = ProxyChoice::None;
        self
    }

    /// A file of certificates (PEM) to trust instead of the built-in ones, for a service with a private CA. Without it, the
    /// file in the environment variable `SSL_CERT_FILE` is used, if that is set.
    ///
    /// If the service's certificate isn't trusted, calls fail with [`Error::Config`] for the setting `base_url`, and aren't
    /// retried.
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.http.ca_file = Some(path.as_ref().to_owned());
        self
    }

    /// The client certificate for a service that requires one (mutual TLS): the file of the certificate chain and the file of
    /// the private key, both in PEM form. One file may contain both.
    ///
    /// The chain begins with the client certificate, followed by the intermediate certificates. The key is unencrypted, in PKCS#8,
    /// PKCS#1 or SEC1 form: RSA, ECDSA on P-256 or P-384, or Ed25519, and with `native-tls` what the system supports.
    /// [`build`](ConfigBuilder::build) reads the files once, and fails if the key doesn't match the certificate, but not if
    /// that has expired; after a renewal, build a new client. The base URL must begin with `https://`, and no API key is needed.
    ///
    /// If the service refuses the certificate in the handshake, calls fail with [`Error::Config`] for this setting and aren't
    /// retried. Proxies such as nginx finish the handshake and then answer 400, which is an [`Error::Api`].
    ///
    /// ```no_run
    /// use holysheep::{Client, Config};
    ///
    /// let config = Config::builder()
    ///     .base_url("https://llm.internal.example/v1")
    ///     .api_key("sk-…")
    ///     .client_cert("/etc/ssl/client.pem", "/etc/ssl/private/client.key")
    ///     .ca_file("/etc/ssl/company-ca.pem"); // if a private CA issued the service's certificate
    /// let client = Client::new(config.build()?)?;
    /// # Ok::<_, holysheep::Error>(())
    /// ```
    pub fn client_cert(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let [chain, key] = [chain.as_ref(), key.as_ref()].map(Path::to_owned);
        self.http.client_cert = Some(ClientCertFiles { chain, key });
        self
    }

    /// The maximum number of idle connections in the pool: should be at least the number of calling threads. 0 keeps
    /// none.
    pub fn max_idle_connections(mut self, count: usize) -> Self {
        self.http.max_idle_connections = count;
        self
    }

    /// The largest response accepted, in bytes after decompression. More than 0.
    pub fn max_response_bytes(mut self, bytes: u64) -> Self {
        self.http.max_response_bytes = bytes;
        self
    }

    /// Whether all attempts of one call carry the same `Idempotency-Key`, so that a service that supports it processes
    /// and bills the call once.
    pub fn idempotency_key(mut self, send: bool) -> Self {
        self.idempotency_key = send;
        self
    }

    /// Allows `http://` to another computer, which exposes the key on the network.
    pub fn allow_plain_http(mut self, allow: bool) -> Self {
        self.allow_plain_http = allow;
        self
    }

    /// Calls a function with each [`Event`], on the thread of the call, which waits for it to return.
    pub fn on_event(mut self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The clock to use: a [fake](Clock::fake) one makes tests of a program's retries instant.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settings, endpoint) = (&self.settings, &self.endpoint);
        let headers: Vec<&str> = endpoint.headers.fields.keys().map(|name| name.as_str()).collect();
        f.debug_struct("Config")
            .field("base_url", &endpoint.base.redacted())
            .field("headers", &headers)
            .field("connect_timeout", &settings.http.connect_timeout)
            .field("timeout", &settings.http.timeout)
            .field("deadline", &settings.deadline)
            .field("retry", &settings.retry)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigBuilder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::config::build::from_variables;
    use crate::policy::backoff::Jitter;

    fn built(change: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> String {
        let builder = change(Config::builder().api_key("sk-test-0123456789abcdef"));
        builder.build().map_or_else(|error| error.to_string(), |_| "fine".to_owned())
    }

    #[test]
    fn invalid_settings_are_refused_by_name_with_the_remedy() {
        let zero = Duration::ZERO;
        let day = Duration::from_secs(100_000);
        let cases = [
            (built(|b| b), "fine"),
            (
                built(|b| b.api_key(" \n")),
                "api_key: is empty; get a key at https://www.holysheep.ai/register",
            ),
            (
                built(|b| b.api_key("sk-one\nsk-two")),
                "api_key: holds a control character, such as a line break; copy the key again",
            ),
            (
                built(|b| b.api_key("Bearer sk-one")),
                "api_key: holds a space; give the key alone, without Bearer",
            ),
            (
                built(|b| b.api_key("sk-‘one’")),
                "api_key: contains a character that is not ASCII; copy the key again",
            ),
            (built(|b| b.api_key("'sk-one")), "api_key: holds a quotation mark; give the key alone"),
            (built(|b| b.api_key(" sk-trimmed\n")), "fine"),
            (built(|b| b.api_key("\"sk-quoted\"")), "fine"),
            (
                built(|b| b.base_url("https://host/v1?a=\u{7f}")),
                "base_url: contains whitespace; paste it again",
            ),
            (
                built(|b| b.base_url("https://host/v1?a=\\<>")),
                "base_url: contains a character that is not valid in an address",
            ),
            (
                built(|b| b.base_url(format!("https://host/v1?{}", "a".repeat(4090)))),
                "base_url: exceeds the maximum of 4096 bytes; check that it is an address",
            ),
            (built(|b| b.base_url("holysheep")), "base_url: has no scheme; begin with https://"),
            (
                built(|b| b.base_url("http://10.0.0.1/v1")),
                "base_url: is http://, which exposes the key on the network; use https:// or allow_plain_http(true)",
            ),
            (built(|b| b.base_url("http://10.0.0.1/v1").allow_plain_http(true)), "fine"),
            (built(|b| b.base_url("http://localhost:8080/v1")), "fine"),
            (
                built(|b| b.connect_timeout(zero)),
                "connect_timeout: 0ns is below the minimum of 1 ms; 10 s is usual",
            ),
            (built(|b| b.timeout(zero)), "timeout: 0ns is below the minimum of 1 ms; 60 s is usual"),
            (built(|b| b.timeout(day)), "timeout: exceeds the maximum of 24 hours; lower it"),
            (built(|b| b.deadline(Some(zero))), "deadline: 0ns is below the minimum of 1 ms; leave it out"),
            (built(|b| b.max_response_bytes(0)), "max_response_bytes: must be more than 0"),
            (
                built(|b| b.retry(RetryConfig::default().base_delay(Duration::from_secs(33)))),
                "base_delay: 33s exceeds max_delay, 32s; lower it or raise max_delay",
            ),
            (
                built(|b| b.header("x y", "z")),
                "header: the name is not a valid header name; the name comes first, then the value",
            ),
            (
                built(|b| b.header("Host", "z")),
                "header: Host is set by the client itself; leave it out or use its own setting",
            ),
            (
                built(|b| b.header("x-long", "y".repeat(8192))),
                "header: x-long exceeds the maximum of 8192 bytes that servers accept; shorten it",
            ),
            (
                built(|b| b.base_url(format!("https://host/{}/v1", "a".repeat(4096)))),
                "base_url: exceeds the maximum of 4096 bytes; check that it is an address",
            ),
            (
                built(|b| b.user_agent("me\n")),
                "user_agent: the value of user-agent contains a character that is not valid in a header",
            ),
            (
                built(|b| b.proxy("::")),
                "proxy: is not a valid proxy address, such as http://proxy.example:3128",
            ),
            (
                built(|b| b.ca_file("/nowhere/ca.pem")),
                "ca_file: /nowhere/ca.pem can't be read: No such file or directory (os error 2)",
            ),
            (
                built(|b| b.client_cert("/nowhere/client.pem", "/nowhere/client.key")),
                "client_cert: /nowhere/client.pem can't be read: No such file or directory (os error 2)",
            ),
        ];
        for (said, expected) in cases {
            assert_eq!(said, expected);
        }
    }

    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    #[test]
    fn certificates_need_tls() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let local = "http://localhost:8080/v1";
        let expected = "has no effect, because this build has no TLS; enable the feature rustls";
        assert_eq!(built(|b| b.base_url(local).ca_file(file)), format!("ca_file: {expected}"));
        assert_eq!(built(|b| b.base_url(local).client_cert(file, file)), format!("client_cert: {expected}"));
    }

    #[cfg(not(feature = "socks-proxy"))]
    #[test]
    fn a_socks_proxy_needs_its_feature() {
        let said = built(|b| b.proxy("socks5://127.0.0.1:1080"));
        assert_eq!(said, "proxy: is a socks proxy, which needs the feature socks-proxy of this crate");
    }

    #[test]
    fn an_authorization_header_replaces_the_key() {
        let builder = Config::builder().header("Authorization", "Api-Key abc");
        assert_eq!(
            builder.build().unwrap().endpoint.headers.fields.get_all("authorization").iter().count(),
            1
        );
    }

    #[test]
    fn the_environment_is_read_with_errors_that_name_the_variable() {
        let builder = |key: Option<&str>, url: Option<&str>| {
            from_variables(key.map(str::to_owned), url.map(str::to_owned))
        };
        let said =
            |key, url| builder(key, url).and_then(ConfigBuilder::build).map_err(|error| error.to_string());
        let sign_up = "get a key at https://www.holysheep.ai/register";
        let other =
            "give the key for llm.example, or set a header that carries the credential, such as api-key";
        let url = Some("https://llm.example/v1");
        for (key, url, expected) in [
            (None, None, format!("HOLYSHEEP_API_KEY: is not set; {sign_up} and export it")),
            (Some(""), None, format!("HOLYSHEEP_API_KEY: is empty; {sign_up}")),
            (Some("\"\""), Some("''"), format!("HOLYSHEEP_API_KEY: is empty; {sign_up}")),
            (None, url, format!("HOLYSHEEP_API_KEY: is not set; {other}")),
            (Some(" "), url, format!("HOLYSHEEP_API_KEY: is empty; {other}")),
        ] {
            assert_eq!(said(key, url).unwrap_err(), expected);
        }
        let early = |key, url| builder(key, url).map(drop).unwrap_err().to_string();
        assert!(early(Some("a\nb"), None).starts_with("HOLYSHEEP_API_KEY: holds a control character"));
        assert!(early(Some("sk-1"), Some("x")).starts_with("HOLYSHEEP_BASE_URL: has no scheme"));
        for (key, url) in [(" 'sk-1'", " "), ("\"sk-1\"\n", "\"https://api.holysheep.ai/v1\"")] {
            let config = said(Some(key), Some(url)).unwrap();
            assert_eq!(
                (config.settings.api_key.as_str(), config.endpoint.base.url.as_str()),
                ("sk-1", BASE_URL)
            );
        }
        assert!(said(None, Some("http://127.0.0.1:8080/v1")).is_ok(), "a loopback address needs no key");
        assert!(
            builder(None, url).unwrap().header("api-key", "x").build().is_ok(),
            "nor does a header with one"
        );
        assert!(builder(None, None).unwrap().api_key_from(|| Ok("sk-1".to_owned())).build().is_ok());
        let replaced = builder(None, None).unwrap().api_key("").build().unwrap_err();
        assert_eq!(replaced.to_string(), format!("api_key: is empty; {sign_up}"));
    }

    #[test]
    fn no_key_is_needed_if_a_header_query_or_function_provides_the_credential() {
        let said = |change: fn(ConfigBuilder) -> ConfigBuilder| {
            let builder = change(Config::builder().base_url("https://llm.example/v1"));
            builder.build().map(|config| config.endpoint.headers.fields.contains_key(AUTHORIZATION))
        };
        let keyless: [fn(ConfigBuilder) -> ConfigBuilder; 6] = [
            |b| b.header("api-key", "secret-0123"),
            |b| b.header("X-API-Key", "secret-0123"),
            |b| b.header("x-goog-api-key", "secret-0123"),
            |b| b.base_url("http://localhost:8080/v1"),
            |b| b.base_url("https://llm.example/v1?api-version=1&key=secret-0123"),
            |b| b.api_key_from(|| Err("not asked here".into())),
        ];
        for change in keyless {
            assert!(!said(change).unwrap());
        }
        let refused: [fn(ConfigBuilder) -> ConfigBuilder; 3] =
            [|b| b, |b| b.header("x-trace-id", "1"), |b| b.api_key("''")];
        for change in refused {
            let error = said(change).unwrap_err().to_string();
            assert!(error.starts_with("api_key: is empty; give the key for llm.example, or set"), "{error}");
        }
        let with_both = |b: ConfigBuilder| b.api_key("sk-1").header("api-key", "secret-0123");
        assert!(said(with_both).unwrap(), "a key that is given is sent");
    }

    #[test]
    fn the_readme_lists_the_defaults_as_they_are() {
        let readme = include_str!("../../README.md");
        let (config, retry) = (Config::builder().api_key("sk-1").build().unwrap(), RetryConfig::default());
        let exact = retry.clone().jitter(Jitter::None);
        let secs = |time: Duration| format!("{} s", time.as_secs());
        let allowed = |throttled| (1..99).take_while(|n| retry.allows_retry(*n, *n, throttled)).count();
        // The longest `Retry-After` in seconds that is honoured.
        let longest = |status: Option<u16>| {
            (0..1000)
                .rev()
                .find(|s| exact.wait(0, status, Some(Duration::from_secs(*s)), 0.0).is_some())
                .unwrap()
        };
        let own: Vec<String> =
            [429, 500, 502, 503, 504].iter().map(|s| format!("{s}: {} s", longest(Some(*s)))).collect();
        let factor = exact.delay(1, 0.0).as_secs() / exact.delay(0, 0.0).as_secs();
        let backoff = format!("{}, {factor}, {}", secs(exact.delay(0, 0.0)), secs(exact.delay(99, 0.0)));
        let statuses: Vec<u16> = (300..600).filter(|status| retry.retries_status(*status)).collect();
        assert_eq!(statuses, [408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529]);
        let on = |yes: bool| if yes { "on" } else { "off" };
        let rows = [
            format!("| `base_url` | `{}` |", config.endpoint.base.url),
            format!("| `max_retries`, `throttle_retries` | {}, {} |", allowed(false), allowed(true)),
            format!("| `base_delay`, `exponential_base`, `max_delay` | {backoff} |"),
            format!("| `jitter` | `{:?}` |", Jitter::default()),
            format!("| `status_max_delay` | {} |", own.join(", ")),
            format!("otherwise {} s |", longest(None)),
            format!("| `connect_timeout` | {} |", secs(config.settings.http.connect_timeout)),
            format!("waiting or reading) | {} |", secs(config.settings.http.timeout)),
            format!("waits included) | {} |", config.settings.deadline.map_or("none".to_owned(), secs)),
            format!("| `max_idle_connections` | {} |", config.settings.http.max_idle_connections),
            format!("| `max_response_bytes` | {} MiB |", config.settings.http.max_response_bytes >> 20),
            format!("| `idempotency_key` | {} |", on(config.settings.idempotency_key)),
            format!("(other than to this computer) | {} |", on(Config::builder().allow_plain_http)),
        ];
        for row in rows {
            assert!(readme.contains(&row), "the README has no {row}");
        }
    }
}
