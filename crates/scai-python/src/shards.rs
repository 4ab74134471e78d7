//! `_native.Attempt` and `_native.Shard`: checkpoints that several processes write.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use scai_checkpoint::codec::dcp::{Content, ShardPlan};
use scai_checkpoint::file::WriteOptions;
use scai_checkpoint::folder;
use scai_checkpoint::shards::{self, Description};
use scai_checkpoint::{Error, Value};

use crate::errors::{OrRaise, raise};
use crate::manager::{Manager, interruptible, io, saved_dict};
use crate::memory::{Capture, Owners};
use crate::sync::held;
use crate::tree::Tree;

/// An attempt to save, by the process that will commit it.
#[pyclass(frozen, weakref, module = "scai._native")]
pub(crate) struct Attempt {
    /// `None` once it was committed or abandoned.
    attempt: Mutex<Option<shards::Attempt>>,
    #[pyo3(get)]
    id: String,
}

#[pymethods]
impl Attempt {
    #[new]
    fn new(py: Python<'_>, directory: PathBuf) -> PyResult<Self> {
        let attempt = py.detach(|| shards::Attempt::begin(&directory)).or_raise()?;
        let id = attempt.id().to_owned();
        Ok(Self { attempt: Mutex::new(Some(attempt)), id })
    }

    /// Commits shards by name, each with its size and root. `state` is what listings show: iteration,
    /// timestamp, statistics, metadata.
    fn commit(
        &self,
        py: Python<'_>,
        shards: BTreeMap<String, (u64, String)>,
        metadata: &[u8],
        state: &Tree,
        world_size: u64,
        about: BTreeMap<String, String>,
    ) -> PyResult<()> {
        let attempt = held(&self.attempt).take().ok_or_else(ended)?;
        let (shards, description) = (bound(shards)?, described(state, world_size, about));
        py.detach(|| attempt.commit(shards, metadata, description)).or_raise().map(drop)
    }

    /// Lets others save to the directory. What was written is removed by the next attempt.
    fn abandon(&self) {
        drop(held(&self.attempt).take());
    }
}

/// A checkpoint of a manager's directory that several processes write, in the one that will commit it.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct ShardedSave {
    /// `None` once it was committed or abandoned.
    save: Mutex<Option<scai_checkpoint::manager::ShardedSave>>,
    manager: Py<Manager>,
    #[pyo3(get)]
    id: String,
    /// Where the processes write.
    #[pyo3(get)]
    path: String,
}

#[pymethods]
impl ShardedSave {
    #[new]
    fn new(py: Python<'_>, manager: Py<Manager>, iteration: u64) -> PyResult<Self> {
        let engine = manager.get().here()?;
        let save = py.detach(|| engine.begin_shards(iteration)).or_raise()?;
        let id = save.attempt().id().to_owned();
        let path = save.attempt().path().to_string_lossy().into_owned();
        Ok(Self { save: Mutex::new(Some(save)), manager, id, path })
    }

    /// As `Attempt.commit`; returns what was saved.
    fn commit<'py>(
        &self,
        py: Python<'py>,
        shards: BTreeMap<String, (u64, String)>,
        metadata: &[u8],
        state: &Tree,
        world_size: u64,
        about: BTreeMap<String, String>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let save = held(&self.save).take().ok_or_else(ended)?;
        let shards = bound(shards)?;
        let description = described(state, world_size, about);
        let engine = self.manager.get().here()?;
        let commit = || engine.commit_shards(save, shards, metadata, description);
        saved_dict(py, &py.detach(commit).or_raise()?)
    }

    /// As `Attempt.abandon`.
    fn abandon(&self) {
        drop(held(&self.save).take());
    }
}

fn ended() -> PyErr {
    PyRuntimeError::new_err("the checkpoint was committed or abandoned already")
}

fn described(state: &Tree, world_size: u64, about: BTreeMap<String, String>) -> Description {
    let description = Description::of(&state.take()).world_size(world_size);
    about.into_iter().fold(description, |all, (name, value)| all.note(name, value))
}

fn bound(shards: BTreeMap<String, (u64, String)>) -> PyResult<BTreeMap<String, folder::Bound>> {
    let shards = shards.into_iter().map(|(name, (size, root))| {
        let root = u128::from_str_radix(&root, 16);
        let root = root.map_err(|error| raise(&Error::Invalid(format!("a root: {error}"))))?;
        Ok((name, folder::Bound::shard(size, root)))
    });
    shards.collect()
}

