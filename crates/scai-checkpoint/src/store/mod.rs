//! Where checkpoints are stored: named, immutable entries under a prefix, each published in one step.
//!
//! A store never sees a tensor and knows no file format. There are two layers:
//!
//! * [`Store`] is what a manager sees. An object store can be one.
//! * [`Directory`] has the operations of a POSIX directory, and `commit` the order of its operations
//!   that makes a save durable. [`DirectoryStore`] makes a store of the two.
//!
//! ```text
//! Store                 publish, open, list, remove, lease
//! DirectoryStore        a Store on any Directory
//! commit                the only code that names, renames or removes a file
//! Directory             temporary files, names, links, syncs, locks, sweeps, children
//! local, memory         directories; for tests: disk (simulated), fault
//! ```
//!
//! # What makes a save durable in a directory
//!
//! ```text
//! create a temporary file, reserve space    no room: nothing has happened
//! write every byte that was planned
//! sync the file, once                       failed: the file is discarded, nothing has happened
//! ask for approval                          refused: nothing has happened
//! give it its final name                    the old file is replaced in one step
//! sync the names                            failed: new or old after a power loss: an error
//! ```
//!
//! Only then does [`Store::publish`] return.
//!
//! # Your own store
//!
//! Implement the six required methods of [`Store`], run `testing::check_store` (feature `testing`) on
//! it in a test, and give it to [`CheckpointManager::with_store`](crate::CheckpointManager::with_store).
//! `tests/it/own_store.rs` of this crate is an example of a hundred lines. `check_store` cannot test
//! durability: that [`Store::publish`] returns only when the entry survives a power loss is the
//! implementor's promise.
//!
//! Besides `checkpoint_iter_{N}.pt` a manager keeps `latest.pt`, `superseded.json`, empty marks
//! `….pt.pinned`, and what it replaced unread or found damaged: `….pt.earlier`, `….pt.damaged` and the
//! reason in `….pt.damaged.txt`. A save opens about ten entries and lists two or three times; with
//! retention rules it also reads back all checkpoints that are kept instead of those it deletes.

#[cfg(feature = "cloud")]
mod cloud;
pub(crate) mod commit;
#[cfg(feature = "testing")]
pub(crate) mod contract;
mod directory;
#[cfg(feature = "testing")]
pub(crate) mod disk;
#[cfg(feature = "testing")]
pub(crate) mod fault;
mod local;
mod location;
mod memory;
mod name;
mod on_directory;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

pub use crate::timeline::Timeline;
#[cfg(feature = "cloud")]
pub use cloud::{CloudStore, Remote};
pub use directory::{Directory, Draft, Lock, Synced};
pub use local::{Links, LocalDirectory};
pub use location::{IntoLocation, Location, is_url};
pub use memory::MemoryDirectory;
pub use name::{COMMIT, METADATA, attempt, attempt_in, check_name, draft_name, is_draft};
pub(crate) use name::{free_name, replaced, replaced_name};
pub use on_directory::{DirectoryStore, LocalStore, MemoryStore};

/// Bytes that can be read at any offset, by several threads at once.
///
/// An open file stays the same file while it is held, whatever happens to its name.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// The length in bytes when the file was opened.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before `buf` is full.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes later reads come from the device, not from memory, if possible.
    fn forget_cached(&self) {}

    /// The open file itself, to map it into memory; `None` if it is not a file of the operating system.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Opens the file called `name` in the same directory, for a checkpoint that consists of
    /// several files.
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

    /// Identifies this file with the content it had when it was opened; `None` if the store cannot.
    fn stamp(&self) -> Option<Stamp> {
        None
    }
}

/// Identifies a file and its content without reading it. Two names with equal stamps are one file,
/// and nothing was written to it in between, as far as the store notices: a device that loses bits
/// does not change a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp(pub(crate) [u64; 4]);

