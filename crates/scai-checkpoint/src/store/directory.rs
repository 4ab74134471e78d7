//! The vocabulary of a POSIX directory: drafts, names, links, syncs, locks, sweeps, children.
//!
//! A directory never sees a tensor and knows no file format. It offers primitives; the order in which
//! they make a save durable is the business of [`commit`](super::commit) alone. That split lets the
//! same protocol run on a real directory, in memory, on one that fails on purpose, and on a simulated
//! disk that enumerates what may remain after a power loss.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

#[cfg(doc)]
use super::is_draft;
use super::{Entry, ReadAt, WriteAt, check_name};

/// A file being written without a name, or under a temporary one, which nobody takes for a checkpoint.
///
/// A draft that is dropped without [`Draft::sync`], or whose sync fails, is removed. One that has no
/// name is gone with its process; one with a temporary name is left for [`Directory::sweep`].
pub trait Draft: WriteAt {
    /// The temporary name, unique in its directory; [`is_draft`] knows it. Empty if it has none.
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
/// While this lives, so does the draft's writer in the eyes of [`Directory::sweep`]: otherwise a
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

    /// The draft without a name behind `file`, of which its directory knows how to name it.
    pub fn unnamed(file: impl Any + Send + Sync) -> Self {
        Self::new("", file)
    }

    /// The temporary name; empty if it has none, and [`Directory::name_draft`] is to give it one.
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

/// Holds the right to write to a directory; gives it back when dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A set of named files, and of named child directories that are such sets themselves.
///
/// The operations of a POSIX directory, which the commit protocol is made of. Files and children share
/// their names.
///
/// Names are single path components; [`check_name`] refuses others with
/// [`io::ErrorKind::InvalidInput`]. An implementation must pass the contract tests
/// (`testing::check_directory` with the feature `testing`).
pub trait Directory: Send + Sync + fmt::Debug {
    /// Creates a draft and reserves `len` bytes for it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], [`io::ErrorKind::QuotaExceeded`] or
    /// [`io::ErrorKind::FileTooLarge`] where the space cannot be had; nothing is left behind then.
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>>;

    /// As [`Directory::create`], for a file that is to be called `name`: without a name of its own where
    /// the store can, and with the permissions of the file that it is to replace.
    ///
    /// # Errors
    /// As [`Directory::create`]; [`io::ErrorKind::InvalidInput`] if `name` cannot be replaced by a file,
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

    /// All files, in no particular order, drafts included; what a directory keeps for itself, such
    /// as the file behind [`Directory::lock`], is not among them.
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
    /// as its message where it is known; [`io::ErrorKind::Unsupported`] if the directory has no
    /// locks.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;

    /// Removes drafts whose writer is gone, never one whose writer lives; returns their names.
    ///
    /// A temporary name that [`Directory::link`] made has no writer, so this belongs under the
    /// [`Directory::lock`]. A draft that may have been made this very moment is left for a later sweep.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sweep(&self) -> io::Result<Vec<String>>;

    /// As [`Directory::sweep`], for whoever does not hold the [`Directory::lock`]: does nothing while another
    /// writer does. Nothing by default.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sweep_unless_locked(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Whether what [`Directory::describe`] says still leads here.
    ///
    /// # Errors
    /// In words, if the directory was moved or removed.
    fn check_location(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that are free for new files, if the directory can tell.
    fn free_space(&self) -> Option<u64> {
        None
    }

    /// Makes an empty child directory. Its name is durable after [`Directory::sync`] of this
    /// directory; what is in it, after that of the child. Neither follows from the other.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if a file or a child has the name;
    /// [`io::ErrorKind::Unsupported`] if the directory has no children, and by default.
    fn make_child(&self, name: &str) -> io::Result<()> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Enters a child directory. It stays the same one while it is held, whatever happens to its
    /// name; nothing new can be made in it once it was removed.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such child, [`io::ErrorKind::NotADirectory`] if it
    /// is a file; [`io::ErrorKind::Unsupported`] as for [`Directory::make_child`].
    fn child(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The names of all children, in no particular order. [`Directory::list`] has the files.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn children(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Removes an empty child.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none, [`io::ErrorKind::NotADirectory`] if it is a
    /// file, [`io::ErrorKind::DirectoryNotEmpty`] if anything is in it; nothing has changed then.
    /// [`io::ErrorKind::Unsupported`] as for [`Directory::make_child`].
    fn remove_child(&self, name: &str) -> io::Result<()> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the child `from` the name `to`, which must be free, in one step and with all that is in
    /// it.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no `from`, [`io::ErrorKind::NotADirectory`] if it is a
    /// file, [`io::ErrorKind::AlreadyExists`] if a file or a child is called `to`; nothing has changed
    /// then. [`io::ErrorKind::Unsupported`] as for [`Directory::make_child`].
    fn rename_child(&self, from: &str, to: &str) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What people call this directory: its path, say.
    fn describe(&self) -> String;
}
