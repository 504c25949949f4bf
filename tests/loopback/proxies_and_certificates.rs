//! Proxy selection from environment variables, and error messages for untrusted certificates.

use std::env;

use crate::hostile::{Identity, KEY, RawServer, ask, build, child, each};
use crate::support::{Server, full_message, ok, status};
use holysheep::{Clock, Config, Error, RetryConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa};

/// Calls `TEST_URL` with the proxy settings of the environment. The proxies are on the loopback interface and refuse.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_that_calls_through_the_environments_proxy() {
    let config = Config::builder().api_key(KEY).allow_plain_http(true).clock(Clock::fake());
    let config = config.base_url(env::var("TEST_URL").unwrap());
    let client = build(config.retry(RetryConfig::default().max_retries(0)));
    println!("{}", full_message(&ask(&client).unwrap_err()));
}

/// The names of the environment variables whose proxy received a request.
fn asked(url: &str, variables: &[&str]) -> Vec<String> {
    let proxies: Vec<_> = variables.iter().map(|_| Server::always(status(403).then_close())).collect();
    let urls: Vec<_> = proxies.iter().map(|proxy| format!("http://{}", proxy.address())).collect();
    let mut set: Vec<(&str, &str)> = variables.iter().copied().zip(urls.iter().map(String::as_str)).collect();
    set.push(("TEST_URL", url));
    let output = child("proxies_and_certificates::child_that_calls_through_the_environments_proxy", &set);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = variables.iter().zip(&proxies).filter(|(_, proxy)| !proxy.requests().is_empty());
    asked.map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn the_proxy_variable_matches_the_url_scheme_and_lower_case_wins() {
    each(
        [
            ("http://api.example/v1", &["HTTP_PROXY", "HTTPS_PROXY"][..], "HTTP_PROXY"),
            ("http://api.example/v1", &["http_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http_proxy"),
            ("http://api.example/v1", &["HTTP_PROXY", "ALL_PROXY"], "HTTP_PROXY"),
            ("http://api.example/v1", &["HTTPS_PROXY", "ALL_PROXY"], "ALL_PROXY"),
            ("https://api.example/v1", &["HTTP_PROXY", "HTTPS_PROXY"], "HTTPS_PROXY"),
            ("https://api.example/v1", &["https_proxy", "HTTPS_PROXY", "HTTP_PROXY"], "https_proxy"),
            ("https://api.example/v1", &["HTTPS_PROXY", "ALL_PROXY"], "HTTPS_PROXY"),
            ("https://api.example/v1", &["ALL_PROXY", "all_proxy"], "all_proxy"),
        ],
        |(url, variables, expected)| {
            assert_eq!(asked(url, variables), [expected], "{url} with {variables:?}");
        },
    );
}

/// The answer or the error message of a call to a server whose certificate the client trusts by `ca_file`.
fn answer_or_error(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<String, String> {
    let identity = Identity::new(change);
    let server = RawServer::tls(&identity, |connection| {
        if connection.request().is_some() {
            connection.send(ok("over TLS").bytes());
            connection.hold();
        }
    });
    let clock = Clock::fake();
    let config = crate::hostile::config(server.tls_url()).clock(clock.clone()).ca_file(identity.file(name));
    let answer = ask(&build(config));
    answer.map(|answer| answer.text().to_owned()).map_err(|error| {
        assert!(matches!(error, Error::Config { .. }), "{name}: {error:?}");
        assert!(clock.sleeps().is_empty(), "{name}: no retry");
        error.to_string()
    })
}

/// The hint to trust the certificate by `ca_file`, which is wrong here: the client already does.
const CA_FILE_HINT: &str = "with ca_file";

#[test]
fn a_self_signed_ca_certificate_is_trusted_or_has_its_own_hint() {
    match answer_or_error("authority", |parameters| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }) {
        Ok(text) => assert_eq!(text, "over TLS"),
        Err(text) => {
            assert!(text.contains("CA:FALSE") || text.contains("basicConstraints"), "{text}");
            assert!(!text.contains(CA_FILE_HINT), "{text}");
        }
    }
}

#[test]
fn an_expired_certificate_is_reported_as_expired() {
    let text = answer_or_error("expired", |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    })
    .unwrap_err();
    assert!(text.contains("expired") && !text.contains(CA_FILE_HINT), "{text}");
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_reported_as_such() {
    let text = answer_or_error("early", |parameters| {
        parameters.not_before = rcgen::date_time_ymd(4000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(4001, 1, 1);
    })
    .unwrap_err();
    assert!(text.contains("not valid yet") || text.contains("not yet valid"), "{text}");
    assert!(!text.contains(CA_FILE_HINT), "{text}");
}

#[test]
fn a_certificate_for_another_host_is_reported_as_such() {
    let text = answer_or_error("host", |parameters| {
        parameters.subject_alt_names = vec![rcgen::SanType::DnsName("llm.example".try_into().unwrap())];
    })
    .unwrap_err();
    assert!(text.contains("localhost") && text.contains("host") && text.contains("certificate"), "{text}");
    assert!(
        text.contains("another host") || text.contains("not valid for") || text.contains("not for"),
        "{text}"
    );
    assert!(!text.contains(CA_FILE_HINT), "{text}");
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_calls_over_tls() {
    let config = crate::hostile::config(env::var("TEST_URL").unwrap()).clock(Clock::fake());
    let config = env::var("TEST_CA").ok().iter().fold(config, |config, path| config.ca_file(path));
    match ask(&build(config)) {
        Ok(answer) => println!("answer: {}", answer.text()),
        Err(error) => println!("error: {}", full_message(&error)),
    }
}

#[test]
fn ca_file_takes_precedence_over_ssl_cert_file() {
    let (right, wrong) = (Identity::new(|_| {}), Identity::new(|_| {}));
    let server = RawServer::tls(&right, |connection| {
        if connection.request().is_some() {
            connection.send(ok("over TLS").bytes());
            connection.hold();
        }
    });
    let url = server.tls_url();
    let [right, wrong] =
        [right.file("right"), wrong.file("wrong")].map(|file| file.to_str().unwrap().to_owned());
    each(
        [
            (vec![("SSL_CERT_FILE", &right)], true),
            (vec![("SSL_CERT_FILE", &wrong)], false),
            (vec![("SSL_CERT_FILE", &wrong), ("TEST_CA", &right)], true),
            (vec![("SSL_CERT_FILE", &right), ("TEST_CA", &wrong)], false),
            (vec![], false),
            (vec![("SSL_CERT_FILE", &right), ("ssl_cert_file", &wrong)], true),
        ],
        |(files, trusted)| {
            let mut variables = vec![("TEST_URL", url.as_str())];
            variables.extend(files.iter().map(|(name, file)| (*name, file.as_str())));
            let output = child("proxies_and_certificates::child_that_calls_over_tls", &variables);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(said.contains("answer: over TLS"), trusted, "{variables:?}: {said}");
        },
    );
}
