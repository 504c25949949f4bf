//! Locks and condition variables that ignore poisoning.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks. A lock whose holder panicked is still usable: nothing here is left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification without a timeout. Like every wait on a condition variable it may end early.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
