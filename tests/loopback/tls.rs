//! TLS: `ca_file`, and the errors for an untrusted certificate and for a server without TLS.

use std::error::Error as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::ok;
use holysheep::{ChatRequest, Client, Clock, Config, Error, Phase, RetryConfig};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

/// Serves chats over TLS with a self-signed certificate; returns the address and the certificate in PEM form.
fn tls_server() -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let config = Arc::new(config);
        for mut socket in listener.incoming().flatten() {
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut session, &mut socket);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\"}]}") && stream.read_exact(&mut byte).is_ok() {
                request.push(byte[0]);
            }
            let _ = stream.write_all(&ok("over TLS").bytes());
        }
    });
    (address, made.cert.pem())
}

fn ask(base_url: String, ca_file: Option<&PathBuf>) -> (Result<String, Error>, usize) {
    let clock = Clock::fake();
    let config = Config::builder().api_key("sk-test").base_url(base_url).clock(clock.clone()).no_proxy();
    let config = ca_file.iter().fold(config, |config, path| config.ca_file(path));
    let client = Client::new(config.build().unwrap()).unwrap();
    let answer = client.chat(&ChatRequest::new("gpt-4.1").user("hi"));
    (answer.map(|answer| answer.text().to_owned()), clock.sleeps().len())
}

#[test]
fn a_certificate_in_ca_file_is_trusted() {
    let (address, pem) = tls_server();
    let url = format!("https://localhost:{}/v1", address.port());

    let (refused, waits) = ask(url.clone(), None);
    let error = refused.unwrap_err();
    let text = format!(
        "base_url: the TLS handshake with localhost:{} failed: the certificate's issuer is unknown; name the CA to trust with ca_file",
        address.port()
    );
    assert_eq!((error.to_string(), waits), (text, 0), "{:?}", error.source());
    assert!(error.source().unwrap().to_string().contains("certificate"));

    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ca-{}.pem", address.port()));
    std::fs::write(&file, pem).unwrap();
    assert_eq!(ask(url, Some(&file)).0.unwrap(), "over TLS");
}

#[test]
fn a_server_without_tls_is_a_configuration_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = socket.read(&mut [0; 512]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let (refused, waits) = ask(url, None);
    assert!(matches!(refused, Err(Error::Config { setting: "base_url", .. })), "{refused:?}");
    assert_eq!(waits, 0);
}

#[test]
fn a_handshake_has_the_connect_timeout_and_not_the_inactivity_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // the system accepts, and no one answers
    let connect_timeout = Duration::from_millis(400);
    let config = Config::builder().api_key("sk-test").clock(Clock::fake()).no_proxy();
    let config = config.base_url(format!("https://{}/v1", listener.local_addr().unwrap()));
    let config = config.connect_timeout(connect_timeout).timeout(Duration::from_millis(50));
    let client = Client::new(config.retry(RetryConfig::default().max_retries(0)).build().unwrap()).unwrap();
    let start = Instant::now();
    let error = client.chat(&ChatRequest::new("gpt-4.1").user("hi")).unwrap_err();
    assert!(start.elapsed() >= connect_timeout, "{error} after {:?}", start.elapsed());
    assert!(
        matches!(error, Error::Timeout { phase: Phase::Connect, after, .. } if after == connect_timeout),
        "{error:?}"
    );
}

#[test]
fn a_ca_file_without_certificates_is_refused() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-certificate.pem");
    std::fs::write(&file, "no certificate").unwrap();
    let error = Config::builder().api_key("sk-test").ca_file(&file).build().unwrap_err();
    let problem = "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); convert DER with openssl x509, and PKCS#12 with openssl pkcs12";
    assert_eq!(error.to_string(), format!("ca_file: {} {problem}", file.display()));
}
