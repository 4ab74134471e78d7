//! One writer for a directory at a time.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::Lock;
use super::super::name::LOCK_NAME;

/// The holder's name is short; a longer file was not written by this crate.
const HOLDER_LIMIT: usize = 256;

/// A lock on the file `.scai.lock`, which holds the name of whoever has the lock.
///
/// The file stays: removing it would let a third writer lock a new file of the same name while
/// a second one still waits for the old.
#[derive(Debug)]
pub(super) struct LocalLock {
    file: File,
    owner: u32,
}

impl LocalLock {
    pub(super) fn take(dir: &OwnedFd) -> io::Result<Self> {
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, LOCK_NAME, flags, Mode::from_raw_mode(0o666))?;
            let file = File::from(fd);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(held_by(&file)),
                Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                Err(errno) => return Err(errno.into()),
            }
            // Somebody may have removed the file by hand between the two calls.
            if file.metadata()?.nlink() > 0 {
                let lock = Self { file, owner: process::id() };
                lock.sign();
                return Ok(lock);
            }
        }
    }

    /// Writes the holder's name. The lock holds without it, so a full disk is no obstacle: room
    /// must be made under this very lock.
    fn sign(&self) {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let holder = format!("process {} on {host}", self.owner);
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(holder.as_bytes(), 0));
    }
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
        // drops its copy of this value must not take the lock from its parent.
        if process::id() == self.owner {
            let _ = self.file.set_len(0);
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl Lock for LocalLock {}

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
