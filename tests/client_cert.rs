//! Mutual TLS: the certificate that the client presents, what `build()` refuses, and what a server's refusal becomes.
#![cfg(any(feature = "rustls", feature = "native-tls"))]
#![allow(clippy::unwrap_used, reason = "a test that can't continue must fail")]

#[path = "support/captured_log.rs"]
mod captured_log;
#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/pki.rs"]
mod pki;
mod support;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use holysheep::{Cancel, Clock, Config, ConfigBuilder, Error};
use hostile::{RawServer, WAYS, ask, build, each};
use pki::{Authority, file, keys, pem};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use support::{full_message, ok};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server that demands certificates of one authority, and has one of another.
struct Service {
    server: RawServer,
    clients: Authority,
    ca_file: PathBuf,
}

impl Service {
    fn new(version: &'static SupportedProtocolVersion) -> Service {
        let (own, clients) = (Authority::new("server CA"), Authority::new("client CA"));
        let server = RawServer::start(Some(own.server(&clients, version)), |connection| {
            while connection.request().is_some() && connection.send(ok("known").bytes()) {}
        });
        Service { server, clients, ca_file: file(own.pem()) }
    }

    fn config(&self) -> ConfigBuilder {
        hostile::config(self.server.tls_url()).ca_file(&self.ca_file)
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.server.address().port())
    }

    /// The refusal of a call, which is not repeated.
    #[track_caller]
    fn refusal(&self, change: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> String {
        let clock = Clock::fake();
        let client = build(change(self.config()).clock(clock.clone()));
        for (way, ask) in WAYS {
            let connections = self.server.connections();
            let error = ask(&client).unwrap_err();
            assert!(
                matches!(error, Error::Config { setting: "client_cert", .. }),
                "{way}: {}",
                full_message(&error)
            );
            assert!(!error.is_retryable() && std::error::Error::source(&error).is_some(), "{way}");
            assert_eq!((clock.sleeps().len(), self.server.connections()), (0, connections + 1), "{way}");
        }
        assert!(self.server.requests().is_empty(), "no request is read before the certificate");
        ask(&client).unwrap_err().to_string()
    }
}

