//! Sends one request through ureq, which is configured not to treat statuses as errors, follow redirects or retry.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::{Body, RequestBuilder};

use crate::error::{Error, Phase, Result, excerpt, into_source};
use crate::http::addresses::Addresses;
use crate::http::answer_headers;
use crate::http::connections::{self, Connections, NewAgent};
use crate::http::connector::HttpConnector;
use crate::http::dns_cache::DnsCache;
use crate::http::exchange::{self, MAX_HEAD, ReadLimit, take_unparsed_head};
use crate::http::failure::FailureContext;
use crate::http::options::{Endpoint, HttpOptions};
use crate::http::request::{HttpRequest, Limits, RequestHeaders};
use crate::runtime::background::Background;
use crate::runtime::cancel::{Cancel, Subscription};
use crate::runtime::clock::Clock;
use crate::wire::headers::Headers;
use crate::wire::raw_head;
use crate::wire::secrets::Secrets;

/// The most that is read of an error's body in bytes: the message of a provider fits, an error page is cut.
const MAX_ERROR_BODY: u64 = 64 * 1024;

/// The longest that the body of an answer may take in all: services send blank lines for minutes while a model
/// reasons, and half an hour is the longest documented.
pub(super) const MAX_BODY_TIME: Duration = Duration::from_secs(60 * 60);

/// The input buffer of a connection in bytes: a TLS record and most answers fit into it.
pub(super) const INPUT_BUFFER: usize = 16 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most streams that are drained in the background at the same time. The connections of others are closed.
const MAX_DRAINS: usize = 4;

/// The most that is allocated in advance for a body that states its length, in bytes: it may state anything.
const MAX_PRESIZE: u64 = 1024 * 1024;

/// The status and headers of an answer whose body is still to be read.
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(super) body: Body,
    pub(super) limits: Limits,
}

/// An answer, read to its end.
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl ResponseHead {
    /// Converts a response that was read into one with an unread body.
    pub(crate) fn of(response: HttpResponse, limits: Limits) -> ResponseHead {
        let HttpResponse { status, headers, body } = response;
        ResponseHead { status, headers, body: Body::builder().data(body), limits }
    }
}

/// The connections to one service.
pub(crate) struct Transport {
    connections: Arc<Connections>,
    addresses: Arc<Addresses>,
    secrets: Arc<Secrets>,
    timeout: Duration,
    max_response_bytes: u64,
    clock: Clock,
    failures: FailureContext,
    /// Threads that read streams to their end.
    drains: Background,
    /// Shuts the agent down when the client is shut down.
    _shutdown: Subscription,
}

impl Transport {
    /// `cancel` ends every exchange for good.
    pub(crate) fn new(
        options: &HttpOptions,
        endpoint: Endpoint,
        clock: Clock,
        cancel: Cancel,
    ) -> Result<Transport> {
        let dns = DnsCache::new(clock.clone(), cancel.clone(), options.connect_timeout);
        let connector = HttpConnector::new(dns, Arc::clone(&endpoint.headers.secrets));
        Transport::with_agents(options, endpoint, clock, cancel, connector.agents())
    }

    /// [`new`](Transport::new) with the connections that these agents make.
    pub(super) fn with_agents(
        options: &HttpOptions,
        endpoint: Endpoint,
        clock: Clock,
        cancel: Cancel,
        new_agent: NewAgent,
    ) -> Result<Transport> {
        let config = connections::config(options, &endpoint)?;
        let connections = Arc::new(Connections::new(config, cancel.clone(), new_agent));
        let uri = endpoint.uri()?;
        let has_client_cert = endpoint.client_cert.is_some();
        let has_ca_file = endpoint.roots.as_ref().is_some_and(|(setting, _)| *setting == "ca_file");
        let Endpoint { base: address, query, headers: RequestHeaders { secrets, .. }, .. } = endpoint;
        Ok(Transport {
            _shutdown: shut_down_with(&cancel, &connections),
            connections,
            addresses: Arc::new(Addresses::new(uri, query)),
            secrets,
            timeout: options.timeout,
            max_response_bytes: options.max_response_bytes,
            clock,
            drains: Background::new(MAX_DRAINS),
            failures: FailureContext {
                host: Arc::from(address.authority),
                connect_timeout: options.connect_timeout,
                has_client_cert,
                has_ca_file,
                cancel,
            },
        })
    }

