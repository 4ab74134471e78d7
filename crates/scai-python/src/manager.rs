//! `_native.Manager` and `_native.Handle`: a directory of checkpoints, and a save under way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::manager::{Prune, Residency, Resume, Skipped, Unreadable};
use scai_checkpoint::retention::Rule;
use scai_checkpoint::store::Io;
use scai_checkpoint::{
    Checkpoint, CheckpointManager, Error, Options, Retention, SaveHandle, Saved, Value,
};

use crate::errors::{OrRaise, raise};
use crate::file::File;
use crate::location::{StorageOptions, located};
use crate::memory::{Capture, Owners};
use crate::tree::Tree;

/// What makes a tensor on the meta device.
const META: &str = "torch._utils._rebuild_meta_tensor_no_storage";

/// A directory of checkpoints.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Manager {
    /// Taken out in a forked child, whose copy has no threads.
    manager: std::mem::ManuallyDrop<CheckpointManager>,
    process: u32,
}

/// The rules in one form, and the statistics by which the best are kept.
#[pyfunction]
pub(crate) fn retention(rules: Vec<String>) -> PyResult<(String, Vec<String>)> {
    let retention = Retention::of_rules(&rules).or_raise()?;
    Ok((retention.to_string(), retention.statistics().map(str::to_owned).collect()))
}

