//! Temporary files (drafts), and the removal of those whose writer is gone.
//!
//! A draft has a second descriptor, for direct I/O, if that is wanted and possible. Whole pages go
//! through it, and only the ends of a run of bytes through the page cache: no page is written both
//! ways, and the cache never holds a copy of what direct I/O writes.
//!
//! A draft has no name if the file system allows that, and is given one when it is complete; otherwise
//! it has a temporary name.
//!
//! A draft is locked with `flock` by its writer for as long as it has its temporary name. The
//! lock is released when the process ends, in whatever way, so it shows whether the writer is
//! alive. If a file system has no locks, that cannot be known and no draft is swept.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::super::{Draft, Io, Synced, WriteAt, draft_name};
use super::file::{close, full_sync};

/// A sweep could remove a new draft before it is locked; more than a few times in a row means that
/// something else is wrong.
const ATTEMPTS: usize = 16;

/// What direct I/O is aligned to: no less than the blocks of any common device.
const PAGE: usize = 4096;

/// From this length on a file is written past the page cache by default. A shorter one reaches the
/// device as soon, and is then in memory for the next reader.
const DIRECT_FROM: u64 = 4 << 20;

/// A sweep leaves empty drafts alone for this long: they may be between creation and lock.
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
                    // If it is not available, everything goes through the page cache.
                    draft.direct = open_direct(dir, draft.name(), OFlags::NOFOLLOW).ok();
                }
                return Ok(draft);
            }
        }
        Err(io::Error::other("every new temporary file was removed by another process"))
    }

    /// A draft without a name; `None` if the file system has no unnamed files.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn unnamed(dir: &Arc<OwnedFd>, len: u64, io: Io) -> io::Result<Option<Self>> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        // Any other error will come again from creating a named one, which then reports it.
        let Ok(fd) = rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(0o666)) else {
            return Ok(None);
        };
        let file = File::from(fd);
        // It gets its name through this path.
        let path = through_proc(&file);
        let reached = rustix::fs::stat(&path).map(|stat| (stat.st_dev, stat.st_ino));
        let metadata = file.metadata()?;
        if reached != Ok((metadata.dev(), metadata.ino())) {
            return Ok(None);
        }
        // Once it has a temporary name, this shows that its writer is alive.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        reserve(&file, len)?;
        let direct = if is_direct(io, len) {
            open_direct(rustix::fs::CWD, &path, OFlags::empty()).ok()
        } else {
            None
        };
        let unsynced = Unsynced { dir: Arc::clone(dir), name: None };
        Ok(Some(Self { file, direct, unsynced }))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn unnamed(_dir: &Arc<OwnedFd>, _len: u64, _io: Io) -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// Gives the draft the permissions of the file it will replace, before it holds a byte.
    pub(super) fn take_over(&self, replaced: Option<Replaced>) -> io::Result<()> {
        let Some(Replaced { mode, uid, gid }) = replaced else { return Ok(()) };
        let metadata = self.file.metadata()?;
        if (metadata.uid(), metadata.gid()) != (uid, gid) {
            // Only root may change the owner. Other users change the group at least.
            let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
            if rustix::fs::fchown(&self.file, Some(owner), Some(group)).is_err() {
                let _ = rustix::fs::fchown(&self.file, None, Some(group));
            }
        }
        if metadata.mode() & 0o777 != mode {
            rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }

    /// A new locked file; `None` if a sweep was faster than the lock.
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
        // Any other failure to lock means that there are no locks, and then nothing is swept.
        let swept = locked == Err(Errno::WOULDBLOCK) || file.metadata()?.nlink() == 0;
        Ok((!swept).then_some(Self { file, direct: None, unsynced }))
    }
}

/// The file that a draft will replace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replaced {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Replaced {
    /// The file called `name`; `None` if there is none, or for a symbolic link, which has no permissions.
    pub(super) fn of(dir: &OwnedFd, name: &str) -> io::Result<Option<Self>> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let mode = stat.st_mode & 0o777;
                return Ok(Some(Self { mode, uid: stat.st_uid, gid: stat.st_gid }));
            }
            FileType::Symlink => return Ok(None),
            FileType::Directory => "a directory",
            FileType::Fifo => "a pipe",
            FileType::Socket => "a socket",
            _ => "a device",
        };
        let message = format!("`{name}` is {what}, and cannot be replaced by a file");
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

/// The path that leads to an open file, whether or not it has a name.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn through_proc(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Gives a file without a name the name `name`, which must be free.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn link(file: &File, dir: &OwnedFd, name: &str) -> io::Result<()> {
    let from = through_proc(file);
    Ok(rustix::fs::linkat(rustix::fs::CWD, from, dir, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn link(_file: &File, _dir: &OwnedFd, _name: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reserves the space, so that a full disk is detected before the first byte is written.
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

/// Opens the draft `name` again. Its name cannot be another file's: it is unique, and the draft is
/// locked by its writer.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_direct(dir: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC | flags;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_direct(_dir: impl AsFd, _name: &str, _flags: OFlags) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes whole pages and returns the number of bytes written; the rest was refused for its
/// alignment, since some devices need a larger one.
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
        // either makes the file system report its errors.
        let alive = file.try_clone()?;
        close(file)?;
        // Without a name, the duplicate is the file: it is named through it.
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

/// Removes the draft `name` if its writer is gone; returns whether it did.
pub(super) fn sweep(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = |mode| rustix::fs::openat(dir, name, flags | mode, Mode::empty());
    // What cannot be opened is gone, is not a file, or is another user's and not readable.
    let opened = open(OFlags::WRONLY).or_else(|error| match error {
        Errno::ACCESS => open(OFlags::RDONLY),
        error => Err(error),
    });
    let Ok(fd) = opened else { return Ok(false) };
    let file = File::from(fd);
    let writer_lives =
        || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
    let metadata = file.metadata()?;
    if !metadata.is_file() || is_being_made(&metadata) || writer_lives() {
        return Ok(false);
    }
    // Still locked: a writer that has just made this file sees that it is gone and makes another.
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        // Another user's file in a sticky directory, where only its owner may remove it, or protected.
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
