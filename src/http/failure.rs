//! Maps ureq's errors to this crate's.

use std::sync::Arc;
use std::time::Duration;

use ureq::Timeout;

use crate::error::{Error, Phase, Source, into_source};
use crate::http::connector::NotSent;
use crate::http::request::Limits;
use crate::http::transport::MAX_BODY_TIME;
use crate::policy::backoff::RetryConfig;
use crate::policy::classify::{Retryable, Verdict};
use crate::runtime::cancel::Cancel;

/// The context that errors are mapped with.
#[derive(Clone)]
pub(super) struct FailureContext {
    /// Host and port of the service.
    pub(super) host: Arc<str>,
    pub(super) connect_timeout: Duration,
    /// The client has a client certificate.
    pub(super) has_client_cert: bool,
    /// The program named the certificates to trust.
    pub(super) has_ca_file: bool,
    /// Cancelled when the client is shut down.
    pub(super) cancel: Cancel,
}

impl FailureContext {
    /// The error of an exchange that was cancelled or shut down, if it was: any other failure is a consequence of that.
    pub(super) fn ended(&self, limits: &Limits) -> Option<Error> {
        let cancelled = || limits.is_cancelled().then_some(Error::Cancelled);
        self.cancel.is_cancelled().then_some(Error::Shutdown).or_else(cancelled)
    }

    /// Maps the error of an exchange. `phase` is how far it got after it had connected.
    pub(super) fn error(&self, error: ureq::Error, phase: Phase, limits: &Limits) -> Error {
        if let Some(ended) = self.ended(limits) {
            return ended;
        }
        // With TLS 1.3 the server refuses a client certificate after the handshake, when the client waits for the answer.
        if let Some(message) = self.client_cert_problem(&error) {
            return Error::Config { setting: "client_cert", message, source: Some(into_source(error)) };
        }
        match error {
            ureq::Error::Timeout(Timeout::Global) => limits.deadline_passed(phase),
            ureq::Error::Timeout(Timeout::RecvBody) => Error::deadline(MAX_BODY_TIME, Some(phase)),
            ureq::Error::Timeout(Timeout::PerWrite) => Error::timeout(Phase::Sending, limits.timeout),
            ureq::Error::Timeout(_) => Error::timeout(phase, limits.timeout),
            ureq::Error::LargeResponseHeader(_, limit) => Error::too_large("header", limit as u64),
            ureq::Error::BodyExceedsLimit(limit) => Error::too_large("body", limit),
            ureq::Error::Http(source) => Error::Config {
                setting: "path",
                message: "is not a valid request path; use one such as /models".to_owned(),
                source: Some(into_source(source)),
            },
            ureq::Error::BadUri(_) => {
                Error::config("path", "is not a valid request path; use one such as /models")
            }
            ureq::Error::Other(source) => match source.downcast::<NotSent>() {
                Ok(not_sent) => self.not_sent(not_sent.0, limits),
                Err(source) => Error::transport(phase == Phase::Reading, into_source(source)),
            },
            ureq::Error::Io(source) => Error::transport(phase == Phase::Reading, into_source(source)),
            // The response is not HTTP.
            other => Error::transport(true, into_source(other)),
        }
    }

    /// Maps the error of an exchange that failed before anything was sent.
    fn not_sent(&self, error: ureq::Error, limits: &Limits) -> Error {
        let after = self.connect_timeout;
        if let Some(message) = self.client_cert_problem(&error) {
            return Error::Config { setting: "client_cert", message, source: Some(into_source(error)) };
        }
        match error {
            ureq::Error::Timeout(Timeout::Global) => limits.deadline_passed(Phase::Connect),
            // ureq rounds the deadline's share of an address down, and then reports a connect timeout.
            ureq::Error::Timeout(_) if limits.deadline.is_some_and(|deadline| deadline.remaining < after) => {
                limits.deadline_passed(Phase::Connect)
            }
            ureq::Error::Timeout(_) => Error::timeout(Phase::Connect, after),
            error if is_tls(&error) => Error::Config {
                setting: "base_url",
                message: format!(
                    "the TLS handshake with {} failed: {}",
                    self.host,
                    tls_hint(&error.to_string(), self.has_ca_file)
                ),
                source: Some(into_source(error)),
            },
            ureq::Error::Io(source) => self.not_connected(into_source(source)),
            other => self.not_connected(into_source(other)),
        }
    }

