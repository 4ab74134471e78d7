//! One checkpoint file by its path, outside any directory of checkpoints.

use std::path::Path;
use std::sync::Arc;

use crate::codec::{CheckpointFile, Plan, Unprotected};
use crate::error::{Error, Result};
use crate::store::{Directory, Io, Links, LocalDirectory, ReadAt, commit};
use crate::threads::default_threads;
use crate::verify::{Verification, verify_opened};

pub use crate::read_options::ReadOptions;

/// How a file is written. A thread count converts into it.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    threads: usize,
    io: Io,
}

impl WriteOptions {
    /// Threads that write; by default one per core, at most 8.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: threads.max(1), ..self }
    }

    /// How the bytes reach the device.
    #[must_use]
    pub fn io(self, io: Io) -> Self {
        Self { io, ..self }
    }
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { threads: default_threads(), io: Io::default() }
    }
}

impl From<usize> for WriteOptions {
    fn from(threads: usize) -> Self {
        Self::default().threads(threads)
    }
}

/// Opens the file at `path`, in any format.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Io`]; as [`CheckpointFile::open`].
pub fn open(path: impl AsRef<Path>, unprotected: Unprotected) -> Result<CheckpointFile> {
    CheckpointFile::open(opened(path.as_ref())?, unprotected)
}

/// Writes the planned file to `path`, replacing what is there, and returns when it is durable.
///
/// The new file has the permissions of the one it replaces. If `path` is a symbolic link, the file it
/// points to is replaced. A directory, a pipe or a device is an error. If `path` does not exist yet
/// and the file system has unnamed files, a process that is killed meanwhile leaves nothing behind.
///
/// # Errors
/// Those of saving a checkpoint; what was at `path` is then still there.
pub fn write(path: impl AsRef<Path>, plan: Plan, options: impl Into<WriteOptions>) -> Result<()> {
    let (path, options) = (path.as_ref(), options.into());
    let found = LocalDirectory::of_file(path, Links::Follow);
    let (directory, name) =
        found.map_err(|error| Error::io("open its directory", error).at_path(path))?;
    directory.sweep_once();
    let directory = directory.with_io(options.io);
    commit::publish(&directory, &name, plan.len(), |draft| {
        plan.write(options.threads, draft).map(drop)
    })
    .map(drop)
}

/// Reads every byte of the file at `path` and reports all that is wrong.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; [`Error::Cancelled`]. A file that does not exist is
/// reported, not an error.
pub fn verify<'o>(
    path: impl AsRef<Path>,
    options: impl Into<ReadOptions<'o>>,
) -> Result<Verification> {
    verify_opened(opened(path.as_ref()), options)
}

fn opened(path: &Path) -> Result<Arc<dyn ReadAt>> {
    let found = LocalDirectory::of_file(path, Links::Keep);
    found
        .and_then(|(directory, name)| directory.open(&name))
        .map_err(|error| Error::of_path("open", path, error))
}
