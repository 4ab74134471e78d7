//! One checkpoint file by its path, outside any directory of checkpoints; or its bytes in memory.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::codec::{CheckpointFile, Plan, Unprotected};
use crate::error::{Error, Result};
use crate::store::{Directory, Io, Links, LocalDirectory, ReadAt, WriteAt, commit};
use crate::threads::{default_threads, held};
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

    pub(crate) fn thread_count(&self) -> usize {
        self.threads
    }

    pub(crate) fn how(&self) -> Io {
        self.io
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

/// Opens the bytes of a file, in any format.
///
/// # Errors
/// As [`CheckpointFile::open`].
pub fn from_bytes(bytes: Vec<u8>, unprotected: Unprotected) -> Result<CheckpointFile> {
    CheckpointFile::open(Arc::new(Bytes(bytes)), unprotected)
}

/// Writes the planned file into memory of exactly [`Plan::len`] bytes.
///
/// # Errors
/// [`Error::Invalid`] if the memory has another length; as [`Plan::write`]. The contents of the
/// memory are then unspecified.
pub fn write_into(memory: &mut [u8], plan: Plan, threads: usize) -> Result<()> {
    if memory.len() as u64 != plan.len() {
        return Err(Error::invalid(format!(
            "the file takes {} bytes, but the buffer has {}",
            plan.len(),
            memory.len()
        )));
    }
    plan.write(threads, &Memory(Mutex::new(memory))).map(drop)
}

/// The bytes of a file.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buf.len());
        let part = self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

/// Memory that several threads write to.
#[derive(Debug)]
struct Memory<'a>(Mutex<&'a mut [u8]>);

impl WriteAt for Memory<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut memory = held(&self.0);
        let part = memory.get_mut(start..start.saturating_add(bytes.len()));
        part.ok_or(io::ErrorKind::WriteZero)?.copy_from_slice(bytes);
        Ok(())
    }
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
