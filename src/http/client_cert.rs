//! The client's own certificate and private key, read from PEM and checked as the TLS library will use them: ureq would panic
//! at the first connection over a pair that doesn't fit.

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, TlsConfigBuilder, parse_pem};

use crate::error::{Error, Result};
use crate::http::options::{ClientCertFiles, PemFile};

/// Converts any private key to unencrypted PKCS#8; the name of its file follows.
const CONVERT: &str = "openssl pkcs8 -topk8 -nocrypt -in";

/// Adds the certificate and the key of two files that may be the same.
pub(super) fn add(config: TlsConfigBuilder, files: &ClientCertFiles<PemFile>) -> Result<TlsConfigBuilder> {
    let chain = certificates(&files.chain)?;
    let key = private_key(&files.key)?;
    checked(config, &ClientCert::new_with_certs(&chain, key), files)
}

fn certificates(file: &PemFile) -> Result<Vec<Certificate<'static>>> {
    let Items { certificates, keys } = items(file)?;
    match (certificates.is_empty(), keys.is_empty()) {
        (false, _) => Ok(certificates),
        (true, false) => Err(problem(
            file,
            "holds a private key but no certificate; name the file of the certificate chain first, then that of the key",
        )),
        (true, true) => Err(problem(
            file,
            "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); convert DER with openssl x509, and PKCS#12 with openssl pkcs12",
        )),
    }
}

fn private_key(file: &PemFile) -> Result<PrivateKey<'static>> {
    match <[PrivateKey<'static>; 1]>::try_from(items(file)?.keys) {
        Ok([key]) => Ok(key),
        Err(keys) if !keys.is_empty() => Err(problem(
            file,
            &format!("holds {} private keys; leave only that of the certificate", keys.len()),
        )),
        Err(_) if is_encrypted(file) => Err(encrypted(file)),
        Err(_) => Err(problem(file, "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")),
    }
}

/// The parts of a file that are used.
struct Items {
    certificates: Vec<Certificate<'static>>,
    keys: Vec<PrivateKey<'static>>,
}

fn items(file: &PemFile) -> Result<Items> {
    let mut items = Items { certificates: Vec::new(), keys: Vec::new() };
    for item in parse_pem(&file.pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => items.certificates.push(certificate),
            Ok(PemItem::PrivateKey(key)) => items.keys.push(key),
            Ok(_) => {}
            // The headers of an encrypted PKCS#1 or SEC1 key are not Base64.
            Err(_) if is_encrypted(file) => return Err(encrypted(file)),
            Err(_) => return Err(problem(file, "is not valid PEM; copy or export it again")),
        }
    }
    Ok(items)
}

/// Whether the file says so: `BEGIN ENCRYPTED PRIVATE KEY` (RFC 7468, section 11), or `Proc-Type: 4,ENCRYPTED` in older ones
/// (RFC 1421, section 4.6.1.1).
fn is_encrypted(file: &PemFile) -> bool {
    String::from_utf8_lossy(&file.pem).contains("ENCRYPTED")
}

fn encrypted(file: &PemFile) -> Error {
    let path = file.path.display();
    problem(file, &format!("holds an encrypted private key; decrypt it with {CONVERT} {path}"))
}

fn problem(file: &PemFile, problem: &str) -> Error {
    Error::config("client_cert", format!("{} {problem}", file.path.display()))
}

fn unreadable_certificate(files: &ClientCertFiles<PemFile>) -> Error {
    problem(
        &files.chain,
        "holds a certificate that can't be read; it must be X.509 version 3 (openssl x509 -req … -extfile …)",
    )
}

fn mismatch(files: &ClientCertFiles<PemFile>) -> Error {
    let message = format!(
        "does not match the first certificate in {}; name the key of that certificate, with the client's own certificate \
         first in the chain",
        files.chain.path.display()
    );
    problem(&files.key, &message)
}

