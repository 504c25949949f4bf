//! TLS configuration: provider, trusted root certificates and client certificate.

use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::error::{Error, Result};
use crate::http::client_cert;
use crate::http::options::Endpoint;

pub(super) fn config(endpoint: &Endpoint) -> Result<TlsConfig> {
    // With both backends compiled in, native-tls takes precedence because it was requested explicitly.
    let provider = if cfg!(feature = "native-tls") { TlsProvider::NativeTls } else { TlsProvider::Rustls };
    let trusted = match &endpoint.roots {
        Some(pem) => certificates(pem)?,
        None if cfg!(feature = "platform-verifier") => RootCerts::PlatformVerifier,
        None => RootCerts::WebPki,
    };
    let config = TlsConfig::builder().provider(provider).root_certs(trusted);
    let config = match &endpoint.client_cert {
        Some(files) => client_cert::add(config, files)?,
        None => config,
    };
    Ok(config.build())
}

fn certificates(pem: &[u8]) -> Result<RootCerts> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(Error::config("ca_file", "holds a certificate that can't be read")),
        }
    }
    if found.is_empty() {
        return Err(Error::config(
            "ca_file",
            "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(RootCerts::from(found))
}
