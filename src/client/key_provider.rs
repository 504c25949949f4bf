//! Keys from a function of the program: called before each attempt, by one thread at a time, within the limits of the
//! call.

use std::collections::VecDeque;
use std::process;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::client::config::api_key;
use crate::error::{BoxError, excerpt};
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::runtime::sync::lock;
use crate::wire::secrets::{Secrets, redact_likely_keys};

/// Returns the current key.
pub(crate) type KeyFunction = Arc<dyn Fn() -> Result<String, BoxError> + Send + Sync>;

/// The maximum number of keys that are remembered, so that they stay redacted in late responses: usually more than
/// there are calls in flight, each with a key of its own. Every error of a service is searched for all of them.
const MAX_KEYS: usize = 256;

/// Gets keys from a function.
pub(crate) struct KeyProvider {
    shared: Arc<Shared>,
}

struct Shared {
    function: KeyFunction,
    /// The secrets of the client other than the keys.
    secrets: Arc<Secrets>,
    state: Mutex<State>,
    /// Notified when the function has returned, and when a call that waits for it is cancelled.
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// The process whose thread runs the function now, if any: a thread doesn't survive a fork.
    asking: Option<u32>,
    /// The number of requests that were started.
    asked: u64,
    /// The last result, and the number of its request.
    answer: Option<(u64, KeyResult)>,
    /// The remembered keys, the latest one last.
    keys: VecDeque<Arc<str>>,
    /// Redacts them.
    secrets: Arc<Secrets>,
}

/// A key, or why there is none.
type KeyResult = Result<Arc<str>, Arc<str>>;

/// Why a call got no key.
#[derive(Debug, PartialEq)]
pub(crate) enum NoKey {
    Cancelled,
    TimedOut,
    /// The function failed or returned an invalid key. Contains no secret.
    Failed(Arc<str>),
}

/// A running call of the function. Dropping it publishes the result, even if the function panicked.
struct KeyRequest {
    shared: Arc<Shared>,
    number: u64,
    answer: KeyResult,
}

impl KeyProvider {
    /// `secrets`: those of the client other than the keys.
    pub(crate) fn new(function: KeyFunction, secrets: Arc<Secrets>) -> KeyProvider {
        let shared = Shared { function, secrets, state: Mutex::default(), answered: Condvar::new() };
        KeyProvider { shared: Arc::new(shared) }
    }

    /// The key, if the function returns within `limit`, in real time. `is_refused`: the service rejected the last key.
    pub(crate) fn ask(&self, is_refused: bool, limit: Duration, cancel: &Cancel) -> Result<Arc<str>, NoKey> {
        let shared = &self.shared;
        let _wake = cancel.subscribe({
            let shared = Arc::clone(shared);
            move || {
                drop(lock(&shared.state)); // so that the call either sees the token or is already waiting
                shared.answered.notify_all();
            }
        });
        let clock = Clock::system();
        let end = clock.now().checked_add(limit);
        let mut state = lock(&shared.state);
        let needed = state.needed(is_refused);
        loop {
            match &state.answer {
                Some((number, answer)) if *number >= needed => return answer.clone().map_err(NoKey::Failed),
                _ => {}
            }
            let remaining = end.map_or(limit, |end| end.saturating_duration_since(clock.now()));
            if cancel.is_cancelled() {
                return Err(NoKey::Cancelled);
            }
            if remaining.is_zero() {
                return Err(NoKey::TimedOut);
            }
            if !state.is_asking() {
                shared.start_request(&mut state)?;
            }
            state = clock.wait(&shared.answered, state, remaining);
        }
    }

    /// The keys so far, for redaction.
    pub(crate) fn secrets(&self) -> Arc<Secrets> {
        Arc::clone(&lock(&self.shared.state).secrets)
    }
}

impl State {
    fn is_asking(&self) -> bool {
        self.asking == Some(process::id())
    }

    /// The number of the first request whose result a call may use: the running one, unless it may have started before
    /// the call's last key was rejected.
    fn needed(&self, is_refused: bool) -> u64 {
        self.asked + u64::from(is_refused || !self.is_asking())
    }

    fn remember(&mut self, key: &Arc<str>) {
        if self.keys.contains(key) {
            return;
        }
        if self.keys.len() == MAX_KEYS {
            self.keys.pop_front();
        }
        self.keys.push_back(Arc::clone(key));
        let mut secrets = Secrets::default();
        for key in &self.keys {
            secrets.add_unsent(key);
        }
        self.secrets = Arc::new(secrets);
    }
}

impl Shared {
    /// Calls the function on a thread of its own, so that a function that blocks doesn't block the call beyond its
    /// limits.
    fn start_request(self: &Arc<Self>, state: &mut State) -> Result<(), NoKey> {
        let number = state.asked + 1;
        let shared = Arc::clone(self);
        let ask = move || {
            let mut request = KeyRequest { shared, number, answer: Err("the function panicked".into()) };
            let returned = (request.shared.function)();
            request.answer =
                returned.map_err(|error| request.shared.describe(&error)).and_then(|key| checked(&key));
        };
        let thread = thread::Builder::new().spawn(ask);
        thread.map_err(|_| NoKey::Failed("no thread could be started for the function".into()))?;
        (state.asked, state.asking) = (number, Some(process::id()));
        Ok(())
    }

    /// Describes an error of the function, with secrets and likely keys redacted.
    fn describe(&self, error: &BoxError) -> Arc<str> {
        let keys = Arc::clone(&lock(&self.state).secrets);
        let mut text = error.to_string();
        [&self.secrets, &keys].into_iter().for_each(|secrets| secrets.redact_in_place(&mut text));
        format!("the function failed: {}", excerpt(redact_likely_keys(&text).as_bytes())).into()
    }
}

