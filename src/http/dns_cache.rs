//! A DNS cache. Look-ups run on separate threads so that a shutdown doesn't wait for them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ArrayVec, DefaultResolver, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::http::connector::{NotSent, abandoned};
use crate::http::exchange;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// How long addresses are cached: the usual time to live of services behind load balancers.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// The maximum number of cached names: the service and a proxy, and both once more after a change.
const MAX_NAMES: usize = 4;

/// The addresses of a name, as many as ureq has room for.
type Addresses = ArrayVec<SocketAddr, 16>;

/// Looks up names and caches their addresses.
#[derive(Debug, Clone)]
pub(super) struct DnsCache {
    entries: Arc<Mutex<Vec<Entry>>>,
    clock: Clock,
    /// Cancels look-ups.
    pub(super) cancel: Cancel,
    limit: Duration,
}

#[derive(Debug)]
struct Entry {
    uri: Uri,
    since: Instant,
    addresses: Addresses,
}

impl DnsCache {
    pub(super) fn new(clock: Clock, cancel: Cancel, limit: Duration) -> DnsCache {
        DnsCache { entries: Arc::default(), clock, cancel, limit }
    }

    /// The same cache with look-ups that another token cancels.
    pub(super) fn under(&self, cancel: Cancel) -> DnsCache {
        DnsCache { cancel, ..self.clone() }
    }

    /// Clears the cache after a failed connect: the name may have other addresses by now.
    pub(super) fn clear(&self) {
        lock(&self.entries).clear();
    }

    fn get(&self, uri: &Uri) -> Option<Addresses> {
        let now = self.clock.now();
        let entries = lock(&self.entries);
        let found = entries.iter().find(|entry| same_name(&entry.uri, uri))?;
        (now.saturating_duration_since(found.since) < TIME_TO_LIVE).then(|| found.addresses.clone())
    }

    fn insert(&self, uri: &Uri, addresses: &Addresses) {
        let mut entries = lock(&self.entries);
        entries.retain(|entry| !same_name(&entry.uri, uri));
        if entries.len() == MAX_NAMES {
            entries.remove(0);
        }
        entries.push(Entry { uri: uri.clone(), since: self.clock.now(), addresses: addresses.clone() });
    }
}

/// Whether two addresses have the same scheme, host and port.
fn same_name(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme()
        && one.authority().map(|a| a.as_str()) == other.authority().map(|b| b.as_str())
}

impl Resolver for DnsCache {
    fn resolve(&self, uri: &Uri, config: &Config, next: NextTimeout) -> Result<Addresses, ureq::Error> {
        if let Some(addresses) = self.get(uri) {
            return Ok(addresses);
        }
        let left = *next.after;
        let (limit, timeout) =
            if left < self.limit { (left, next.reason) } else { (self.limit, Timeout::Resolve) };
        let (name, settings) = (uri.clone(), config.clone());
        let look_up = move || DefaultResolver::default().resolve(&name, &settings, NextTimeout::default());
        let addresses = exchange::own_cancel()
            .unwrap_or_else(|| self.cancel.clone())
            .run_cancellable(limit, look_up)
            .map_err(|why| abandoned(why, timeout))
            .and_then(|found| found)
            .map_err(NotSent::wrap)?;
        self.insert(uri, &addresses);
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use ureq::Agent;

    use super::*;
    use crate::http::connector::HttpConnector;
    use crate::test_server::{Server, ok};

    fn cache(clock: &Clock) -> DnsCache {
        DnsCache::new(clock.clone(), Cancel::default(), Duration::from_secs(10))
    }

    fn addresses(address: SocketAddr) -> Addresses {
        let mut addresses = ArrayVec::from_fn(|_| address);
        addresses.push(address);
        addresses
    }

    fn found(cache: &DnsCache, uri: &str) -> Option<SocketAddr> {
        cache.get(&uri.parse().unwrap()).map(|addresses| addresses[0])
    }

    #[test]
    fn addresses_are_cached_for_a_minute() {
        let clock = Clock::fake();
        let cache = cache(&clock);
        let uri = "https://llm.example/v1";
        let (old, new) = (([192, 0, 2, 1], 443).into(), ([192, 0, 2, 2], 443).into());
        cache.insert(&uri.parse().unwrap(), &addresses(old));
        clock.advance(Duration::from_millis(59_999));
        assert_eq!(found(&cache, uri), Some(old));
        clock.advance(Duration::from_millis(1));
        assert_eq!(found(&cache, uri), None);
        cache.insert(&uri.parse().unwrap(), &addresses(new));
        assert_eq!(found(&cache, uri), Some(new));
    }

    #[test]
    fn each_scheme_host_and_port_has_addresses_of_its_own() {
        let cache = cache(&Clock::fake());
        let address = ([192, 0, 2, 1], 443).into();
        cache.insert(&"https://llm.example/v1".parse().unwrap(), &addresses(address));
        assert_eq!(found(&cache, "https://llm.example/v2/models"), Some(address));
        for other in ["http://llm.example/v1", "https://llm.example:444/v1", "https://example/v1"] {
            assert_eq!(found(&cache, other), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_name_gives_way_to_a_fifth() {
        let cache = cache(&Clock::fake());
        let names: Vec<String> = (0..=MAX_NAMES).map(|number| format!("https://{number}.example/")).collect();
        let address = ([192, 0, 2, 1], 443).into();
        for name in [&names[..4], &names[..4]].concat() {
            cache.insert(&name.parse().unwrap(), &addresses(address));
        }
        assert!(names[..4].iter().all(|name| found(&cache, name).is_some()));
        cache.insert(&names[4].parse().unwrap(), &addresses(address));
        let kept: Vec<bool> = names.iter().map(|name| found(&cache, name).is_some()).collect();
        assert_eq!(kept, [false, true, true, true, true]);
    }

    #[test]
    fn addresses_are_looked_up_again_after_a_failed_connect() {
        let server = Server::always(ok("hi"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cache = cache(&Clock::fake());
        let connector = HttpConnector::new(cache.clone(), Arc::default());
        let config = Agent::config_builder().proxy(None).build();
        let agent = Agent::with_parts(config, connector, cache.clone());

        let unknown = format!("http://unknown.example:{}/", server.address().port());
        cache.insert(&unknown.parse().unwrap(), &addresses(server.address()));
        assert_eq!(agent.get(&unknown).call().unwrap().status(), 200, "the cached address is used");

        let moved = format!("http://localhost:{}/", server.address().port());
        cache.insert(&moved.parse().unwrap(), &addresses(closed));
        assert!(agent.get(&moved).call().is_err());
        assert_eq!(agent.get(&moved).call().unwrap().status(), 200);
        assert_eq!(found(&cache, &moved).map(|address| address.port()), Some(server.address().port()));
    }
}