/// What `build()` says.
fn built(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<(), String> {
    let config = hostile::config("https://llm.example/v1").client_cert(chain, key);
    config.build().map(drop).map_err(|error| {
        assert!(matches!(error, Error::Config { setting: "client_cert", .. }), "{}", full_message(&error));
        error.to_string()
    })
}

#[test]
fn a_certificate_of_the_servers_ca_is_accepted() {
    each(VERSIONS, |version| {
        let service = Service::new(version);
        let key = KeyPair::generate().unwrap();
        let chain = file(service.clients.client(&key, |_| {}));
        let client = build(service.config().client_cert(chain, file(key.serialize_pem())));
        for (way, ask) in WAYS {
            assert_eq!(ask(&client).unwrap().text(), "known", "{way}");
        }
        assert_eq!(ask(&client.with_deadline(Some(Duration::from_secs(60)))).unwrap().text(), "known");
        assert_eq!(service.server.connections(), 1, "the connection is kept");
        assert_eq!(ask(&client.with_cancel(&Cancel::new())).unwrap().text(), "known");
    });
}

#[test]
fn every_form_of_a_key_is_accepted() {
    let service = Service::new(&TLS13);
    let service12 = Service::new(&TLS12);
    each(keys(), |(name, pair, pem)| {
        for service in [&service, &service12] {
            let chain = file(service.clients.client(&pair, |_| {}));
            let client = build(service.config().client_cert(chain, file(&pem)));
            assert_eq!(ask(&client).map_err(|error| full_message(&error)).unwrap().text(), "known", "{name}");
        }
    });
}

#[test]
fn one_file_may_hold_the_chain_with_intermediate_certificates_and_the_key() {
    let service = Service::new(&TLS13);
    let intermediate = service.clients.intermediate("intermediate CA");
    let key = KeyPair::generate().unwrap();
    let own = intermediate.client(&key, |_| {});
    let both = file([key.serialize_pem(), own.clone(), intermediate.pem()].concat());
    let client = build(service.config().client_cert(&both, &both));
    assert_eq!(ask(&client).unwrap().text(), "known");

    let said = Service::new(&TLS13).refusal(|config| config.client_cert(file(own), both));
    assert!(said.contains("with the intermediate certificates in the chain"), "{said}");
}

#[test]
fn a_missing_certificate_is_an_error_of_the_setting() {
    each(VERSIONS, |version| {
        let service = Service::new(version);
        let host = service.host();
        let expected = format!(
            "client_cert: is not set, but {host} requires a client certificate; set it to the files of the certificate chain \
             and the key"
        );
        assert_eq!(service.refusal(|config| config), expected);
    });
}

#[test]
fn a_server_certificate_of_an_unknown_issuer_says_whether_to_name_the_ca() {
    let service = Service::new(&TLS13);
    let unknown = |config: ConfigBuilder| {
        let error = ask(&build(config.clock(Clock::fake()))).unwrap_err();
        error.to_string().split_once("issuer is unknown").unwrap_or_else(|| panic!("{error}")).1.to_owned()
    };
    let url = service.server.tls_url();
    assert_eq!(unknown(hostile::config(&url)), "; name the CA to trust with ca_file");
    let other = file(Authority::new("another CA").pem());
    let expected = ": it is not in ca_file, or the server leaves out an intermediate certificate";
    assert_eq!(unknown(hostile::config(&url).ca_file(other)), expected);
}

#[test]
fn a_client_certificate_is_a_credential_and_needs_tls() {
    let key = KeyPair::generate().unwrap();
    let (chain, key) = (file(Authority::new("client CA").client(&key, |_| {})), file(key.serialize_pem()));
    let with_cert = |url: &str| Config::builder().base_url(url).client_cert(&chain, &key).build();
    with_cert("https://llm.internal.example/v1").unwrap();
    let error = with_cert("http://127.0.0.1:1/v1").unwrap_err();
    let expected = "client_cert: is presented only over TLS; use an https:// address as base_url";
    assert_eq!(error.to_string(), expected);
}

/// OpenSSL sends handshake_failure for a missing certificate with TLS 1.2, but also for other reasons.
#[test]
fn the_hint_for_a_refused_handshake_names_the_setting() {
    let server = RawServer::new(|connection| {
        if connection.transport.fill_buf().is_ok() {
            connection.send(b"\x15\x03\x03\x00\x02\x02\x28"); // the fatal alert handshake_failure
            connection.linger();
        }
    });
    let error = ask(&build(hostile::config(server.tls_url()).clock(Clock::fake()))).unwrap_err();
    let expected = format!(
        "base_url: the TLS handshake with localhost:{} failed: the server refused it; check the address and the port, and \
         set client_cert if it requires a client certificate",
        server.address().port()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(server.connections(), 1, "not retried");
}

#[test]
fn a_refused_certificate_is_an_error_that_names_the_reason() {
    let issuer = "its issuer is unknown there; use one of a CA that the server trusts, with the intermediate certificates \
                  in the chain";
    each(VERSIONS, |version| {
        let service = Service::new(version);
        let key = KeyPair::generate().unwrap();
        let key_file = file(key.serialize_pem());
        let foreign = Authority::new("foreign CA");
        let namesake = Authority::new("client CA");
        let own = &service.clients;
        for (chain, reason) in [
            (foreign.client(&key, |_| {}), issuer),
            (namesake.client(&key, |_| {}), issuer),
            (
                own.client(&key, |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1)),
                "it has expired; renew it",
            ),
            (
                own.client(&key, |params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                }),
                "use one for clients (extended key usage clientAuth) that the server accepts",
            ),
        ] {
            let said = service.refusal(|config| config.client_cert(file(chain), &key_file));
            assert_eq!(said, format!("client_cert: {} refused the certificate: {reason}", service.host()));
        }
    });
}

