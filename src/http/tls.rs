//! TLS configuration: provider, trusted root certificates and client certificate.

use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::error::{Error, Result};
use crate::http::client_cert;
use crate::http::options::{Endpoint, PemFile};

pub(super) fn config(endpoint: &Endpoint) -> Result<TlsConfig> {
    // With both backends compiled in, native-tls takes precedence because it was requested explicitly.
    let provider = if cfg!(feature = "native-tls") { TlsProvider::NativeTls } else { TlsProvider::Rustls };
    let trusted = match &endpoint.roots {
        Some((setting, file)) => certificates(setting, file)?,
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

fn certificates(setting: &'static str, file: &PemFile) -> Result<RootCerts> {
    let problem = |problem| Error::config(setting, format!("{} {problem}", file.path.display()));
    let mut found = Vec::new();
    for item in parse_pem(&file.pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(problem("holds a certificate that can't be read; copy or export it again")),
        }
    }
    if found.is_empty() {
        return Err(problem(
            "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); convert DER with openssl x509, and PKCS#12 with openssl pkcs12",
        ));
    }
    Ok(RootCerts::from(found))
}