#[pymethods]
impl Manager {
    #[new]
    #[pyo3(signature = (
        directory, keep, threads=None, allow_unprotected=false, io="auto", memory=None, storage_options=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "those of the Python class, passed by position")]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        keep: &str,
        threads: Option<usize>,
        allow_unprotected: bool,
        io: &str,
        memory: Option<u64>,
        storage_options: Option<StorageOptions>,
    ) -> PyResult<Self> {
        let location = located(&directory, storage_options)?;
        let io = self::io(io)?;
        let unprotected = if allow_unprotected { Unprotected::Accept } else { Unprotected::Refuse };
        let mut options =
            Options::default().retention(keep.parse().or_raise()?).unprotected(unprotected).io(io);
        if let Some(threads) = threads {
            options = options.threads(threads);
        }
        if let Some(memory) = memory {
            options = options.memory(memory);
        }
        let manager = py.detach(|| CheckpointManager::create(location, options)).or_raise()?;
        Ok(Self { manager: std::mem::ManuallyDrop::new(manager), process: std::process::id() })
    }

    /// Saves a tree as the checkpoint of the iteration it says, and returns when it is durable.
    fn save<'py>(&self, py: Python<'py>, tree: &Tree) -> PyResult<Bound<'py, PyDict>> {
        let manager = self.here()?;
        let saved = py.detach(|| manager.save(checkpoint(tree)?)).or_raise()?;
        saved_dict(py, &saved)
    }

    /// Begins to save a tree.
    fn save_in_background(&self, py: Python<'_>, tree: &Tree) -> PyResult<Handle> {
        let manager = self.here()?;
        let owners = tree.owners.clone();
        let weak = owners.as_ref().map(Arc::downgrade).unwrap_or_default();
        let approve = move || owners.as_ref().map_or(Ok(()), |owners| owners.check());
        let begin = || manager.save_in_background_if(checkpoint(tree)?, approve);
        let handle = py.detach(begin).or_raise()?;
        Ok(Handle { handle, capture: Arc::clone(&tree.capture), owners: weak })
    }

    /// Waits until all saves in the background have ended, and raises what one failed with that was not
    /// reported. Ctrl-C ends the wait.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.wait_for_saves(py, 0)?;
        let manager = self.here()?;
        py.detach(|| manager.flush()).or_raise()
    }

    /// Waits until no more than `count` saves in the background are unfinished. Ctrl-C ends the wait.
    fn wait_for_saves(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        let manager = self.here()?;
        interruptible(py, |limit| manager.wait_for_saves(count, limit))
    }

    /// The directory: as it was given while that leads there, else absolute.
    fn directory(&self) -> String {
        self.manager.directory().to_string_lossy().into_owned()
    }

    /// The names of the checkpoints, by iteration.
    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let manager = self.here()?;
        let paths = py.detach(|| manager.paths()).or_raise()?;
        Ok(paths.iter().map(|path| file_name(path)).collect())
    }

    /// The iterations of the checkpoints, in order.
    fn iterations(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        let manager = self.here()?;
        py.detach(|| manager.iterations()).or_raise()
    }

    /// The newest checkpoint that is not superseded, and its iteration.
    fn latest(&self, py: Python<'_>) -> PyResult<Option<(String, u64)>> {
        let manager = self.here()?;
        let latest = py.detach(|| manager.latest()).or_raise()?;
        Ok(latest.map(|latest| (latest.name, latest.iteration)))
    }

    /// The checkpoint of an iteration.
    fn name_of(&self, py: Python<'_>, iteration: u64) -> PyResult<String> {
        let manager = self.here()?;
        let path = py.detach(|| manager.path_of(iteration)).or_raise()?;
        Ok(file_name(&path))
    }

    /// Records that the training goes on from the checkpoint of `iteration`.
    fn rollback(&self, py: Python<'_>, iteration: u64) -> PyResult<()> {
        let manager = self.here()?;
        py.detach(|| manager.rollback(iteration)).or_raise()
    }

    /// Notes that the checkpoint called `name` was read whole.
    fn note_read(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let manager = self.here()?;
        py.detach(|| manager.note_read(name)).or_raise()
    }

    /// Finds the newest checkpoint that is sound, and gives its open file, every byte of which was
    /// checked, and the story of how it was found.
    fn resume<'py>(
        &self,
        py: Python<'py>,
        skip_unreadable: bool,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let manager = self.here()?;
        let unreadable = if skip_unreadable { Unreadable::Skip } else { Unreadable::Fail };
        let how = Resume::default().residency(Residency::Disk).unreadable(unreadable);
        let Some(found) = py.detach(|| manager.resume_with(how)).or_raise()? else {
            return Ok(None);
        };
        let iteration = found.checkpoint.iteration;
        let dict = resumed_dict(py, &found.name, iteration, found.iterations_lost, &found.skipped)?;
        let path = manager.directory().join(&found.name);
        dict.set_item("file", Bound::new(py, File::of(found.file, &path))?)?;
        Ok(Some(dict))
    }

    /// Deletes what no rule keeps, or says what would be: name, reasons to stay, whether it went.
    fn prune(
        &self,
        py: Python<'_>,
        keep: &str,
        dry_run: bool,
    ) -> PyResult<Vec<(String, Vec<String>, bool)>> {
        let manager = self.here()?;
        let retention: Retention = keep.parse().or_raise()?;
        let prune = if dry_run { Prune::DryRun } else { Prune::Remove };
        let verdicts = py.detach(|| manager.prune(&retention, prune)).or_raise()?;
        Ok(told(verdicts))
    }

    /// Deletes what a run went back behind, or says what would be; as `prune`.
    fn prune_superseded(
        &self,
        py: Python<'_>,
        dry_run: bool,
    ) -> PyResult<Vec<(String, Vec<String>, bool)>> {
        let manager = self.here()?;
        let prune = if dry_run { Prune::DryRun } else { Prune::Remove };
        Ok(told(py.detach(|| manager.prune_superseded(prune, ReadOptions::default())).or_raise()?))
    }

    /// The best checkpoint by a rule such as `loss:min`.
    fn best(&self, py: Python<'_>, by: &str) -> PyResult<Option<String>> {
        let manager = self.here()?;
        let rule = format!("best:{by}").parse().or_raise()?;
        let Rule::Best { statistic, goal, .. } = rule else { return Ok(None) };
        let best = py.detach(|| manager.best(&statistic, goal)).or_raise()?;
        Ok(best.map(|best| best.name))
    }

    fn delete(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let manager = self.here()?;
        py.detach(|| manager.delete(name)).or_raise()
    }

    fn pin(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let manager = self.here()?;
        py.detach(|| manager.pin(name)).or_raise()
    }

    fn unpin(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let manager = self.here()?;
        py.detach(|| manager.unpin(name)).or_raise()
    }

    /// Whether this is the process that made it, and not a fork of it.
    fn is_here(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Manager {
    pub(crate) fn here(&self) -> PyResult<&CheckpointManager> {
        if self.is_here() {
            return Ok(&self.manager);
        }
        Err(raise(&Error::Invalid(
            "this process was forked from the one that created the manager, and does not have its \
             threads; create a new CheckpointManager here"
                .to_owned(),
        )))
    }
}

impl Drop for Manager {
    #[expect(unsafe_code, reason = "a fork must not wait for threads that it does not have")]
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: nobody uses it after this.
            let manager = unsafe { std::mem::ManuallyDrop::take(&mut self.manager) };
            // Dropping waits for saves under way, whose thread may want the interpreter.
            Python::attach(|py| py.detach(|| drop(manager)));
        }
    }
}

/// A save in the background.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Handle {
    handle: SaveHandle,
    capture: Arc<Capture>,
    /// Gone with the save.
    owners: Weak<Owners>,
}

#[pymethods]
impl Handle {
    /// Whether the save has ended, well or not.
    fn done(&self) -> bool {
        self.handle.is_done()
    }

    /// Waits until the save has ended, well or not, without asking how; says whether it has. Not for the main thread, where
    /// signals are handled.
    #[pyo3(signature = (seconds=None))]
    fn wait(&self, py: Python<'_>, seconds: Option<f64>) -> bool {
        let limit = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
        py.detach(|| match limit {
            Some(limit) => self.handle.wait_end(limit),
            None => loop {
                if self.handle.wait_end(Duration::MAX) {
                    break true;
                }
            },
        })
    }

