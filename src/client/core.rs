//! State that the clones of a client share: connections, handlers, cancellation tokens.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::adaptive::HandlerRegistry;
use crate::client::config::{ConfigBuilder, Observer};
use crate::error::Result;
use crate::http::options::{Endpoint, HttpOptions};
use crate::http::transport::Transport;
use crate::runtime::cancel::{Cancel, Subscription};
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;

/// The maximum number of models remembered for refusing to report usage: as many as have handlers.
const MAX_WITHOUT_USAGE: usize = 64;

/// The state that all clones of a client and all its streams share.
pub(crate) struct Core {
    pub(crate) transport: Arc<Transport>,
    pub(crate) handlers: Arc<HandlerRegistry>,
    pub(crate) clock: Clock,
    /// Ends all exchanges and waits.
    pub(crate) shutdown: Cancel,
    /// Ends all waits, so that no attempt begins.
    pub(crate) draining: Cancel,
    pub(crate) observer: Option<Observer>,
    pub(crate) idempotency: Option<IdempotencyKeys>,
    /// The models whose service rejects `include_usage`.
    pub(crate) without_usage: Arc<Mutex<Vec<String>>>,
    /// Wakes the calls that wait for a permit, and whoever waits for the end of this client.
    _wake: Vec<Subscription>,
}

impl Core {
    /// `open` opens the transport; its token ends all exchanges.
    pub(crate) fn new(
        settings: &ConfigBuilder,
        endpoint: Endpoint,
        open: impl FnOnce(&HttpOptions, Endpoint, Clock, Cancel) -> Result<Transport>,
    ) -> Result<Core> {
        let ConfigBuilder { http, adaptive, handler, idempotency_key, observer, clock, .. } = settings;
        let own = || HandlerRegistry::new(adaptive.clone().clock(clock.clone()));
        let handlers = Arc::new(handler.clone().map_or_else(own, HandlerRegistry::One));
        let shutdown = Cancel::default();
        let draining = Cancel::child_of(&[&shutdown]);
        Ok(Core {
            transport: Arc::new(open(http, endpoint, clock.clone(), shutdown.clone())?),
            _wake: vec![wake(&draining, &handlers)],
            handlers,
            clock: clock.clone(),
            shutdown,
            draining,
            observer: observer.clone(),
            idempotency: idempotency_key.then(IdempotencyKeys::new),
            without_usage: Arc::default(),
        })
    }

    /// A core with the same handlers but with connections and tokens of its own: it can be shut down alone, is shut down and
    /// drained with this one, and is drained when `user` is cancelled. `ended` is called when any of that happens.
    pub(crate) fn child(&self, user: Option<&Cancel>, ended: impl Fn() + Send + Sync + 'static) -> Core {
        let shutdown = Cancel::child_of(&[&self.shutdown]);
        let mut parents = vec![&shutdown, &self.draining];
        parents.extend(user);
        let draining = Cancel::child_of(&parents);
        Core {
            transport: Arc::new(self.transport.child(shutdown.clone())),
            handlers: Arc::clone(&self.handlers),
            clock: self.clock.clone(),
            observer: self.observer.clone(),
            idempotency: self.idempotency.as_ref().map(|_| IdempotencyKeys::new()),
            without_usage: Arc::clone(&self.without_usage),
            _wake: vec![wake(&draining, &self.handlers), draining.subscribe(ended)],
            shutdown,
            draining,
        }
    }
}

impl Core {
    /// Whether a stream of this model may request usage: not if its service rejected that before.
    pub(crate) fn may_ask_for_usage(&self, model: &str) -> bool {
        !lock(&self.without_usage).iter().any(|refusing| refusing == model)
    }

    /// Remembers that the service of this model rejects `include_usage`.
    pub(crate) fn remember_without_usage(&self, model: &str) {
        let mut refusing = lock(&self.without_usage);
        if refusing.len() < MAX_WITHOUT_USAGE && !refusing.iter().any(|known| known == model) {
            refusing.push(model.to_owned());
        }
    }
}

/// Wakes the calls that wait for a permit when the token is cancelled.
pub(crate) fn wake(cancel: &Cancel, handlers: &Arc<HandlerRegistry>) -> Subscription {
    let handlers = Arc::clone(handlers);
    cancel.subscribe(move || handlers.wake())
}

/// Generates unique idempotency keys: a random part per client, the process, and a counter.
pub(crate) struct IdempotencyKeys {
    random: u64,
    /// The prefix of keys in the process that created this.
    prefix: String,
    process: u32,
    calls: AtomicU64,
}

impl IdempotencyKeys {
    pub(crate) fn new() -> IdempotencyKeys {
        // The standard library's hash keys come from the system's randomness. A seed that makes tests repeatable must not
        // repeat idempotency keys.
        let random = RandomState::new().build_hasher().finish();
        let process = process::id();
        IdempotencyKeys { random, prefix: prefix(random, process), process, calls: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> String {
        let number = self.calls.fetch_add(1, Ordering::Relaxed).to_string();
        match process::id() {
            same if same == self.process => [&self.prefix, number.as_str()].concat(),
            forked => prefix(self.random, forked) + &number,
        }
    }
}

/// The prefix of a client's idempotency keys. The process id distinguishes a forked process, which has the same random
/// part and the same counter.
fn prefix(random: u64, process: u32) -> String {
    format!("holysheep-{random:016x}-{process}-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_calls_share_an_idempotency_key() {
        let (one, other) = (IdempotencyKeys::new(), IdempotencyKeys::new());
        let keys = [one.next(), one.next(), other.next(), other.next()];
        assert!(keys.iter().enumerate().all(|(place, key)| !keys[..place].contains(key)), "{keys:?}");
    }

    #[test]
    fn client_process_and_number_each_make_another_key() {
        assert_eq!(prefix(7, 12), "holysheep-0000000000000007-12-");
        let key = |random, process, number: u32| prefix(random, process) + &number.to_string();
        let keys = [key(7, 12, 3), key(7, 1, 23), key(7, 12, 4), key(7, 13, 3), key(8, 12, 3)];
        assert!(keys.iter().enumerate().all(|(place, key)| !keys[..place].contains(key)), "{keys:?}");
        assert!(keys.iter().all(|key| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')));
    }
}