impl Stamp {
    /// The stamp of these numbers, which no other content and no other file of the store has.
    pub fn new(numbers: [u64; 4]) -> Self {
        Self(numbers)
    }
}

/// A file that several threads can write at any offset at once.
///
/// All that a codec sees of a file it writes: no name, no way to make it durable.
pub trait WriteAt: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] beyond the length that was planned; otherwise those of the
    /// operating system. The file must then be discarded.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The best alignment of bytes in memory: those whose address and offset agree modulo this
    /// number, a power of two, reach the device without a copy. 1 if it makes no difference.
    fn alignment(&self) -> usize {
        1
    }
}

/// How the bytes of a file on a local disk reach the device.
///
/// It makes a difference in speed only. If the file system or the operating system has no direct
/// I/O, the page cache is used.
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

/// An entry of a store, or a file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name there; never a path.
    pub name: String,
    /// Its length in bytes; of a group, that of the file that is opened by its name.
    pub len: u64,
    /// One file, or several.
    pub kind: EntryKind,
}

/// Whether an entry is one file or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// Several files below one name, such as a directory of shards. What is opened by the name is the one
    /// that tells of the others, which are [`ReadAt::beside`] it: `commit.json`, or else the
    /// `.metadata` of `torch.distributed.checkpoint`.
    Group,
}

/// The files of which one tells of the others of a group; the first that is there.
pub(crate) const HEADS: [&str; 2] = [COMMIT, METADATA];

impl Entry {
    /// A file.
    pub fn file(name: impl Into<String>, len: u64) -> Self {
        Self { name: name.into(), len, kind: EntryKind::File }
    }

    /// A group.
    pub fn group(name: impl Into<String>, len: u64) -> Self {
        Self { name: name.into(), len, kind: EntryKind::Group }
    }
}

/// What is to be published: a name, a length, and what writes that many bytes.
///
/// Everything is planned beforehand: a store reserves the space, or divides the bytes into parts,
/// before the first one is written.
#[non_exhaustive]
pub struct Publication<'a> {
    /// The name of the entry.
    pub name: &'a str,
    /// Bytes of the entry.
    pub len: u64,
    /// What the name must hold until then.
    pub precondition: Precondition,
    /// Writes each byte exactly once, in any order and from several threads; none beyond `len`.
    pub write: WriteEntry<'a>,
    /// Called after every byte was written and before the name is given.
    pub approve: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// Writes the bytes of an entry.
pub type WriteEntry<'a> = Box<dyn FnOnce(&dyn WriteAt) -> Result<()> + 'a>;

/// What a name must hold for an entry to be published under it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precondition {
    /// Anything or nothing: what is there is replaced.
    #[default]
    Any,
    /// Nothing.
    Absent,
}

impl<'a> Publication<'a> {
    /// An entry of `len` bytes that `write` writes. It replaces what has the name.
    pub fn new(
        name: &'a str,
        len: u64,
        write: impl FnOnce(&dyn WriteAt) -> Result<()> + 'a,
    ) -> Self {
        let approve = Box::new(|| Ok(()));
        Self { name, len, precondition: Precondition::Any, write: Box::new(write), approve }
    }

    /// An entry of these bytes.
    pub fn of_bytes(name: &'a str, bytes: &'a [u8]) -> Self {
        Self::new(name, bytes.len() as u64, |to| {
            to.write_at(0, bytes).map_err(|error| Error::io("write", error))
        })
    }

    /// Publishes the entry only if `approve` returns `Ok`. It is called after every byte was
    /// written and before the entry exists.
    #[must_use]
    pub fn approved_by(self, approve: impl FnOnce() -> Result<()> + 'a) -> Self {
        Self { approve: Box::new(approve), ..self }
    }

    /// Publishes the entry only if the name is free.
    #[must_use]
    pub fn if_absent(self) -> Self {
        Self { precondition: Precondition::Absent, ..self }
    }
}

