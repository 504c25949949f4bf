//! Locks and condition variables that ignore poisoning.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks a mutex even if it is poisoned: a panic never leaves the guarded state half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification without a timeout. May wake spuriously.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
