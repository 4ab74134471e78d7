//! Mutexes whose content stays sound whatever happens to a thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
