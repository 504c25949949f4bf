//! Thread-local state that an exchange shares with its connection: ureq passes no context of a request to the connection, but
//! both run on one thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;
use crate::wire::secrets::Secrets;

thread_local! {
    static CONTEXT: RefCell<Context> = const { RefCell::new(Context { secrets: None, cancel: None }) };
    static READ_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static UNPARSED_HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The context of a request, where it differs from the client's.
struct Context {
    /// The secrets in its headers, if they differ from the client's.
    secrets: Option<Arc<Secrets>>,
    /// Cancels the exchange.
    cancel: Option<Cancel>,
}

/// Restores the previous context when it is dropped.
pub(super) struct ContextGuard {
    outer: Option<Context>,
}

/// Sets the context of the request that is about to be sent on this thread.
pub(super) fn enter(secrets: Option<&Arc<Secrets>>, cancel: Option<&Cancel>) -> ContextGuard {
    if secrets.is_none() && cancel.is_none() {
        return ContextGuard { outer: None };
    }
    let context = Context { secrets: secrets.cloned(), cancel: cancel.cloned() };
    ContextGuard { outer: Some(CONTEXT.replace(context)) }
}

impl Drop for ContextGuard {
    fn drop(&mut self) {
        if let Some(outer) = self.outer.take() {
            CONTEXT.set(outer);
        }
    }
}

/// The secrets of the request on this thread, if they differ from the client's.
pub(super) fn own_secrets() -> Option<Arc<Secrets>> {
    CONTEXT.with_borrow(|context| context.secrets.clone())
}

/// The token that cancels the request on this thread, if it has its own.
pub(super) fn own_cancel() -> Option<Cancel> {
    CONTEXT.with_borrow(|context| context.cancel.clone())
}

/// The maximum size of a response's head in bytes. Heads larger than the input buffer are rare and get a growing buffer.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Limits the total time of this thread's reads until it is dropped.
pub(super) struct ReadLimit {
    outer: Option<Instant>,
}

impl ReadLimit {
    pub(super) fn new(limit: Duration) -> ReadLimit {
        let deadline = Clock::system().now().checked_add(limit);
        ReadLimit { outer: READ_DEADLINE.replace(deadline) }
    }
}

impl Drop for ReadLimit {
    fn drop(&mut self) {
        READ_DEADLINE.set(self.outer);
    }
}

/// The time that a read on this thread may take; `None` if it isn't limited.
pub(super) fn remaining_read_time() -> Option<Duration> {
    READ_DEADLINE.get().map(|deadline| deadline.saturating_duration_since(Clock::system().now()))
}

/// Keeps the head of a response that couldn't be parsed and is dropped with its connection.
pub(super) fn keep_unparsed_head(bytes: &[u8]) {
    let kept = &bytes[..bytes.len().min(MAX_HEAD)];
    UNPARSED_HEAD.with_borrow_mut(|head| {
        head.clear();
        head.extend_from_slice(kept);
    });
}

/// Takes the head that was kept on this thread; empty if there is none.
pub(super) fn take_unparsed_head() -> Vec<u8> {
    UNPARSED_HEAD.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_nested_and_end_with_their_scope() {
        assert_eq!(remaining_read_time(), None);
        let outer = ReadLimit::new(Duration::from_secs(100));
        {
            let _inner = ReadLimit::new(Duration::ZERO);
            assert_eq!(remaining_read_time(), Some(Duration::ZERO));
        }
        assert!(remaining_read_time().is_some_and(|time| time > Duration::from_secs(50)));
        drop(outer);
        assert_eq!(remaining_read_time(), None);
    }

    #[test]
    fn an_unparsed_head_is_kept_once_and_bounded() {
        keep_unparsed_head(&vec![b'x'; MAX_HEAD + 1]);
        assert_eq!(take_unparsed_head().len(), MAX_HEAD);
        assert!(take_unparsed_head().is_empty());
    }
}
