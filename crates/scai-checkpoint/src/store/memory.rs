//! Files in memory, for tests and for callers that do not want a disk.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use super::{
    Directory, Draft, Entry, Lock, ReadAt, Stamp, Synced, WriteAt, check_name, draft_name, is_draft,
};
use crate::threads::held;

/// What messages call such a directory.
const DESCRIPTION: &str = "memory";

/// A directory in memory. Cloning it is cheap and gives the same directory.
///
/// Durable for as long as the process lives. Everything else keeps the contract of [`Directory`]:
/// open files outlive their names, temporary files outlive their writers until they are swept.
#[derive(Clone)]
pub struct MemoryDirectory {
    files: Arc<Mutex<Files>>,
    /// What people call it.
    path: Arc<Path>,
    /// Whether temporary files have names, as on a file system without unnamed files.
    #[cfg(feature = "testing")]
    names_drafts: bool,
}

#[derive(Default)]
struct Files {
    named: BTreeMap<String, Arc<Inode>>,
    children: BTreeMap<String, MemoryDirectory>,
    /// It is a child that was removed: nothing can be created in it any more.
    removed: bool,
    /// Writers of temporary files by name; an entry that cannot be upgraded has lost its writer.
    writers: HashMap<String, Weak<Alive>>,
    lock: Weak<Alive>,
    held: Weak<Alive>,
}

/// Takes a lock, unless somebody has it.
fn take(lock: &mut Weak<Alive>) -> io::Result<Box<dyn Lock>> {
    if lock.strong_count() > 0 {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "this process"));
    }
    let alive = Arc::new(Alive);
    *lock = Arc::downgrade(&alive);
    Ok(Box::new(MemoryLock { _alive: alive }))
}

/// What exists while a writer or the holder of a lock does.
#[derive(Debug)]
struct Alive;

/// The bytes behind one or more names. Only a draft changes them.
pub(crate) struct Inode {
    number: u64,
    content: RwLock<Vec<u8>>,
}

impl Inode {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { number, content: RwLock::new(bytes) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.read().len())
    }
}

impl MemoryDirectory {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same directory, whose temporary files have names.
    #[cfg(feature = "testing")]
    #[must_use]
    pub(crate) fn with_named_drafts(self) -> Self {
        Self { names_drafts: true, ..self }
    }

    #[cfg(feature = "testing")]
    fn names_drafts(&self) -> bool {
        self.names_drafts
    }

    #[cfg(not(feature = "testing"))]
    fn names_drafts(&self) -> bool {
        false
    }

    /// A directory of these files and children; no temporary file among them has a live writer.
    #[cfg(feature = "testing")]
    pub(crate) fn of(
        path: &Path,
        named: BTreeMap<String, Arc<Inode>>,
        children: BTreeMap<String, Self>,
    ) -> Self {
        let files = Files { named, children, ..Files::default() };
        Self { files: Arc::new(Mutex::new(files)), path: path.into(), ..Self::default() }
    }

    /// Stores a file directly, replacing what had the name.
    #[cfg(feature = "testing")]
    pub fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.files().named.insert(name.into(), Arc::new(Inode::new(bytes.into())));
    }

    /// The content of a file, if there is one.
    #[cfg(feature = "testing")]
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.files().named.get(name).map(|inode| inode.read().clone())
    }

    /// Enters a child.
    pub(crate) fn enter(&self, name: &str) -> io::Result<Self> {
        check_name(name)?;
        let files = self.files();
        let child = files.children.get(name).cloned();
        child.ok_or_else(|| files.no_child(name).into())
    }

    // Nothing here panics while it holds the lock, so a poisoned one is still consistent.
    fn files(&self) -> MutexGuard<'_, Files> {
        held(&self.files)
    }
}

impl Default for MemoryDirectory {
    fn default() -> Self {
        Self {
            files: Arc::default(),
            path: Path::new(DESCRIPTION).into(),
            #[cfg(feature = "testing")]
            names_drafts: false,
        }
    }
}

