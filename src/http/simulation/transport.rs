//! The simulated connections: resolver, connector and transport, with the limits of time that sockets would have.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

use crate::http::connection::HttpConnection;
use crate::http::connector::NotSent;
use crate::http::early_answer::EarlyAnswerConnector;
use crate::http::exchange::own_cancel;
use crate::http::simulation::fate::{Arriving, ConnectFate, End, LookUpFate, Response, WriteFate};
use crate::http::simulation::{Exchange, IS_SIMULATED, Network};
use crate::runtime::cancel::Cancel;
use crate::wire::secrets::Secrets;

/// Limits of at most this length are constants of this crate, and apply as they are. Longer ones are measured by the system's
/// clock, which has advanced a little, so they are rounded up to whole seconds.
const SHORT_LIMIT: Duration = Duration::from_millis(100);

/// A read that may take at most this long only looks for bytes that have arrived.
const POLL: Duration = Duration::from_millis(1);

/// A remaining deadline that the system's clock could reach during an exchange: it is taken to be reached at once.
const SHORT_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct SimulatedResolver {
    pub(super) network: Network,
}

impl Resolver for SimulatedResolver {
    fn resolve(&self, _: &Uri, config: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let network = &self.network;
        let (began, timeouts) = (network.now(), config.timeouts());
        network.step();
        let spent = network.now().saturating_duration_since(began);
        let left = timeouts.global.map(|global| global.saturating_sub(spent));
        if let Some(left) = left.filter(|left| *left < SHORT_DEADLINE) {
            network.advance(left);
            return Err(NotSent::wrap(Error::Timeout(Timeout::Global)));
        }
        let mut state = network.state();
        state.current.pending = Some(Exchange {
            began,
            timeouts,
            per_read: config.timeout_per_read(),
            per_write: config.timeout_per_write(),
        });
        let fate = LookUpFate::draw(&mut state);
        drop(state);
        match fate {
            LookUpFate::Found => {
                let mut found = self.empty();
                found.push(SocketAddr::from(([127, 0, 0, 1], 1)));
                Ok(found)
            }
            LookUpFate::NotFound => Err(NotSent::wrap(Error::HostNotFound)),
        }
    }
}

#[derive(Debug)]
pub(super) struct SimulatedConnector {
    pub(super) network: Network,
    pub(super) secrets: Arc<Secrets>,
    pub(super) cancel: Cancel,
}

impl Connector<()> for SimulatedConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let network = self.network.clone();
        network.step();
        let (limit, reason) = connect_limit(&network, details);
        let fate = ConnectFate::draw(&mut network.state());
        if own_cancel().unwrap_or_else(|| self.cancel.clone()).is_cancelled() {
            return Err(NotSent::wrap(io_error(ErrorKind::Interrupted)));
        }
        match fate {
            ConnectFate::Connects(after) if after < limit => network.advance(after),
            ConnectFate::Refused => return Err(NotSent::wrap(io_error(ErrorKind::ConnectionRefused))),
            ConnectFate::Connects(_) | ConnectFate::Hangs => {
                network.advance(limit);
                return Err(NotSent::wrap(Error::Timeout(reason)));
            }
        }
        let handle = Arc::new(Socket(AtomicBool::new(false)));
        let weak: Weak<dyn ShutdownHandle> = Arc::downgrade(&handle) as Weak<dyn ShutdownHandle>;
        (details.register_shutdown)(Weak::clone(&weak)).map_err(NotSent::wrap)?;
        let mut state = network.state();
        state.connections += 1;
        let number = state.connections;
        drop(state);
        network.note(format_args!("    connection {number}"));
        let config = details.config;
        let clock = network.0.clock.clone();
        let transport = SimulatedTransport {
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            network,
            number,
            socket: handle,
            exchange: None,
            request: Vec::new(),
            write: WriteFate::Accepts,
            sent: None,
            response: None,
        };
        let early = EarlyAnswerConnector.connect(details, Some(transport))?;
        let connection =
            |inner| HttpConnection::new(Box::new(inner), Arc::clone(&self.secrets), vec![weak], clock);
        Ok(early.map(|inner| Box::new(connection(inner)) as Box<dyn Transport>))
    }
}

