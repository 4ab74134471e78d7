//! A directory of the local file system.
//!
//! The only module of the engine that opens files. All names are resolved against one descriptor of
//! the directory, so it stays the same directory when that is renamed or when the process changes
//! its working directory.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the one place that touches the file system"
)]

mod directory;
mod draft;
mod file;
mod lock;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::location::{IntoLocation, Location};
use super::name::LOCK_NAME;
use super::{Directory, Draft, Entry, Io, Lock, ReadAt, Synced, check_name, is_draft};
use crate::threads::held;

/// A directory of the local file system.
///
/// Durability is what the file system guarantees for `fsync` of a file and of its directory.
/// Temporary files and the directory's lock are guarded by `flock`, which ends with the process
/// that holds it; a child forked without `exec` shares it and keeps it for as long as the child
/// lives. Cloning gives the same directory.
#[derive(Debug, Clone)]
pub struct LocalDirectory {
    location: Location,
    dir: Arc<OwnedFd>,
    io: Io,
    naming: Naming,
}

impl LocalDirectory {
    /// The directory at `location`, which must exist. A leading `~` is the home directory; a `file://` URL is
    /// the path it stands for.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it does not, [`io::ErrorKind::NotADirectory`] if it is
    /// something else; [`io::ErrorKind::Unsupported`] for a URL of another scheme.
    pub fn open(location: impl IntoLocation) -> io::Result<Self> {
        Self::at(location.into_location()?)
    }

    fn at(location: Location) -> io::Result<Self> {
        let dir = directory::open(location.local_path()?)?;
        let naming = Naming::of(&dir);
        Ok(Self { location, dir: Arc::new(dir), io: Io::default(), naming })
    }

    /// The directory at `location`, created together with its parents if they do not exist.
    ///
    /// On return the directory itself is durable, whoever created it: a save inside it could not be
    /// durable otherwise.
    ///
    /// # Errors
    /// Those of the operating system and of [`LocalDirectory::open`]; directories created so far remain.
    pub fn create(location: impl IntoLocation) -> io::Result<Self> {
        let location = location.into_location()?;
        directory::create_durably(location.local_path()?)?;
        Self::at(location)
    }

    /// The directory to write the file at `location` to, and its name there. `links` says whether a
    /// symbolic link is followed.
    ///
    /// # Errors
    /// As [`LocalDirectory::open`]; [`io::ErrorKind::InvalidInput`] if `location` cannot name a file.
    pub fn of_file(location: impl IntoLocation, links: Links) -> io::Result<(Self, String)> {
        let location = location.into_location()?;
        location.local_path()?;
        let location = match links {
            Links::Follow => location.behind_links()?,
            Links::Keep => location,
        };
        let (directory, name) = location.split()?;
        Ok((Self::at(directory)?, name))
    }

    /// The same directory, whose temporary files have names, as on a file system without unnamed files.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_named_drafts(self) -> Self {
        Self { naming: Naming::Temporary, ..self }
    }

    /// The same directory, whose files are written as `io` says.
    #[must_use]
    pub fn with_io(self, io: Io) -> Self {
        Self { io, ..self }
    }

    /// The directory, as an absolute path.
    pub fn path(&self) -> &Path {
        self.location.absolute()
    }

    /// Sweeps unless a manager writes here. Once per directory and process: what others leave
    /// meanwhile is left to the next process.
    pub(crate) fn sweep_once(&self) {
        static SWEPT: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());
        let Ok(stat) = rustix::fs::fstat(&self.dir) else { return };
        let mut swept = held(&SWEPT);
        if swept.insert((stat.st_dev, stat.st_ino)) {
            // What it cannot remove only takes up space.
            let _ = self.sweep_unless_locked();
        }
    }
}

