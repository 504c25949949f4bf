//! Parses the base URL of a service: repairs what users commonly paste, or refuses it with a hint.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// The base URL of all requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    /// Scheme, host, port and path, without a trailing slash.
    pub(crate) url: String,
    /// Host and port, as they were given.
    pub(crate) authority: String,
    pub(crate) https: bool,
    /// Whether the host is this computer.
    pub(crate) loopback: bool,
    /// Whether the host belongs to HolySheep.
    pub(crate) holysheep: bool,
}

/// The paths of endpoints, which are removed from the end of a base URL.
const ENDPOINTS: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/models", "/responses"];

/// Hosts whose API is known to be under `/v1`, which is added where it is missing.
const UNDER_V1: [&str; 3] = ["api.holysheep.ai", "api.openai.com", "api.mistral.ai"];

impl BaseUrl {
    /// Parses a base URL. Removes surrounding whitespace, trailing slashes and the path of an endpoint, and adds a missing
    /// `/v1` for services known to need it.
    pub(crate) fn parse(text: &str) -> Result<BaseUrl> {
        let text = text.trim();
        let refuse = |message: &str| Err(Error::config("base_url", message));
        if text.is_empty() {
            return refuse("is empty; the default is https://api.holysheep.ai/v1");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("contains whitespace; paste it again");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("has no scheme; begin with https://");
        };
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return refuse("is neither https:// nor http://"),
        };
        if rest.contains(['?', '#']) {
            return refuse(
                "has a query or a fragment; end it with the path, as in https://api.holysheep.ai/v1",
            );
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return refuse("contains a user name or a password; give the key to api_key instead");
        }
        let Some(host) = host(authority) else {
            return refuse("has no host, or a port that isn't a number");
        };
        if path.split('/').any(|part| part == "..") {
            return refuse("has .. in its path; write the path without it");
        }
        let mut path = path.trim_end_matches('/');
        if let Some(service) = ENDPOINTS.iter().find_map(|endpoint| path.strip_suffix(endpoint)) {
            path = service.trim_end_matches('/');
        }
        if path.is_empty() && UNDER_V1.contains(&host.as_str()) {
            path = "/v1";
        }
        Ok(BaseUrl {
            url: format!("{}://{authority}{path}", if https { "https" } else { "http" }),
            authority: authority.to_owned(),
            https,
            loopback: is_loopback(&host),
            holysheep: host == "holysheep.ai" || host.ends_with(".holysheep.ai"),
        })
    }
}

/// The host of `host`, `host:port` or `[v6]:port`, in lower case and without brackets.
fn host(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("0"))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "0")),
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return None;
    }
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// RFC 6761 section 6.3 reserves the subdomains of `localhost` too, but not every resolver implements it.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> String {
        BaseUrl::parse(text).unwrap().url
    }

    #[test]
    fn common_mistakes_are_repaired() {
        for text in [
            "https://api.holysheep.ai/v1",
            " https://api.holysheep.ai/v1/ \n",
            "HTTPS://api.holysheep.ai",
            "https://api.holysheep.ai/",
            "https://api.holysheep.ai/v1/chat/completions",
            "https://api.holysheep.ai/v1/chat/completions/",
            "https://api.holysheep.ai/v1/models",
        ] {
            assert_eq!(url(text), "https://api.holysheep.ai/v1", "{text:?}");
        }
        assert_eq!(url("https://api.groq.com/openai/v1/"), "https://api.groq.com/openai/v1");
        assert_eq!(
            url("https://api.perplexity.ai"),
            "https://api.perplexity.ai",
            "not every service is under /v1"
        );
        assert_eq!(url("http://[::1]:8080/v1"), "http://[::1]:8080/v1");
    }

    #[test]
    fn other_mistakes_are_refused_with_a_hint() {
        let cases = [
            ("", "base_url: is empty; the default is https://api.holysheep.ai/v1"),
            ("api.holysheep.ai/v1", "base_url: has no scheme; begin with https://"),
            ("ftp://a.b/v1", "base_url: is neither https:// nor http://"),
            ("https://", "base_url: has no host, or a port that isn't a number"),
            ("https://a:b:c/v1", "base_url: has no host, or a port that isn't a number"),
            ("https://a:99999/v1", "base_url: has no host, or a port that isn't a number"),
            ("https://a:+80/v1", "base_url: has no host, or a port that isn't a number"),
            ("https://a/v1/../x", "base_url: has .. in its path; write the path without it"),
            ("https://[::g]/v1", "base_url: has no host, or a port that isn't a number"),
            ("https://a b/v1", "base_url: contains whitespace; paste it again"),
            (
                "https://a/v1?x=1",
                "base_url: has a query or a fragment; end it with the path, as in https://api.holysheep.ai/v1",
            ),
            (
                "https://me:secret@a/v1",
                "base_url: contains a user name or a password; give the key to api_key instead",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(BaseUrl::parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn loopback_addresses_and_holysheep_are_recognised() {
        let of = |text: &str| BaseUrl::parse(text).unwrap();
        for text in ["http://localhost:1/v1", "http://127.9.9.9", "http://[::1]:1"] {
            assert!(of(text).loopback, "{text}");
        }
        for text in [
            "http://localhost.example.com",
            "http://127.0.0.1.nip.io",
            "http://10.0.0.1",
            "http://a.localhost",
        ] {
            assert!(!of(text).loopback, "{text}");
        }
        assert!(of("https://api.holysheep.ai").holysheep && !of("https://notholysheep.ai").holysheep);
    }
}