/// How long a connect may take, and the timeout that ends it.
fn connect_limit(network: &Network, details: &ConnectionDetails<'_>) -> (Duration, Timeout) {
    let timeouts = details.config.timeouts();
    let spent = network
        .state()
        .current
        .pending
        .map_or(Duration::ZERO, |exchange| network.now().saturating_duration_since(exchange.began));
    let connect = (timeouts.connect.unwrap_or(Duration::MAX), Timeout::Connect);
    let global =
        (timeouts.global.map_or(Duration::MAX, |global| global.saturating_sub(spent)), Timeout::Global);
    if global.0 < connect.0 { global } else { connect }
}

fn io_error(kind: ErrorKind) -> Error {
    Error::Io(kind.into())
}

/// A socket that a cancellation or a shutdown closes.
#[derive(Debug)]
struct Socket(AtomicBool);

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        self.0.store(true, Ordering::Release);
    }
}

#[derive(Debug)]
pub(super) struct SimulatedTransport {
    buffers: LazyBuffers,
    network: Network,
    number: u64,
    socket: Arc<Socket>,
    /// The current exchange.
    exchange: Option<Exchange>,
    /// The bytes of its request.
    request: Vec<u8>,
    write: WriteFate,
    /// When all of it was sent.
    sent: Option<Instant>,
    response: Option<Arriving>,
}

impl SimulatedTransport {
    /// Begins the exchange that was announced, unless it has begun.
    fn begin(&mut self) {
        let mut state = self.network.state();
        if let Some(exchange) = state.current.pending.take() {
            (self.exchange, self.sent, self.response) = (Some(exchange), None, None);
            self.request.clear();
            self.write = WriteFate::draw(&mut state);
        }
    }

    fn is_shut_down(&self) -> bool {
        self.socket.0.load(Ordering::Acquire)
    }

    /// The shortest of these limits, each from its beginning.
    fn limit(&self, limits: &[(Option<Instant>, Option<Duration>, Timeout)]) -> (Duration, Timeout) {
        let now = self.network.now();
        let remaining = limits.iter().filter_map(|(since, limit, reason)| {
            let left = (*limit)?.saturating_sub(now.saturating_duration_since((*since)?));
            Some((left, *reason))
        });
        remaining.min_by_key(|(left, _)| *left).unwrap_or((Duration::MAX, Timeout::Global))
    }

    fn read_limit(&self, timeout: NextTimeout) -> (Duration, Timeout) {
        let Some(exchange) = &self.exchange else { return (Duration::ZERO, timeout.reason) };
        let Exchange { began, timeouts, .. } = exchange;
        let timeout = timeout.for_read();
        let asked = match *timeout.after {
            short if short <= SHORT_LIMIT => short,
            long => Duration::from_secs(long.as_secs_f64().ceil() as u64),
        };
        let now = Some(self.network.now());
        let head_at = self.response.as_ref().and_then(|arriving| arriving.head_at);
        let response = if head_at.is_none() { timeouts.recv_response } else { None };
        self.limit(&[
            (Some(*began), timeouts.global, Timeout::Global),
            (self.sent.or(Some(*began)), response, Timeout::RecvResponse),
            (head_at, timeouts.recv_body, Timeout::RecvBody),
            (now, exchange.per_read.filter(|_| timeout.per_read.is_some()), Timeout::PerRead),
            (now, Some(asked), timeout.reason),
        ])
    }

    /// The service has received as much of the request as it reads.
    fn respond(&mut self) {
        self.sent = Some(self.network.now());
        let is_early = matches!(self.write, WriteFate::AnswersEarly(_));
        let response = Response::draw(&mut self.network.state(), &self.request, is_early);
        let since = self.network.now();
        self.network.note(format_args!("    connection {}: {}", self.number, response.description));
        self.response = Some(Arriving { response, since, read: 0, head_at: None });
    }

