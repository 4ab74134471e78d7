//! Threads, progress and cancellation of a read.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::threads::default_threads;

/// How the bytes of a file are read: the number of threads, progress and cancellation.
///
/// A thread count converts into it: `file.verify(4)`.
///
/// ```
/// use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
/// use scai_checkpoint::file::ReadOptions;
///
/// let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
/// let progress = |bytes| drop(done.fetch_add(bytes, Ordering::Relaxed));
/// let options = ReadOptions::default().threads(2).progress(&progress).cancel(&stop);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Default)]
pub struct ReadOptions<'a> {
    /// The number that the caller asked for.
    threads: Option<usize>,
    progress: Option<&'a (dyn Fn(u64) + Sync)>,
    cancel: Option<&'a AtomicBool>,
}

impl<'a> ReadOptions<'a> {
    /// Threads that read and check. By default as many as the manager has; without a manager one per
    /// core, at most 8.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: Some(threads.max(1)), ..self }
    }

    /// Called, on any of the threads, with the number of further bytes done.
    #[must_use]
    pub fn progress(self, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Once this is true, the call ends with [`Error::Cancelled`] after the current pieces.
    #[must_use]
    pub fn cancel(self, cancel: &'a AtomicBool) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// With `threads` threads, unless the caller asked for another number.
    pub(crate) fn or_threads(self, threads: usize) -> Self {
        Self { threads: self.threads.or(Some(threads)), ..self }
    }

    pub(crate) fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(default_threads)
    }

    /// Reports that `bytes` further bytes are done, for code that reads by itself.
    pub fn report(&self, bytes: u64) {
        if let Some(progress) = self.progress {
            progress(bytes);
        }
    }

    /// Fails once the read was cancelled, for code that reads by itself.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

impl From<usize> for ReadOptions<'_> {
    fn from(threads: usize) -> Self {
        Self::default().threads(threads)
    }
}

impl fmt::Debug for ReadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOptions").field("threads", &self.threads).finish_non_exhaustive()
    }
}