    /// A transport to the same service with connections of its own, which `cancel` shuts down separately.
    pub(crate) fn child(&self, cancel: Cancel) -> Transport {
        let connections = Arc::new(self.connections.child(cancel.clone()));
        Transport {
            _shutdown: shut_down_with(&cancel, &connections),
            connections,
            drains: self.drains.clone(),
            addresses: Arc::clone(&self.addresses),
            secrets: Arc::clone(&self.secrets),
            clock: self.clock.clone(),
            failures: FailureContext { cancel, ..self.failures.clone() },
            timeout: self.timeout,
            max_response_bytes: self.max_response_bytes,
        }
    }

    /// Sends the request once and reads the whole answer.
    pub(crate) fn exchange(&self, request: &HttpRequest<'_>) -> Result<HttpResponse> {
        self.send(request).and_then(|head| self.read_body(head))
    }

    /// Sends the request once and reads the head of the answer.
    pub(crate) fn send(&self, request: &HttpRequest<'_>) -> Result<ResponseHead> {
        let limits = request.limits.clone();
        let secrets = &request.headers.secrets;
        let own_secrets = (!Arc::ptr_eq(secrets, &self.secrets)).then_some(secrets);
        let _context = exchange::enter(own_secrets, limits.cancel.as_ref());
        let wall = || self.clock.wall();
        take_unparsed_head();
        match self.run(request) {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let fields = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                let mut headers = Headers::parse(fields, wall);
                headers.redact(secrets);
                headers.all = Some(answer_headers::keep(parts.headers, secrets));
                Ok(ResponseHead { status: parts.status.as_u16(), headers, body, limits })
            }
            Err(error) => self.without_body(error, &limits, secrets),
        }
    }

    /// The response whose head ureq rejected, if it is an error: its status and `Retry-After` still count.
    fn without_body(&self, error: ureq::Error, limits: &Limits, secrets: &Secrets) -> Result<ResponseHead> {
        let head = take_unparsed_head();
        let is_too_large = head.len() >= MAX_HEAD;
        let mut parsed = raw_head::parse(&head, || self.clock.wall());
        if let Some((_, headers)) = &mut parsed {
            headers.redact(secrets);
        }
        match (parsed, error) {
            (Some((status, headers)), _) if !(200..300).contains(&status) => {
                let body = Body::builder().data(Vec::new());
                Ok(ResponseHead { status, headers, body, limits: limits.clone() })
            }
            (Some(_), _) if is_too_large => Err(Error::too_large("header", MAX_HEAD as u64)),
            (Some((status, headers)), ureq::Error::Protocol(source)) => Err(Error::Decode {
                status,
                at: "the head is malformed".to_owned(),
                excerpt: String::new(),
                request_id: headers.request_id,
                source: into_source(source),
                target: None,
            }),
            (_, error) => Err(self.failures.error(error, Phase::Waiting, limits)),
        }
    }

    /// Reads the rest of an answer.
    pub(crate) fn read_body(&self, head: ResponseHead) -> Result<HttpResponse> {
        let ResponseHead { status, headers, body, limits } = head;
        if let Some(coding) = &headers.content_encoding {
            return unrequested_coding(status, &headers, coding);
        }
        let body = if (200..300).contains(&status) {
            self.read_to_end(body).map_err(|error| self.failures.error(error, Phase::Reading, &limits))?
        } else {
            read_excerpt(body, limits.timeout)
        };
        match self.failures.ended(&limits) {
            Some(ended) => Err(ended), // it may have cut the body
            None => Ok(HttpResponse { status, headers, body }),
        }
    }

    /// The host and port of the service.
    pub(crate) fn host(&self) -> &str {
        &self.failures.host
    }

    /// Maps ureq's errors.
    pub(super) fn failures(&self) -> &FailureContext {
        &self.failures
    }

    pub(super) fn drains(&self) -> &Background {
        &self.drains
    }

    /// The largest answer allowed, in bytes.
    pub(crate) fn max_response_bytes(&self) -> u64 {
        self.max_response_bytes
    }

    fn run(&self, request: &HttpRequest<'_>) -> Result<http::Response<Body>, ureq::Error> {
        let uri = self.addresses.of(request.path)?;
        let agent = self.connections.agent();
        let mut fields = request.headers.fields.clone();
        let Some(body) = request.body else {
            fields.remove(IDEMPOTENCY_KEY);
            fields.remove(http::header::CONTENT_TYPE);
            return self.prepare(agent.get(uri), fields, request).call();
        };
        match request.idempotency_key {
            Some(key) => {
                fields.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).map_err(http::Error::from)?);
            }
            None => drop(fields.remove(IDEMPOTENCY_KEY)),
        }
        self.prepare(agent.post(uri), fields, request).send(body)
    }

    /// Adds the headers, and the limits where they differ from those of the agent.
    fn prepare<B>(
        &self,
        mut message: RequestBuilder<B>,
        fields: HeaderMap,
        request: &HttpRequest<'_>,
    ) -> RequestBuilder<B> {
        if let Some(headers) = message.headers_mut() {
            *headers = fields;
        }
        let Limits { timeout, deadline, .. } = request.limits;
        if !request.fresh_connection && deadline.is_none() && timeout == self.timeout {
            return message;
        }
        let config = message
            .config()
            .timeout_global(deadline.map(|deadline| deadline.remaining))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .timeout_per_write(Some(timeout));
        if request.fresh_connection { config.max_idle_age(Duration::ZERO).build() } else { config.build() }
    }

    /// Reads the body of a success, which must be complete.
    fn read_to_end(&self, body: Body) -> Result<Vec<u8>, ureq::Error> {
        let limit = self.max_response_bytes;
        let expected = body.content_length().unwrap_or(INPUT_BUFFER as u64 / 4).min(MAX_PRESIZE).min(limit);
        let mut bytes = Vec::with_capacity(expected as usize + 1);
        body.into_reader().take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(ureq::Error::BodyExceedsLimit(limit));
        }
        Ok(bytes)
    }
}

