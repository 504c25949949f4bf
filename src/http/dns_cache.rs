//! DnsCache are looked up now and then and not per request, on a thread of their own so that a shutdown need not wait.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ArrayVec, DefaultResolver, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::http::connector::{NotSent, abandoned};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// How long an address may be used before the name is looked up again: the time to live that services behind load
/// balancers commonly give theirs.
const ADDRESS_LIFE: Duration = Duration::from_secs(60);

/// Addresses kept at the same time: the service and a proxy, with room for a change.
const MOST_NAMES: usize = 4;

/// As many addresses of a name as ureq has room for.
type Addresses = ArrayVec<SocketAddr, 16>;

/// Looks names up aside, and remembers their addresses for a while.
#[derive(Debug, Clone)]
pub(super) struct DnsCache {
    known: Arc<Mutex<Vec<Known>>>,
    clock: Clock,
    pub(super) stop: Arc<Cancel>,
    limit: Duration,
}

#[derive(Debug)]
struct Known {
    uri: Uri,
    since: Instant,
    addresses: Addresses,
}

impl DnsCache {
    pub(super) fn new(clock: Clock, stop: Arc<Cancel>, limit: Duration) -> DnsCache {
        DnsCache { known: Arc::default(), clock, stop, limit }
    }

    /// The same names, whose look-ups another stop ends.
    pub(super) fn under(&self, stop: Arc<Cancel>) -> DnsCache {
        DnsCache { stop, ..self.clone() }
    }

    /// Forgets all addresses: one of them didn't answer, and the name may point elsewhere by now.
    pub(super) fn forget(&self) {
        lock(&self.known).clear();
    }

    fn recall(&self, uri: &Uri) -> Option<Addresses> {
        let now = self.clock.now();
        let known = lock(&self.known);
        let same = |known: &&Known| names_same(&known.uri, uri);
        let found = known.iter().find(same)?;
        (now.saturating_duration_since(found.since) < ADDRESS_LIFE).then(|| found.addresses.clone())
    }

    fn remember(&self, uri: &Uri, addresses: &Addresses) {
        let mut known = lock(&self.known);
        known.retain(|known| !names_same(&known.uri, uri));
        if known.len() == MOST_NAMES {
            known.remove(0);
        }
        known.push(Known { uri: uri.clone(), since: self.clock.now(), addresses: addresses.clone() });
    }
}

/// Whether two addresses name the same host and port in the same way.
fn names_same(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme()
        && one.authority().map(|a| a.as_str()) == other.authority().map(|b| b.as_str())
}

impl Resolver for DnsCache {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<Addresses, ureq::Error> {
        if let Some(addresses) = self.recall(uri) {
            return Ok(addresses);
        }
        let left = *timeout.after;
        let (limit, budget) =
            if left < self.limit { (left, timeout.reason) } else { (self.limit, Timeout::Resolve) };
        let (name, settings) = (uri.clone(), config.clone());
        let look_up = move || DefaultResolver::default().resolve(&name, &settings, NextTimeout::default());
        let addresses = self
            .stop
            .aside(limit, look_up)
            .map_err(|why| abandoned(why, budget))
            .and_then(|found| found)
            .map_err(NotSent::wrap)?;
        self.remember(uri, &addresses);
        Ok(addresses)
    }
}