    /// Whether the request is complete: its head says how long its body is.
    fn is_request_complete(&self) -> bool {
        let Some(head) = self.request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
        let text = String::from_utf8_lossy(&self.request[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        self.request.len() >= head + 4 + length.unwrap_or(0)
    }
}

impl Transport for SimulatedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.begin();
        self.network.step();
        if self.is_shut_down() {
            return Err(io_error(ErrorKind::BrokenPipe));
        }
        let Some(Exchange { began, timeouts, per_write, .. }) = self.exchange else {
            return Err(io_error(ErrorKind::NotConnected));
        };
        let now = self.network.now();
        let (limit, reason) = self.limit(&[
            (Some(began), timeouts.global, Timeout::Global),
            (Some(now), per_write.filter(|_| timeout.per_write.is_some()), Timeout::PerWrite),
        ]);
        if limit.is_zero() {
            return Err(Error::Timeout(reason));
        }
        let total = self.request.len() + amount;
        match self.write {
            WriteFate::Breaks(at) if at < total => return Err(io_error(ErrorKind::ConnectionReset)),
            WriteFate::Stalls(at) if at < total => {
                self.network.advance(limit);
                return Err(Error::Timeout(reason));
            }
            WriteFate::AnswersEarly(at) if at < total && self.response.is_some() => {
                return Err(io_error(ErrorKind::BrokenPipe));
            }
            _ => {}
        }
        self.check_may_send();
        self.request.extend_from_slice(&self.buffers.output()[..amount]);
        let answers_early = matches!(self.write, WriteFate::AnswersEarly(at) if at < total);
        if answers_early || self.is_request_complete() {
            self.respond();
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if !IS_SIMULATED.get() {
            return Err(io_error(ErrorKind::ConnectionAborted));
        }
        self.network.step();
        if self.is_shut_down() {
            return Ok(false);
        }
        let (limit, reason) = self.read_limit(timeout);
        let now = self.network.now();
        let limit = if limit <= POLL { Duration::ZERO } else { limit };
        let next = self.response.as_ref().and_then(Arriving::next);
        let wait = next.map(|at| at.saturating_duration_since(now));
        let Some(wait) = wait.filter(|wait| *wait <= limit) else {
            self.network.advance(limit);
            return Err(Error::Timeout(reason));
        };
        self.network.advance(wait);
        let now = self.network.now();
        let Some(arriving) = &mut self.response else { return Ok(false) };
        let bytes = arriving.arrived(now);
        if bytes.is_empty() {
            return match arriving.response.end {
                End::Resets => Err(io_error(ErrorKind::ConnectionReset)),
                End::Closes | End::KeepsAlive | End::Hangs => Ok(false),
            };
        }
        let free = self.buffers.input_append_buf();
        let length = bytes.len().min(free.len());
        free[..length].copy_from_slice(&bytes[..length]);
        self.buffers.input_appended(length);
        arriving.read += length;
        if arriving.read >= arriving.response.head && arriving.head_at.is_none() {
            arriving.head_at = Some(now);
        }
        if let Some(answer) = arriving.response.answer {
            self.network.state().answers[answer].read = arriving.read;
        }
        Ok(length > 0)
    }

    fn is_open(&mut self) -> bool {
        let is_over = self.response.as_ref().is_some_and(|arriving| {
            arriving.response.end == End::KeepsAlive && arriving.read == arriving.response.bytes.len()
        });
        is_over && !self.is_shut_down() && self.network.state().random.u8(..) > 16
    }
}

impl SimulatedTransport {
    /// Checks that bytes may be sent now.
    fn check_may_send(&self) {
        let (now, state) = (self.network.now(), self.network.state());
        let is_late = state.current.due.is_some_and(|due| now >= due);
        let (silenced, call) = (state.silenced(), state.current.call);
        drop(state);
        if let Some(why) = silenced {
            self.network.violated(format_args!("call {call}: bytes were sent after {why}"));
        }
        if is_late {
            self.network.violated(format_args!("call {call}: bytes were sent after the deadline"));
        }
    }
}