#[test]
fn a_refusal_is_recognised_while_a_large_request_is_sent() {
    let service = Service::new(&TLS13);
    let client = build(service.config().clock(Clock::fake()));
    let error = client.chat(&hostile::request().user("x".repeat(4 << 20))).unwrap_err();
    assert!(matches!(error, Error::Config { setting: "client_cert", .. }), "{}", full_message(&error));
}

#[test]
fn a_key_of_another_certificate_is_refused_by_build() {
    let authority = Authority::new("client CA");
    let forms = keys();
    for (name, pair, _) in &forms {
        let chain = file(authority.client(pair, |_| {}) + &authority.pem());
        for (other_name, other, pem) in &forms {
            let key = file(pem);
            let said = built(&chain, &key);
            if pair.public_key_raw() == other.public_key_raw() {
                assert_eq!(said, Ok(()), "{name}, {other_name}");
                continue;
            }
            let expected = format!(
                "client_cert: {} does not match the first certificate in {}; name the key of that certificate, with the \
                 client's own certificate first in the chain",
                key.display(),
                chain.display()
            );
            assert_eq!(said, Err(expected), "{name}, {other_name}");
        }
    }
    // The right pair, but not the right order.
    let (_, pair, pem) = &forms[0];
    let chain = file(authority.pem() + &authority.client(pair, |_| {}));
    assert!(built(chain, file(pem)).unwrap_err().contains("with the client's own certificate first"));
}

/// Loads no private key.
#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
#[derive(Debug)]
struct NoKeys;

#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
impl rustls::crypto::KeyProvider for NoKeys {
    fn load_private_key(
        &self,
        _: rustls::pki_types::PrivateKeyDer<'static>,
    ) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no keys".to_owned()))
    }
}

#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_installs_another_crypto_provider_after_build() {
    let service = Service::new(&TLS13);
    let key = KeyPair::generate().unwrap();
    let chain = file(service.clients.client(&key, |_| {}));
    let config = service.config().client_cert(chain, file(key.serialize_pem()));
    let client = build(config.clone());
    let ring = rustls::crypto::ring::default_provider();
    rustls::crypto::CryptoProvider { key_provider: &NoKeys, ..ring }.install_default().unwrap();
    assert_eq!(ask(&client).unwrap().text(), "known");
    let said = config.build().unwrap_err().to_string();
    assert!(said.contains("holds a private key that can't be used"), "{said}");
}

