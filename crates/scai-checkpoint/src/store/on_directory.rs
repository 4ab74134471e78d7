//! A store on a directory: the commit protocol behind the trait [`Store`].

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::{
    Directory, Entry, IntoLocation, Io, Lease, LocalDirectory, Lock, MemoryDirectory, Publication,
    ReadAt, Store, commit, is_draft,
};
use crate::error::{Error, Result};
use crate::timeline::Timeline;

/// A store whose entries are the files of a directory. Cloning it gives the same store.
///
/// An entry is published by `commit`. If the directory has links, [`Store::point`] makes one, and a
/// damaged entry is set aside by a rename. The lease is the directory's lock; if there are no locks
/// (some network file systems), every writer gets it, and each entry still appears in one step.
pub struct DirectoryStore<D>(Arc<D>);

/// A store in a directory of the local file system.
pub type LocalStore = DirectoryStore<LocalDirectory>;

/// A store in memory, durable for as long as the process lives.
pub type MemoryStore = DirectoryStore<MemoryDirectory>;

impl<D: Directory> DirectoryStore<D> {
    /// The store whose entries are the files of `directory`.
    pub fn on(directory: D) -> Self {
        Self(Arc::new(directory))
    }

    /// The directory.
    pub fn directory(&self) -> &D {
        &self.0
    }
}

impl LocalStore {
    /// The directory at `location`, which must exist.
    ///
    /// # Errors
    /// As [`LocalDirectory::open`].
    pub fn open(location: impl IntoLocation) -> std::io::Result<Self> {
        LocalDirectory::open(location).map(Self::on)
    }

    /// The directory at `location`, created together with its parents if they do not exist.
    ///
    /// # Errors
    /// As [`LocalDirectory::create`].
    pub fn create(location: impl IntoLocation) -> std::io::Result<Self> {
        LocalDirectory::create(location).map(Self::on)
    }

    /// The same store, whose files are written as `io` says.
    #[must_use]
    pub fn with_io(self, io: Io) -> Self {
        Self::on(LocalDirectory::clone(&self.0).with_io(io))
    }

    /// The directory, as an absolute path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<D: Directory + Default> Default for DirectoryStore<D> {
    fn default() -> Self {
        Self::on(D::default())
    }
}

impl<D> Clone for DirectoryStore<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: fmt::Debug> fmt::Debug for DirectoryStore<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirectoryStore").field(&self.0).finish()
    }
}

impl<D: Directory> Store for DirectoryStore<D> {
    fn publish(&self, entry: Publication<'_>) -> Result<Timeline> {
        commit::publish_entry(&*self.0, entry)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        commit::open(&*self.0, name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let entries = self.0.check_location().and_then(|()| self.0.list());
        let mut entries =
            entries.map_err(|error| commit::directory_failed(&*self.0, "list", error))?;
        entries.retain(|entry| entry.name.starts_with(prefix) && !is_draft(&entry.name));
        Ok(entries)
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        commit::remove_durably(&*self.0, names)
    }

    fn lease(&self) -> Result<Box<dyn Lease>> {
        let lock = match commit::lock(&*self.0) {
            Ok(lock) => Some(lock),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::Unsupported => None,
            Err(error) => return Err(error),
        };
        self.0
            .sweep()
            .map_err(|error| commit::directory_failed(&*self.0, "sweep the directory", error))?;
        Ok(Box::new(DirectoryLease { _lock: lock }))
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn unopenable(&self) -> Result<Vec<String>> {
        let names = self.0.unopenable();
        names.map_err(|error| commit::directory_failed(&*self.0, "list", error))
    }

    fn name_at(&self, path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        (parent == Path::new("") || self.0.is_at(parent)).then_some(name)
    }

    fn check_location(&self) -> Result<()> {
        self.0.check_location().map_err(|error| commit::directory_failed(&*self.0, "write", error))
    }

    fn point(&self, alias: &str, target: &str) -> Result<()> {
        commit::point(&*self.0, alias, target)
    }

    fn set_aside(&self, name: &str, reason: &str) -> Result<String> {
        commit::set_aside(&*self.0, name, reason)
    }

    fn sweep_unless_leased(&self) -> Result<()> {
        let swept = self.0.sweep_unless_locked();
        swept
            .map(drop)
            .map_err(|error| commit::directory_failed(&*self.0, "sweep the directory", error))
    }
}

/// The lock of a directory, if it has locks at all.
#[derive(Debug)]
struct DirectoryLease {
    _lock: Option<Box<dyn Lock>>,
}

impl Lease for DirectoryLease {}
