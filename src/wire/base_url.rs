//! Parses the base URL of a service: repairs common mistakes, and rejects others with a hint.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// The base URL of all requests. It has no `Debug`, because the query may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    /// Scheme, host, port and path, without a trailing slash.
    pub(crate) url: String,
    /// The query that every request has, without the question mark; empty if there is none.
    pub(crate) query: String,
    /// Host and port, as they were given.
    pub(crate) authority: String,
    pub(crate) https: bool,
    /// Whether the host is this computer.
    pub(crate) loopback: bool,
    /// Whether the host belongs to HolySheep.
    pub(crate) holysheep: bool,
}

/// Endpoint paths, which are removed from the end of a base URL.
const ENDPOINTS: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/models", "/responses"];

/// Hosts whose API is known to be under `/v1`, which is added if it is missing.
const UNDER_V1: [&str; 3] = ["api.holysheep.ai", "api.openai.com", "api.mistral.ai"];

impl BaseUrl {
    /// Parses a base URL. Removes surrounding whitespace and quotes, trailing slashes and the path of an endpoint, and adds
    /// a missing `/v1` for services known to need it.
    pub(crate) fn parse(text: &str) -> Result<BaseUrl> {
        let text = unquoted(text);
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
        if rest.contains('#') {
            return refuse("has a fragment; remove # and what follows it");
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return refuse("contains a user name or a password; pass the key to api_key instead");
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
            query: query.trim_matches('&').to_owned(),
            authority: authority.to_owned(),
            https,
            loopback: is_loopback(&host),
            holysheep: host == "holysheep.ai" || host.ends_with(".holysheep.ai"),
        })
    }

    /// The URL without the values of its query.
    pub(crate) fn redacted(&self) -> String {
        if self.query.is_empty() {
            return self.url.clone();
        }
        let redacted = |field: &str| match field.split_once('=') {
            Some((name, _)) => format!("{name}=…"),
            None => "…".to_owned(),
        };
        let query: Vec<String> = self.query.split('&').map(redacted).collect();
        format!("{}?{}", self.url, query.join("&"))
    }
}

/// A path with the query of the base URL before its own. A parameter of the path replaces one of the same name. `base` has
/// placeholders for its values; a parameter of the path that equals one of them is percent-encoded, so that it isn't
/// substituted.
pub(crate) fn with_query(path: &str, base: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let (path, own) = path.split_once('?').unwrap_or((path, ""));
    let name = |field: &str| field.split('=').next().map(str::to_owned);
    let is_replaced = |field: &str| own.split('&').any(|other| name(other) == name(field));
    let distinct = |field: &str| match field.char_indices().last() {
        Some((at, last)) if base.split('&').any(|other| other == field) && last.is_ascii() => {
            format!("{}%{:02X}", &field[..at], u32::from(last))
        }
        _ => field.to_owned(),
    };
    let kept = base.split('&').filter(|field| !is_replaced(field)).map(str::to_owned);
    let fields = kept.chain(own.split('&').map(distinct)).filter(|field| !field.is_empty());
    format!("{path}?{}", fields.collect::<Vec<_>>().join("&"))
}

/// The text without surrounding whitespace and one pair of quotes, which values in env files often have.
pub(crate) fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let without = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    without('"').or_else(|| without('\'')).map_or(text, str::trim)
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
        parsed(text).url
    }

    fn parsed(text: &str) -> BaseUrl {
        BaseUrl::parse(text).unwrap_or_else(|error| unreachable!("{text}: {error}"))
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
            "\"https://api.holysheep.ai/v1\"",
            " 'https://api.holysheep.ai/v1/ '\n",
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
    fn a_query_is_kept_and_repairs_apply_to_the_path_before_it() {
        for (text, path, query) in [
            ("https://a/v1?api-version=2024-02-01", "https://a/v1", "api-version=2024-02-01"),
            ("https://a/d/gpt-4/chat/completions?x=1&y=/z", "https://a/d/gpt-4", "x=1&y=/z"),
            ("https://a/v1/?x", "https://a/v1", "x"),
            ("https://a?x=1&", "https://a", "x=1"),
            ("https://a/v1?", "https://a/v1", ""),
            ("'https://api.openai.com?x=a?b'", "https://api.openai.com/v1", "x=a?b"),
        ] {
            let base = parsed(text);
            assert_eq!((base.url.as_str(), base.query.as_str()), (path, query), "{text}");
        }
        assert_eq!(parsed("https://a/v1?key=s3cr3t&x").redacted(), "https://a/v1?key=…&…");
    }

    #[test]
    fn a_query_is_merged_with_that_of_a_path() {
        for (path, expected) in [
            ("/models", "/models?v=1&k=2"),
            ("/models?", "/models?v=1&k=2"),
            ("/models?limit=5&", "/models?v=1&k=2&limit=5"),
            ("/models?v=3&vv", "/models?k=2&v=3&vv"),
            ("/models#part", "/models?v=1&k=2"),
            ("/models?k=2&v=11", "/models?k=%32&v=11"),
        ] {
            assert_eq!(with_query(path, "v=1&k=2"), expected, "{path}");
        }
    }

    #[test]
    fn one_pair_of_quotes_is_removed() {
        for (text, expected) in [
            (" \"a b\" ", "a b"),
            ("'a'", "a"),
            ("\"'a'\"", "'a'"),
            ("\"a'", "\"a'"),
            ("\"", "\""),
            ("\"\"", ""),
            ("a", "a"),
        ] {
            assert_eq!(unquoted(text), expected, "{text}");
        }
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
            ("https://a/v1?x=1#y", "base_url: has a fragment; remove # and what follows it"),
            ("\"https://a/v1", "base_url: is neither https:// nor http://"),
            (
                "https://me:secret@a/v1",
                "base_url: contains a user name or a password; pass the key to api_key instead",
            ),
        ];
        for (text, message) in cases {
            let refused = BaseUrl::parse(text).map(|base| base.url);
            assert_eq!(refused.unwrap_err().to_string(), message, "{text:?}");
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
