//! Where files live: a flat set of named files, and the operations a crash-safe commit is made of.
//!
//! A store never sees a tensor and knows no file format. It offers primitives; the order in which
//! they make a save durable is the business of `commit` alone. That split lets the same
//! protocol run on a real directory, in memory, on a store that fails on purpose, and on a
//! simulated disk that enumerates what may remain after a power loss.

#[cfg(feature = "testing")]
pub(crate) mod contract;
#[cfg(feature = "testing")]
pub(crate) mod disk;
#[cfg(feature = "testing")]
pub(crate) mod fault;
mod local;
mod memory;
mod name;

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use local::{Links, LocalStore};
pub use memory::MemoryStore;
pub use name::{check_name, draft_name, is_draft};

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

    /// The open file itself, for whoever maps it into memory; `None` where it is none of the
    /// operating system's.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Opens the file called `name` in the same directory, for a checkpoint that is several files.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the store does not know where the file came from.
    fn beside(&self, _name: &str) -> io::Result<Arc<dyn ReadAt>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What errors call the file; `None` if it has no name.
    fn path(&self) -> Option<PathBuf> {
        None
    }

    /// What tells this file, with the content it had when it was opened, from any other; `None` if
    /// the store cannot tell.
    fn stamp(&self) -> Option<Stamp> {
        None
    }
}

/// Tells files apart without reading them. Two names with equal stamps are one file, and nothing
/// was written to it between the two looks, as far as the store notices: a device that loses bits
/// does not change a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp(pub(crate) [u64; 4]);

/// A place to put bytes at any offset, by several threads at once.
///
/// All that a codec sees of a file it writes: no name, no way to make it durable.
pub trait WriteAt: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Whatever the operating system says; the file is then of no further use.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Where bytes are best placed in memory: those whose address and offset agree modulo this
    /// number, a power of two, reach the device without a copy. 1 where it makes no difference.
    fn alignment(&self) -> usize {
        1
    }
}

/// How the bytes of a file on a local disk reach the device.
///
/// It makes a difference in speed alone. Where the file system or the system has no direct I/O,
/// the page cache is used all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Io {
    /// Files of 4 MiB or more past the page cache, smaller ones through it.
    #[default]
    Auto,
    /// Past the page cache, whatever the length of the file.
    Direct,
    /// Through the page cache: a file that is read again soon is then read from memory.
    Buffered,
}

/// A file being written without a name, or under a temporary one, which nobody takes for a checkpoint.
///
/// A draft that is dropped without [`Draft::sync`], or whose sync fails, is removed. One that has no
/// name is gone with its process; one with a temporary name is left for [`Store::sweep`].
pub trait Draft: WriteAt {
    /// The temporary name, unique in its store; [`is_draft`] knows it. Empty if it has none.
    fn name(&self) -> &str;

    /// Makes the content durable and closes the file. The name is not durable yet.
    ///
    /// Takes the draft by value, so that a failed sync cannot be tried again: after a failure the
    /// operating system may report success for data it has dropped.
    ///
    /// # Errors
    /// The file is dead: its content is unknown, whatever a later read returns.
    fn sync(self: Box<Self>) -> io::Result<Synced>;

    /// As [`Draft::sync`], but the content does not become durable: what a device does that lies.
    ///
    /// # Errors
    /// As [`Draft::sync`].
    #[cfg(feature = "testing")]
    fn forget_sync(self: Box<Self>) -> io::Result<Synced> {
        self.sync()
    }
}

/// A draft whose content is durable and which waits for its final name.
///
/// While this lives, so does the draft's writer in the eyes of [`Store::sweep`]: otherwise a
/// sweep could take the file between its sync and its renaming.
pub struct Synced {
    name: String,
    alive: Box<dyn Any + Send + Sync>,
}

impl Synced {
    /// The draft called `name`; dropping `alive` leaves it to the next sweep.
    pub fn new(name: impl Into<String>, alive: impl Any + Send + Sync) -> Self {
        Self { name: name.into(), alive: Box::new(alive) }
    }

    /// The draft without a name behind `file`, of which its store knows how to name it.
    pub fn unnamed(file: impl Any + Send + Sync) -> Self {
        Self::new("", file)
    }

    /// The temporary name; empty if it has none, and [`Store::name_draft`] is to give it one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What keeps the draft alive, if it is of this type.
    pub(crate) fn alive<T: Any>(&self) -> Option<&T> {
        self.alive.downcast_ref()
    }
}

impl fmt::Debug for Synced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Synced").field("name", &self.name).finish_non_exhaustive()
    }
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
/// Names are single path components; [`check_name`] refuses others with
/// [`io::ErrorKind::InvalidInput`]. An implementation must pass the contract tests
/// (`testing::check_store` with the feature `testing`).
pub trait Store: Send + Sync + fmt::Debug {
    /// Creates a draft and reserves `len` bytes for it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], [`io::ErrorKind::QuotaExceeded`] or
    /// [`io::ErrorKind::FileTooLarge`] where the space cannot be had; nothing is left behind then.
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>>;

    /// As [`Store::create`], for a file that is to be called `name`: without a name of its own where
    /// the store can, and with the permissions of the file that it is to replace.
    ///
    /// # Errors
    /// As [`Store::create`]; [`io::ErrorKind::InvalidInput`] if `name` cannot be replaced by a file,
    /// being a directory, a pipe or a device.
    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        check_name(name)?;
        self.create(len)
    }

    /// Gives a draft that has no name the name `name`, which must be free.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if it is taken; [`io::ErrorKind::InvalidInput`] for a draft
    /// with a name, and by default.
    fn name_draft(&self, draft: &Synced, name: &str) -> io::Result<()> {
        let _ = (draft, name);
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// Opens the file called `name` for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>>;

    /// All files, in no particular order, drafts included; what a store keeps for itself, such
    /// as the file behind [`Store::lock`], is not among them.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Gives the file `from` the name `to` in one step, replacing what had it.
    ///
    /// Where both names belong to one file already, nothing happens and **both stay**, as POSIX
    /// has it.
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
    /// [`io::ErrorKind::AlreadyExists`] where `to` is taken, [`io::ErrorKind::NotFound`] where
    /// there is no `from`, [`io::ErrorKind::Unsupported`] where a file has one name only, and by
    /// default.
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Keeps other writers out until the lock is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another writer is in, carrying the name of that writer
    /// as its message where it is known; [`io::ErrorKind::Unsupported`] where the store has no
    /// locks.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;

    /// Removes drafts whose writer is gone, never one whose writer lives; returns their names.
    ///
    /// A temporary name that [`Store::link`] made has no writer, so this belongs under the
    /// [`Store::lock`]. A draft that may have been made this very moment is left for a later sweep.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sweep(&self) -> io::Result<Vec<String>>;

    /// As [`Store::sweep`], for whoever does not hold the [`Store::lock`]: does nothing while another
    /// writer does. Nothing by default.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sweep_unless_locked(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Whether what [`Store::describe`] says still leads here.
    ///
    /// # Errors
    /// In words, if the directory was moved or removed.
    fn check_location(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that are free for new files, where the store can tell.
    fn free_space(&self) -> Option<u64> {
        None
    }

    /// The name in this store of the file at `path`; `None` if it lies elsewhere. A bare name is one of
    /// this store.
    fn name_at(&self, path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        let is_here = parent == Path::new("") || parent == Path::new(&self.describe());
        is_here.then_some(name)
    }

    /// What people call this store: a directory's path, say.
    fn describe(&self) -> String;
}