impl Drop for KeyRequest {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        if let Ok(key) = &self.answer {
            state.remember(key);
        }
        state.asking = None;
        state.answer = Some((self.number, self.answer.clone()));
        drop(state);
        self.shared.answered.notify_all();
    }
}

fn checked(key: &str) -> KeyResult {
    match api_key::checked(key) {
        Ok("") => Err("the function returned an empty key".into()),
        Ok(key) => Ok(key.into()),
        Err(problem) => Err(format!("the function returned a key that {problem}").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn provider(function: impl Fn() -> Result<String, BoxError> + Send + Sync + 'static) -> KeyProvider {
        KeyProvider::new(Arc::new(function), Arc::default())
    }

    /// A function that numbers its keys from 1.
    fn counting() -> KeyProvider {
        let counted = AtomicU32::new(0);
        let function = move || Ok(format!("sk-number-{:03}", counted.fetch_add(1, Ordering::SeqCst) + 1));
        provider(function)
    }

    fn asked(provider: &KeyProvider) -> Result<String, NoKey> {
        provider.ask(false, MINUTE, &Cancel::new()).map(|key| key.to_string())
    }

    #[test]
    fn each_call_gets_a_key_and_invalid_keys_are_refused() {
        let provider = counting();
        assert_eq!(asked(&provider).unwrap(), "sk-number-001");
        assert_eq!(asked(&provider).unwrap(), "sk-number-002");
        for (returned, problem) in [
            ("", "the function returned an empty key"),
            (
                "a\nb",
                "the function returned a key that holds a control character, such as a line break; copy the key again",
            ),
        ] {
            let refused = asked(&self::provider(move || Ok(returned.to_owned())));
            assert_eq!(refused, Err(NoKey::Failed(problem.into())));
        }
        assert_eq!(asked(&self::provider(|| Ok(" 'sk-quoted'\n".to_owned()))).unwrap(), "sk-quoted");
    }

    #[test]
    fn a_panic_is_a_failure_and_the_next_call_runs_the_function() {
        let first = Mutex::new(true);
        let provider = provider(move || match std::mem::take(&mut *lock(&first)) {
            true => std::panic::resume_unwind(Box::new("quietly")),
            false => Ok("sk-later".to_owned()),
        });
        assert_eq!(asked(&provider), Err(NoKey::Failed("the function panicked".into())));
        assert_eq!(asked(&provider).unwrap(), "sk-later");
    }

    #[test]
    fn calls_share_a_request_unless_their_key_was_refused() {
        let state = |asking| State { asking, asked: 3, ..State::default() };
        for (asking, is_refused, needed) in [
            (Some(process::id()), false, 3),
            (Some(process::id()), true, 4),
            (None, false, 4),
            (None, true, 4),
            (Some(process::id() + 1), false, 4), // its thread was lost in a fork
        ] {
            assert_eq!(state(asking).needed(is_refused), needed, "{asking:?} {is_refused}");
        }
    }

    #[test]
    fn the_function_never_runs_twice_at_the_same_time() {
        let (running, overlaps) = (AtomicU32::new(0), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&overlaps);
        let provider = Arc::new(provider(move || {
            counted.fetch_add(running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            Ok("sk-shared".to_owned())
        }));
        let calls: Vec<_> = (0..16)
            .map(|number| {
                let provider = Arc::clone(&provider);
                thread::spawn(move || provider.ask(number % 2 == 0, MINUTE, &Cancel::new()).unwrap())
            })
            .collect();
        for call in calls {
            assert_eq!(&*call.join().unwrap(), "sk-shared");
        }
        assert_eq!(overlaps.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_blocking_function_is_abandoned_after_the_timeout_or_a_cancellation() {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let provider = provider(move || {
            let _ = lock(&released).recv();
            Ok("sk-late".to_owned())
        });
        assert_eq!(provider.ask(false, Duration::from_millis(1), &Cancel::new()), Err(NoKey::TimedOut));
        let cancel = Cancel::new();
        let canceller = thread::spawn({
            let cancel = cancel.clone();
            move || cancel.cancel()
        });
        assert_eq!(provider.ask(false, MINUTE, &cancel), Err(NoKey::Cancelled));
        canceller.join().unwrap();
        assert_eq!(provider.ask(false, MINUTE, &cancel), Err(NoKey::Cancelled));
        drop(release);
        assert_eq!(asked(&provider).unwrap(), "sk-late");
    }

    #[test]
    fn earlier_keys_stay_redacted_up_to_a_limit() {
        let provider = counting();
        for _ in 0..=MAX_KEYS {
            asked(&provider).unwrap();
        }
        let shown = |text: &str| provider.secrets().redact(text.as_bytes()).into_owned();
        assert_eq!(shown("sk-number-257, sk-number-200"), "…, …".as_bytes());
        assert_eq!(lock(&provider.shared.state).keys.len(), MAX_KEYS);
    }

    #[test]
    fn a_failure_shows_its_cause_without_secrets() {
        let mut secrets = Secrets::default();
        secrets.add_unsent("a header's secret");
        let answers = Mutex::new(VecDeque::from([
            Ok("sk-earlier".to_owned()),
            Err("vault: a header's secret, sk-earlier and Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9 expired".into()),
        ]));
        let function = move || lock(&answers).pop_front().unwrap();
        let provider = KeyProvider::new(Arc::new(function), Arc::new(secrets));
        asked(&provider).unwrap();
        let problem = "the function failed: vault: …, … and Bearer … expired";
        assert_eq!(asked(&provider), Err(NoKey::Failed(problem.into())));
    }
}
