//! One exchange with the server, by ureq: no status is an error to it, it follows no redirect and tries nothing twice.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::uri::{PathAndQuery, Uri};
use ureq::http::{self, HeaderName, HeaderValue, Method};
use ureq::{Agent, Body, Timeout};

use crate::error::{Error, Phase, Result};
use crate::http::connector::{HttpConnector, NotSent};
use crate::http::dns_cache::DnsCache;
use crate::http::settings::{LONGEST_LINE, Settings, base, proxy};
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Retryable, Verdict};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::wire::headers::Headers;

/// The most that is read of an error's body: the words of a provider fit, an error page is cut.
const ERROR_BODY: u64 = 64 * 1024;

/// The longest that the body of an answer may take in all: services send blank lines for minutes while a model
/// thinks, and half an hour is the longest documented.
const LONGEST_BODY: Duration = Duration::from_secs(60 * 60);

/// The buffer of a connection for what comes, in bytes: a TLS record, and most answers, fit into it.
const BUFFER: usize = 16 * 1024;

/// The buffer for what goes, in bytes: each line of a head fits, for their lengths are checked. A body goes in pieces. As
/// much as for what comes would cost 512 connections 3.5 MiB more.
const OUTPUT: usize = LONGEST_LINE + 1024;

/// How long a connection may idle: shorter than the 60 s after which common load balancers close theirs.
const IDLE: Duration = Duration::from_secs(55);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is set aside at once for a body that says how long it is: no more, because it may lie.
const PRESIZE: u64 = 1024 * 1024;

/// A request, ready to be sent any number of times.
pub(crate) struct Outgoing<'a> {
    /// Begins with a slash; relative to the base.
    pub(crate) path: &'a str,
    /// JSON to POST; without it the request is a GET.
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) idempotency_key: Option<&'a str>,
}

/// How one attempt differs from the others.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// Use no pooled connection.
    pub(crate) fresh: bool,
    pub(crate) deadline: Option<Budget>,
}

/// The deadline of a call.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    /// From the start of the call.
    pub(crate) whole: Duration,
    /// From now.
    pub(crate) left: Duration,
}

impl Terms {
    fn deadline_passed(&self) -> Error {
        Error::Deadline { after: self.deadline.map_or(Duration::ZERO, |budget| budget.whole) }
    }
}

/// The head of the server's answer, with its body still to be read.
pub(crate) struct Opened {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(super) body: Body,
}

/// The server's answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Transport {
    agent: Agent,
    dial: HttpConnector,
    base: Uri,
    settings: Arc<Settings>,
    clock: Clock,
    stop: Arc<Cancel>,
}

impl Transport {
    pub(crate) fn new(settings: Settings, clock: Clock, stop: Arc<Cancel>) -> Result<Transport> {
        let idle = settings.max_idle_connections;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(&settings.user_agent)
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .timeout_recv_body(Some(LONGEST_BODY))
            .input_buffer_size(BUFFER)
            .output_buffer_size(OUTPUT)
            .max_response_header_size(BUFFER - 1) // a full buffer without their end is too much
            .max_idle_connections(idle)
            .max_idle_connections_per_host(idle)
            .max_idle_age(IDLE)
            .proxy(proxy(&settings)?);
        #[cfg(any(feature = "rustls", feature = "native-tls"))]
        let config = config.tls_config(crate::http::tls::config(settings.roots.as_deref())?);
        let names = DnsCache::new(clock.clone(), Arc::clone(&stop), settings.connect_timeout);
        let dial = HttpConnector::new(names, Arc::clone(&settings.secrets));
        let agent = Agent::with_parts(config.build(), dial.clone(), dial.names());
        let base = base(&settings)?;
        Ok(Transport { agent, dial, base, settings: Arc::new(settings), clock, stop })
    }

    /// The same way to the same service, with connections of its own, so that it can be shut down alone.
    pub(crate) fn part(&self, stop: Arc<Cancel>) -> Transport {
        let dial = self.dial.under(Arc::clone(&stop));
        let agent = Agent::with_parts(self.agent.config().clone(), dial.clone(), dial.names());
        let (base, settings, clock) = (self.base.clone(), Arc::clone(&self.settings), self.clock.clone());
        Transport { agent, dial, base, settings, clock, stop }
    }

