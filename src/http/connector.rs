//! Connects, including proxies and TLS, on a separate thread so that neither a shutdown nor a deadline waits for it.

use std::sync::{Arc, Mutex, Weak};
use std::{fmt, io};

use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, ShutdownHandle, TcpConnector, Transport,
};
use ureq::{Agent, Timeout};

use crate::http::connection::HttpConnection;
use crate::http::connections::NewAgent;
use crate::http::dns_cache::DnsCache;
use crate::http::early_answer::EarlyAnswerConnector;
use crate::http::exact_timeout::ExactTimeoutConnector;
use crate::http::exchange;
use crate::runtime::cancel::Abandoned;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;
use crate::wire::secrets::Secrets;

/// A failure before anything was sent.
#[derive(Debug)]
pub(super) struct NotSent(pub(super) ureq::Error);

impl NotSent {
    pub(super) fn wrap(error: ureq::Error) -> ureq::Error {
        match error {
            ureq::Error::Other(inner) if inner.is::<NotSent>() => ureq::Error::Other(inner), // from a proxy's look-up
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

/// The error of an abandoned look-up or connect; `timeout` is the one that ran out.
pub(super) fn abandoned(why: Abandoned, timeout: Timeout) -> ureq::Error {
    match why {
        Abandoned::TimedOut => ureq::Error::Timeout(timeout),
        Abandoned::Cancelled => ureq::Error::Io(io::ErrorKind::Interrupted.into()),
        Abandoned::NoThread => ureq::Error::Io(io::ErrorKind::WouldBlock.into()),
    }
}

/// Makes connections: proxy, TCP, TLS, redaction. All its errors are [`NotSent`].
#[derive(Debug, Clone)]
pub(super) struct HttpConnector {
    chain: Arc<dyn Connector<Out = Box<dyn Transport>>>,
    dns: DnsCache,
    secrets: Arc<Secrets>,
}

impl HttpConnector {
    pub(super) fn new(dns: DnsCache, secrets: Arc<Secrets>) -> HttpConnector {
        let chain = ();
        #[cfg(feature = "socks-proxy")]
        let chain = chain.chain(ureq::unversioned::transport::SocksConnector::default());
        let chain = chain.chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let chain = chain.chain(ExactTimeoutConnector(Clock::system())).chain(EarlyAnswerConnector);
        #[cfg(feature = "rustls")]
        let chain = chain.chain(ureq::unversioned::transport::RustlsConnector::default());
        #[cfg(feature = "native-tls")]
        let chain = chain.chain(ureq::unversioned::transport::NativeTlsConnector::default());
        HttpConnector { chain: Arc::new(chain.chain(Boxed)), dns, secrets }
    }

    /// Creates agents that share the TLS sessions and the cached addresses.
    pub(super) fn agents(self) -> NewAgent {
        Arc::new(move |config, cancel| {
            let dns = self.dns.under(cancel);
            let connector = HttpConnector { dns: dns.clone(), ..self.clone() };
            Agent::with_parts(config, connector, dns)
        })
    }
}

impl Connector<()> for HttpConnector {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let (chain, dns) = (Arc::clone(&self.chain), self.dns.clone());
        let (uri, config, addrs) = (details.uri.clone(), details.config.clone(), details.addrs.clone());
        let (request_level, now) = (details.request_level, details.now);
        // The inactivity timeout of an answer does not apply to a handshake.
        let timeout = NextTimeout { per_read: None, per_write: None, ..details.timeout };
        let current_time = Arc::clone(&details.current_time);
        let run_connector = Arc::clone(&details.run_connector);
        let handles: Arc<Mutex<Vec<Weak<dyn ShutdownHandle>>>> = Arc::default();
        let register_shutdown = {
            let (register, handles) = (Arc::clone(&details.register_shutdown), Arc::clone(&handles));
            Arc::new(move |handle: Weak<dyn ShutdownHandle>| {
                lock(&handles).push(Weak::clone(&handle));
                register(handle)
            })
        };
        let connect = move || {
            let details = ConnectionDetails {
                uri: &uri,
                addrs,
                resolver: &dns,
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
        let cancel = exchange::own_cancel().unwrap_or_else(|| self.dns.cancel.clone());
        let connected = cancel.run_cancellable(*timeout.after, connect);
        match connected.map_err(|why| abandoned(why, timeout.reason)).and_then(|connected| connected) {
            Ok(transport) => {
                let handles = std::mem::take(&mut *lock(&handles));
                let connection = |transport| {
                    HttpConnection::new(transport, Arc::clone(&self.secrets), handles, Clock::system())
                };
                Ok(transport.map(|transport| Box::new(connection(transport)) as Box<dyn Transport>))
            }
            Err(error) => {
                self.dns.clear();
                Err(NotSent::wrap(error))
            }
        }
    }
}

/// The end of the chain, with one type for all combinations of features.
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