/// ureq would use the default crypto provider of the process at the first connection, and panic if that can't load the key.
#[cfg(all(feature = "rustls", not(feature = "native-tls")))]
#[test]
fn the_crypto_provider_that_checked_the_key_is_used() {
    let output = hostile::child("child_that_installs_another_crypto_provider_after_build", &[]);
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn invalid_files_are_refused_by_name_with_the_remedy() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let own = Authority::new("client CA").client(&key, |_| {});
    let (chain, plain) = (file(&own), file(key.serialize_pem()));
    let nowhere = PathBuf::from("/nowhere/client.pem");
    let mut old = pem::Pem::new("EC PRIVATE KEY", key.serialized_der());
    old.headers_mut().add("Proc-Type", "4,ENCRYPTED").unwrap();
    let two = key.serialize_pem() + &pki::sec1(&key);
    let (no_certificate, no_key) = (
        "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); convert DER with openssl x509, and PKCS#12 with openssl pkcs12",
        "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)",
    );
    let encrypted = "holds an encrypted private key; decrypt it with openssl pkcs8 -topk8 -nocrypt -in";
    let unreadable =
        "holds a certificate that can't be read; it must be X.509 version 3 (openssl x509 -req … -extfile …)";
    let swapped = "holds a private key but no certificate; name the file of the certificate chain first, then that of the \
                   key";

    assert_eq!(built(&chain, &plain), Ok(()));
    for (file, expected) in [
        (nowhere.clone(), "can't be read: No such file or directory (os error 2)"),
        (file(""), no_certificate),
        (file(key.serialized_der()), no_certificate),
        (file(pem("CERTIFICATE REQUEST", b"x")), no_certificate),
        (plain.clone(), swapped),
        (file(own.replace("\n", "!\n")), "is not valid PEM; copy or export it again"),
        (file(&own[..own.len() / 2]), "is not valid PEM; copy or export it again"),
        (file(pem("CERTIFICATE", b"garbage")), unreadable),
        (file(own.clone() + &pem("CERTIFICATE", &[0x30, 0])), unreadable),
    ] {
        let expected = format!("client_cert: {} {expected}", file.display());
        assert_eq!(built(&file, &plain), Err(expected));
    }
    for (file, expected) in [
        (nowhere, "can't be read: No such file or directory (os error 2)".to_owned()),
        (file(""), no_key.to_owned()),
        (chain.clone(), no_key.to_owned()),
        (file(key.serialized_der()), no_key.to_owned()),
        (file(pem("ENCRYPTED PRIVATE KEY", b"x")), encrypted.to_owned()),
        (file(pem::encode(&old)), encrypted.to_owned()),
        (file(two), "holds 2 private keys; leave only that of the certificate".to_owned()),
        (file(pem("PRIVATE KEY", b"garbage")), "holds a private key that can't be used".to_owned()),
        (file(pem("PRIVATE KEY", &[0x30, 0])), "holds a private key that can't be used".to_owned()),
        (file(pem("EC PRIVATE KEY", &[0x30, 0])), "holds a private key that can't be used".to_owned()),
    ] {
        let said = built(&chain, &file).unwrap_err();
        let expected = match expected == encrypted {
            true => format!("client_cert: {} {expected} {}", file.display(), file.display()),
            false => format!("client_cert: {} {expected}", file.display()),
        };
        let is_exact = !expected.ends_with("can't be used");
        assert!(if is_exact { said == expected } else { said.starts_with(&expected) }, "{said}");
    }
}

/// All records of all crates.
static LOGGED: Mutex<String> = Mutex::new(String::new());

#[test]
fn the_key_does_not_appear_in_logs_errors_or_debug_output() {
    captured_log::install(|text| LOGGED.lock().unwrap().push_str(text));
    let service = Service::new(&TLS13);
    let key = KeyPair::generate().unwrap();
    let (chain, key_file) = (file(service.clients.client(&key, |_| {})), file(key.serialize_pem()));
    let foreign = file(Authority::new("foreign CA").client(&key, |_| {}));
    let other = file(service.clients.client(&KeyPair::generate().unwrap(), |_| {}));
    let twice = file(key.serialize_pem() + &key.serialize_pem());
    let cut = file(&key.serialize_pem()[..120]);

    let config = service.config().client_cert(&chain, &key_file);
    let mut shown = format!("{config:?}");
    let config = config.build().unwrap();
    shown += &format!("{config:?}");
    let client = holysheep::Client::new(config).unwrap();
    shown += &format!("{client:?} {:?}", ask(&client).unwrap());
    let refused = ask(&build(service.config().client_cert(foreign, &key_file))).unwrap_err();
    shown += &format!("{refused:?} {}", full_message(&refused));
    for (chain, key) in [(&other, &key_file), (&key_file, &key_file), (&chain, &twice), (&chain, &cut)] {
        let error = service.config().client_cert(chain, key).build().unwrap_err();
        shown += &format!("{error:?} {}", full_message(&error));
    }
    let logged = LOGGED.lock().unwrap();
    assert!(logged.contains("client certficiate") && shown.contains("refused"), "the test sees what is said");
    let private = key.serialized_der();
    let base64 = key.serialize_pem().replace('\n', "");
    for text in [&*logged, &shown] {
        for bytes in private[36..68].windows(8) {
            let decimal = format!("{bytes:?}");
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains(decimal.trim_matches(['[', ']'])) && !text.to_lowercase().contains(&hex));
        }
        let body = &base64["-----BEGIN PRIVATE KEY-----".len()..];
        for part in body.as_bytes()[48..112].windows(12) {
            assert!(!text.contains(std::str::from_utf8(part).unwrap()));
        }
    }
}