    /// Sends the request once and reads the whole answer.
    pub(crate) fn exchange(&self, outgoing: &Outgoing<'_>, terms: &Terms) -> Result<Answer> {
        self.open(outgoing, terms).and_then(|opened| self.read(opened, terms))
    }

    /// Sends the request once and reads the head of the answer.
    pub(crate) fn open(&self, outgoing: &Outgoing<'_>, terms: &Terms) -> Result<Opened> {
        let response =
            self.send(outgoing, terms).map_err(|error| self.failure(error, Phase::Waiting, terms))?;
        let (parts, body) = response.into_parts();
        let fields = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers = Headers::read(fields, || self.clock.wall());
        Ok(Opened { status: parts.status.as_u16(), headers, body })
    }

    /// Reads the rest of an answer.
    pub(crate) fn read(&self, opened: Opened, terms: &Terms) -> Result<Answer> {
        let Opened { status, headers, body } = opened;
        let body = if (200..300).contains(&status) {
            self.whole(body).map_err(|error| self.failure(error, Phase::Reading, terms))?
        } else {
            beginning(body)
        };
        if self.stop.is_cancelled() {
            return Err(Error::Shutdown); // it may have cut the body
        }
        Ok(Answer { status, headers, body })
    }

    /// The silence allowed.
    pub(crate) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// The largest answer allowed, in bytes.
    pub(crate) fn max_response_bytes(&self) -> u64 {
        self.settings.max_response_bytes
    }

    /// Ends every exchange, now and for good.
    pub(crate) fn shutdown(&self) {
        self.agent.clone().shutdown();
    }

    fn send(&self, outgoing: &Outgoing<'_>, terms: &Terms) -> Result<http::Response<Body>, ureq::Error> {
        let mut request = http::Request::new(outgoing.body.unwrap_or_default());
        *request.uri_mut() = self.uri(outgoing.path)?;
        if outgoing.body.is_some() {
            *request.method_mut() = Method::POST;
        }
        let headers = request.headers_mut();
        headers.clone_from(&self.settings.headers);
        match (outgoing.body, outgoing.idempotency_key) {
            (Some(_), Some(key)) => {
                headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).map_err(http::Error::from)?);
            }
            (Some(_), None) => drop(headers.remove(IDEMPOTENCY_KEY)),
            (None, _) => {
                headers.remove(IDEMPOTENCY_KEY);
                headers.remove(http::header::CONTENT_TYPE);
            }
        }
        if terms.fresh || terms.deadline.is_some() {
            let left = terms.deadline.map(|budget| budget.left);
            let mut config = self.agent.configure_request(request).timeout_global(left);
            if terms.fresh {
                config = config.max_idle_age(Duration::ZERO);
            }
            request = config.build();
        }
        if outgoing.body.is_some() {
            return self.agent.run(request);
        }
        self.agent.run(request.map(|_| ()))
    }

    /// The address of a path, of whose parts only the path is read anew.
    fn uri(&self, path: &str) -> Result<Uri, http::Error> {
        let mut parts = self.base.clone().into_parts();
        let base = parts.path_and_query.as_ref().map_or("", |base| base.path().trim_end_matches('/'));
        parts.path_and_query = Some(PathAndQuery::try_from([base, path].concat())?);
        Ok(Uri::from_parts(parts)?)
    }

    /// Reads the body of a success, which must be whole.
    fn whole(&self, body: Body) -> Result<Vec<u8>, ureq::Error> {
        let limit = self.settings.max_response_bytes;
        let expected = body.content_length().unwrap_or(BUFFER as u64 / 4).min(PRESIZE).min(limit);
        let mut bytes = Vec::with_capacity(expected as usize + 1);
        body.into_reader().take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(ureq::Error::BodyExceedsLimit(limit));
        }
        Ok(bytes)
    }

    /// What went wrong, in this crate's words. `phase` is how far the exchange had come once it was connected.
    pub(super) fn failure(&self, error: ureq::Error, phase: Phase, terms: &Terms) -> Error {
        if self.stop.is_cancelled() {
            return Error::Shutdown;
        }
        let settings = &self.settings;
        match error {
            ureq::Error::Timeout(Timeout::Global) => terms.deadline_passed(),
            ureq::Error::Timeout(Timeout::RecvBody) => Error::Timeout { phase, after: LONGEST_BODY },
            ureq::Error::Timeout(Timeout::PerWrite) => {
                Error::Timeout { phase: Phase::Sending, after: settings.timeout }
            }
            ureq::Error::Timeout(_) => Error::Timeout { phase, after: settings.timeout },
            ureq::Error::LargeResponseHeader(_, limit) => {
                Error::TooLarge { part: "header", limit: limit as u64 }
            }
            ureq::Error::BodyExceedsLimit(limit) => Error::TooLarge { part: "body", limit },
            ureq::Error::Http(source) => Error::Config {
                setting: "path",
                message: "can't be requested; use a path such as /models".to_owned(),
                source: Some(source.into()),
            },
            ureq::Error::BadUri(_) => Error::config("path", "can't be requested; use a path such as /models"),
            ureq::Error::Other(source) => match source.downcast::<NotSent>() {
                Ok(not_sent) => self.not_sent(not_sent.0, terms),
                Err(source) => Error::Transport { answered: phase == Phase::Reading, source },
            },
            ureq::Error::Io(source) => {
                Error::Transport { answered: phase == Phase::Reading, source: source.into() }
            }
            // Something came that is no HTTP.
            other => Error::Transport { answered: true, source: other.into() },
        }
    }

    /// A failure from before anything was sent.
    fn not_sent(&self, error: ureq::Error, terms: &Terms) -> Error {
        let (host, after) = (&self.settings.base.authority, self.settings.connect_timeout);
        match error {
            ureq::Error::Timeout(Timeout::Global) => terms.deadline_passed(),
            // ureq rounds the deadline's share of an address down, and then says that connecting took too long.
            ureq::Error::Timeout(_) if terms.deadline.is_some_and(|budget| budget.left < after) => {
                terms.deadline_passed()
            }
            ureq::Error::Timeout(_) => Error::Timeout { phase: Phase::Connect, after },
            error if is_about_tls(&error) => Error::Config {
                setting: "base_url",
                message: format!(
                    "TLS with {host} failed; check the address, or name the certificate to trust with ca_file"
                ),
                source: Some(error.into()),
            },
            ureq::Error::Io(source) => Error::Connect { host: host.clone(), source: source.into() },
            other => Error::Connect { host: host.clone(), source: other.into() },
        }
    }
}

