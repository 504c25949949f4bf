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