impl fmt::Debug for MemoryDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files();
        f.debug_map().entries(&files.named).entries(&files.children).finish()
    }
}

impl Files {
    fn get(&self, name: &str) -> io::Result<Arc<Inode>> {
        self.named.get(name).cloned().ok_or_else(|| self.no_file(name).into())
    }

    /// Why there is no file called `name`.
    fn no_file(&self, name: &str) -> io::ErrorKind {
        match self.children.contains_key(name) {
            true => io::ErrorKind::IsADirectory,
            false => io::ErrorKind::NotFound,
        }
    }

    /// Why there is no child called `name`.
    fn no_child(&self, name: &str) -> io::ErrorKind {
        match self.named.contains_key(name) {
            true => io::ErrorKind::NotADirectory,
            false => io::ErrorKind::NotFound,
        }
    }

    /// Whether something can be made here under a name that is free.
    fn check_free(&self, name: &str) -> io::Result<()> {
        if self.named.contains_key(name) || self.children.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.check_there()
    }

    fn check_there(&self) -> io::Result<()> {
        if self.removed { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }
}

impl Directory for MemoryDirectory {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        let bytes = zeros(len)?;
        let name = draft_name();
        let (inode, alive) = (Arc::new(Inode::new(bytes)), Arc::new(Alive));
        let mut files = self.files();
        files.check_there()?;
        files.named.insert(name.clone(), Arc::clone(&inode));
        files.writers.insert(name.clone(), Arc::downgrade(&alive));
        drop(files);
        let unsynced = Unsynced { directory: self.clone(), name };
        Ok(Box::new(MemoryDraft { inode, alive, unsynced }))
    }

    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        check_name(name)?;
        if self.files().children.contains_key(name) {
            let message = format!("`{name}` is a directory, and cannot be replaced by a file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if self.names_drafts() {
            return self.create(len);
        }
        self.files().check_there()?;
        let (inode, alive) = (Arc::new(Inode::new(zeros(len)?)), Arc::new(Alive));
        let unsynced = Unsynced { directory: self.clone(), name: String::new() };
        Ok(Box::new(MemoryDraft { inode, alive, unsynced }))
    }

