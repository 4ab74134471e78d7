//! `_native.Staging`: directories of files that others write, committed as one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use scai_checkpoint::folder::{self, About};

use crate::errors::{OrRaise, raise};
use crate::sync::held;

/// A directory under a temporary name, in which files are written until it is committed.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Staging {
    /// `None` once it was committed or abandoned.
    staging: Mutex<Option<folder::Staging>>,
    path: PathBuf,
}

#[pymethods]
impl Staging {
    #[new]
    fn new(py: Python<'_>, parent: PathBuf) -> PyResult<Self> {
        let staging = py.detach(|| folder::Staging::begin(&parent)).or_raise()?;
        let path = staging.path().to_owned();
        Ok(Self { staging: Mutex::new(Some(staging)), path })
    }

    /// The directory, as an absolute path.
    #[getter]
    fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Gives the directory its name, and returns its path when it is durable.
    fn commit(
        &self,
        py: Python<'_>,
        name: &str,
        about: BTreeMap<String, String>,
        iteration: Option<u64>,
    ) -> PyResult<String> {
        let staging = held(&self.staging).take();
        let staging = staging.ok_or_else(|| {
            PyRuntimeError::new_err("the directory was committed or abandoned already")
        })?;
        let mut written = about
            .into_iter()
            .fold(About::default(), |about, (name, value)| about.note(name, value));
        if let Some(iteration) = iteration {
            written = written.iteration(iteration);
        }
        let path = py.detach(|| staging.commit(name, &written)).or_raise()?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Removes the directory.
    fn abandon(&self, py: Python<'_>) {
        let staging = held(&self.staging).take();
        py.detach(|| drop(staging));
    }
}

/// What a directory was committed as; `None` if it was not.
#[pyfunction]
pub(crate) fn folder_commit(py: Python<'_>, path: PathBuf) -> PyResult<Option<Bound<'_, PyDict>>> {
    let Some(commit) = py.detach(|| folder::commit_of(&path)).or_raise()? else { return Ok(None) };
    let dict = PyDict::new(py);
    dict.set_item("iteration", commit.iteration)?;
    dict.set_item("attempt", commit.attempt)?;
    dict.set_item("timestamp", commit.timestamp)?;
    dict.set_item("about", commit.about)?;
    let files: BTreeMap<String, u64> =
        commit.files.into_iter().map(|(name, bound)| (name, bound.size)).collect();
    dict.set_item("files", files)?;
    Ok(Some(dict))
}

/// All that is wrong with the files of a committed directory, as exceptions.
#[pyfunction]
pub(crate) fn folder_verify(
    py: Python<'_>,
    path: PathBuf,
    threads: usize,
) -> PyResult<Bound<'_, PyList>> {
    let damage = py.detach(|| folder::verify(&path, threads)).or_raise()?;
    PyList::new(py, damage.iter().map(|error| raise(error).into_value(py)))
}

/// Removes a committed directory, as a whole from one moment on.
#[pyfunction]
pub(crate) fn folder_remove(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| folder::remove(&path)).or_raise()
}

/// Removes what killed processes have left in a directory.
#[pyfunction]
pub(crate) fn folder_sweep(py: Python<'_>, parent: PathBuf) -> PyResult<()> {
    py.detach(|| folder::sweep(&parent)).or_raise()
}
