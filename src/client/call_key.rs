//! The key of each attempt of a call, if a function provides it, and a new one after a 401.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::client::call::CallOptions;
use crate::client::config::{AUTHORIZATION, with_header};
use crate::client::core::Core;
use crate::client::key_provider::{KeyProvider, NoKey};
use crate::error::{Error, Result};
use crate::http::request::RequestHeaders;
use crate::meta::Attempt;
use crate::retry::CallState;

/// The setting to which errors of the function are attributed.
const SETTING: &str = "api_key_from";

/// The keys of one call.
#[derive(Default)]
pub(crate) struct CallKey {
    /// The key of the last attempt.
    last: Option<Arc<str>>,
    /// The key of the next attempt, requested because the service rejected the last one.
    new: Option<Arc<str>>,
}

impl CallKey {
    /// The headers of the next attempt, with the key for it.
    pub(crate) fn headers<'a>(
        &mut self,
        core: &Core,
        options: &'a CallOptions,
        state: &CallState,
    ) -> Result<Cow<'a, RequestHeaders>> {
        let Some(provider) = &options.keys else { return Ok(Cow::Borrowed(&options.headers)) };
        let key = match self.new.take() {
            Some(key) => key,
            None => ask(provider, false, core, options, state)?,
        };
        let mut headers = with_header(&options.headers, AUTHORIZATION, &format!("Bearer {key}"))?;
        Arc::make_mut(&mut headers.secrets).add_all_unsent(&provider.secrets()); // earlier keys, too
        self.last = Some(key);
        Ok(Cow::Owned(headers))
    }

    /// Requests a new key after a 401, once in a call. Returns the attempt; if there is no new key, its error says why.
    pub(crate) fn renew<T>(
        &mut self,
        ended: Attempt<T>,
        core: &Core,
        options: &CallOptions,
        state: &CallState,
    ) -> Attempt<T> {
        let (Some(provider), false) = (&options.keys, state.new_key) else { return ended };
        let Attempt { result: Err(mut error), meta } = ended else { return ended };
        if let Error::Api { status: 401, message, .. } = &mut error {
            match ask(provider, true, core, options, state) {
                Ok(key) => self.new = Some(key).filter(|new| self.last.as_ref() != Some(new)),
                Err(Error::Shutdown) => error = Error::Shutdown,
                Err(failed) => *message += &format!("; there is no new key ({failed})"),
            }
        }
        Attempt { result: Err(error), meta }
    }

    /// Whether a new key was obtained after a 401.
    pub(crate) fn is_new(&self) -> bool {
        self.new.is_some()
    }
}

/// Requests a key within the limits of the call.
fn ask(
    provider: &KeyProvider,
    is_refused: bool,
    core: &Core,
    options: &CallOptions,
    state: &CallState,
) -> Result<Arc<str>> {
    let remaining = state.due.map_or(Duration::MAX, |due| due.saturating_duration_since(core.clock.now()));
    let cancel = options.cancellation.as_ref().map_or(&core.draining, |cancellation| &cancellation.waits);
    let timeout = options.timeout;
    provider.ask(is_refused, timeout.min(remaining), cancel).map_err(|why| match why {
        NoKey::Cancelled => Error::Shutdown,
        NoKey::TimedOut if remaining <= timeout => {
            Error::deadline(state.deadline.unwrap_or_default(), None)
        }
        NoKey::TimedOut => Error::config(
            SETTING,
            format!("the function did not return within the timeout of {timeout:?}; give it a shorter timeout of its own"),
        ),
        NoKey::Failed(problem) => Error::config(SETTING, &*problem),
    })
}

impl Error {
    /// Whether the key function failed, so that nothing was sent.
    pub(crate) fn is_of_key_function(&self) -> bool {
        matches!(self, Error::Config { setting: SETTING, .. })
    }
}
