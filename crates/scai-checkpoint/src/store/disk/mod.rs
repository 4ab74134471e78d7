//! A disk in memory that knows what may be left of it when the power fails.
//!
//! It records every operation and can then enumerate, for every moment between two operations, the
//! states in which a real file system might come back. The model is weak on purpose, weaker than
//! any one file system, after ALICE (Pillai et al., OSDI 2014):
//!
//! * What was written to a file after its last sync may be there or not, each piece of 4 KiB on
//!   its own: kept, lost, zero-filled, cut at any byte, or replaced by garbage. The length may be
//!   kept without the data.
//! * Changes of names since the last sync of the directory may each be kept or lost, except that
//!   changes of one name keep their order. A rename is atomic in itself. Syncing a file does not
//!   make its name durable.
//! * The names of a child directory and those of its parent are made durable apart: a crash may keep
//!   what was synced in a child and lose the child's own name, with all that is in it; or keep the
//!   child, and lose what is in it. Syncing one says nothing about the other.
//! * A file whose last name was removed may have its blocks reused before the removal is durable:
//!   its name may come back with garbage. (Seen on ext4 with `data=writeback`.)
//!
//! Small sets of states are enumerated in full, large ones are sampled with a fixed seed; the
//! sample always holds the extremes.

mod content;
mod crash;
mod ledger;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

pub use crash::{CrashReport, CrashState};
pub use ledger::Ledger;

use self::content::FileChange;
use self::ledger::Note;
use self::names::NameChange;
use super::{Directory, Draft, Entry, Lock, MemoryDirectory, ReadAt, Synced, WriteAt};
use crate::threads::held;

/// Identifies a file, whatever its names.
type FileId = usize;

/// Identifies a directory.
type DirectoryId = usize;

/// What messages call the disk.
const DESCRIPTION: &str = "simulated disk";

/// The directory that the others are in.
const ROOT: DirectoryId = 0;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(FileId),
    Child(DirectoryId),
}

/// A directory in memory that records what is done to it and in its children. Cloning it gives the same
/// disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    live: MemoryDirectory,
    /// Which directory of the disk this is.
    directory: DirectoryId,
    journal: Arc<Mutex<Journal>>,
}

struct Journal {
    steps: Vec<Step>,
    /// The names in each directory as a running process sees them.
    names: Vec<BTreeMap<String, Node>>,
    files: FileId,
}

impl Default for Journal {
    fn default() -> Self {
        Self { steps: Vec::new(), names: vec![BTreeMap::new()], files: 0 }
    }
}

/// One recorded step. A crash can happen between any two.
#[derive(Debug)]
enum Step {
    Names(DirectoryId, NameChange),
    File(FileId, FileChange),
    SyncFile(FileId),
    SyncNames(DirectoryId),
    Note(Note),
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk without unnamed files: temporary files have names.
    pub fn with_named_drafts() -> Self {
        Self { live: MemoryDirectory::default().with_named_drafts(), ..Self::default() }
    }

    /// Notes that a save of `id` under `name` begins: from now on, `name` may hold it.
    pub fn begin(&self, name: &str, id: u64) {
        self.note(Note::Begin(name.into(), id));
    }

    /// Notes that the save of `id` under `name` was acknowledged: `name` must hold it.
    pub fn acknowledge(&self, name: &str, id: u64) {
        self.note(Note::Acknowledge(name.into(), id));
    }

    /// Notes that `name` is no longer needed: it may be gone, and what it holds means nothing.
    pub fn retire(&self, name: &str) {
        self.note(Note::Retire(name.into()));
    }

    fn note(&self, note: Note) {
        self.journal().steps.push(Step::Note(note));
    }

