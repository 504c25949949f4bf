//! How the transport is set up, and what of it ureq would find wrong.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::uri::Uri;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{Error, Result};
use crate::wire::base_url::BaseUrl;
use crate::wire::secrets::Secrets;

/// The longest line of a request's head, in bytes: common servers take no longer ones.
pub(crate) const LONGEST_LINE: usize = 8 * 1024;

/// The longest base address and the longest path below it, in bytes: both are in the first line.
pub(crate) const LONGEST_PART: usize = LONGEST_LINE / 2;

/// How the transport is set up.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) base: BaseUrl,
    /// What every request carries, made once: ureq would make its own ones anew each time. With stand-ins for secrets.
    pub(crate) headers: HeaderMap,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) user_agent: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) proxy: ProxyChoice,
    /// Certificates in PEM form to trust instead of the built-in ones.
    pub(crate) roots: Option<Vec<u8>>,
    pub(crate) max_idle_connections: usize,
    pub(crate) max_response_bytes: u64,
}

impl Settings {
    /// Says what ureq would find wrong later on.
    pub(crate) fn check(&self) -> Result<()> {
        #[cfg(any(feature = "rustls", feature = "native-tls"))]
        crate::http::tls::config(self.roots.as_deref())?;
        base(self)?;
        #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
        if self.roots.is_some() {
            return Err(Error::config(
                "ca_file",
                "has no use, because this build has no TLS; enable the feature rustls",
            ));
        }
        proxy(self).map(|_| ())
    }
}

/// Which proxy, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProxyChoice {
    /// What `HTTPS_PROXY` and its like say, except for this computer itself.
    Environment,
    None,
    Url(String),
}

/// The address that paths are added to.
pub(super) fn base(settings: &Settings) -> Result<Uri> {
    if settings.base.url.len() > LONGEST_PART {
        return Err(Error::config(
            "base_url",
            format!("is longer than {LONGEST_PART} bytes; is it an address?"),
        ));
    }
    Uri::try_from(&settings.base.url)
        .map_err(|_| Error::config("base_url", "holds a character that no address has"))
}

/// The proxy, if any.
pub(super) fn proxy(settings: &Settings) -> Result<Option<ureq::Proxy>> {
    use ureq::ProxyProtocol::{Socks4, Socks4A, Socks5, Socks5h};
    let proxy = match &settings.proxy {
        ProxyChoice::Environment if settings.base.loopback => None,
        ProxyChoice::Environment => ureq::Proxy::try_from_env(),
        ProxyChoice::None => None,
        ProxyChoice::Url(url) => Some(ureq::Proxy::new(url).map_err(|_| {
            Error::config("proxy", "is no address of a proxy, such as http://proxy.example:3128")
        })?),
    };
    match &proxy {
        Some(socks)
            if matches!(socks.protocol(), Socks4 | Socks4A | Socks5 | Socks5h)
                && !cfg!(feature = "socks-proxy") =>
        {
            Err(Error::config("proxy", "is a socks proxy, which needs the feature socks-proxy of this crate"))
        }
        _ => Ok(proxy),
    }
}

/// Header fields as ureq wants them; says of the first one that it can't be which part of it is at fault.
pub(crate) fn headers(fields: &[(String, String)]) -> Result<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let Ok(key) = HeaderName::from_bytes(name.as_bytes()) else {
            // Not shown: name and value are easily mixed up, and values are secret.
            return Err(Error::config(
                "header",
                "has a name that none can have; the name comes first, then the value",
            ));
        };
        let Ok(mut value) = HeaderValue::from_str(value) else {
            return Err(Error::config("header", format!("{key} has a value that no header can carry")));
        };
        if key.as_str().len() + value.len() > LONGEST_LINE {
            let message =
                format!("{key} is longer than {LONGEST_LINE} bytes, which servers don't take; shorten it");
            return Err(Error::config("header", message));
        }
        value.set_sensitive(true);
        map.append(key, value);
    }
    Ok(map)
}
