//! Files that are being written, and the removal of those that nobody writes any more.
//!
//! A draft is locked with `flock` by its writer for as long as it has its temporary name. The
//! lock goes when the process does, however it ends, which makes it the sign that the writer
//! lives. Where a file system has no locks, drafts cannot be judged and none is swept.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::{Draft, Synced, WriteAt, draft_name};
use super::file::{close, full_sync};

/// A new draft could be taken by a sweep before it is locked; more than a few times in a row means
/// that something else is wrong.
const ATTEMPTS: usize = 16;

/// A sweep leaves empty drafts alone for so long: they may be between creation and lock.
const SETTLED: Duration = Duration::from_secs(60);

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
        Self::claim(file, Unsynced { dir: Arc::clone(dir), name: Some(name) })
    }

    /// Locks a new file, unless a sweep has it already.
    fn claim(file: File, unsynced: Unsynced) -> io::Result<Option<Self>> {
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        // Any other failure to lock means that there are no locks, and nobody sweeps then.
        let swept = locked == Err(Errno::WOULDBLOCK) || file.metadata()?.nlink() == 0;
        Ok((!swept).then_some(Self { file, unsynced }))
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
    let metadata = file.metadata()?;
    if !metadata.is_file() || is_being_made(&metadata) || writer_lives() {
        return Ok(false);
    }
    // Still locked: a writer that has just made this file sees that it is gone and makes another.
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        // Somebody else's, where only its owner may remove it (a sticky directory), or protected.
        Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

fn is_being_made(metadata: &Metadata) -> bool {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    metadata.len() == 0 && modified.elapsed().unwrap_or_default() < SETTLED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(dir: &tempfile::TempDir) -> (File, Unsynced) {
        let name = draft_name();
        let file = File::create_new(dir.path().join(&name)).unwrap();
        let dir = Arc::new(super::super::directory::open(dir.path()).unwrap());
        (file, Unsynced { dir, name: Some(name) })
    }

    #[test]
    fn a_file_that_a_sweep_holds_or_has_removed_is_not_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, unsynced) = draft(&dir);
        let path = dir.path().join(unsynced.name.as_ref().unwrap());
        let sweeper = File::open(&path).unwrap();
        rustix::fs::flock(&sweeper, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(LocalDraft::claim(file, unsynced).unwrap().is_none());

        let (file, unsynced) = draft(&dir);
        std::fs::remove_file(dir.path().join(unsynced.name.as_ref().unwrap())).unwrap();
        assert!(LocalDraft::claim(file, unsynced).unwrap().is_none());

        let (file, unsynced) = draft(&dir);
        assert!(LocalDraft::claim(file, unsynced).unwrap().is_some());
    }

    #[test]
    fn an_empty_draft_is_swept_once_it_is_too_old_to_be_in_the_making() {
        let dir = tempfile::tempdir().unwrap();
        let (file, unsynced) = draft(&dir);
        let name = unsynced.name.as_deref().unwrap();
        assert!(!sweep(&unsynced.dir, name).unwrap());
        file.set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
        assert!(sweep(&unsynced.dir, name).unwrap());
    }
}