/// Reads every byte of a directory of shards; raises the first damage there is.
#[pyfunction]
pub(crate) fn shards_check(py: Python<'_>, directory: PathBuf, threads: usize) -> PyResult<()> {
    let damage = py.detach(|| shards::verify(&directory, threads)).or_raise()?;
    match damage.into_iter().next() {
        Some(error) => Err(raise(&error)),
        None => Ok(()),
    }
}

/// What an item of a shard is.
#[derive(FromPyObject)]
enum Item {
    /// The tensor of this number.
    Tensor(usize),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Where each item is, the size of the shard, and its root.
type Written = (Vec<(u64, u64)>, u64, String);

/// Tensors of one process, until its shard was written.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Shard {
    tensors: Mutex<Vec<Value>>,
    capture: Arc<Capture>,
    owners: Mutex<Option<Arc<Owners>>>,
    ended: AtomicBool,
}

#[pymethods]
impl Shard {
    /// Of the tree of a list of tensors.
    #[new]
    fn new(tree: &Tree) -> Self {
        let (capture, owners) = (Arc::clone(&tree.capture), tree.owners.clone());
        let tensors = match tree.take() {
            Value::List(tensors) => tensors,
            _ => Vec::new(),
        };
        let (tensors, owners) = (Mutex::new(tensors), Mutex::new(owners));
        Self { tensors, capture, owners, ended: AtomicBool::new(false) }
    }

    /// Writes the shard `name` of these items, and returns when it is durable: the bytes of each item, the
    /// size of the shard, and its root.
    fn write(
        &self,
        py: Python<'_>,
        directory: PathBuf,
        name: &str,
        items: Vec<(String, Item)>,
        threads: usize,
        how: &str,
    ) -> PyResult<Written> {
        let options = WriteOptions::from(threads).io(io(how)?);
        let owners = held(&self.owners).clone();
        let write = || {
            let mut plan = ShardPlan::default();
            let tensors = std::mem::take(&mut *held(&self.tensors));
            let mut ranges: Vec<Range<u64>> = Vec::with_capacity(items.len());
            for (item, content) in items {
                let content = match content {
                    Item::Bytes(bytes) => Content::Bytes(bytes),
                    Item::Tensor(i) => Content::Value(compact(tensors.get(i), &item)?),
                };
                ranges.push(plan.add(item, content)?);
            }
            drop(tensors);
            let approve = || owners.as_ref().map_or(Ok(()), |owners| owners.check());
            let bound = shards::write(&directory, name, plan, options, approve)?;
            let ranges = ranges.into_iter().map(|range| (range.start, range.end - range.start));
            Ok((ranges.collect(), bound.size, bound.root().to_owned()))
        };
        let written: scai_checkpoint::Result<_> = py.detach(write);
        self.end(py);
        written.or_raise()
    }

    /// Nothing will be read any more.
    fn end(&self, py: Python<'_>) {
        self.ended.store(true, Ordering::Release);
        let left = (std::mem::take(&mut *held(&self.tensors)), held(&self.owners).take());
        py.detach(|| drop(left));
    }

    /// Whether all live memory has been read, or the save has ended.
    fn is_captured(&self, py: Python<'_>) -> bool {
        py.detach(|| self.has_captured(Duration::ZERO))
    }

    /// Copies live memory that has not been read yet, up to `room` bytes.
    fn copy_rest(&self, py: Python<'_>, room: usize) {
        // Kept to the end: whoever drops them last needs the interpreter.
        let Some(owners) = held(&self.owners).clone() else { return };
        match owners.are_in_place(py) {
            true => self.capture.copy_rest(room, true),
            false => py.detach(|| self.capture.copy_rest(room, false)),
        }
    }

    /// Waits until all live memory has been read, or the save has ended. Ctrl-C ends the wait.
    fn wait_captured(&self, py: Python<'_>) -> PyResult<()> {
        interruptible(py, |limit| self.has_captured(limit))
    }

    /// From now on the memory may change: where PyTorch has counted a write to it until now, the save fails.
    fn release(&self, py: Python<'_>) {
        let owners = held(&self.owners).clone();
        // The error comes out of the save.
        py.detach(|| drop(owners.map(|owners| owners.check())));
    }
}

impl Shard {
    fn has_captured(&self, limit: Duration) -> bool {
        let ended = || self.ended.load(Ordering::Acquire);
        ended() || self.capture.wait(limit) || ended()
    }
}

/// The tensor, on a storage of its own.
fn compact(tensor: Option<&Value>, item: &str) -> scai_checkpoint::Result<Value> {
    match tensor.map(Value::resolved) {
        Some(Value::Tensor(tensor)) => Ok(tensor.compact().into()),
        Some(other) => Ok(other.clone()),
        None => Err(Error::Invalid(format!("`{item}` was not among the tensors of the shard"))),
    }
}
