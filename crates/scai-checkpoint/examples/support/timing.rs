//! What the measurements of time have in common.

use std::time::{Duration, Instant};

/// How long `work` takes, and what it gives.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// The median of some times, and the best of them.
pub(crate) fn median_and_best(times: &[Duration]) -> [Duration; 2] {
    let mut times = times.to_vec();
    times.sort_unstable();
    [times[times.len() / 2], times[0]]
}

/// Lets the disk learn what was removed, which is no part of what comes next.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}
