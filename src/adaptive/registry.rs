//! One handler a model: services limit each model by itself.

use std::sync::Mutex;

use crate::adaptive::{AdaptiveConfig, AdaptiveHandler};
use crate::runtime::sync::lock;

/// HandlerRegistry whose handlers are remembered: more than a program uses, and a few kilobytes each.
const MOST_MODELS: usize = 64;

/// The handlers of a client.
#[derive(Debug)]
pub(crate) enum HandlerRegistry {
    /// One for all, which other clients may share.
    One(AdaptiveHandler),
    /// One each, made when first asked for; the last used is in front.
    Each { config: AdaptiveConfig, known: Mutex<Vec<(String, AdaptiveHandler)>> },
}

impl HandlerRegistry {
    pub(crate) fn new(config: AdaptiveConfig) -> HandlerRegistry {
        HandlerRegistry::Each { config, known: Mutex::default() }
    }

    /// The handler of a model.
    pub(crate) fn get(&self, model: &str) -> AdaptiveHandler {
        let (config, known) = match self {
            HandlerRegistry::One(handler) => return handler.clone(),
            HandlerRegistry::Each { config, known } => (config, known),
        };
        let mut known = lock(known);
        match known.iter().position(|(name, _)| name == model) {
            Some(place) => known[..=place].rotate_right(1),
            None => {
                // Forgets the ones that were not used for the longest time and that no call is using.
                while known.len() >= MOST_MODELS {
                    let Some(idle) = known.iter().rposition(|(_, handler)| !handler.in_use()) else { break };
                    known.remove(idle);
                }
                known.insert(0, (model.to_owned(), AdaptiveHandler::new(config.clone())));
            }
        }
        known[0].1.clone()
    }

    /// Makes all who wait in any of them look at their stop and deadline again.
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
    fn each_model_has_its_own_and_keeps_it() {
        let models = HandlerRegistry::new(AdaptiveConfig::default());
        succeed(&models.get("a"));
        assert_eq!((count(&models.get("a")), count(&models.get("b"))), (1, 0));
        let one = HandlerRegistry::One(AdaptiveHandler::new(AdaptiveConfig::default()));
        succeed(&one.get("a"));
        assert_eq!(count(&one.get("b")), 1);
    }

    #[test]
    fn the_least_used_is_forgotten_but_none_that_is_in_use() {
        let models = HandlerRegistry::new(AdaptiveConfig::default());
        let held = models.get("held");
        succeed(&held);
        succeed(&models.get("old"));
        for name in 0..MOST_MODELS {
            models.get(&name.to_string());
        }
        assert_eq!((count(&models.get("held")), count(&models.get("old"))), (1, 0));
        let HandlerRegistry::Each { known, .. } = &models else { panic!() };
        assert_eq!(lock(known).len(), MOST_MODELS);
        let all: Vec<_> = (0..2 * MOST_MODELS).map(|name| models.get(&name.to_string())).collect();
        assert!(lock(known).len() >= all.len(), "all are in use");
    }
}
