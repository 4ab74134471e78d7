//! Where files live: a flat set of named files, and the operations a crash-safe commit is made of.
//!
//! A store never sees a tensor and knows no file format. It offers primitives; the order in which
//! they make a save durable is the business of `commit` alone. That split lets the same
//! protocol run on a real directory, in memory, on a store that fails on purpose, and on a
//! simulated disk that enumerates what may remain after a power loss.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Bytes that can be read at any offset, by several threads at once.
///
/// An open file stays the same file while it is held, whatever happens to its name.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// The length in bytes when the file was opened.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before `buf` is full.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the reads that follow come from the device, not from memory, where that is possible.
    fn forget_cached(&self) {}
}

/// A file being written under a temporary name, which nobody takes for a checkpoint.
///
/// Dropping a draft without [`Draft::sync`] leaves its file to be swept or removes it.
pub trait Draft: Send + Sync + fmt::Debug {
    /// The temporary name, unique in its store.
    fn name(&self) -> &str;

    /// Writes all of `bytes` at `offset`. May be called by several threads at once.
    ///
    /// # Errors
    /// Whatever the operating system says; the draft is then of no further use.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content durable and closes the file.
    ///
    /// Takes the draft by value, so that a failed sync cannot be tried again: after a failure the
    /// operating system may report success for data it has dropped.
    ///
    /// # Errors
    /// The file is dead: its content is unknown, whatever a later read returns.
    fn sync(self: Box<Self>) -> io::Result<()>;
}

/// One file of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the store; never a path.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Holds the right to write to a store; gives it back when dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A flat set of named files.
///
/// Names are single path components. An implementation must pass the contract tests.
pub trait Store: Send + Sync + fmt::Debug {
    /// Creates a draft and reserves `len` bytes for it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`] where the space cannot
    /// be reserved; nothing is left behind then.
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>>;

    /// Opens the file called `name` for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>>;

    /// All files, in no particular order, drafts included.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Gives the file `from` the name `to` in one step, replacing what had it.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where `from` does not exist; nothing has changed then.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the name `name`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable: creations, renames, links and removals so far.
    ///
    /// # Errors
    /// Which of the changes are durable is then unknown.
    fn sync(&self) -> io::Result<()>;

    /// Gives the file `from` the further name `to`, which must be free.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where a file has one name only, and by default.
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Keeps other writers out until the lock is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another writer is in; the message says who.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;

    /// Removes drafts whose writer is gone, never one whose writer lives; returns their names.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sweep(&self) -> io::Result<Vec<String>>;

    /// Bytes that are free for new files, where the store can tell.
    fn free_space(&self) -> Option<u64> {
        None
    }

    /// What people call this store: a directory's path, say.
    fn describe(&self) -> String;
}
