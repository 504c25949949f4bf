//! Getting a connection: names are looked up now and then and not per request, and neither a look-up nor a connect
//! holds up a shutdown.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ArrayVec, DefaultResolver, Resolver};
use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};

use super::clock::{Abandoned, Clock, Stop, lock};
use super::veil::Veil;
use crate::wire::secrets::Secrets;

/// How long an address may be used before the name is looked up again: the time to live that services behind load
/// balancers commonly give theirs.
const ADDRESS_LIFE: Duration = Duration::from_secs(60);

/// Addresses kept at the same time: the service and a proxy, with room for a change.
const MOST_NAMES: usize = 4;

/// As many addresses of a name as ureq has room for.
type Addresses = ArrayVec<SocketAddr, 16>;

/// A failure from before anything was sent.
#[derive(Debug)]
pub(super) struct NotSent(pub(super) ureq::Error);

impl NotSent {
    fn wrap(error: ureq::Error) -> ureq::Error {
        match error {
            ureq::Error::Other(inner) if inner.is::<NotSent>() => ureq::Error::Other(inner), // a proxy's name
            error => ureq::Error::Other(Box::new(NotSent(error))),
        }
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotSent {}

/// What an abandoned look-up or connect is to ureq; `budget` is whose time ran out.
fn abandoned(why: Abandoned, budget: Timeout) -> ureq::Error {
    match why {
        Abandoned::TooLate => ureq::Error::Timeout(budget),
        Abandoned::Stopped => ureq::Error::Io(io::ErrorKind::Interrupted.into()),
        Abandoned::NoThread => ureq::Error::Io(io::ErrorKind::WouldBlock.into()),
    }
}

/// Looks names up aside, and remembers their addresses for a while.
#[derive(Debug, Clone)]
pub(super) struct Names {
    known: Arc<Mutex<Vec<Known>>>,
    clock: Clock,
    stop: Arc<Stop>,
    limit: Duration,
}

#[derive(Debug)]
struct Known {
    uri: Uri,
    since: Instant,
    addresses: Addresses,
}

impl Names {
    pub(super) fn new(clock: Clock, stop: Arc<Stop>, limit: Duration) -> Names {
        Names { known: Arc::default(), clock, stop, limit }
    }

    /// The same names, whose look-ups another stop ends.
    pub(super) fn under(&self, stop: Arc<Stop>) -> Names {
        Names { stop, ..self.clone() }
    }

    /// Forgets all addresses: one of them didn't answer, and the name may point elsewhere by now.
    fn forget(&self) {
        lock(&self.known).clear();
    }

    fn recall(&self, uri: &Uri) -> Option<Addresses> {
        let now = self.clock.now();
        let known = lock(&self.known);
        let same = |known: &&Known| names_same(&known.uri, uri);
        let found = known.iter().find(same)?;
        (now.saturating_duration_since(found.since) < ADDRESS_LIFE).then(|| found.addresses.clone())
    }

    fn remember(&self, uri: &Uri, addresses: &Addresses) {
        let mut known = lock(&self.known);
        known.retain(|known| !names_same(&known.uri, uri));
        if known.len() == MOST_NAMES {
            known.remove(0);
        }
        known.push(Known { uri: uri.clone(), since: self.clock.now(), addresses: addresses.clone() });
    }
}

/// Whether two addresses name the same host and port in the same way.
fn names_same(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme()
        && one.authority().map(|a| a.as_str()) == other.authority().map(|b| b.as_str())
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<Addresses, ureq::Error> {
        if let Some(addresses) = self.recall(uri) {
            return Ok(addresses);
        }
        let left = *timeout.after;
        let (limit, budget) =
            if left < self.limit { (left, timeout.reason) } else { (self.limit, Timeout::Resolve) };
        let (name, settings) = (uri.clone(), config.clone());
        let look_up = move || DefaultResolver::default().resolve(&name, &settings, NextTimeout::default());
        let addresses = self
            .stop
            .aside(limit, look_up)
            .map_err(|why| abandoned(why, budget))
            .and_then(|found| found)
            .map_err(NotSent::wrap)?;
        self.remember(uri, &addresses);
        Ok(addresses)
    }
}

/// The whole way to a connection, proxies and TLS included, on a thread of its own: neither a shutdown nor a deadline
/// waits for it, whatever trickles on the way. Its failures say that nothing was sent.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    chain: Arc<dyn Connector<Out = Box<dyn Transport>>>,
    names: Names,
    secrets: Arc<Secrets>,
}

impl Dial {
    pub(super) fn new(names: Names, secrets: Arc<Secrets>) -> Dial {
        let chain = ();
        #[cfg(feature = "socks-proxy")]
        let chain = chain.chain(ureq::unversioned::transport::SocksConnector::default());
        let chain = chain.chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        #[cfg(feature = "rustls")]
        let chain = chain.chain(ureq::unversioned::transport::RustlsConnector::default());
        #[cfg(feature = "native-tls")]
        let chain = chain.chain(ureq::unversioned::transport::NativeTlsConnector::default());
        Dial { chain: Arc::new(chain.chain(Boxed)), names, secrets }
    }

    /// The same way, with its TLS sessions, which another stop ends.
    pub(super) fn under(&self, stop: Arc<Stop>) -> Dial {
        Dial { names: self.names.under(stop), ..self.clone() }
    }

    pub(super) fn names(&self) -> Names {
        self.names.clone()
    }
}

impl Connector<()> for Dial {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let (chain, names) = (Arc::clone(&self.chain), self.names.clone());
        let (uri, config, addrs) = (details.uri.clone(), details.config.clone(), details.addrs.clone());
        let (request_level, now) = (details.request_level, details.now);
        // The silence allowed while waiting for an answer is not the one allowed in a handshake.
        let timeout = NextTimeout { per_read: None, per_write: None, ..details.timeout };
        let current_time = Arc::clone(&details.current_time);
        let run_connector = Arc::clone(&details.run_connector);
        let register_shutdown = Arc::clone(&details.register_shutdown);
        let connect = move || {
            let details = ConnectionDetails {
                uri: &uri,
                addrs,
                resolver: &names,
                config: &config,
                request_level,
                now,
                timeout,
                current_time,
                run_connector,
                register_shutdown,
            };
            chain.connect(&details, None)
        };
        let connected = self.names.stop.aside(*timeout.after, connect);
        match connected.map_err(|why| abandoned(why, timeout.reason)).and_then(|connected| connected) {
            Ok(transport) => {
                let veil = |transport| Veil::new(transport, Arc::clone(&self.secrets));
                Ok(transport.map(|transport| Box::new(veil(transport)) as Box<dyn Transport>))
            }
            Err(error) => {
                self.names.forget();
                Err(NotSent::wrap(error))
            }
        }
    }
}

/// The end of a chain: one type, whatever the features.
#[derive(Debug)]
struct Boxed;

impl<In: Transport> Connector<In> for Boxed {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|transport| Box::new(transport) as Box<dyn Transport>))
    }
}
