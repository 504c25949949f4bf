//! One handler for each model, because services limit each model separately.

use std::sync::Mutex;

use crate::adaptive::{AdaptiveConfig, AdaptiveHandler};
use crate::runtime::sync::lock;

/// The number of handlers above which unused ones are evicted: more models than a program uses, at a few kilobytes each.
const MAX_MODELS: usize = 64;

/// The handlers of a client.
#[derive(Debug)]
pub(crate) enum HandlerRegistry {
    /// One handler for all models, which other clients may share.
    One(AdaptiveHandler),
    /// One handler for each model, created on first use; the most recently used is first.
    Each { config: AdaptiveConfig, known: Mutex<Vec<(String, AdaptiveHandler)>> },
}

impl HandlerRegistry {
    pub(crate) fn new(config: AdaptiveConfig) -> HandlerRegistry {
        HandlerRegistry::Each { config, known: Mutex::default() }
    }

    /// The handler of this model.
    pub(crate) fn get(&self, model: &str) -> AdaptiveHandler {
        let (config, known) = match self {
            HandlerRegistry::One(handler) => return handler.clone(),
            HandlerRegistry::Each { config, known } => (config, known),
        };
        let mut known = lock(known);
        match known.iter().position(|(name, _)| name == model) {
            Some(index) => known[..=index].rotate_right(1),
            None => {
                // Evicts the least recently used handler that no call is using.
                while known.len() >= MAX_MODELS {
                    let Some(idle) = known.iter().rposition(|(_, handler)| !handler.in_use()) else { break };
                    known.remove(idle);
                }
                let handler = AdaptiveHandler::named(format!("{model}: "), config.clone());
                known.insert(0, (model.to_owned(), handler));
            }
        }
        known[0].1.clone()
    }

    /// Makes all waiting threads check their cancellation and deadline again.
    pub(crate) fn wake(&self) {
        match self {
            HandlerRegistry::One(handler) => handler.wake(),
            HandlerRegistry::Each { known, .. } => lock(known).iter().for_each(|(_, handler)| handler.wake()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::outcome::Outcome;

    fn count(handler: &AdaptiveHandler) -> u64 {
        handler.snapshot().successes
    }

    fn succeed(handler: &AdaptiveHandler) {
        let permit = handler.acquire(None).unwrap();
        let now = crate::runtime::clock::Clock::system().now();
        handler.record(now, permit, Outcome::success());
    }

    #[test]
    fn each_model_keeps_its_own_handler() {
        let registry = HandlerRegistry::new(AdaptiveConfig::default());
        succeed(&registry.get("a"));
        assert_eq!((count(&registry.get("a")), count(&registry.get("b"))), (1, 0));
        let one = HandlerRegistry::One(AdaptiveHandler::new(AdaptiveConfig::default()));
        succeed(&one.get("a"));
        assert_eq!(count(&one.get("b")), 1);
    }

    #[test]
    fn the_least_recently_used_handler_is_evicted_unless_it_is_in_use() {
        let registry = HandlerRegistry::new(AdaptiveConfig::default());
        let held = registry.get("held");
        succeed(&held);
        succeed(&registry.get("old"));
        for name in 0..MAX_MODELS {
            registry.get(&name.to_string());
        }
        assert_eq!((count(&registry.get("held")), count(&registry.get("old"))), (1, 0));
        let HandlerRegistry::Each { known, .. } = &registry else { panic!() };
        assert_eq!(lock(known).len(), MAX_MODELS);
        let all: Vec<_> = (0..2 * MAX_MODELS).map(|name| registry.get(&name.to_string())).collect();
        assert!(lock(known).len() >= all.len(), "handlers in use are not evicted");
    }
}