    /// Opens `name` for writing in place, truncating what it held: no store offers this, but
    /// careless writers do it. Tests use it to see that it is detected.
    ///
    /// # Errors
    /// As [`Directory::create`].
    pub fn overwrite(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        let mut journal = self.journal();
        let inner = self.live.create(len)?;
        self.live.rename(inner.name(), name)?;
        let file = match journal.names[self.directory].get(name) {
            Some(Node::File(file)) => *file,
            _ => journal.create(self.directory, name),
        };
        journal.steps.push(Step::File(file, FileChange::Length(0)));
        journal.steps.push(Step::File(file, FileChange::Length(len)));
        drop(journal);
        Ok(Box::new(DiskDraft { disk: self.clone(), file, inner: Some(inner) }))
    }

    /// As [`Directory::child`].
    ///
    /// # Errors
    /// As [`Directory::child`].
    pub fn enter(&self, name: &str) -> io::Result<Self> {
        let live = self.live.enter(name)?;
        let Some(Node::Child(directory)) = self.journal().names[self.directory].get(name).copied()
        else {
            return Err(io::ErrorKind::NotFound.into());
        };
        Ok(Self { live, directory, journal: Arc::clone(&self.journal) })
    }

    /// The number of steps recorded so far.
    pub fn steps(&self) -> usize {
        self.journal().steps.len()
    }

    /// Creates a temporary file of `len` bytes with `make`, and records the steps.
    fn draft(
        &self,
        len: u64,
        make: impl FnOnce(&MemoryDirectory) -> io::Result<Box<dyn Draft>>,
    ) -> io::Result<Box<dyn Draft>> {
        let mut journal = self.journal();
        let inner = make(&self.live)?;
        let file = match inner.name() {
            "" => journal.unnamed(),
            name => journal.create(self.directory, name),
        };
        if len > 0 {
            journal.steps.push(Step::File(file, FileChange::Length(len)));
        }
        drop(journal);
        Ok(Box::new(DiskDraft { disk: self.clone(), file, inner: Some(inner) }))
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        held(&self.journal)
    }
}

impl Journal {
    fn unnamed(&mut self) -> FileId {
        self.files += 1;
        self.files - 1
    }

    fn create(&mut self, directory: DirectoryId, name: &str) -> FileId {
        let file = self.unnamed();
        self.set(directory, vec![(name.into(), Some(Node::File(file)))], None);
        file
    }

    /// Records one atomic change of the names in a directory.
    fn set(
        &mut self,
        directory: DirectoryId,
        changes: Vec<(String, Option<Node>)>,
        frees: Option<FileId>,
    ) {
        let change = NameChange { changes, frees };
        change.apply(&mut self.names[directory]);
        self.steps.push(Step::Names(directory, change));
    }

    fn remove(&mut self, directory: DirectoryId, name: &str) {
        let names = &self.names[directory];
        let Some(node) = names.get(name).copied() else { return };
        let links = names.values().filter(|other| **other == node).count();
        let frees = match node {
            Node::File(file) if links == 1 => Some(file),
            _ => None,
        };
        self.set(directory, vec![(name.into(), None)], frees);
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").field("files", &self.live).finish_non_exhaustive()
    }
}

