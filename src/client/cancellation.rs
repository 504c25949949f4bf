//! Cancellation of the calls of one client by the user's token, its shutdown or its drain.

use std::sync::Arc;

use crate::client::core::{Core, wake};
use crate::runtime::cancel::{Cancel, Subscription};

/// The tokens that end the calls of a client with a user's token.
#[derive(Clone)]
pub(crate) struct Cancellation {
    /// The user's token, or the client's shutdown: ends exchanges.
    pub(crate) exchanges: Cancel,
    /// The user's token, or the client's shutdown or drain: ends waits.
    pub(crate) waits: Cancel,
    pub(crate) user: Cancel,
    /// Wakes the calls that wait for a permit.
    _wake: Arc<Subscription>,
}

impl Cancellation {
    pub(crate) fn new(core: &Core, user: &Cancel) -> Cancellation {
        let waits = Cancel::child_of(&[&core.draining, user]);
        Cancellation {
            exchanges: Cancel::child_of(&[&core.shutdown, user]),
            _wake: Arc::new(wake(&waits, &core.handlers)),
            waits,
            user: user.clone(),
        }
    }
}