/// Checks the pair as `ClientConfig::with_client_auth_cert` will, with the cryptography that ureq would choose now. That choice
/// is passed on, so that the pair is used with what it was checked with.
#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
fn checked(
    config: TlsConfigBuilder,
    pair: &ClientCert,
    files: &ClientCertFiles<PemFile>,
) -> Result<TlsConfigBuilder> {
    use std::sync::Arc;

    use rustls::crypto::{CryptoProvider, ring};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::ParsedCertificate;
    use rustls::sign::CertifiedKey;

    let provider =
        CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
    let certificates = pair.certs().iter().map(|certificate| CertificateDer::from(certificate.der()));
    let chain: Vec<_> = certificates.map(CertificateDer::into_owned).collect();
    if chain.iter().any(|certificate| ParsedCertificate::try_from(certificate).is_err()) {
        return Err(unreadable_certificate(files));
    }
    // ureq's parser is the same, but the form that it found can't be named.
    let key = PrivateKeyDer::from_pem_slice(&files.key.pem).ok();
    match key.map(|key| CertifiedKey::from_der(chain, key, &provider)) {
        Some(Ok(_)) => {
            Ok(config.client_cert(Some(pair.clone())).unversioned_rustls_crypto_provider(provider))
        }
        Some(Err(rustls::Error::InconsistentKeys(_))) => Err(mismatch(files)),
        _ => Err(problem(
            &files.key,
            "holds a private key that can't be used; use RSA with 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519",
        )),
    }
}

/// Does with the pair what ureq will do at the first connection.
#[cfg(feature = "native-tls")]
fn checked(
    config: TlsConfigBuilder,
    pair: &ClientCert,
    files: &ClientCertFiles<PemFile>,
) -> Result<TlsConfigBuilder> {
    let pem = |label, der: &[u8]| {
        der::Document::try_from(der).and_then(|document| document.to_pem(label, der::pem::LineEnding::LF))
    };
    let mut chain = String::new();
    for certificate in pair.certs() {
        native_tls::Certificate::from_der(certificate.der()).map_err(|_| unreadable_certificate(files))?;
        chain += &pem("CERTIFICATE", certificate.der()).map_err(|_| unreadable_certificate(files))?;
    }
    let key = pkcs8(pair, files)?;
    let identity =
        pem("PRIVATE KEY", key.der()).map_err(|error| unusable_key(files, error)).and_then(|key| {
            native_tls::Identity::from_pkcs8(chain.as_bytes(), key.as_bytes())
                .map_err(|error| unusable_key(files, error))
        })?;
    let connector =
        native_tls::TlsConnector::builder().disable_built_in_roots(true).identity(identity).build();
    connector.map_err(|error| unusable_key(files, error))?;
    Ok(config.client_cert(Some(ClientCert::new_with_certs(pair.certs(), key))))
}

#[cfg(feature = "native-tls")]
fn unusable_key(
    files: &ClientCertFiles<PemFile>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let path = files.key.path.display();
    let message = format!(
        "{path} holds a private key that can't be used with the certificate; use one of RSA, or of ECDSA on P-256 or P-384"
    );
    Error::Config { setting: "client_cert", message, source: Some(crate::error::into_source(source)) }
}

/// The key in the form that native-tls needs. native-tls doesn't compare a key with a certificate of another algorithm, and
/// OpenSSL then presents no certificate.
#[cfg(all(feature = "native-tls", not(any(target_os = "windows", target_vendor = "apple"))))]
fn pkcs8(pair: &ClientCert, files: &ClientCertFiles<PemFile>) -> Result<PrivateKey<'static>> {
    use openssl::pkey::PKey;
    use openssl::x509::X509;

    let key =
        PKey::private_key_from_der(pair.private_key().der()).map_err(|error| unusable_key(files, error))?;
    let certificate = X509::from_der(pair.certs()[0].der()).and_then(|certificate| certificate.public_key());
    if !certificate.map_err(|_| unreadable_certificate(files))?.public_eq(&key) {
        return Err(mismatch(files));
    }
    let pem = key.private_key_to_pem_pkcs8().map_err(|error| unusable_key(files, error))?;
    PrivateKey::from_pem(&pem).map_err(|error| unusable_key(files, error))
}

/// The key, if it has the form that native-tls needs.
#[cfg(all(feature = "native-tls", any(target_os = "windows", target_vendor = "apple")))]
fn pkcs8(_: &ClientCert, files: &ClientCertFiles<PemFile>) -> Result<PrivateKey<'static>> {
    let key = private_key(&files.key)?;
    if String::from_utf8_lossy(&files.key.pem).contains("-----BEGIN PRIVATE KEY-----") {
        return Ok(key);
    }
    let path = files.key.path.display();
    let message =
        format!("isn't in PKCS#8 form, which the feature native-tls needs; convert it with {CONVERT} {path}");
    Err(problem(&files.key, &message))
}
