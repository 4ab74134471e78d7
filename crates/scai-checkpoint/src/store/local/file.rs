//! An open file, and the calls that say whether its bytes reached the device.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::super::{ReadAt, Stamp, check_name};

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: File,
    len: u64,
    dir: Arc<OwnedFd>,
    path: PathBuf,
    stamp: Stamp,
}

impl LocalFile {
    /// Opens the file `name` of the directory `dir`, whose path is `directory`.
    pub(super) fn open(dir: &Arc<OwnedFd>, directory: &Path, name: &str) -> io::Result<Self> {
        check_name(name)?;
        // Without NONBLOCK, opening a pipe that somebody left here would hang.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            let message = format!("`{name}` is {what}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let modified = metadata.mtime().wrapping_mul(1_000_000_000) + metadata.mtime_nsec();
        let stamp = [metadata.dev(), metadata.ino(), modified as u64, metadata.len()];
        // A file in the working directory is shown by its name alone.
        let path = if directory == Path::new(".") { name.into() } else { directory.join(name) };
        Ok(Self { len: metadata.len(), file, dir: Arc::clone(dir), path, stamp: Stamp(stamp) })
    }
}

impl ReadAt for LocalFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn beside(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        Ok(Arc::new(Self::open(&self.dir, directory, name)?))
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(self.stamp)
    }

    fn forget_cached(&self) {
        // Only advice: if it is refused, reads come from memory as before.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Exactly one `fsync`.
///
/// Not `File::sync_all`, which calls again when it is interrupted: what a second call says about
/// the bytes of the first is not reliable.
pub(super) fn full_sync(fd: impl AsFd) -> io::Result<()> {
    // On Apple systems, `fsync` leaves the bytes in the drive's own cache.
    #[cfg(target_vendor = "apple")]
    return Ok(rustix::fs::fcntl_fullfsync(fd)?);
    #[cfg(not(target_vendor = "apple"))]
    Ok(rustix::fs::fsync(fd)?)
}

/// Closes a file and reports errors that dropping it would swallow.
///
/// Network and FUSE file systems may report a failed write here and nowhere else.
#[expect(unsafe_code, reason = "the standard library closes without a result")]
pub(super) fn close(file: File) -> io::Result<()> {
    let fd = file.into_raw_fd();
    // SAFETY: `into_raw_fd` made this function the only owner of `fd`, and it is not used again.
    Ok(unsafe { rustix::io::try_close(fd) }?)
}
