//! One checkpoint file by its path, outside any directory of checkpoints.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::codec::{CheckpointFile, Plan, Unprotected};
use crate::commit;
use crate::error::{Error, Result};
use crate::manager::{Verification, verify};
use crate::store::{Io, Links, LocalStore, ReadAt, Store};

/// Opens the file at `path`, in whichever format it is.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Io`]; as [`CheckpointFile::open`].
pub fn open_file(path: impl AsRef<Path>, unprotected: Unprotected) -> Result<CheckpointFile> {
    let path = path.as_ref();
    CheckpointFile::open(open(path)?, unprotected).map_err(|error| error.at_path(text(path)))
}

/// Writes what was planned to `path`, replacing what is there, and returns when it is durable.
///
/// What is replaced keeps its permissions; through a symbolic link, the file it leads to is replaced.
/// Only files are: a directory, a pipe or a device is an error. If there is no `path` yet and the file
/// system has unnamed files, a process that is killed meanwhile leaves nothing behind.
///
/// # Errors
/// As a save of a checkpoint: what was at `path` is then still there.
pub fn write_file(path: impl AsRef<Path>, plan: Plan, threads: usize) -> Result<()> {
    write_file_with(path, plan, threads, Io::default())
}

/// As [`write_file`], with a say in how the bytes reach the device.
///
/// # Errors
/// As [`write_file`].
pub fn write_file_with(path: impl AsRef<Path>, plan: Plan, threads: usize, io: Io) -> Result<()> {
    let path = path.as_ref();
    let opened = LocalStore::of_file(path, Links::Follow);
    let (store, name) =
        opened.map_err(|error| Error::io("open its directory", error).at_path(text(path)))?;
    store.sweep_once();
    commit::publish(&store.with_io(io), &name, plan.len(), |draft| plan.write(threads, draft))
        .map(drop)
        .map_err(|error| error.at_path(text(path)))
}

/// Reads every byte of the file at `path` and reports all that is wrong.
///
/// `progress` is told how many further bytes have been checked.
///
/// # Errors
/// [`Error::Io`] where the file cannot be opened. One that does not exist is an answer.
pub fn verify_file(
    path: impl AsRef<Path>,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Verification> {
    let path = path.as_ref();
    match open(path) {
        Ok(file) => Ok(verify(&text(path), file, threads, progress)),
        Err(error @ Error::NotFound { .. }) => Ok(Verification::failed(error)),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> Result<Arc<dyn ReadAt>> {
    let opened = LocalStore::of_file(path, Links::Keep);
    opened.and_then(|(store, name)| store.open(&name)).map_err(|error| refused(path, "open", error))
}

fn refused(path: &Path, action: &'static str, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: text(path) },
        _ => Error::io(action, error).at_path(text(path)),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
