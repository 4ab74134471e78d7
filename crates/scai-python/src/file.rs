//! `_native.File`: an open checkpoint file, and the verification of one by its path.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use scai_checkpoint::codec::dcp::DistributedCheckpoint;
use scai_checkpoint::codec::{CheckpointFile, Foreign, Unprotected};
use scai_checkpoint::verify::Answers;
use scai_checkpoint::{Dict, Error, file};

use crate::errors::{OrRaise, raise};
use crate::location::{StorageOptions, located};
use crate::tree::{Tree, part};

/// An open file. What is read of it is what was opened, whatever happens to its name.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct File {
    file: CheckpointFile,
    /// `None` for bytes in memory.
    path: Option<String>,
}

/// File, offset and length of an item; offsets and sizes of a part of its tensor.
type Request = (String, u64, u64, Vec<usize>, Vec<usize>);

impl File {
    fn distributed(&self) -> scai_checkpoint::Result<&DistributedCheckpoint> {
        let distributed = self.file.distributed();
        distributed.ok_or_else(|| Error::Invalid("it is not a distributed checkpoint".to_owned()))
    }

    pub(crate) fn of(file: CheckpointFile, path: &Path) -> Self {
        Self { file, path: Some(path.to_string_lossy().into_owned()) }
    }
}

#[pymethods]
impl File {
    #[new]
    #[pyo3(signature = (path, allow_unprotected=false, storage_options=None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        allow_unprotected: bool,
        storage_options: Option<StorageOptions>,
    ) -> PyResult<Self> {
        let unprotected = if allow_unprotected { Unprotected::Accept } else { Unprotected::Refuse };
        let location = located(&path, storage_options)?;
        let file = py.detach(|| file::open(location, unprotected)).or_raise()?;
        Ok(Self::of(file, &path))
    }

    /// The bytes of a file.
    #[staticmethod]
    fn of_bytes(py: Python<'_>, bytes: &[u8], allow_unprotected: bool) -> PyResult<Self> {
        let unprotected = if allow_unprotected { Unprotected::Accept } else { Unprotected::Refuse };
        let file = py.detach(|| file::from_bytes(bytes.to_vec(), unprotected)).or_raise()?;
        Ok(Self { file, path: None })
    }

    /// Reads every byte; raises the first damage there is.
    fn check(&self, py: Python<'_>, threads: usize) -> PyResult<()> {
        let damage = py.detach(|| self.file.verify(threads));
        match damage.into_iter().next() {
            Some(error) => Err(raise(&error)),
            None => Ok(()),
        }
    }

    /// The state tree. Its tensors are read and checked when they are used. With `foreign`,
    /// stand-ins take the place of objects that only code could make.
    #[pyo3(signature = (foreign=false))]
    fn tree(&self, py: Python<'_>, foreign: bool) -> PyResult<Tree> {
        let foreign = if foreign { Foreign::StandIn } else { Foreign::Refuse };
        let read = || {
            scai_checkpoint::Result::Ok(Tree::new(
                self.file.tree_with(foreign)?,
                self.file.notes()?,
                self.path.as_deref(),
            ))
        };
        py.detach(read).or_raise()
    }

    /// The metadata of a distributed checkpoint, as PyTorch pickled them; `None` of another file.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(distributed) = self.file.distributed() else { return Ok(None) };
        let metadata = py.detach(|| distributed.metadata()).or_raise()?;
        Ok(Some(PyBytes::new(py, &metadata)))
    }

    /// The tree of an item of a distributed checkpoint.
    fn item(&self, py: Python<'_>, file: &str, offset: u64, len: u64) -> PyResult<Tree> {
        let read = || {
            let end = offset.saturating_add(len);
            let item = self.distributed()?.item(file, offset..end)?;
            Ok(Tree::new(item.tree_with(Foreign::Refuse)?, item.notes()?, self.path.as_deref()))
        };
        let read: scai_checkpoint::Result<Tree> = py.detach(read);
        read.or_raise()
    }

    /// The bytes of an item of a distributed checkpoint, which are right.
    fn item_bytes<'py>(
        &self,
        py: Python<'py>,
        file: &str,
        offset: u64,
        len: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let end = offset.saturating_add(len);
        let bytes = py.detach(|| self.distributed()?.item_bytes(file, offset..end)).or_raise()?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The tensors in items of a distributed checkpoint, or parts of them, by their numbers: file, offset and
    /// length of the item, offsets and sizes of the part.
    fn items(&self, py: Python<'_>, requests: Vec<Request>) -> PyResult<Tree> {
        let read = || {
            let distributed = self.distributed()?;
            let mut dict = Dict::new();
            for (i, (file, offset, len, offsets, sizes)) in requests.into_iter().enumerate() {
                let item = distributed.item(&file, offset..offset.saturating_add(len))?;
                let value = item.tree()?;
                let part = value.as_tensor().and_then(|tensor| part(tensor, &offsets, sizes));
                let part = part.ok_or_else(|| {
                    Error::Invalid(format!("an item of `{file}` has no such part of a tensor"))
                })?;
                dict.insert(i.to_string(), part);
            }
            Ok(Tree::new(dict.into(), None, self.path.as_deref()))
        };
        let read: scai_checkpoint::Result<Tree> = py.detach(read);
        read.or_raise()
    }

    /// The number of the open file for the operating system; `None` where it cannot be mapped.
    fn fileno(&self) -> Option<i32> {
        use std::os::fd::AsRawFd;
        self.file.descriptor().map(|descriptor| descriptor.as_raw_fd())
    }
}

/// The eight answers about a file, what is wrong with it, and its iteration.
#[pyfunction]
#[pyo3(signature = (path, threads, storage_options=None))]
pub(crate) fn verify(
    py: Python<'_>,
    path: PathBuf,
    threads: usize,
    storage_options: Option<StorageOptions>,
) -> PyResult<Bound<'_, PyDict>> {
    let location = located(&path, storage_options)?;
    let found = py.detach(|| file::verify(location, threads)).or_raise()?;
    let dict = PyDict::new(py);
    dict.set_item("answers", answers(py, found.answers)?)?;
    let damage = found.damage.iter().map(|error| raise(error).into_value(py));
    dict.set_item("damage", PyList::new(py, damage)?)?;
    dict.set_item("iteration", found.iteration)?;
    dict.set_item("condition", found.condition().name())?;
    let obstacle = found.obstacle.as_ref().map(|error| raise(error).into_value(py));
    dict.set_item("obstacle", obstacle)?;
    Ok(dict)
}

fn answers(py: Python<'_>, answers: Answers) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("exists", answers.exists)?;
    dict.set_item("readable", answers.readable)?;
    dict.set_item("has_required_fields", answers.has_required_fields)?;
    dict.set_item("has_model_state", answers.has_model_state)?;
    dict.set_item("has_optimizer_state", answers.has_optimizer_state)?;
    dict.set_item("has_training_stats", answers.has_training_stats)?;
    dict.set_item("has_metadata", answers.has_metadata)?;
    dict.set_item("has_timestamp", answers.has_timestamp)?;
    Ok(dict)
}
