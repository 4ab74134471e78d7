//! Opening, making and syncing directories.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
use rustix::fs::RenameFlags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    open_in(rustix::fs::CWD, path)
}

/// Opens the directory at `path`, relative to `dir`.
pub(super) fn open_in(dir: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, path, flags, Mode::empty())?)
}

/// Gives the directory `from` the name `to`, which must be free.
pub(super) fn rename_to_free(dir: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    let stat = rustix::fs::statat(dir, from, AtFlags::SYMLINK_NOFOLLOW)?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    match rename_no_replace(dir, from, to) {
        // Not every file system supports this. Then in two calls: only the holder of the lock gives
        // names, and no rename replaces a directory that is not empty.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            match rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST.into()),
                Err(Errno::NOENT) => Ok(rustix::fs::renameat(dir, from, dir, to)?),
                Err(errno) => Err(errno.into()),
            }
        }
        renamed => Ok(renamed?),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_no_replace(dir: &OwnedFd, from: &str, to: &str) -> Result<(), Errno> {
    rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_no_replace(_dir: &OwnedFd, _from: &str, _to: &str) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Exchanges the names of two directories.
pub(super) fn exchange(dir: &OwnedFd, one: &str, other: &str) -> io::Result<()> {
    for name in [one, other] {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Errno::NOTDIR.into());
        }
    }
    match rename_exchange(dir, one, other) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
        exchanged => Ok(exchanged?),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_exchange(dir: &OwnedFd, one: &str, other: &str) -> Result<(), Errno> {
    rustix::fs::renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_exchange(_dir: &OwnedFd, _one: &str, _other: &str) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Makes the names in a directory durable.
///
/// `EINVAL` is how a file system says that its directories cannot be synced at all. Refusing to
/// save there would help nobody: names are as durable as that file system makes them.
pub(super) fn sync(dir: &OwnedFd) -> io::Result<()> {
    match super::file::full_sync(dir) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        result => result,
    }
}

/// Creates the directory `path` and its missing parents, and makes their names durable.
pub(super) fn create_durably(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    if let Some(file) = path.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir()) {
        let message = format!("`{}` is a file, not a directory", file.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
    }
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
    for dir in missing.iter().rev() {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            result => result?,
        }
    }
    sync_names_leading_to(&std::fs::canonicalize(&path)?, missing.len())
}

/// Makes the names durable that lead to the directory `path`, up to the root of its file system.
///
/// Not only the `made` innermost ones: a directory that another process made a moment ago (`mkdir
/// -p run`) may not be durable either. Further up, a directory that may not be opened was not made
/// by this user, and is skipped.
fn sync_names_leading_to(path: &Path, made: usize) -> io::Result<()> {
    let device = rustix::fs::stat(path)?.st_dev;
    for (depth, parent) in path.ancestors().skip(1).enumerate() {
        let dir = match open(parent) {
            Err(_) if depth >= made => return Ok(()),
            dir => dir?,
        };
        if rustix::fs::fstat(&dir)?.st_dev != device {
            return Ok(());
        }
        sync(&dir)?;
    }
    Ok(())
}
