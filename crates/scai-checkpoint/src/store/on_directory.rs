//! A store on a directory: the commit protocol behind the trait [`Store`].

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::{
    Directory, Entry, HEADS, IntoLocation, Io, Lease, LocalDirectory, Lock, MemoryDirectory,
    Publication, ReadAt, Store, commit, is_draft,
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

impl<D: Directory> DirectoryStore<D> {
    /// What is opened by the name of a group; `None` if it is none.
    fn head(&self, name: &str) -> Option<Arc<dyn ReadAt>> {
        let child = self.0.child(name).ok()?;
        HEADS.iter().find_map(|head| child.open(head).ok())
    }

    fn children_among(&self, names: &[&str]) -> Result<Vec<String>> {
        let children = self.0.children();
        let mut children =
            children.map_err(|error| commit::directory_failed(&*self.0, "list", error))?;
        children.retain(|child| names.contains(&child.as_str()));
        Ok(children)
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
        match commit::open(&*self.0, name) {
            Err(error) => self.head(name).ok_or(error),
            opened => opened,
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let failed = |error| commit::directory_failed(&*self.0, "list", error);
        let is_meant = |name: &str| name.starts_with(prefix) && !is_draft(name);
        let entries = self.0.check_location().and_then(|()| self.0.list());
        let mut entries = entries.map_err(failed)?;
        entries.retain(|entry| is_meant(&entry.name));
        let children = self.0.children().map_err(failed)?;
        let children = children.into_iter().filter(|name| is_meant(name));
        entries.extend(children.filter_map(|name| {
            let head = self.head(&name)?;
            Some(Entry::group(name, head.len()))
        }));
        Ok(entries)
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        let children = self.children_among(names)?;
        if children.is_empty() {
            return commit::remove_durably(&*self.0, names);
        }
        names.iter().try_for_each(|name| match children.iter().any(|child| child == name) {
            true => commit::remove_child_durably(&*self.0, name),
            false => commit::remove_durably(&*self.0, &[name]),
        })
    }

    fn group(&self, name: &str) -> Result<Arc<dyn Directory>> {
        commit::make_child_durably(&*self.0, name)
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
        let mut names = names.map_err(|error| commit::directory_failed(&*self.0, "list", error))?;
        names.retain(|name| self.head(name).is_none());
        Ok(names)
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

    fn rename_group(&self, name: &str, base: &str) -> Result<String> {
        commit::rename_child_durably(&*self.0, name, base)
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
