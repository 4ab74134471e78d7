//! Directories and bytes, written durably where what is replaced may be a symbolic link.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use scai_checkpoint::Error;
use scai_checkpoint::store::{
    DirectoryStore, Links, LocalDirectory, Publication, Store as _, WriteAt,
};

use crate::errors::OrRaise;

/// Makes a directory and those above it where they are missing, and returns when all their names are
/// durable, whoever made them.
#[pyfunction]
pub(crate) fn create_directory(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    let create = || LocalDirectory::create(&path).map(drop);
    py.detach(create).map_err(|error| Error::io("create", error).at_path(&path)).or_raise()
}

/// Writes bytes as they are, and returns when the file is durable. A symbolic link is replaced.
#[pyfunction]
pub(crate) fn write_bytes(py: Python<'_>, path: PathBuf, bytes: &[u8]) -> PyResult<()> {
    let write = |to: &dyn WriteAt| to.write_at(0, bytes).map_err(|error| Error::io("write", error));
    py.detach(|| replace(&path, bytes.len() as u64, write)).or_raise()
}

/// Writes a file of `len` bytes in place of what is at `path`, also of a symbolic link.
pub(crate) fn replace(
    path: &Path,
    len: u64,
    write: impl FnOnce(&dyn WriteAt) -> scai_checkpoint::Result<()>,
) -> scai_checkpoint::Result<()> {
    let found = LocalDirectory::of_file(path, Links::Keep);
    let (directory, name) =
        found.map_err(|error| Error::io("open its directory", error).at_path(path))?;
    DirectoryStore::on(directory).publish(Publication::new(&name, len, write)).map(drop)
}