/// Reads the beginning of an error's body, as far as it comes: the status says enough without it.
fn beginning(body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = body.into_reader().take(ERROR_BODY).read_to_end(&mut bytes);
    bytes
}

/// A handshake that failed for a certificate or a protocol will fail again; ureq reports it as invalid data.
fn is_about_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        ureq::Error::Tls(_) | ureq::Error::TlsRequired => true,
        #[cfg(feature = "rustls")]
        ureq::Error::Rustls(_) => true,
        #[cfg(feature = "native-tls")]
        ureq::Error::NativeTls(_) | ureq::Error::Der(_) => true,
        _ => false,
    }
}

impl Retryable for ureq::Error {
    fn verdict(&self) -> Verdict {
        match self {
            ureq::Error::StatusCode(status) if RetryConfig::default().retries_status(*status) => {
                Verdict::Retry
            }
            // The standard library has no kind for a name that isn't found.
            ureq::Error::Io(error) if error.to_string().contains("failed to lookup address") => {
                Verdict::Retry
            }
            ureq::Error::Io(error) => error.verdict(),
            ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => Verdict::Retry,
            _ => Verdict::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_of_ureqs_own_gets_the_same_verdicts() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        for again in [
            ureq::Error::StatusCode(429),
            ureq::Error::StatusCode(529),
            ureq::Error::Timeout(Timeout::Connect),
            ureq::Error::HostNotFound,
            io(io::ErrorKind::ConnectionReset),
        ] {
            assert_eq!(again.verdict(), Verdict::Retry, "{again}");
        }
        for final_one in [
            ureq::Error::StatusCode(401),
            ureq::Error::BadUri(String::new()),
            ureq::Error::TooManyRedirects,
            io(io::ErrorKind::InvalidData),
        ] {
            assert_eq!(final_one.verdict(), Verdict::GiveUp, "{final_one}");
        }
    }
}
