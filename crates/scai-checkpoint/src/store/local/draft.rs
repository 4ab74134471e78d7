//! Files that are being written, and the removal of those that nobody writes any more.
//!
//! A draft is locked with `flock` by its writer for as long as it has its temporary name. The
//! lock goes when the process does, however it ends, which makes it the sign that the writer
//! lives. Where a file system has no locks, drafts cannot be judged and none is swept.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::{Draft, Synced, WriteAt, draft_name};
use super::file::{close, full_sync};

/// A new draft can be taken by a sweep before it is locked; more than a few times in a row means
/// that something else is wrong.
const ATTEMPTS: usize = 16;

#[derive(Debug)]
pub(super) struct LocalDraft {
    file: File,
    unsynced: Unsynced,
}

/// Removes the draft when it is dropped.
#[derive(Debug)]
struct Unsynced {
    dir: Arc<OwnedFd>,
    name: Option<String>,
}

impl LocalDraft {
    pub(super) fn create(dir: &Arc<OwnedFd>, len: u64) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            if let Some(draft) = Self::attempt(dir)? {
                reserve(&draft.file, len)?;
                return Ok(draft);
            }
        }
        Err(io::Error::other("every new temporary file was removed by somebody else"))
    }

    /// A new locked file, or nothing where a sweep was faster than the lock.
    fn attempt(dir: &Arc<OwnedFd>) -> io::Result<Option<Self>> {
        let name = draft_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, &name, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => File::from(fd),
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let unsynced = Unsynced { dir: Arc::clone(dir), name: Some(name) };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(None),
            // Where there are no locks, nobody sweeps either.
            Ok(()) | Err(_) if file.metadata()?.nlink() > 0 => Ok(Some(Self { file, unsynced })),
            Ok(()) | Err(_) => Ok(None),
        }
    }
}

/// Reserves the space, so that a full disk is noticed before the first byte is written.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    if i64::try_from(len).is_err() {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    if len == 0 {
        return Ok(());
    }
    let reserved =
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len));
    match reserved {
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => file.set_len(len),
        result => Ok(result?),
    }
}

impl WriteAt for LocalDraft {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

impl Draft for LocalDraft {
    fn name(&self) -> &str {
        self.unsynced.name.as_deref().unwrap_or_default()
    }

    fn sync(self: Box<Self>) -> io::Result<Synced> {
        let Self { file, unsynced } = *self;
        full_sync(&file)?;
        // The duplicate shares the lock, which lasts until the last of the two is closed; closing
        // either makes the file system report what it has to.
        let alive = file.try_clone()?;
        close(file)?;
        Ok(Synced::new(unsynced.keep(), alive))
    }
}

impl Unsynced {
    fn keep(mut self) -> String {
        self.name.take().unwrap_or_default()
    }
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What cannot be removed now is swept later.
            let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
        }
    }
}

/// Removes the draft `name` where its writer is gone; says whether it did.
pub(super) fn sweep(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // What cannot be opened is gone, or not this user's, or no file.
    let Ok(fd) = rustix::fs::openat(dir, name, flags, Mode::empty()) else { return Ok(false) };
    let file = File::from(fd);
    let writer_lives =
        || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
    if !file.metadata()?.is_file() || writer_lives() {
        return Ok(false);
    }
    // Still locked: a writer that has just made this file sees that it is gone and makes another.
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}
