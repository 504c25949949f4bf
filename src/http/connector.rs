//! Getting a connection: names are looked up now and then and not per request, and neither a look-up nor a connect
//! holds up a shutdown.

use std::sync::Arc;
use std::{fmt, io};

use ureq::Timeout;
use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};

use crate::http::dns_cache::DnsCache;
use crate::http::redaction::RedactingTransport;
use crate::runtime::cancel::{Abandoned, Cancel};
use crate::wire::secrets::Secrets;

/// A failure from before anything was sent.
#[derive(Debug)]
pub(super) struct NotSent(pub(super) ureq::Error);

impl NotSent {
    pub(super) fn wrap(error: ureq::Error) -> ureq::Error {
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
pub(super) fn abandoned(why: Abandoned, budget: Timeout) -> ureq::Error {
    match why {
        Abandoned::TooLate => ureq::Error::Timeout(budget),
        Abandoned::Stopped => ureq::Error::Io(io::ErrorKind::Interrupted.into()),
        Abandoned::NoThread => ureq::Error::Io(io::ErrorKind::WouldBlock.into()),
    }
}

/// The whole way to a connection, proxies and TLS included, on a thread of its own: neither a shutdown nor a deadline
/// waits for it, whatever trickles on the way. Its failures say that nothing was sent.
#[derive(Debug, Clone)]
pub(super) struct HttpConnector {
    chain: Arc<dyn Connector<Out = Box<dyn Transport>>>,
    names: DnsCache,
    secrets: Arc<Secrets>,
}

impl HttpConnector {
    pub(super) fn new(names: DnsCache, secrets: Arc<Secrets>) -> HttpConnector {
        let chain = ();
        #[cfg(feature = "socks-proxy")]
        let chain = chain.chain(ureq::unversioned::transport::SocksConnector::default());
        let chain = chain.chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        #[cfg(feature = "rustls")]
        let chain = chain.chain(ureq::unversioned::transport::RustlsConnector::default());
        #[cfg(feature = "native-tls")]
        let chain = chain.chain(ureq::unversioned::transport::NativeTlsConnector::default());
        HttpConnector { chain: Arc::new(chain.chain(Boxed)), names, secrets }
    }

    /// The same way, with its TLS sessions, which another stop ends.
    pub(super) fn under(&self, stop: Arc<Cancel>) -> HttpConnector {
        HttpConnector { names: self.names.under(stop), ..self.clone() }
    }

    pub(super) fn names(&self) -> DnsCache {
        self.names.clone()
    }
}

impl Connector<()> for HttpConnector {
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
                let veil = |transport| RedactingTransport::new(transport, Arc::clone(&self.secrets));
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