impl Directory for LocalDirectory {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(draft::LocalDraft::create(&self.dir, len, self.io)?))
    }

    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        check_name(name)?;
        let replaced = draft::Replaced::of(&self.dir, name)?;
        let unnamed = match self.naming {
            Naming::None => draft::LocalDraft::unnamed(&self.dir, len, self.io)?,
            Naming::Temporary => None,
        };
        let draft = match unnamed {
            Some(draft) => draft,
            None => draft::LocalDraft::create(&self.dir, len, self.io)?,
        };
        draft.take_over(replaced)?;
        Ok(Box::new(draft))
    }

    fn name_draft(&self, draft: &Synced, name: &str) -> io::Result<()> {
        check_name(name)?;
        let file = draft.alive::<File>().filter(|_| draft.name().is_empty());
        draft::link(file.ok_or(io::ErrorKind::InvalidInput)?, &self.dir, name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(file::LocalFile::open(&self.dir, self.location.shown(), name)?))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        of_type(&self.dir, FileType::RegularFile)
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

    fn sweep_unless_locked(&self) -> io::Result<Vec<String>> {
        if !names(&self.dir)?.iter().any(|name| is_draft(name)) {
            return Ok(Vec::new());
        }
        // A manager's temporary names have no writer of their own. If there is no lock file now, no
        // manager was here when the names were listed.
        match lock::LocalLock::borrow(&self.dir) {
            Ok(_lock) => self.sweep(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn check_location(&self) -> io::Result<()> {
        let here = rustix::fs::fstat(&self.dir)?;
        let moved = match rustix::fs::stat(self.location.absolute()) {
            Ok(there) => (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino),
            Err(Errno::NOENT | Errno::NOTDIR) => true,
            // Whether it was moved is unknown.
            Err(_) => false,
        };
        if moved {
            let message = "the directory was renamed, or removed and recreated, while it was in \
                           use; create a new manager for the directory you mean";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(())
    }

    fn free_space(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    fn make_child(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o777))?)
    }

    fn child(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        check_name(name)?;
        let dir = directory::open_in(&self.dir, name)?;
        let location = self.location.join(name);
        let naming = match self.naming {
            Naming::Temporary => Naming::Temporary,
            Naming::None => Naming::of(&dir),
        };
        Ok(Arc::new(Self { location, dir: Arc::new(dir), io: self.io, naming }))
    }

    fn children(&self) -> io::Result<Vec<String>> {
        let children = of_type(&self.dir, FileType::Directory)?;
        Ok(children.into_iter().map(|child| child.name).collect())
    }

    fn remove_child(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR) {
            // Some systems return one error for the other.
            Err(Errno::EXIST) => Err(Errno::NOTEMPTY.into()),
            removed => Ok(removed?),
        }
    }

    fn rename_child(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        directory::rename_to_free(&self.dir, from, to)
    }

    fn exchange_children(&self, one: &str, other: &str) -> io::Result<()> {
        check_name(one)?;
        check_name(other)?;
        directory::exchange(&self.dir, one, other)
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        file::full_sync(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?)
    }

    fn hold(&self) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(lock::Held::take(&self.dir)?))
    }

    fn describe(&self) -> String {
        self.location.shown().display().to_string()
    }

    fn unopenable(&self) -> io::Result<Vec<String>> {
        let mut found = names(&self.dir)?;
        found.retain(|name| {
            let stat = rustix::fs::statat(&self.dir, name, AtFlags::empty());
            match stat {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile,
                // Something that was deleted meanwhile is not there at all.
                Err(_) => rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok(),
            }
        });
        Ok(found)
    }

    fn is_at(&self, path: &Path) -> bool {
        let of = |path: &Path| std::fs::canonicalize(path).ok();
        of(path).is_some_and(|path| of(self.path()) == Some(path))
    }
}

/// The entries of this type in a directory.
///
/// Follows symbolic links: a checkpoint moved to another disk still is one. What is gone by now,
/// dangles or is not accessible is left out: it could not be opened.
fn of_type(dir: &OwnedFd, kind: FileType) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in names(dir)? {
        match rustix::fs::statat(dir, &name, AtFlags::empty()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == kind => {
                entries.push(Entry::file(name, stat.st_size.try_into().unwrap_or(0)));
            }
            Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(entries)
}

/// Whether a write replaces a symbolic link, or the file it points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The link is a name like any other.
    Keep,
    /// The file that the link leads to is meant.
    Follow,
}

/// How temporary files are named until they are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// They have no name.
    None,
    /// A temporary one.
    Temporary,
}

impl Naming {
    /// Unnamed files on file systems that are known to have them and to name them later; some others
    /// create them and then cannot name them.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn of(dir: &OwnedFd) -> Self {
        /// ext4, XFS, Btrfs, tmpfs, F2FS, bcachefs, ZFS, overlayfs.
        const KNOWN: [u64; 8] = [
            0xEF53,
            0x5846_5342,
            0x9123_683E,
            0x0102_1994,
            0xF2F5_2010,
            0xCA45_1A4E,
            0x2FC1_2FC1,
            0x794C_7630,
        ];
        match rustix::fs::fstatfs(dir) {
            Ok(stat) if KNOWN.contains(&(stat.f_type as u64 & 0xFFFF_FFFF)) => Self::None,
            _ => Self::Temporary,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn of(_dir: &OwnedFd) -> Self {
        Self::Temporary
    }
}

/// The names in a directory that could be a file's or a child's: UTF-8, not its lock.
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
