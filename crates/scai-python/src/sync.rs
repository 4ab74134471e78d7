//! Mutexes whose content stays sound whatever happens to a thread, and work shared by a few threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use scai_checkpoint::memory::room_for_thread;

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `count` pieces of work, on up to `threads` threads and no more than four.
pub(crate) fn shared_out(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> scai_checkpoint::Result<()> + Sync,
) -> scai_checkpoint::Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Ok(()));
    let all = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            if let Err(error) = work(i) {
                *held(&failed) = Err(error);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(threads).min(4);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system has no more threads to give, fewer do it.
            let has_room = room_for_thread();
            if !has_room || std::thread::Builder::new().spawn_scoped(scope, all).is_err() {
                break;
            }
        }
        all();
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
