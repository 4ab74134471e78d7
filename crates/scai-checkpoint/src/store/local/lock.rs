//! One writer for a directory at a time.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::Lock;
use super::super::name::LOCK_NAME;

/// The holder's name is short; a longer file was not written by this crate.
const HOLDER_LIMIT: usize = 256;

/// A borrowed lock is released within milliseconds. How often to wait for it, and how long.
const WAITS: usize = 50;
const WAIT: Duration = Duration::from_millis(10);

/// A lock on the file `.scai.lock`, which holds the name of the lock's holder.
///
/// The file is never removed: that would let a third writer lock a new file of the same name while
/// a second one still waits for the old.
#[derive(Debug)]
pub(super) struct LocalLock {
    file: File,
    owner: u32,
}

impl LocalLock {
    pub(super) fn take(dir: &OwnedFd) -> io::Result<Self> {
        let mut waits = WAITS;
        loop {
            let file = open(dir)?;
            match Self::of(file) {
                Ok(Some(lock)) => {
                    lock.sign();
                    return Ok(lock);
                }
                // Somebody may have removed the file by hand between the two calls.
                Ok(None) => {}
                // A holder that has not signed has borrowed it, and releases it at once.
                Err(error) if is_unsigned(&error) && waits > 0 => {
                    waits -= 1;
                    thread::sleep(WAIT);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps managers out for a moment; `None` if there is no lock file, since none was ever here.
    pub(super) fn borrow(dir: &OwnedFd) -> io::Result<Option<Self>> {
        match reopen(dir) {
            Err(Errno::NOENT) => Ok(None),
            file => Self::of(file?),
        }
    }

    /// The lock on an open file; `None` if the file was removed meanwhile.
    fn of(file: File) -> io::Result<Option<Self>> {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held_by(&file)),
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Err(errno) => return Err(errno.into()),
        }
        let is_there = file.metadata()?.nlink() > 0;
        Ok(is_there.then(|| Self { file, owner: process::id() }))
    }

    /// Writes the holder's name. The lock holds without it, so a full disk does not matter: space
    /// is freed under this lock.
    fn sign(&self) {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let holder = format!("process {} on {host}", self.owner);
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(holder.as_bytes(), 0));
    }
}

/// Opens the lock file, and creates it if there is none.
fn open(dir: &OwnedFd) -> io::Result<File> {
    loop {
        match reopen(dir) {
            Err(Errno::NOENT) => {}
            file => return Ok(file?),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, LOCK_NAME, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => {
                let file = File::from(fd);
                share(&file, dir)?;
                return Ok(file);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Opens an existing lock file. Locking needs no write permission, only writing the holder's name does.
fn reopen(dir: &OwnedFd) -> Result<File, Errno> {
    let open = |flags| rustix::fs::openat(dir, LOCK_NAME, flags | OFlags::CLOEXEC, Mode::empty());
    let fd = open(OFlags::RDWR).or_else(|error| match error {
        Errno::ACCESS => open(OFlags::RDONLY),
        error => Err(error),
    });
    fd.map(File::from)
}

/// Lets all who may write to the directory lock it, whatever the `umask` of the file's creator.
fn share(file: &File, dir: &OwnedFd) -> io::Result<()> {
    let writers = rustix::fs::fstat(dir)?.st_mode & 0o022;
    let mode = file.metadata()?.mode() & 0o777;
    let shared = mode | writers | writers << 1;
    if shared != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(shared))?;
    }
    Ok(())
}

/// Whether the lock is held by another process that has not written its name.
fn is_unsigned(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock && error.get_ref().is_none()
}

fn held_by(file: &File) -> io::Error {
    let mut holder = [0; HOLDER_LIMIT];
    let read = file.read_at(&mut holder, 0).unwrap_or(0);
    match std::str::from_utf8(&holder[..read]) {
        Ok(holder) if !holder.is_empty() => {
            io::Error::new(io::ErrorKind::WouldBlock, holder.to_owned())
        }
        _ => io::ErrorKind::WouldBlock.into(),
    }
}

impl Drop for LocalLock {
    fn drop(&mut self) {
        // Closing is not enough while a forked child has the file open too. But a child that
        // drops its copy of this value must not release its parent's lock.
        if process::id() == self.owner {
            let _ = self.file.set_len(0);
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl Lock for LocalLock {}

/// A lock on a directory itself, which shows that somebody works in it.
#[derive(Debug)]
pub(super) struct Held {
    dir: OwnedFd,
    owner: u32,
}

impl Held {
    pub(super) fn take(dir: &OwnedFd) -> io::Result<Self> {
        // A descriptor of its own: a lock belongs to what was opened.
        let dir = super::directory::open_in(dir, ".")?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir, owner: process::id() }),
            Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
            // NFS locks only files that are open for writing, which a directory never is.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::BADF) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // As for the lock of a file: not in a forked child, which has the directory open too.
        if process::id() == self.owner {
            let _ = rustix::fs::flock(&self.dir, FlockOperation::Unlock);
        }
    }
}

impl Lock for Held {}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = super::super::directory::open(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn a_forked_child_that_lives_on_does_not_keep_the_lock() {
        let (_dir, fd) = directory();
        let lock = LocalLock::take(&fd).unwrap();
        // What a fork leaves in the child: another descriptor of the same open file.
        let _in_the_child = lock.file.try_clone().unwrap();
        drop(lock);
        LocalLock::take(&fd).unwrap();
    }

    #[test]
    fn a_forked_child_that_drops_its_copy_leaves_the_lock_to_its_parent() {
        let (_dir, fd) = directory();
        let lock = LocalLock::take(&fd).unwrap();
        let file = lock.file.try_clone().unwrap();
        drop(LocalLock { file, owner: lock.owner + 1 });
        let error = LocalLock::take(&fd).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains(&lock.owner.to_string()), "{error}");
    }
}