    fn not_connected(&self, source: Source) -> Error {
        Error::Connect { host: self.host.to_string(), source, target: None }
    }

    /// The problem with the client certificate, if that is why the server closed the connection.
    fn client_cert_problem(&self, error: &ureq::Error) -> Option<String> {
        if !matches!(error, ureq::Error::Io(_)) && !is_tls(error) {
            return None;
        }
        let (alert, hint) = client_cert_alert(&error.to_string())?;
        let host = &self.host;
        if self.has_client_cert {
            return Some(format!("{host} refused the certificate: {hint}"));
        }
        // The other alerts can't be about a client certificate, because none was sent.
        let is_missing = ["CertificateRequired", "BadCertificate"].contains(&alert);
        is_missing.then(|| {
            format!("is not set, but {host} requires a client certificate; set it to the files of the certificate chain and the key")
        })
    }
}

const USE: &str = "use one for clients (extended key usage clientAuth) that the server accepts";
const ISSUER: &str = "its issuer is unknown there; use one of a CA that the server trusts, with the intermediate certificates in the chain";

/// The alerts by which servers refuse a client's certificate (RFC 8446, section 6.2), and what to change. rustls prints the name,
/// OpenSSL the number.
const CLIENT_CERT_ALERTS: [(&str, &str, &str); 9] = [
    ("BadCertificate", "42", USE),
    ("UnsupportedCertificate", "43", USE),
    ("CertificateRevoked", "44", "it was revoked; use a new one"),
    ("CertificateExpired", "45", "it has expired; renew it"),
    ("CertificateUnknown", "46", USE),
    ("UnknownCA", "48", ISSUER),
    ("AccessDenied", "49", USE),
    ("DecryptError", "51", ISSUER), // of another CA of the same name
    ("CertificateRequired", "116", USE),
];

/// The name of the alert by which the server refused the client's certificate, and what to change.
fn client_cert_alert(error: &str) -> Option<(&'static str, &'static str)> {
    let words = ["received fatal alert: ", "SSL alert number "];
    let (_, alert) = words.iter().find_map(|words| error.split_once(words))?;
    let alert = alert.split(|c: char| !c.is_alphanumeric()).next()?;
    let known = CLIENT_CERT_ALERTS.into_iter().find(|(name, number, _)| [*name, *number].contains(&alert));
    known.map(|(name, _, hint)| (name, hint))
}

/// The remedy for a rejected certificate, chosen by the text of the TLS library's error, because its errors reach this crate
/// only as text. `tls.rs` and `proxies_and_certificates.rs` in `tests/loopback` check the texts.
fn tls_hint(error: &str, has_ca_file: bool) -> &'static str {
    const HINTS: [(&[&str], &str); 6] = [
        (
            &["CaUsedAsEndEntity"],
            "the server uses a CA certificate as its own; make a server certificate with basicConstraints=CA:FALSE (openssl \
             req -x509 … -addext basicConstraints=critical,CA:FALSE), or one that the CA signs",
        ),
        (&["Expired", "expired"], "the certificate has expired; renew it, or check this computer's clock"),
        (&["NotValidYet", "not valid yet"], "the certificate is not valid yet; check this computer's clock"),
        (
            &["NotValidForName", "not valid for", "mismatch"],
            "the certificate is for another host; use a name of its subjectAltName in base_url",
        ),
        (
            &["HandshakeFailure", "alert number 40"], // from OpenSSL, TLS 1.2: also where it wants a certificate
            "the server refused it; check the address and the port, and set client_cert if it requires a client certificate",
        ),
        (
            &["InvalidPurpose"],
            "the certificate is not one for servers; make one with the extended key usage serverAuth",
        ),
    ];
    // rustls and OpenSSL.
    if error.contains("UnknownIssuer") || error.contains("local issuer") || error.contains("self-signed") {
        return if has_ca_file {
            "the certificate's issuer is unknown: it is not in ca_file, or the server leaves out an intermediate certificate"
        } else {
            "the certificate's issuer is unknown; name the CA to trust with ca_file"
        };
    }
    let known = HINTS.iter().find(|(signs, _)| signs.iter().any(|sign| error.contains(sign)));
    known.map_or("check the address and the port, or name the CA to trust with ca_file", |(_, hint)| hint)
}

