//! What the measurements have in common: states to save, and how long something takes.

pub(crate) mod states;

use std::time::{Duration, Instant};

/// How long `work` takes, and what it gives.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Lets the disk learn what was removed, which is no part of what comes next.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}
