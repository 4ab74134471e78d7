//! Where the time of a save goes.

use std::time::{Duration, Instant};

/// Time the stages of a save took, one after the other.
///
/// The checkpoint is durable after [`Timeline::commit`]. The time for which the caller of a save in
/// the background waited, and that for which the save waited for others before it, are not
/// included: the save does not know them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// Planning: the state as a tree and a pickle, and the offset of every byte.
    pub plan: Duration,
    /// Writing: a temporary file with room for all bytes is created, and every byte is hashed and written.
    pub write: Duration,
    /// Syncing the content of the temporary file to the device.
    pub sync: Duration,
    /// Renaming the temporary file to its final name, and syncing the directory.
    pub commit: Duration,
    /// What follows once the checkpoint is durable: `latest.pt` is moved, and retention reads back
    /// what is kept and deletes the rest.
    pub after: Duration,
}

impl Timeline {
    /// The time that a store took to publish an entry: to write its bytes, to make them durable, and
    /// to give them their name.
    pub fn of_publication(write: Duration, sync: Duration, commit: Duration) -> Self {
        Self { write, sync, commit, ..Self::default() }
    }

    /// From the beginning until the checkpoint was durable.
    pub fn durable(&self) -> Duration {
        [self.plan, self.write, self.sync, self.commit]
            .into_iter()
            .fold(Duration::ZERO, Duration::saturating_add)
    }

    /// All of it.
    pub fn total(&self) -> Duration {
        self.durable().saturating_add(self.after)
    }

    /// Bytes per second from the beginning until the checkpoint was durable, for a file of `bytes`
    /// bytes; 0 if no time was measured.
    pub fn rate(&self, bytes: u64) -> f64 {
        match self.durable() {
            Duration::ZERO => 0.0,
            time => bytes as f64 / time.as_secs_f64(),
        }
    }
}

/// Measures stages that follow one another.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start or the last lap.
    pub(crate) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.0, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_until_the_file_is_durable() {
        let second = Duration::from_secs(1);
        let timeline =
            Timeline { plan: second, write: second, sync: second, commit: second, after: second };
        assert_eq!((timeline.durable(), timeline.total()), (second * 4, second * 5));
        assert_eq!(timeline.rate(1000), 250.0);
        assert_eq!(Timeline::default().rate(1000), 0.0);
        let endless = Timeline { write: Duration::MAX, ..timeline };
        assert_eq!(endless.total(), Duration::MAX);
    }
}
