//! A directory of the local file system.
//!
//! The only place of the engine that opens files. All names are resolved against one descriptor
//! of the directory, so the store stays the same directory when that is renamed or when the
//! process changes its working directory.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the one place that touches the file system"
)]

mod directory;
mod draft;
mod file;
mod lock;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::name::LOCK_NAME;
use super::{Draft, Entry, Io, Lock, ReadAt, Store, check_name, is_draft};

/// A store in a directory of the local file system.
///
/// Durability is what the file system makes of `fsync` for a file and for its directory. Drafts
/// and the directory's lock are guarded by `flock`, which ends with the process that holds it;
/// a child forked without `exec` shares it and keeps it for as long as the child lives. Cloning
/// gives the same store.
#[derive(Debug, Clone)]
pub struct LocalStore {
    path: PathBuf,
    dir: Arc<OwnedFd>,
    io: Io,
}

impl LocalStore {
    /// The directory `path`, which must exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where it does not, [`io::ErrorKind::NotADirectory`] where it is
    /// something else.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let dir = directory::open(path)?;
        Ok(Self { path: path.to_owned(), dir: Arc::new(dir), io: Io::default() })
    }

    /// The directory `path`, made together with its parents where they do not exist.
    ///
    /// On return the directory itself is durable, whoever made it: a save inside it could not be
    /// promised otherwise.
    ///
    /// # Errors
    /// Whatever the operating system says; directories made so far stay.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        directory::create_durably(path.as_ref())?;
        Self::open(path)
    }

    /// The same store, whose files are written as `io` says.
    #[must_use]
    pub fn with_io(self, io: Io) -> Self {
        Self { io, ..self }
    }

    /// The directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store for LocalStore {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(draft::LocalDraft::create(&self.dir, len, self.io)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(file::LocalFile::open(&self.dir, name)?))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for name in names(&self.dir)? {
            // Follows symbolic links: a checkpoint moved to another disk still is one. What is
            // gone by now, dangles or may not be looked at is no file that could be opened.
            match rustix::fs::statat(&self.dir, &name, AtFlags::empty()) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
                    entries.push(Entry { name, len: stat.st_size.try_into().unwrap_or(0) });
                }
                Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(entries)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        directory::sync(&self.dir)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        Ok(rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty())?)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(lock::LocalLock::take(&self.dir)?))
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        let mut swept = Vec::new();
        for name in names(&self.dir)?.into_iter().filter(|name| is_draft(name)) {
            if draft::sweep(&self.dir, &name)? {
                swept.push(name);
            }
        }
        Ok(swept)
    }

    fn free_space(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// The names in a directory that could be a store's: UTF-8, not its lock.
fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        if let Ok(name) = entry?.file_name().to_str()
            && !matches!(name, "." | ".." | LOCK_NAME)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
