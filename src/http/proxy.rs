//! Selects a proxy from environment variables. `NO_PROXY` has curl's rules, and ports as in Go.

use std::net::IpAddr;

/// The maximum number of entries in `NO_PROXY` that are read: lists are written by hand.
const MAX_ENTRIES: usize = 1000;

/// The target of requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) https: bool,
    /// Host and port as in the address: `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub(super) authority: &'a str,
}

/// The proxy for a target, if any, and the variable that sets it: the variable for the target's scheme, then `ALL_PROXY`,
/// each in lower case first.
pub(super) fn from_environment(
    target: Target<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    let first = |names: [&'static str; 2]| {
        let set = |name| Some((name, variable(name).filter(|value| !value.is_empty())?));
        names.into_iter().find_map(set)
    };
    if first(["no_proxy", "NO_PROXY"]).is_some_and(|(_, list)| is_excluded(target, &list)) {
        return None;
    }
    let own = if target.https { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
    first(own).or_else(|| first(["all_proxy", "ALL_PROXY"]))
}

/// Whether a list in `NO_PROXY` matches a target. An entry is `*`, a domain (which includes its subdomains), an IP address, or
/// a CIDR block, each with a port or for all ports.
fn is_excluded(target: Target<'_>, list: &str) -> bool {
    let (host, port) = split_port(target.authority);
    let port = port.unwrap_or(if target.https { 443 } else { 80 });
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
    entries.take(MAX_ENTRIES).any(|entry| {
        if entry == "*" {
            return true;
        }
        let (name, only_port) = split_port(entry);
        if only_port.is_some_and(|only| only != port) {
            return false;
        }
        match address {
            Some(address) => contains(name, address),
            None => {
                let name = name.trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
                let below = || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.'));
                !name.is_empty() && (host == name || below())
            }
        }
    })
}

/// Whether an IP address or a CIDR block contains an address.
fn contains(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = match entry.split_once('/') {
        Some((network, bits)) => (network, bits.parse::<u32>().ok()),
        None => (entry, Some(u32::MAX)),
    };
    let (Ok(network), Some(bits)) = (network.parse::<IpAddr>(), bits) else { return false };
    let same = |one: u128, other: u128, width: u32| {
        let host_bits = if bits == u32::MAX { 0 } else { width.saturating_sub(bits) };
        one.checked_shr(host_bits).unwrap_or(0) == other.checked_shr(host_bits).unwrap_or(0)
    };
    let fits = |width: u32| bits == u32::MAX || bits <= width;
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            fits(32) && same(u32::from(network).into(), u32::from(address).into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => fits(128) && same(network.into(), address.into(), 128),
        _ => false,
    }
}

/// A host without brackets, and the port if there is one.
fn split_port(text: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None), // no colon, or an IPv6 address without brackets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(authority: &str, list: &str) -> bool {
        is_excluded(Target { https: false, authority }, list)
    }

    #[test]
    fn no_proxy_by_the_rules_of_curl_and_ports_as_in_go() {
        for (authority, list, expected) in [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3:9", "localhost, 10.1.2.3", true),
            ("10.1.2.3", "localhost 10.1.2.3", true),
            ("10.1.2.3:9", "10.1.2.3:9", true),
            ("10.1.2.3:8", "10.1.2.3:9", false),
            ("10.1.2.3:9", "10.0.0.0/8:9", true),
            ("10.1.2.3:8", "10.0.0.0/8:9", false),
            ("10.1.2.3", "10.1.2.3:80", true),
            ("llm.corp.example", "corp.example", true),
            ("corp.example", "corp.example", true),
            ("corp.example", ".corp.example", true),
            ("llm.corp.example:8080", ".corp.example", true),
            ("LLM.Corp.Example", "corp.EXAMPLE.", true),
            ("corp.example.", "corp.example", true),
            ("notcorp.example", "corp.example", false),
            ("corp.example.org", "corp.example", false),
            ("llm.corp.example:8080", "corp.example:8080", true),
            ("llm.corp.example", "corp.example:8080", false),
            ("llm.corp.example", "*", true),
            ("llm.corp.example", "*.corp.example", false),
            ("[fd00::7]", "fd00::7", true),
            ("[fd00::7]:8080", "fd00::7", true),
            ("[fd00::7]:8080", "[fd00::7]", true),
            ("[fd00::7]:8080", "[fd00::7]:8080", true),
            ("[fd00::7]:8080", "[fd00::7]:9090", false),
            ("[fd00::7]", "fd00::/8", true),
            ("[fe00::7]", "fd00::/8", false),
            ("[fd00::7]", "FD00:0:0::7", true),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "::/0", false),
            ("10.1.2.3", "10.1.2.3/33", false),
            ("10.1.2.3", "10.1.2.3/32", true),
            ("10.1.2.3", "10.1.2.3/", false),
            ("10.1.2.3", "2.3", false),
            ("host", "", false),
            ("host", ", ,", false),
            ("host", ".", false),
        ] {
            assert_eq!(excluded(authority, list), expected, "{authority} with {list:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_list_is_read_and_each_entry_counts(list in "[a-z0-9.:/*\\[\\], -]{0,60}", host in "[a-z0-9.:/-]{0,20}") {
            let _ = excluded(&host, &list);
            let (domain, block) = (list.clone() + ",corp.example", list + " 10.0.0.0/8");
            proptest::prop_assert!(excluded("llm.corp.example", &domain));
            proptest::prop_assert!(excluded("10.1.2.3:80", &block));
        }
    }

    #[test]
    fn the_default_port_is_that_of_the_scheme() {
        let https = Target { https: true, authority: "host" };
        assert!(is_excluded(https, "host:443") && !is_excluded(https, "host:80"));
    }

    #[test]
    fn the_variable_is_that_of_the_scheme_in_lower_case_first() {
        let named = |https: bool, set: &[(&str, &str)]| {
            let variable = |name: &str| {
                set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
            };
            from_environment(Target { https, authority: "host" }, variable)
        };
        for (https, set, expected) in [
            (false, &[("HTTP_PROXY", "a"), ("HTTPS_PROXY", "b")][..], Some("a")),
            (true, &[("HTTP_PROXY", "a"), ("HTTPS_PROXY", "b")], Some("b")),
            (false, &[("HTTPS_PROXY", "b")], None),
            (true, &[("https_proxy", "c"), ("HTTPS_PROXY", "b")], Some("c")),
            (true, &[("https_proxy", ""), ("HTTPS_PROXY", "b")], Some("b")),
            (true, &[("ALL_PROXY", "d"), ("HTTPS_PROXY", "b")], Some("b")),
            (false, &[("ALL_PROXY", "d"), ("all_proxy", "e"), ("HTTPS_PROXY", "b")], Some("e")),
            (false, &[("HTTP_PROXY", "a"), ("NO_PROXY", "host")], None),
            (false, &[("HTTP_PROXY", "a"), ("NO_PROXY", "host"), ("no_proxy", "other")], Some("a")),
        ] {
            assert_eq!(named(https, set).as_ref().map(|(_, url)| url.as_str()), expected, "{set:?}");
        }
    }
}
