//! Work shared by a few threads, and what they share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::memory::room_for_thread;

/// Does `work` on up to `threads` threads, including this one. If the system cannot start that
/// many, fewer do it.
pub(crate) fn on_threads(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let has_room = room_for_thread();
            if !has_room || std::thread::Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// The threads that read and write unless an option says otherwise: one per core, at most 8, since
/// more do not make one disk faster.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Locks a mutex whose content is sound even if a thread died while holding it.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
