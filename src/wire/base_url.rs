//! The address of a service as people paste it, repaired or refused with a hint.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// An address that requests can be built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    /// Scheme, host, port and path, without a slash at the end.
    pub(crate) url: String,
    /// Host and port as they are written.
    pub(crate) authority: String,
    pub(crate) https: bool,
    /// The host is this computer.
    pub(crate) loopback: bool,
    /// The host is HolySheep's own.
    pub(crate) holysheep: bool,
}

/// Ends of addresses that name one endpoint instead of the service.
const ENDPOINTS: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/models", "/responses"];

/// Hosts whose API is known to be under `/v1`, so that it can be added where it is missing.
const UNDER_V1: [&str; 3] = ["api.holysheep.ai", "api.openai.com", "api.mistral.ai"];

impl BaseUrl {
    /// Reads an address. Repairs white space around it, slashes at its end, a full endpoint, and a missing `/v1` of a
    /// service known to need it.
    pub(crate) fn parse(text: &str) -> Result<BaseUrl> {
        let text = text.trim();
        let refuse = |message: &str| Err(Error::config("base_url", message));
        if text.is_empty() {
            return refuse("is empty; the default is https://api.holysheep.ai/v1");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("holds white space; paste it again");
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
            return refuse("holds a user name or a password; give the key to api_key instead");
        }
        let Some(host) = host(authority) else {
            return refuse("names no host, or a port that is no number");
        };
        if path.split('/').any(|part| part == "..") {
            return refuse("has .. in its path; write the path that is meant");
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

/// RFC 6761 section 6.3 reserves all below `localhost` for this computer too, but not every resolver knows.
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
    fn what_people_paste_is_repaired() {
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
    fn what_cannot_be_repaired_is_refused_with_a_hint() {
        let cases = [
            ("", "base_url: is empty; the default is https://api.holysheep.ai/v1"),
            ("api.holysheep.ai/v1", "base_url: has no scheme; begin with https://"),
            ("ftp://a.b/v1", "base_url: is neither https:// nor http://"),
            ("https://", "base_url: names no host, or a port that is no number"),
            ("https://a:b:c/v1", "base_url: names no host, or a port that is no number"),
            ("https://a:99999/v1", "base_url: names no host, or a port that is no number"),
            ("https://a:+80/v1", "base_url: names no host, or a port that is no number"),
            ("https://a/v1/../x", "base_url: has .. in its path; write the path that is meant"),
            ("https://[::g]/v1", "base_url: names no host, or a port that is no number"),
            ("https://a b/v1", "base_url: holds white space; paste it again"),
            (
                "https://a/v1?x=1",
                "base_url: has a query or a fragment; end it with the path, as in https://api.holysheep.ai/v1",
            ),
            (
                "https://me:secret@a/v1",
                "base_url: holds a user name or a password; give the key to api_key instead",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(BaseUrl::parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn this_computer_and_holysheep_are_recognised() {
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