impl fmt::Debug for Publication<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, len, precondition, .. } = self;
        f.debug_struct("Publication")
            .field("name", name)
            .field("len", len)
            .field("precondition", precondition)
            .finish_non_exhaustive()
    }
}

/// The lease to write to a store; released when dropped.
pub trait Lease: Send + Sync + fmt::Debug {}

/// Named, immutable entries under a prefix: what a manager sees of a directory or of an object store.
///
/// An implementor guarantees:
///
/// * An entry appears whole and in one step, when it is published, or not at all. What has the name
///   until then is there until that step, and is replaced by it.
/// * [`Store::publish`] and [`Store::remove`] return once their effect survives a crash and a power
///   loss, or with an error.
/// * What was published is what is listed and opened from then on, by anybody.
/// * An open entry stays the same one, whatever happens to its name, for as long as the store
///   promises to readers; a read that cannot be served is an error, never other bytes.
///
/// Names are single path components; [`check_name`] refuses others. An implementation must pass the
/// contract tests (`testing::check_store` with the feature `testing`).
pub trait Store: Send + Sync + fmt::Debug {
    /// Publishes an entry. Once this returns, it is there and durable. Returns the time that
    /// writing, syncing and naming took.
    ///
    /// # Errors
    /// The store is as it was before: [`Error::DiskFull`] if there is no room; [`Error::Io`] of the
    /// kind [`io::ErrorKind::AlreadyExists`] if the name must be free and is not; [`Error::Io`] if
    /// something else fails; [`Error::Invalid`] if other than the planned bytes were written; what
    /// `write` or `approve` return.
    ///
    /// [`Error::NotDurable`] if the entry is there but may not survive a power loss, which leaves it
    /// or what it replaced, complete in either case.
    fn publish(&self, entry: Publication<'_>) -> Result<Timeline>;

    /// Opens the entry called `name` for reading at any offset.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Io`].
    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>>;

    /// The entries whose names begin with `prefix`, in no particular order. What is not published yet
    /// is not among them, nor is what the store keeps for itself.
    ///
    /// # Errors
    /// [`Error::Io`], also if the store was moved or removed.
    fn list(&self, prefix: &str) -> Result<Vec<Entry>>;

    /// Removes entries, in the order given, and returns when that is durable. A group goes as a whole. A
    /// name that has no entry is not an error.
    ///
    /// # Errors
    /// [`Error::Io`] if one cannot be removed: those before it are gone, those after it are untouched.
    fn remove(&self, names: &[&str]) -> Result<()>;

    /// Takes the lease to write, which keeps other writers out until it is dropped. What dead writers
    /// have left unpublished is swept. Only writers take it, at their first write.
    ///
    /// # Errors
    /// [`Error::Locked`] if another writer has it, naming that one if it is known; [`Error::Io`].
    fn lease(&self) -> Result<Box<dyn Lease>>;

    /// Whether taking the lease takes it away from another writer, as where nothing tells whether that one is
    /// still alive. A resume takes none then. `false` if not overridden.
    fn lease_takes_over(&self) -> bool {
        false
    }

    /// What messages call this store, such as a directory's path.
    fn describe(&self) -> String;

    /// Checks that what [`Store::describe`] says still leads here; called before each write. Always
    /// `Ok` if not overridden.
    ///
    /// # Errors
    /// If the store was moved or removed, in words.
    fn check_location(&self) -> Result<()> {
        Ok(())
    }

    /// Makes `alias` another name of the entry `target`, replacing what has that name; durable when
    /// this returns. If not overridden, the bytes are copied.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no `target`, otherwise as [`Store::publish`]. `alias` is then
    /// unchanged.
    fn point(&self, alias: &str, target: &str) -> Result<()> {
        let from = self.open(target)?;
        let path = Path::new(&self.describe()).join(target);
        self.publish(Publication::new(alias, from.len(), |to| copy(&*from, &path, to))).map(drop)
    }

    /// Renames the damaged entry `name` so that it is kept and is not a checkpoint any more, writes
    /// `reason` beside it, and returns the new name. If not overridden, it keeps its name, which is an
    /// error of the kind [`io::ErrorKind::Unsupported`].
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Io`] if it cannot be renamed: it keeps its name. As
    /// [`Store::publish`] if the reason cannot be written: it was set aside nevertheless.
    fn set_aside(&self, name: &str, reason: &str) -> Result<String> {
        let _ = reason;
        let path = Path::new(&self.describe()).join(name);
        Err(Error::io("set aside", io::ErrorKind::Unsupported.into()).at_path(path))
    }

    /// Sweeps as [`Store::lease`] does, for a reader: does nothing while a writer has the lease.
    /// Does nothing if not overridden.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn sweep_unless_leased(&self) -> Result<()> {
        Ok(())
    }

    /// The directory of the group `name`, in which shards are written; made if it does not exist, and its
    /// name is durable then. Not possible if not overridden.
    ///
    /// # Errors
    /// [`Error::Io`] of the kind [`io::ErrorKind::Unsupported`] if the store has no groups.
    fn group(&self, name: &str) -> Result<Arc<dyn Directory>> {
        let path = Path::new(&self.describe()).join(name);
        Err(Error::io("make a directory", io::ErrorKind::Unsupported.into()).at_path(path))
    }

    /// Gives the group `name` the name `base`, or a free one that begins so, and returns that. Not possible
    /// if not overridden.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Io`]: it keeps its name.
    fn rename_group(&self, name: &str, base: &str) -> Result<String> {
        let _ = base;
        let path = Path::new(&self.describe()).join(name);
        Err(Error::io("rename", io::ErrorKind::Unsupported.into()).at_path(path))
    }