impl Directory for SimulatedDisk {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        self.draft(len, |live| live.create(len))
    }

    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        self.draft(len, |live| live.create_for(name, len))
    }

    fn name_draft(&self, draft: &Synced, name: &str) -> io::Result<()> {
        let (file, inner) = draft.alive::<(FileId, Synced)>().ok_or(io::ErrorKind::InvalidInput)?;
        let mut journal = self.journal();
        self.live.name_draft(inner, name)?;
        journal.set(self.directory, vec![(name.into(), Some(Node::File(*file)))], None);
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        self.live.open(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.live.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.rename(from, to)?;
        let names = &journal.names[self.directory];
        let (file, replaced) = (names.get(from).copied(), names.get(to));
        if replaced != file.as_ref() {
            journal.set(self.directory, vec![(from.into(), None), (to.into(), file)], None);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.remove(name)?;
        journal.remove(self.directory, name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.journal().steps.push(Step::SyncNames(self.directory));
        Ok(())
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.link(from, to)?;
        let file = journal.names[self.directory].get(from).copied();
        journal.set(self.directory, vec![(to.into(), file)], None);
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.live.lock()
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        let mut journal = self.journal();
        let swept = self.live.sweep()?;
        for name in &swept {
            journal.remove(self.directory, name);
        }
        Ok(swept)
    }

    fn make_child(&self, name: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.make_child(name)?;
        journal.names.push(BTreeMap::new());
        let child = Node::Child(journal.names.len() - 1);
        journal.set(self.directory, vec![(name.into(), Some(child))], None);
        Ok(())
    }

    fn child(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Ok(Arc::new(self.enter(name)?))
    }

    fn children(&self) -> io::Result<Vec<String>> {
        self.live.children()
    }

    fn remove_child(&self, name: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.remove_child(name)?;
        journal.remove(self.directory, name);
        Ok(())
    }

    fn rename_child(&self, from: &str, to: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.rename_child(from, to)?;
        let child = journal.names[self.directory].get(from).copied();
        journal.set(self.directory, vec![(from.into(), None), (to.into(), child)], None);
        Ok(())
    }

    fn exchange_children(&self, one: &str, other: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.exchange_children(one, other)?;
        if one != other {
            let node = |name| journal.names[self.directory].get(name).copied();
            let changes = vec![(one.into(), node(other)), (other.into(), node(one))];
            journal.set(self.directory, changes, None);
        }
        Ok(())
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        let mut journal = self.journal();
        self.live.sync_file(name)?;
        if let Some(Node::File(file)) = journal.names[self.directory].get(name).copied() {
            journal.steps.push(Step::SyncFile(file));
        }
        Ok(())
    }

    fn hold(&self) -> io::Result<Box<dyn Lock>> {
        self.live.hold()
    }

    fn describe(&self) -> String {
        // A child's path begins with its parent's.
        match Path::new(&self.live.describe()).strip_prefix(MemoryDirectory::new().describe()) {
            Ok(below) if self.directory != ROOT => {
                Path::new(DESCRIPTION).join(below).display().to_string()
            }
            _ => DESCRIPTION.into(),
        }
    }
}

#[derive(Debug)]
struct DiskDraft {
    disk: SimulatedDisk,
    file: FileId,
    /// Taken by a sync; if it is still here when this is dropped, the file is removed.
    inner: Option<Box<dyn Draft>>,
}

impl WriteAt for DiskDraft {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let mut journal = self.disk.journal();
        inner.write_at(offset, bytes)?;
        let change = FileChange::Data { offset, bytes: bytes.into() };
        journal.steps.push(Step::File(self.file, change));
        Ok(())
    }
}

impl Draft for DiskDraft {
    fn name(&self) -> &str {
        self.inner.as_ref().map_or("", |inner| inner.name())
    }

    fn sync(self: Box<Self>) -> io::Result<Synced> {
        self.end(true)
    }

    fn forget_sync(self: Box<Self>) -> io::Result<Synced> {
        self.end(false)
    }
}

impl DiskDraft {
    fn end(mut self, durable: bool) -> io::Result<Synced> {
        let inner = self.inner.take().ok_or(io::ErrorKind::Other)?;
        let mut journal = self.disk.journal();
        let synced = inner.sync()?;
        if durable {
            journal.steps.push(Step::SyncFile(self.file));
        }
        drop(journal);
        if synced.name().is_empty() {
            return Ok(Synced::unnamed((self.file, synced)));
        }
        Ok(synced)
    }
}

impl Drop for DiskDraft {
    fn drop(&mut self) {
        let Some(inner) = &self.inner else { return };
        let mut journal = self.disk.journal();
        // An unnamed file is not among the names.
        let directory = self.disk.directory;
        if journal.names[directory].get(inner.name()) == Some(&Node::File(self.file)) {
            journal.remove(directory, inner.name());
        }
    }
}
