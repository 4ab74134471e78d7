//! One checkpoint file by its path, outside any directory of checkpoints; or its bytes in memory.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::codec::dcp::DistributedPlan;
use crate::codec::{COMMIT, CheckpointFile, METADATA, Plan, Unprotected};
use crate::error::{Error, Place, Result};
use crate::store::{
    Directory, IntoLocation, Io, Links, LocalDirectory, Publication, ReadAt, WriteAt, commit,
    draft_name, open_remote,
};
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

/// Opens the file at a path or a URL, in any format; or the distributed checkpoint that the directory at `path` is.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Io`]; as [`CheckpointFile::open`]; [`Error::NotACheckpoint`] for a
/// directory of other files.
pub fn open(location: impl IntoLocation, unprotected: Unprotected) -> Result<CheckpointFile> {
    CheckpointFile::open(opened(location)?, unprotected)
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
pub(crate) struct Bytes(pub(crate) Vec<u8>);

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

/// Writes the planned checkpoint into a new directory at `path`, and returns when it is durable.
///
/// The files are written into a directory under a temporary name, which then gets its final name in one step.
///
/// # Errors
/// [`Error::Io`] of the kind [`io::ErrorKind::DirectoryNotEmpty`] or [`io::ErrorKind::NotADirectory`] if
/// there is anything at `path` but an empty directory; those of saving a checkpoint. What was at `path` is
/// then still there.
pub fn write_distributed(
    path: impl AsRef<Path>,
    plan: DistributedPlan,
    options: impl Into<WriteOptions>,
) -> Result<()> {
    let (path, options) = (path.as_ref(), options.into());
    let located = |action, error| Error::io(action, error).at_path(path);
    let found = LocalDirectory::of_file(path, Links::Keep);
    let (parent, name) = found.map_err(|error| located("open its directory", error))?;
    let parent = parent.with_io(options.io);
    commit::sweep_children(&parent)?;
    let staged = draft_name();
    parent.make_child(&staged).map_err(|error| located("create the directory", error))?;
    let child = parent.child(&staged).map_err(|error| located("create the directory", error))?;
    // Shows to a sweep that this process is alive; some file systems cannot.
    let _held = child.hold();
    let written = write_staged(&*child, plan, options)
        .and_then(|()| commit::publish_new_child(&parent, &staged, &name));
    if written.is_err() && parent.child(&staged).is_ok() {
        // What cannot be removed now is left to the next sweep.
        let _ = commit::remove_all(&parent, &staged);
    }
    written
}

/// Writes the files of a checkpoint into a directory, each durable before the next one.
fn write_staged(
    directory: &dyn Directory,
    plan: DistributedPlan,
    options: WriteOptions,
) -> Result<()> {
    let (shard, len) = plan.shard();
    let rest = Mutex::new(Vec::new());
    commit::publish(directory, &shard, len, |draft| {
        *held(&rest) = plan.write(options.threads, draft)?;
        Ok(())
    })?;
    for (name, bytes) in &*held(&rest) {
        commit::publish_entry(directory, Publication::of_bytes(name, bytes))?;
    }
    Ok(())
}

/// Reads every byte of the file at `path`, or of the distributed checkpoint that the directory at `path` is,
/// and reports all that is wrong.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; [`Error::Cancelled`]. A file that does not exist is
/// reported, not an error.
pub fn verify<'o>(
    location: impl IntoLocation,
    options: impl Into<ReadOptions<'o>>,
) -> Result<Verification> {
    verify_opened(opened(location), options)
}

fn opened(location: impl IntoLocation) -> Result<Arc<dyn ReadAt>> {
    let path = &*location.to_path_buf();
    let location = location.into_location().map_err(|error| Error::of_path("open", path, error))?;
    if let Some(file) = open_remote(&location)? {
        return Ok(file);
    }
    let found = LocalDirectory::of_file(location.clone(), Links::Keep);
    let error = match found.and_then(|(directory, name)| directory.open(&name)) {
        Ok(file) => return Ok(file),
        Err(error) => error,
    };
    match LocalDirectory::open(location) {
        Ok(directory) => opened_in(&directory, path),
        Err(_) => Err(Error::of_path("open", path, error)),
    }
}

/// Opens the file that makes a directory a distributed checkpoint.
fn opened_in(directory: &LocalDirectory, path: &Path) -> Result<Arc<dyn ReadAt>> {
    for name in [COMMIT, METADATA] {
        match directory.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => return file.map_err(|error| Error::of_path("open", path.join(name), error)),
        }
    }
    Err(Error::not_a_checkpoint(
        Place { path: Some(path.to_owned()), ..Place::default() },
        format!("a directory without `{COMMIT}` or `{METADATA}`"),
        "name a file in it",
    ))
}