/// A response with a body that is compressed although the request didn't allow it: the status of an error still counts.
fn unrequested_coding(status: u16, headers: &Headers, coding: &str) -> Result<HttpResponse> {
    if !(200..300).contains(&status) {
        return Ok(HttpResponse { status, headers: headers.clone(), body: Vec::new() });
    }
    let remedy = match coding.to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => "enable the feature gzip of this crate, or turn compression off at the server",
        _ if cfg!(feature = "gzip") => "turn compression off at the server; only gzip is supported",
        _ => "turn compression off at the server; only gzip is supported, by the feature gzip of this crate",
    };
    Err(Error::Decode {
        status,
        at: format!("content-encoding {}", excerpt(coding.as_bytes())),
        excerpt: String::new(),
        request_id: headers.request_id.clone(),
        source: into_source(format!(
            "the server compressed the answer although compression was not requested; {remedy}"
        )),
        target: None,
    })
}

fn shut_down_with(cancel: &Cancel, connections: &Arc<Connections>) -> Subscription {
    let connections = Arc::clone(connections);
    cancel.subscribe(move || connections.shut_down())
}

/// Reads as much of an error's body as arrives in this time: the status suffices without it.
fn read_excerpt(body: Body, limit: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _limit = ReadLimit::new(limit);
    let _ = body.into_reader().take(MAX_ERROR_BODY).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::base_url::BaseUrl;

    fn transport() -> Transport {
        let base = BaseUrl::parse("http://127.0.0.1:1/v1").unwrap();
        let headers = RequestHeaders { fields: HeaderMap::new(), secrets: Arc::default() };
        let endpoint = Endpoint { base, query: String::new(), headers, roots: None, client_cert: None };
        Transport::new(&HttpOptions::default(), endpoint, Clock::fake(), Cancel::default()).unwrap()
    }

    #[test]
    fn idle_connections_are_closed_before_load_balancers_close_them() {
        let transport = transport();
        for transport in [transport.child(Cancel::default()), transport] {
            let age = transport.connections.agent().config().max_idle_age();
            assert!((30..60).contains(&age.as_secs()), "{age:?}");
        }
    }
}
