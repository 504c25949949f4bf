//! Locks and condition variables that ignore poisoning.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Waits for a ring, however long it takes. Like every wait on a condition it may end early.
pub(crate) fn wait<'a, T>(bell: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    bell.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// A lock whose holder panicked is still good: nothing here is left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