    /// The names that [`Store::list`] leaves out since what they hold cannot be opened: in a directory,
    /// dangling symbolic links, directories that are no groups, pipes. None if not overridden.
    ///
    /// # Errors
    /// As [`Store::list`].
    fn unopenable(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The name in this store of the file at `path`; `None` if it is elsewhere. A bare name is one of
    /// this store.
    fn name_at(&self, path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        let is_here = parent == Path::new("") || parent == Path::new(&self.describe());
        is_here.then_some(name)
    }
}

/// The object store that a location is in; `None` if it is in the local file system.
///
/// # Errors
/// As [`CloudStore::connect`].
pub(crate) fn remote(location: &Location) -> Result<Option<Arc<dyn Store>>> {
    #[cfg(feature = "cloud")]
    if location.as_url().is_some() {
        return Ok(Some(Arc::new(CloudStore::connect(location)?)));
    }
    let _ = location;
    Ok(None)
}

/// Opens the file at `location`, if that is in an object store.
///
/// # Errors
/// As [`CloudStore::connect`] and [`Store::open`].
pub(crate) fn open_remote(location: &Location) -> Result<Option<Arc<dyn ReadAt>>> {
    if location.as_path().is_some() {
        return Ok(None);
    }
    let split = location.clone().split();
    let (directory, name) = split.map_err(|error| Error::io("open", error))?;
    match remote(&directory)? {
        Some(store) => store.open(&name).map(Some),
        None => Ok(None),
    }
}

/// What a copy holds in memory at a time.
const COPY_PIECE: u64 = 1 << 20;

/// Copies every byte of the file at `path`.
fn copy(from: &dyn ReadAt, path: &Path, to: &dyn WriteAt) -> Result<()> {
    let mut piece = vec![0; from.len().min(COPY_PIECE) as usize];
    let mut at = 0;
    while at < from.len() {
        let piece = &mut piece[..(from.len() - at).min(COPY_PIECE) as usize];
        from.read_at(at, piece).map_err(|error| Error::io("read", error).at_path(path))?;
        to.write_at(at, piece).map_err(|error| Error::io("write", error))?;
        at += piece.len() as u64;
    }
    Ok(())
}