    /// How the save ended: what was saved, or the exception that it failed with, which still counts as
    /// not reported; `None` if it has not ended.
    fn outcome<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.handle.outcome() {
            None => Ok(None),
            Some(Ok(saved)) => Ok(Some(saved_dict(py, &saved)?.into_any())),
            Some(Err(error)) => Ok(Some(raise(&error).into_value(py).into_bound(py).into_any())),
        }
    }

    /// What the save failed with counts as reported: the manager does not raise it any more.
    fn mark_reported(&self) {
        self.handle.mark_reported();
    }

    /// Whether all live memory has been read, or the save has ended.
    fn is_captured(&self, py: Python<'_>) -> bool {
        py.detach(|| self.has_captured(Duration::ZERO))
    }

    /// Copies live memory that has not been read yet, up to `room` bytes.
    fn copy_rest(&self, py: Python<'_>, room: usize) {
        // Kept to the end: whoever drops them last needs the interpreter, and threads copy here.
        let Some(owners) = self.owners.upgrade() else { return };
        match owners.are_in_place(py) {
            true => self.capture.copy_rest(room, true),
            false => py.detach(|| self.capture.copy_rest(room, false)),
        }
    }

    /// Waits until all live memory has been read, or the save has ended. Ctrl-C ends the wait.
    fn wait_captured(&self, py: Python<'_>) -> PyResult<()> {
        interruptible(py, |limit| self.has_captured(limit))
    }

    /// From now on the memory may change: where PyTorch has counted a write to it until now, the
    /// save fails. Only the first call looks, and none after the file was published.
    fn release(&self, py: Python<'_>) {
        // The error comes out of the save.
        py.detach(|| {
            let _ = self.owners.upgrade().map(|owners| owners.check());
        });
    }
}

impl Handle {
    fn has_captured(&self, limit: Duration) -> bool {
        self.handle.is_done() || self.capture.wait(limit) || self.handle.is_done()
    }
}

/// How bytes reach the device, as Python says it.
pub(crate) fn io(how: &str) -> PyResult<Io> {
    match how {
        "auto" => Ok(Io::Auto),
        "direct" => Ok(Io::Direct),
        "buffered" => Ok(Io::Buffered),
        other => {
            let message = format!("`io` must be 'auto', 'direct' or 'buffered', got '{other}'");
            Err(raise(&Error::Invalid(message)))
        }
    }
}

/// Between two looks at whether the user wants to interrupt a wait.
const POLL: Duration = Duration::from_millis(100);

/// Waits without the interpreter until `wait` returns true; it is called with a limit again and again.
pub(crate) fn interruptible(
    py: Python<'_>,
    wait: impl Fn(Duration) -> bool + Sync,
) -> PyResult<()> {
    while !py.detach(|| wait(POLL)) {
        py.check_signals()?;
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Name, reasons to stay, whether it went.
fn told(verdicts: Vec<scai_checkpoint::manager::Verdict>) -> Vec<(String, Vec<String>, bool)> {
    let verdict = |verdict: scai_checkpoint::manager::Verdict| {
        let reasons = verdict.reasons.iter().map(ToString::to_string).collect();
        (verdict.checkpoint.name, reasons, verdict.removed)
    };
    verdicts.into_iter().map(verdict).collect()
}

fn checkpoint(tree: &Tree) -> scai_checkpoint::Result<Checkpoint> {
    let mut checkpoint = Checkpoint::from_tree(tree.take())?;
    checkpoint.notes = tree.notes.text().map(str::to_owned);
    match without_values(&checkpoint.model_state_dict) {
        Some(name) => Err(Error::Invalid(format!(
            "`{name}` of `model` is on the meta device and has no values to save"
        ))),
        None => Ok(checkpoint),
    }
}

/// The first tensor of a model that has only a shape.
fn without_values(model: &Value) -> Option<&str> {
    let is_meta =
        |value: &Value| matches!(value.resolved(), Value::Call(call) if call.global == META);
    let (name, _) = model.as_dict()?.entries.iter().find(|(_, value)| is_meta(value))?;
    name.as_str()
}

/// Where a training goes on, and what was skipped: name, reason, and what it is called now.
pub(crate) fn resumed_dict<'py>(
    py: Python<'py>,
    name: &str,
    iteration: u64,
    iterations_lost: u64,
    skipped: &[Skipped],
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", name)?;
    dict.set_item("iteration", iteration)?;
    dict.set_item("iterations_lost", iterations_lost)?;
    let skipped = skipped.iter().map(|skipped| {
        let reason = raise(&skipped.reason).into_value(py);
        (skipped.name.clone(), reason, skipped.set_aside.clone())
    });
    dict.set_item("skipped", PyList::new(py, skipped)?)?;
    Ok(dict)
}

pub(crate) fn saved_dict<'py>(py: Python<'py>, saved: &Saved) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &saved.name)?;
    dict.set_item("bytes", saved.size)?;
    let timeline = saved.timeline;
    dict.set_item("rate", timeline.rate(saved.size))?;
    let stages = [timeline.plan, timeline.write, timeline.sync, timeline.commit, timeline.after];
    dict.set_item("timeline", stages.map(|time| time.as_secs_f64()))?;
    dict.set_item("removed", &saved.removed)?;
    dict.set_item("warnings", saved.warnings.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(dict)
}
