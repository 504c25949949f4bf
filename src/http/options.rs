//! The settings of the transport and their validation.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::uri::Uri;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{Error, Result};
use crate::http::proxy;
use crate::http::request::RequestHeaders;
use crate::wire::base_url::BaseUrl;

/// The longest line of a request's head in bytes: common servers accept no longer ones.
pub(crate) const MAX_LINE: usize = 8 * 1024;

/// The longest base address and the longest path below it in bytes: both are in the first line.
pub(crate) const MAX_URL_PART: usize = MAX_LINE / 2;

/// The default number of idle connections to keep: more than any program has threads, so that none repeats a handshake. Those
/// that have idled for a minute are closed at the next call.
pub(crate) const MAX_IDLE: usize = 4096;

/// The largest answer by default in bytes: ten times the largest batch of embeddings.
const MAX_RESPONSE: u64 = 256 * 1024 * 1024;

/// The settings of the transport.
#[derive(Clone)]
pub(crate) struct HttpOptions {
    pub(crate) user_agent: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) proxy: ProxyChoice,
    /// A file of certificates in PEM form to trust instead of the built-in ones.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_cert: Option<ClientCertFiles<PathBuf>>,
    pub(crate) max_idle_connections: usize,
    pub(crate) max_response_bytes: u64,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            user_agent: concat!("holysheep-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            proxy: ProxyChoice::Environment,
            ca_file: None,
            client_cert: None,
            max_idle_connections: MAX_IDLE,
            max_response_bytes: MAX_RESPONSE,
        }
    }
}

/// Which proxy, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProxyChoice {
    /// The proxy in `HTTPS_PROXY` or a similar variable, except for a loopback address.
    Environment,
    None,
    Url(String),
}

/// The two files of a client certificate: their paths or their contents.
#[derive(Clone)]
pub(crate) struct ClientCertFiles<T> {
    pub(crate) chain: T,
    pub(crate) key: T,
}

/// A file in PEM form. It has no `Debug`, because it may contain a private key.
#[derive(Clone)]
#[cfg_attr(
    not(any(feature = "rustls", feature = "native-tls")),
    expect(dead_code, reason = "without TLS a client certificate is refused unread")
)]
pub(crate) struct PemFile {
    pub(crate) path: PathBuf,
    pub(crate) pem: Vec<u8>,
}

/// The validated settings of a service.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) base: BaseUrl,
    /// The query of the base URL, with placeholders for its values.
    pub(crate) query: String,
    /// The headers of every request.
    pub(crate) headers: RequestHeaders,
    /// The certificates to trust instead of the built-in ones, and the setting or variable that names their file.
    pub(crate) roots: Option<(&'static str, PemFile)>,
    /// The client's own certificate.
    pub(crate) client_cert: Option<ClientCertFiles<PemFile>>,
}

impl Endpoint {
    /// Reports settings that ureq would reject later.
    pub(crate) fn check(&self, options: &HttpOptions) -> Result<()> {
        #[cfg(any(feature = "rustls", feature = "native-tls"))]
        crate::http::tls::config(self)?;
        #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
        for (setting, is_set) in
            [("ca_file", self.roots.is_some()), ("client_cert", self.client_cert.is_some())]
        {
            if is_set {
                let message = "has no effect, because this build has no TLS; enable the feature rustls";
                return Err(Error::config(setting, message));
            }
        }
        self.uri()?;
        self.proxy(options).map(|_| ())
    }

    /// The address that paths are added to.
    pub(super) fn uri(&self) -> Result<Uri> {
        if self.base.url.len() + self.query.len() > MAX_URL_PART {
            let message = format!("exceeds the maximum of {MAX_URL_PART} bytes; check that it is an address");
            return Err(Error::config("base_url", message));
        }
        let invalid = |_| Error::config("base_url", "contains a character that is not valid in an address");
        let BaseUrl { url, query, .. } = &self.base;
        Uri::try_from(format!("{url}/?{query}")).map_err(invalid)?; // the characters of the query, not its placeholders
        Uri::try_from(url).map_err(invalid)
    }

    /// The proxy, if any.
    pub(super) fn proxy(&self, options: &HttpOptions) -> Result<Option<ureq::Proxy>> {
        use ureq::ProxyProtocol::{Socks4, Socks4A, Socks5, Socks5h};
        let target = proxy::Target { https: self.base.https, authority: &self.base.authority };
        let named = match &options.proxy {
            ProxyChoice::Environment if self.base.loopback => None,
            ProxyChoice::Environment => proxy::from_environment(target, |name| env::var(name).ok()),
            ProxyChoice::None => None,
            ProxyChoice::Url(url) => Some(("proxy", url.clone())),
        };
        let Some((setting, url)) = named else { return Ok(None) };
        let proxy = ureq::Proxy::new(&url).map_err(|_| {
            Error::config(setting, "is not a valid proxy address, such as http://proxy.example:3128")
        })?;
        match proxy.protocol() {
            Socks4 | Socks4A | Socks5 | Socks5h if !cfg!(feature = "socks-proxy") => {
                let message = "is a socks proxy, which needs the feature socks-proxy of this crate";
                Err(Error::config(setting, message))
            }
            _ => Ok(Some(proxy)),
        }
    }
}

/// Converts header fields for ureq. The error says which part of the first invalid one is wrong.
pub(crate) fn headers(fields: &[(String, String)]) -> Result<HeaderMap> {
    // One more than there are: replacing a field in a full map makes it grow.
    let mut map = HeaderMap::with_capacity(fields.len() + 1);
    for (name, value) in fields {
        let Ok(key) = HeaderName::from_bytes(name.as_bytes()) else {
            // The name isn't shown: name and value are easily swapped, and values are secret.
            let message = "the name is not a valid header name; the name comes first, then the value";
            return Err(Error::config("header", message));
        };
        let Ok(mut value) = HeaderValue::from_str(value) else {
            let message = format!("the value of {key} contains a character that is not valid in a header");
            return Err(Error::config("header", message));
        };
        if key.as_str().len() + value.len() > MAX_LINE {
            let message =
                format!("{key} exceeds the maximum of {MAX_LINE} bytes that servers accept; shorten it");
            return Err(Error::config("header", message));
        }
        value.set_sensitive(true);
        map.append(key, value);
    }
    Ok(map)
}