/// Whether the TLS handshake failed. Errors of certificates and protocols are permanent; ureq reports them as invalid data.
fn is_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        ureq::Error::Tls(_) | ureq::Error::TlsRequired => true,
        #[cfg(feature = "rustls")]
        ureq::Error::Rustls(_) => true,
        #[cfg(feature = "native-tls")]
        ureq::Error::NativeTls(_) | ureq::Error::Der(_) => true,
        _ => false,
    }
}

impl Retryable for ureq::Error {
    fn verdict(&self) -> Verdict {
        match self {
            ureq::Error::StatusCode(status) if RetryConfig::default().retries_status(*status) => {
                Verdict::Retry
            }
            // The standard library has no error kind for a name that was not found.
            ureq::Error::Io(error) if error.to_string().contains("failed to lookup address") => {
                Verdict::Retry
            }
            ureq::Error::Io(error) => error.verdict(),
            ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => Verdict::Retry,
            _ => Verdict::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn alerts_have_the_names_of_rustls_and_the_numbers_of_the_standard() {
        for (name, number, hint) in CLIENT_CERT_ALERTS {
            let alert = rustls::AlertDescription::from(number.parse::<u8>().unwrap());
            for error in [
                rustls::Error::AlertReceived(alert).to_string(),
                format!(
                    "error:0A000412:SSL routines:ssl3_read_bytes:alert:rec_layer_s3.c:1601:SSL alert number {number}"
                ),
            ] {
                assert_eq!(client_cert_alert(&error), Some((name, hint)), "{error}");
            }
        }
        for other in [
            "received fatal alert: HandshakeFailure",
            "SSL alert number 4",
            "SSL alert number 40",
            "invalid peer certificate: UnknownCA",
            "CertificateRequired",
        ] {
            assert_eq!(client_cert_alert(other), None, "{other}");
        }
    }

    #[test]
    fn an_answer_that_takes_an_hour_ends_with_a_deadline() {
        let failures = FailureContext {
            host: Arc::from("a:1"),
            connect_timeout: MAX_BODY_TIME,
            has_client_cert: false,
            has_ca_file: false,
            cancel: Cancel::default(),
        };
        let limits = Limits { timeout: MAX_BODY_TIME, deadline: None, cancel: None };
        let error = failures.error(ureq::Error::Timeout(Timeout::RecvBody), Phase::Reading, &limits);
        assert_eq!(error.to_string(), "the deadline of 3600s passed while reading the answer");
        assert_eq!(error.verdict(), Verdict::GiveUp, "another one would take an hour, too");
    }

    #[test]
    fn errors_of_ureq_get_the_same_verdicts() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        for retryable in [
            ureq::Error::StatusCode(429),
            ureq::Error::StatusCode(529),
            ureq::Error::Timeout(Timeout::Connect),
            ureq::Error::HostNotFound,
            io(io::ErrorKind::ConnectionReset),
        ] {
            assert_eq!(retryable.verdict(), Verdict::Retry, "{retryable}");
        }
        for permanent in [
            ureq::Error::StatusCode(401),
            ureq::Error::BadUri(String::new()),
            ureq::Error::TooManyRedirects,
            io(io::ErrorKind::InvalidData),
        ] {
            assert_eq!(permanent.verdict(), Verdict::GiveUp, "{permanent}");
        }
    }
}