    fn name_draft(&self, draft: &Synced, name: &str) -> io::Result<()> {
        check_name(name)?;
        let (inode, alive) =
            draft.alive::<(Arc<Inode>, Arc<Alive>)>().ok_or(io::ErrorKind::InvalidInput)?;
        let mut files = self.files();
        files.check_free(name)?;
        files.named.insert(name.into(), Arc::clone(inode));
        if is_draft(name) {
            files.writers.insert(name.into(), Arc::downgrade(alive));
        }
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        check_name(name)?;
        let inode = self.files().get(name)?;
        let len = inode.read().len() as u64;
        Ok(Arc::new(MemoryFile { inode, len, path: self.path.join(name) }))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let entry =
            |(name, inode): (&String, &Arc<Inode>)| Entry::file(name, inode.read().len() as u64);
        Ok(self.files().named.iter().map(entry).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut files = self.files();
        let inode = files.get(from)?;
        if files.named.get(to).is_some_and(|there| Arc::ptr_eq(there, &inode)) {
            return Ok(());
        }
        if files.children.contains_key(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        files.named.remove(from);
        files.writers.remove(from);
        files.named.insert(to.into(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut files = self.files();
        files.writers.remove(name);
        let removed = files.named.remove(name);
        removed.map(drop).ok_or_else(|| files.no_file(name).into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut files = self.files();
        let inode = files.get(from)?;
        files.check_free(to)?;
        files.named.insert(to.into(), inode);
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        take(&mut self.files().lock)
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        let mut files = self.files();
        files.writers.retain(|_, writer| writer.strong_count() > 0);
        let Files { named, writers, .. } = &mut *files;
        let dead: Vec<String> = named
            .keys()
            .filter(|name| is_draft(name) && !writers.contains_key(*name))
            .cloned()
            .collect();
        for name in &dead {
            named.remove(name);
        }
        Ok(dead)
    }

    fn make_child(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut files = self.files();
        files.check_free(name)?;
        let mut child = self.clone();
        child.files = Arc::default();
        child.path = self.path.join(name).into();
        files.children.insert(name.into(), child);
        Ok(())
    }

    fn child(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        Ok(Arc::new(self.enter(name)?))
    }

    fn children(&self) -> io::Result<Vec<String>> {
        Ok(self.files().children.keys().cloned().collect())
    }

    fn remove_child(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut files = self.files();
        let child = files.children.get(name).ok_or_else(|| files.no_child(name))?;
        let mut inside = child.files();
        if !inside.named.is_empty() || !inside.children.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        inside.removed = true;
        drop(inside);
        files.children.remove(name);
        Ok(())
    }

    fn rename_child(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut files = self.files();
        if !files.children.contains_key(from) {
            return Err(files.no_child(from).into());
        }
        files.check_free(to)?;
        if let Some(child) = files.children.remove(from) {
            files.children.insert(to.into(), child);
        }
        Ok(())
    }

    fn exchange_children(&self, one: &str, other: &str) -> io::Result<()> {
        check_name(one)?;
        check_name(other)?;
        let mut files = self.files();
        let child = |name| files.children.get(name).cloned().ok_or_else(|| files.no_child(name));
        let (first, second) = (child(one)?, child(other)?);
        files.children.insert(other.into(), first);
        files.children.insert(one.into(), second);
        Ok(())
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.files().get(name).map(drop)
    }

    fn hold(&self) -> io::Result<Box<dyn Lock>> {
        take(&mut self.files().held)
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// `len` zeros, or an error if there is not enough memory.
fn zeros(len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reserved = usize::try_from(len).ok().map(|len| bytes.try_reserve_exact(len).map(|()| len));
    let Some(Ok(len)) = reserved else {
        return Err(io::ErrorKind::StorageFull.into());
    };
    bytes.resize(len, 0);
    Ok(bytes)
}

#[derive(Debug)]
struct MemoryDraft {
    inode: Arc<Inode>,
    alive: Arc<Alive>,
    unsynced: Unsynced,
}

/// Removes the temporary file when it is dropped.
#[derive(Debug)]
struct Unsynced {
    directory: MemoryDirectory,
    name: String,
}

impl Unsynced {
    fn keep(mut self) -> String {
        std::mem::take(&mut self.name)
    }
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.directory.files().named.remove(&self.name);
        }
    }
}

impl WriteAt for MemoryDraft {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(bytes.len())?))
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let mut content = self.inode.write();
        if let Some(more) = range.end.checked_sub(content.len()) {
            content.try_reserve(more).map_err(|_| io::ErrorKind::StorageFull)?;
            content.resize(range.end, 0);
        }
        content[range].copy_from_slice(bytes);
        Ok(())
    }
}

impl Draft for MemoryDraft {
    fn name(&self) -> &str {
        &self.unsynced.name
    }

    fn sync(self: Box<Self>) -> io::Result<Synced> {
        let Self { inode, alive, unsynced } = *self;
        let name = unsynced.keep();
        if name.is_empty() {
            return Ok(Synced::unnamed((inode, alive)));
        }
        Ok(Synced::new(name, alive))
    }
}

#[derive(Debug)]
struct MemoryFile {
    path: PathBuf,
    inode: Arc<Inode>,
    len: u64,
}

impl ReadAt for MemoryFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let content = self.inode.read();
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| content.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(Stamp([self.inode.number, self.len, 0, 0]))
    }
}

#[derive(Debug)]
struct MemoryLock {
    _alive: Arc<Alive>,
}

impl Lock for MemoryLock {}
