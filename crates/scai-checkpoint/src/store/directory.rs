//! The operations of a POSIX directory: temporary files, names, links, syncs, locks, sweeps, children.
//!
//! A directory never sees a tensor and knows no file format. It offers primitives; only
//! [`commit`](super::commit) decides the order in which they make a save durable. That split lets the
//! same protocol run on a real directory, in memory, on one that fails on purpose, and on a simulated
//! disk that enumerates what may remain after a power loss.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

#[cfg(doc)]
use super::is_draft;
use super::{Entry, ReadAt, WriteAt, check_name};

/// A temporary file that is being written: without a name, or under one that is never taken for a
/// checkpoint.
///
/// It is removed if it is dropped without [`Draft::sync`], or if its sync fails. If its process
/// dies, a file without a name is gone; one with a temporary name is left for [`Directory::sweep`].
pub trait Draft: WriteAt {
    /// The temporary name, unique in its directory; [`is_draft`] recognises it. Empty if it has none.
    fn name(&self) -> &str;

    /// Makes the content durable and closes the file. The name is not durable yet.
    ///
    /// Takes `self` by value, so that a failed sync cannot be tried again: after a failure the
    /// operating system may report success for data it has dropped.
    ///
    /// # Errors
    /// The file must not be used: its content is unknown, whatever a later read returns.
    fn sync(self: Box<Self>) -> io::Result<Synced>;

    /// As [`Draft::sync`], but the content does not become durable, like on a device that ignores syncs.
    ///
    /// # Errors
    /// As [`Draft::sync`].
    #[cfg(feature = "testing")]
    fn forget_sync(self: Box<Self>) -> io::Result<Synced> {
        self.sync()
    }
}

/// A temporary file whose content is durable and that has no final name yet.
///
/// While this exists, [`Directory::sweep`] considers the writer alive: otherwise it could remove
/// the file between its sync and its rename.
pub struct Synced {
    name: String,
    alive: Box<dyn Any + Send + Sync>,
}

impl Synced {
    /// The temporary file called `name`; dropping `alive` leaves it to the next sweep.
    pub fn new(name: impl Into<String>, alive: impl Any + Send + Sync) -> Self {
        Self { name: name.into(), alive: Box::new(alive) }
    }

    /// The temporary file without a name behind `file`, which its directory knows how to name.
    pub fn unnamed(file: impl Any + Send + Sync) -> Self {
        Self::new("", file)
    }

    /// The temporary name; empty if it has none until [`Directory::name_draft`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What keeps the file alive, if it is of this type.
    pub(crate) fn alive<T: Any>(&self) -> Option<&T> {
        self.alive.downcast_ref()
    }
}

impl fmt::Debug for Synced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Synced").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The lock of a directory; released when dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A set of named files and named child directories.
///
/// The operations of a POSIX directory, which the commit protocol is made of. Files and children share
/// one namespace.
///
/// Names are single path components; [`check_name`] refuses others with
/// [`io::ErrorKind::InvalidInput`]. An implementation must pass the contract tests
/// (`testing::check_directory` with the feature `testing`).
pub trait Directory: Send + Sync + fmt::Debug {
    /// Creates a temporary file and reserves `len` bytes for it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], [`io::ErrorKind::QuotaExceeded`] or
    /// [`io::ErrorKind::FileTooLarge`] if the space cannot be reserved; nothing is left behind then.
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>>;

    /// As [`Directory::create`], for a file that will be called `name`: without a name of its own if the
    /// store supports that, and with the permissions of the file it will replace.
    ///
    /// # Errors
    /// As [`Directory::create`]; [`io::ErrorKind::InvalidInput`] if `name` is a directory, a pipe or a
    /// device.
    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        check_name(name)?;
        self.create(len)
    }

    /// Gives a temporary file that has no name the name `name`, which must be free.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if it is taken; [`io::ErrorKind::InvalidInput`] for a file
    /// with a name, and by default.
    fn name_draft(&self, draft: &Synced, name: &str) -> io::Result<()> {
        let _ = (draft, name);
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// Opens the file called `name` for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it does not exist.
    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>>;

    /// All files, in no particular order, including temporary ones; those that a directory keeps
    /// for itself, such as the file behind [`Directory::lock`], are not among them.
    ///
    /// # Errors
    /// Those of the operating system.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Gives the file `from` the name `to` in one step, replacing what had it.
    ///
    /// If both names belong to one file already, nothing happens and **both remain**, as in POSIX.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if `from` does not exist; nothing has changed then.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the name `name`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it does not exist.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable: creations, renames, links and removals so far.
    ///
    /// # Errors
    /// Which of the changes are durable is then unknown.
    fn sync(&self) -> io::Result<()>;

    /// Gives the file `from` the additional name `to`, which must be free.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if `to` is taken, [`io::ErrorKind::NotFound`] if `from`
    /// does not exist, [`io::ErrorKind::Unsupported`] if a file can have only one name, and by default.
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Keeps other writers out until the lock is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another writer has the lock, with that writer's name as its
    /// message if it is known; [`io::ErrorKind::Unsupported`] if the directory has no locks.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;

    /// Removes temporary files whose writer is gone, never one whose writer is alive; returns their names.
    ///
    /// A temporary name that [`Directory::link`] made has no writer, so call this while holding the
    /// [`Directory::lock`]. A file that may have been created just now is left for a later sweep.
    ///
    /// # Errors
    /// Those of the operating system.
    fn sweep(&self) -> io::Result<Vec<String>>;

    /// As [`Directory::sweep`], for callers that do not hold the [`Directory::lock`]: does nothing while a
    /// writer holds it. Does nothing by default.
    ///
    /// # Errors
    /// Those of the operating system.
    fn sweep_unless_locked(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Checks that what [`Directory::describe`] says still leads here.
    ///
    /// # Errors
    /// If the directory was moved or removed, in words.
    fn check_location(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that are free for new files, if the directory can tell.
    fn free_space(&self) -> Option<u64> {
        None
    }

    /// Creates an empty child directory. Its name is durable after [`Directory::sync`] of this
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
    /// name; nothing can be created in it once it was removed.
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
    /// Those of the operating system.
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

    /// Exchanges the names of two children, in one step and with all that is in them.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if one does not exist, [`io::ErrorKind::NotADirectory`] if one is a
    /// file; nothing has changed then. [`io::ErrorKind::Unsupported`] if that takes more than one step, and
    /// by default.
    fn exchange_children(&self, one: &str, other: &str) -> io::Result<()> {
        let _ = (one, other);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes the content of the file `name` durable, which somebody else has written. Its name is
    /// durable after [`Directory::sync`].
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it does not exist; [`io::ErrorKind::Unsupported`] as for
    /// [`Directory::make_child`]. After any other error its content is unknown.
    fn sync_file(&self, name: &str) -> io::Result<()> {
        let _ = name;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Shows to [`Directory::hold`] of others that somebody works in this directory, until the lock is
    /// dropped or its process ends. Leaves no file, unlike [`Directory::lock`], of which it knows nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if somebody else does; [`io::ErrorKind::Unsupported`] if the
    /// directory cannot show that, and by default.
    fn hold(&self) -> io::Result<Box<dyn Lock>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What messages call this directory, such as its path.
    fn describe(&self) -> String;

    /// The names of what is not a file that can be opened: dangling symbolic links, directories, pipes.
    /// None if not overridden.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn unopenable(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Whether it is the directory at `path`. Compares the text if not overridden.
    fn is_at(&self, path: &Path) -> bool {
        path == Path::new(&self.describe())
    }
}
