//! Files that are being written, and the removal of those that nobody writes any more.
//!
//! A draft has a second descriptor, for direct I/O, where that is wanted and possible. Whole pages
//! go through it, and only the ends of a run of bytes through the page cache: no page is ever
//! written both ways, and what one way writes the other never holds a copy of.
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

use super::super::{Draft, Io, Synced, WriteAt, draft_name};
use super::file::{close, full_sync};

/// A new draft could be taken by a sweep before it is locked; more than a few times in a row means
/// that something else is wrong.
const ATTEMPTS: usize = 16;

/// What direct I/O is aligned to: no less than the blocks of any common device.
const PAGE: usize = 4096;

/// From this length on a file is written past the page cache where nobody says how. A shorter one
/// is on the device as soon, and is in memory for those who read it next.
const DIRECT_FROM: u64 = 4 << 20;

/// A sweep leaves empty drafts alone for so long: they may be between creation and lock.
const SETTLED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct LocalDraft {
    file: File,
    /// The same file, opened for direct I/O.
    direct: Option<File>,
    unsynced: Unsynced,
}

/// Removes the draft when it is dropped.
#[derive(Debug)]
struct Unsynced {
    dir: Arc<OwnedFd>,
    name: Option<String>,
}

impl LocalDraft {
    pub(super) fn create(dir: &Arc<OwnedFd>, len: u64, io: Io) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            if let Some(mut draft) = Self::attempt(dir)? {
                reserve(&draft.file, len)?;
                if is_direct(io, len) {
                    // Where it cannot be had, everything goes through the page cache.
                    draft.direct = open_direct(dir, draft.name()).ok();
                }
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
        Ok((!swept).then_some(Self { file, direct: None, unsynced }))
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

fn is_direct(io: Io, len: u64) -> bool {
    match io {
        Io::Auto => len >= DIRECT_FROM,
        Io::Direct => true,
        Io::Buffered => false,
    }
}

/// The draft `name` once more. Its name cannot be another file's: it is unique, and the draft is
/// locked by its writer.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_direct(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_direct(_dir: &OwnedFd, _name: &str) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes whole pages and returns how many bytes of them; the rest is refused for its alignment,
/// which some devices want larger.
fn write_direct(file: &File, mut offset: u64, pages: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < pages.len() && offset.is_multiple_of(PAGE as u64) {
        match file.write_at(&pages[done..], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                done += written;
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl WriteAt for LocalDraft {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let agrees = bytes.as_ptr().addr() % PAGE == (offset % PAGE as u64) as usize;
        let Some(direct) = self.direct.as_ref().filter(|_| agrees) else {
            return self.file.write_all_at(bytes, offset);
        };
        let head = (offset.next_multiple_of(PAGE as u64) - offset).min(bytes.len() as u64) as usize;
        let (head, rest) = bytes.split_at(head);
        let (pages, _) = rest.split_at(rest.len() - rest.len() % PAGE);
        let after = offset + head.len() as u64;
        let done = write_direct(direct, after, pages)?;
        self.file.write_all_at(head, offset)?;
        self.file.write_all_at(&rest[done..], after + done as u64)
    }

    fn alignment(&self) -> usize {
        if self.direct.is_some() { PAGE } else { 1 }
    }
}

impl Draft for LocalDraft {
    fn name(&self) -> &str {
        self.unsynced.name.as_deref().unwrap_or_default()
    }

    fn sync(self: Box<Self>) -> io::Result<Synced> {
        let Self { file, direct, unsynced } = *self;
        direct.map_or(Ok(()), close)?;
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
