//! `_native.Tree`: a state tree, from objects or from a file.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustc_hash::{FxHashMap, FxHashSet};
use scai_checkpoint::codec::safetensors::SafetensorsPlan;
use scai_checkpoint::codec::{Format, Plan};
use scai_checkpoint::load::{
    MatchOptions, Strictness, TensorSpec, match_state, transfer_optimizer,
};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::value::join;
use scai_checkpoint::{Checkpoint, DType, Dict, Error, Tensor, Value, file};
use serde_json::Value as Json;

use crate::decode::{self, TensorPlace};
use crate::encode::{Encoded, Found, View, encode};
use crate::errors::{OrRaise, raise, report_dict};
use crate::live::Live;
use crate::memory::{
    COPY_PIECE, Capture, Owners, SMALL, Snapshot, Watched, reads_are_safe, room_for_samples,
};
use crate::notes::{Note, Notes};
use crate::pool::{Buffer, Pool};
use crate::sync::{held, shared_out};

/// Live memory in bytes that is worth a thread of its own.
const LOOKED_AT: usize = 32 << 20;

/// A state tree.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Tree {
    root: Mutex<Arc<Value>>,
    /// The numbers of the children on the way from the root.
    at: Vec<usize>,
    pub(crate) notes: Notes,
    /// The file it comes from.
    path: Option<Arc<str>>,
    /// Where in the file's tree it is; empty for the whole.
    above: String,
    pub(crate) capture: Arc<Capture>,
    /// Whose memory is read while the tree is saved.
    pub(crate) owners: Option<Arc<Owners>>,
}

/// A value somewhere in a tree, which it keeps alive.
struct Node<'t> {
    root: Arc<Value>,
    at: &'t [usize],
}

impl Deref for Node<'_> {
    type Target = Value;

    fn deref(&self) -> &Value {
        // The way was gone once, and trees do not change.
        self.at.iter().fold(&*self.root, |value, &index| child(value, index).unwrap_or(&NOTHING))
    }
}

static NOTHING: Value = Value::None;

/// The child of this number.
fn child(value: &Value, index: usize) -> Option<&Value> {
    match value.resolved() {
        Value::Dict(dict) => dict.entries.get(index).map(|(_, value)| value),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.get(index),
        _ => None,
    }
}

/// Which memory is read only when it is written.
#[derive(FromPyObject)]
enum Later<'py> {
    /// All of it, or nothing.
    All(bool),
    Of(Bound<'py, Live>),
}

impl Later<'_> {
    fn includes(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Of(live) => live.get().covers(snapshot.address(), snapshot.len()),
        }
    }
}

/// Trees by name.
type Named = Vec<(String, Tree)>;

/// Name, element type and shape of a tensor of a model.
type Spec = (String, String, Vec<usize>);

/// Tensors of a model or an optimizer that are to be filled from a file.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Filling {
    fills: decode::Fills,
    /// Where in which file, for errors.
    tree: Tree,
}

#[pymethods]
impl Filling {
    /// The names of the tensors in the state tree.
    fn names(&self) -> Vec<String> {
        self.fills.names()
    }

    /// Checks that the tensors still have the memory that they had; nothing is changed.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.fills.check(py)
    }

    /// Fills them, and checks every byte. After an error some tensors may hold what is in the file, others what
    /// they held, and what could not be read or is damaged may be anything.
    fn fill(&self, py: Python<'_>, threads: usize) -> PyResult<()> {
        let read = || self.fills.read(threads).map_err(|error| self.tree.named(error));
        py.detach(read).or_raise()
    }
}

#[pymethods]
impl Tree {
    /// The tree of any object that can be saved. Without a pool, tensors must stay as they are
    /// until the tree was written; with one they may change at once, but for those that `live`
    /// covers (all, where that is `True`): these when `Handle.wait_captured` says so.
    /// `staging` copies memory of other devices, and is asked to wait before the first is read.
    /// `note` is JSON to be kept beside the tree, for [`Tree::note`].
    #[staticmethod]
    #[pyo3(signature = (object, pool=None, live=None, staging=None, note=None))]
    fn encode(
        object: &Bound<'_, PyAny>,
        pool: Option<&Bound<'_, Pool>>,
        live: Option<Later<'_>>,
        staging: Option<&Bound<'_, PyAny>>,
        note: Option<&str>,
    ) -> PyResult<Self> {
        let py = object.py();
        let encoded = encode(object, staging, pool.is_some())?;
        let Encoded { value, notes, found, views, owners } = encoded;
        let notes = match note {
            Some(note) => Some(noted(notes.as_deref(), note).or_raise()?),
            None => notes,
        };
        let capture = Arc::new(Capture::default());
        match pool {
            Some(pool) => {
                let live = live.unwrap_or(Later::All(false));
                take(py, &found, &views, &owners, pool.get(), &live, &capture)?;
            }
            None => found.into_iter().filter_map(|found| found.storage).for_each(|s| owners.add(s)),
        }
        let (notes, owners) = (Notes::new(notes), Some(owners));
        let root = Mutex::new(Arc::new(value));
        Ok(Self { root, at: Vec::new(), notes, path: None, above: String::new(), capture, owners })
    }

    /// The objects of the tree. Tensors are in new memory, in `map`, or what `disk` makes of tree,
    /// path, dtype and shape. Of a dictionary, all children or those with the numbers `only`.
    #[pyo3(signature = (*, map=None, disk=None, locate=None, threads=1, only=None))]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        map: Option<Bound<'py, PyAny>>,
        disk: Option<Bound<'py, PyAny>>,
        locate: Option<Bound<'py, PyAny>>,
        threads: usize,
        only: Option<Vec<usize>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let place = match (map, disk) {
            (Some(map), _) => TensorPlace::Map(map),
            (None, Some(disk)) => TensorPlace::Disk(disk),
            (None, None) => TensorPlace::Memory { template: None },
        };
        Ok(self.decoded(py, place, locate, threads, only.as_deref())?.0)
    }

    /// The objects of the tree, with the tensors of `template` where these fit, and what fills
    /// them.
    fn decode_into<'py>(
        &self,
        py: Python<'py>,
        template: Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<(Bound<'py, PyAny>, Filling)> {
        let place = TensorPlace::Memory { template: Some(template) };
        let (object, fills) = self.decoded(py, place, None, threads, None)?;
        Ok((object, Filling { fills, tree: self.with(Value::None) }))
    }

    /// Path and class of each stand-in for an object that only code could make.
    fn objects(&self) -> Vec<(String, String)> {
        let value = self.value();
        let objects = value.objects().into_iter();
        objects.map(|(path, object)| (path, object.class.clone())).collect()
    }

    /// The keys of a dictionary that are strings.
    fn keys(&self) -> Vec<String> {
        let value = self.value();
        value.as_dict().map(|dict| dict.keys().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The tree under a key; `None` where there is none.
    fn part(&self, key: &str) -> Option<Self> {
        let value = self.value();
        let mut keys = value.as_dict()?.entries.iter().map(|(key, _)| key);
        let index = keys.position(|found| found.as_str() == Some(key))?;
        Some(self.child(key, index))
    }

    /// Reads and checks all bytes of the tensors.
    fn check(&self, py: Python<'_>, threads: usize) -> PyResult<()> {
        let value = self.value();
        let storages: Vec<Storage> =
            value.storages().into_iter().map(|(_, storage)| storage.clone()).collect();
        let pieces: Vec<(usize, u64)> = storages
            .iter()
            .enumerate()
            .flat_map(|(i, storage)| (0..storage.len()).step_by(COPY_PIECE).map(move |at| (i, at)))
            .collect();
        let check = |piece: usize| {
            let (i, at) = pieces[piece];
            storages[i].check(at..storages[i].len().min(at + COPY_PIECE as u64))
        };
        py.detach(|| shared_out(pieces.len(), threads, check))
            .map_err(|error| self.named(error))
            .or_raise()
    }

    /// What was kept beside the whole tree, as JSON.
    fn note(&self) -> Option<String> {
        match self.notes.parsed().ok()??.get(&[NOTE])? {
            Note::Tags(tags) => tags.first().cloned(),
            Note::Same(_) => None,
        }
    }

    /// The keys of a dictionary, of whatever type.
    fn decode_keys<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let named = &|error| self.named(error);
        let place = TensorPlace::Memory { template: None };
        let options = decode::DecodeOptions { place, locate: None, threads: 1, only: None, named };
        decode::decode_keys(py, &self.value(), &self.notes, &options)
    }

    /// The children of a dictionary that share memory or values with one of them, and that one.
    fn linked(&self, index: usize) -> Vec<usize> {
        let value = self.value();
        let entries = value.as_dict().map(|dict| &dict.entries[..]).unwrap_or_default();
        linked(entries, &self.notes, index)
    }

    /// The dictionary with other names, in the same order.
    fn renamed(&self, remap: Vec<(String, String)>) -> PyResult<Self> {
        let options = options(false, &remap)?;
        let value = self.value();
        let Some(dict) = value.as_dict() else { return Ok(self.same()) };
        let mut dict = dict.clone();
        let mut names = HashSet::new();
        for (key, _) in &mut dict.entries {
            let Some(name) = key.as_str() else { continue };
            let renamed = options.rename(name);
            if !names.insert(renamed.clone()) {
                return Err(raise(&self.named(Error::Invalid(format!(
                    "the remap table maps two saved tensors to the name `{renamed}`"
                )))));
            }
            *key = renamed.into();
        }
        Ok(Self { notes: self.notes.clone(), ..self.with(dict.into()) })
    }

    /// The tree in which some tensors are parts of what they were, and the paths of these. A part is at a
    /// path, or directly below it: from `offsets` on as many elements as `sizes` says in each dimension. A
    /// tensor of another shape than `shape` stays as it is.
    fn narrowed(&self, parts: Vec<Narrowing>) -> (Self, Vec<String>) {
        let parts = parts.into_iter().map(|part| (part.0.clone(), part)).collect();
        let mut narrower = Narrower { parts, found: Vec::new() };
        let value = narrower.value(&self.value(), "", None);
        let value = value.unwrap_or_else(|| Value::clone(&self.value()));
        (Self { notes: self.notes.clone(), ..self.with(value) }, narrower.found)
    }

    /// The file it comes from, as errors call it.
    #[getter]
    fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The tree under a field of a checkpoint.
    fn field(&self, name: &str) -> PyResult<Self> {
        self.part(name).ok_or_else(|| {
            let present = self.keys().into_iter().take(20).collect::<Vec<_>>().join(", ");
            let (place, field) = (Box::default(), name.to_owned());
            raise(&self.named(Error::MissingField { place, field, present }))
        })
    }

    /// Checks that this is a checkpoint: that it has the fields that every one has.
    fn check_fields(&self) -> PyResult<()> {
        let checked = Checkpoint::iteration_of(&self.value());
        checked.map(drop).map_err(|error| self.named(error)).or_raise()
    }

    /// The tree of a child, by the numbers on the way to it.
    fn at(&self, path: Vec<i64>) -> Option<Self> {
        let mut tree = self.same();
        for index in path {
            let index = usize::try_from(index).ok()?;
            let value = tree.value();
            let key = match value.resolved() {
                Value::Dict(dict) => dict.entries.get(index)?.0.key_text(),
                _ => index.to_string(),
            };
            child(&value, index)?;
            tree = tree.child(&key, index);
        }
        Some(tree)
    }

    /// The tensors of a state dict that fit a model's, by the model's names; what it has besides
    /// under one of the names `others`; and the report on both.
    #[pyo3(signature = (specs, others, strict, remap, cast=false))]
    fn matched<'py>(
        &self,
        py: Python<'py>,
        specs: Vec<Spec>,
        others: Vec<String>,
        strict: bool,
        remap: Vec<(String, String)>,
        cast: bool,
    ) -> PyResult<(Self, Named, Bound<'py, PyDict>)> {
        let mut options = options(false, &remap)?;
        if cast {
            options = options.cast();
        }
        let specs = tensor_specs(specs)?;
        let (tensors, mut saved_others) = self.split(&options);
        // Of what is a tensor on one side only, the report speaks as of two things.
        let matched = match_state(&tensors, &specs, &options).or_raise()?;
        let mut report = matched.report;
        let mut found = Vec::new();
        for name in others {
            match saved_others.iter().position(|(saved, _)| *saved == name) {
                Some(at) => found.push(saved_others.remove(at)),
                None => report.missing.push(name),
            }
        }
        report.unexpected.extend(saved_others.into_iter().map(|(name, _)| name));
        report.loaded.extend(found.iter().map(|(name, _)| name.clone()));
        if strict && !report.is_complete() {
            return Err(raise(&self.named(Error::mismatch(report))));
        }
        let report = report_dict(py, &report)?;
        let dict: Dict = matched.tensors.into_iter().collect();
        Ok((self.with(dict.into()), found, report))
    }

    /// The optimizer state `current` with the moments of this one, by the names of parameters.
    fn transferred<'py>(
        &self,
        py: Python<'py>,
        names: Vec<String>,
        current: &Self,
        specs: Vec<Spec>,
        remap: Vec<(String, String)>,
    ) -> PyResult<(Self, Bound<'py, PyDict>)> {
        let options = options(false, &remap)?;
        let specs = tensor_specs(specs)?;
        let (value, report) =
            transfer_optimizer(&self.value(), &names, &current.value(), &specs, &options)
                .or_raise()?;
        Ok((self.with(value), report_dict(py, &report)?))
    }

    /// The digests of the tensors of a state dict, in hexadecimal, by name.
    fn digests(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let value = self.value();
        let tensors = value.as_dict().into_iter().flat_map(|dict| &dict.entries);
        let digests = tensors
            .filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value.as_tensor()?)));
        let digest =
            |(name, tensor): (String, &Tensor)| Ok((name, format!("{:032x}", tensor.digest()?)));
        let computed: scai_checkpoint::Result<_> = py.detach(|| digests.map(digest).collect());
        computed.map_err(|error| self.named(error)).or_raise()
    }

    /// Writes a `.pt` file and returns when it is durable. If `path` is a symbolic link, the file it
    /// points to is replaced; without `follow` the link itself.
    #[pyo3(signature = (path, threads, *, follow=true))]
    fn write(
        &self,
        py: Python<'_>,
        path: std::path::PathBuf,
        threads: usize,
        follow: bool,
    ) -> PyResult<()> {
        py.detach(|| {
            let plan = Plan::with_notes(&self.value(), self.notes.text(), Format::Torch)?;
            if follow {
                return file::write(path, plan, threads);
            }
            let len = plan.len();
            crate::write::replace(&path, len, |to| plan.write(threads, to).map(drop))
        })
        .or_raise()
    }

    /// Writes a safetensors file with this metadata and returns when it is durable.
    fn write_safetensors(
        &self,
        py: Python<'_>,
        path: std::path::PathBuf,
        metadata: BTreeMap<String, String>,
        threads: usize,
    ) -> PyResult<()> {
        py.detach(|| {
            let pairs = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let plan = SafetensorsPlan::new(&self.value())?;
            let plan = plan.with_metadata(self.notes.text(), pairs)?;
            file::write(path, Plan::Safetensors(plan), threads)
        })
        .or_raise()
    }

    /// The bytes of a `.pt` file.
    fn to_bytes<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyBytes>> {
        let plan = py.detach(|| Plan::with_notes(&self.value(), self.notes.text(), Format::Torch));
        let plan = plan.or_raise()?;
        PyBytes::new_with(py, plan.len() as usize, |memory| {
            py.detach(|| file::write_into(memory, plan, threads)).or_raise()
        })
    }
}

impl Tree {
    pub(crate) fn new(value: Value, notes: Option<String>, path: Option<&str>) -> Self {
        Self {
            root: Mutex::new(Arc::new(value)),
            at: Vec::new(),
            notes: Notes::new(notes),
            path: path.map(Into::into),
            above: String::new(),
            capture: Arc::default(),
            owners: None,
        }
    }

    fn value(&self) -> Node<'_> {
        Node { root: Arc::clone(&held(&self.root)), at: &self.at }
    }

    /// The tree itself, which is gone from here afterwards; copied if others refer into it.
    pub(crate) fn take(&self) -> Value {
        let root = std::mem::replace(&mut *held(&self.root), Arc::new(Value::None));
        if self.at.is_empty() {
            return Arc::try_unwrap(root).unwrap_or_else(|root| Value::clone(&root));
        }
        Value::clone(&Node { root, at: &self.at })
    }

    fn decoded<'py>(
        &self,
        py: Python<'py>,
        place: TensorPlace<'py>,
        locate: Option<Bound<'py, PyAny>>,
        threads: usize,
        only: Option<&[usize]>,
    ) -> PyResult<(Bound<'py, PyAny>, decode::Fills)> {
        let named = &|error| self.named(error);
        let options = decode::DecodeOptions { place, locate, threads, only, named };
        decode::decode(py, &self.value(), &self.notes, &options)
    }

    /// The error with all that is known here of its place.
    fn named(&self, error: Error) -> Error {
        let error = error.below(&self.above);
        match &self.path {
            Some(path) => error.at_path(&**path),
            None => error,
        }
    }

    /// Another value in the place of this, without notes.
    fn with(&self, value: Value) -> Self {
        self.over(Arc::new(value))
    }

    fn over(&self, root: Arc<Value>) -> Self {
        Self {
            root: Mutex::new(root),
            at: Vec::new(),
            notes: Notes::default(),
            path: self.path.clone(),
            above: self.above.clone(),
            capture: Arc::clone(&self.capture),
            owners: self.owners.clone(),
        }
    }

    /// The same value; nothing of it is copied.
    fn same(&self) -> Self {
        let (at, notes) = (self.at.clone(), self.notes.clone());
        Self { at, notes, ..self.over(Arc::clone(&held(&self.root))) }
    }

    /// The tensors of a state dict, and what modules keep in it besides (`_extra_state`), by the
    /// name that it gets.
    fn split(&self, options: &MatchOptions) -> (Value, Named) {
        let value = self.value();
        let Value::Dict(dict) = value.resolved() else {
            return (Value::clone(&value), Vec::new());
        };
        let mut tensors = Dict::new();
        let mut others = Vec::new();
        // A tensor that stands for something else, such as an array, is none.
        for (i, (key, value)) in dict.entries.iter().enumerate() {
            let is_tensor = value.as_tensor().is_some() && !self.notes.converts(i as i64);
            if is_tensor {
                tensors.entries.push((key.clone(), value.clone()));
            } else {
                let name = key.key_text();
                others.push((options.rename(&name), self.child(&name, i)));
            }
        }
        (Value::Dict(tensors), others)
    }

    /// The child with this key and number.
    fn child(&self, key: &str, index: usize) -> Self {
        let at = [&self.at[..], &[index]].concat();
        let (notes, above) = (self.notes.below(index as i64), join(&self.above, key));
        Self { at, notes, above, ..self.over(Arc::clone(&held(&self.root))) }
    }
}

/// Path, shape, offsets and sizes.
type Narrowing = (String, Vec<usize>, Vec<usize>, Vec<usize>);

/// Puts parts in the place of tensors.
struct Narrower {
    parts: FxHashMap<String, Narrowing>,
    /// The paths where there are some now.
    found: Vec<String>,
}

impl Narrower {
    /// The value with parts in it; `None` if nothing in it is another. `above` is the part of what is directly
    /// below the value around it.
    fn value(&mut self, value: &Value, path: &str, above: Option<&Narrowing>) -> Option<Value> {
        let part = self.parts.get(path).cloned();
        let part = part.as_ref();
        match value.resolved() {
            Value::Tensor(tensor) => {
                let tensor = narrow(tensor, part.or(above)?)?;
                self.found.push(path.to_owned());
                Some(tensor.into())
            }
            Value::Dict(dict) => {
                let mut changed: Option<Dict> = None;
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    if let Some(value) = self.value(value, &join(path, &key.key_text()), part) {
                        changed.get_or_insert_with(|| dict.clone()).entries[i].1 = value;
                    }
                }
                changed.map(Value::Dict)
            }
            _ => None,
        }
    }
}

/// A part of a tensor; `None` if it has another shape.
fn narrow(tensor: &Tensor, (_, shape, offsets, sizes): &Narrowing) -> Option<Tensor> {
    if tensor.shape() != shape { None } else { part(tensor, offsets, sizes.clone()) }
}

/// From `offsets` on as many elements as `sizes` says; `None` if they are not in the tensor.
pub(crate) fn part(tensor: &Tensor, offsets: &[usize], sizes: Vec<usize>) -> Option<Tensor> {
    let ends = offsets.iter().zip(&sizes).map(|(offset, size)| offset.checked_add(*size));
    let is_inside = ends.zip(tensor.shape()).all(|(end, len)| end.is_some_and(|end| end <= *len));
    if !is_inside || offsets.len() != tensor.shape().len() || sizes.len() != offsets.len() {
        return None;
    }
    let steps = offsets.iter().zip(tensor.strides()).map(|(offset, stride)| offset * stride);
    let offset = tensor.offset() + steps.sum::<usize>();
    let (strides, storage) = (tensor.strides().to_vec(), tensor.storage().clone());
    let part = Tensor::new(tensor.dtype(), sizes, strides, offset, storage).ok()?;
    Some(part.with_attributes(tensor.attributes()).compact())
}

/// The path of a note on the whole tree: no child has this number.
const NOTE: i64 = -(1 << 62);

/// The notes with one on the whole tree.
fn noted(notes: Option<&str>, note: &str) -> scai_checkpoint::Result<String> {
    let invalid = |error: serde_json::Error| Error::Invalid(format!("a note: {error}"));
    let note = format!("[[{NOTE}], {}]", serde_json::from_str::<Json>(note).map_err(invalid)?);
    Ok(match notes.and_then(|notes| notes.strip_suffix(']')) {
        None | Some("[") => format!("[{note}]"),
        Some(notes) => format!("{notes}, {note}]"),
    })
}

/// The numbers of the entries that share memory or objects with one, and its own.
fn linked(entries: &[(Value, Value)], notes: &Notes, index: usize) -> Vec<usize> {
    let mut shared: Vec<HashSet<usize>> = Vec::with_capacity(entries.len());
    for (_, value) in entries {
        let (mut uses, mut seen) = Default::default();
        decode::count_uses(value, &mut uses, &mut seen);
        shared.push(uses.into_keys().chain(seen).collect());
    }
    let same: Vec<(usize, usize)> = notes.same_children();
    let mut found = vec![index];
    let mut next = 0;
    while let Some(&at) = found.get(next) {
        let Some(one) = shared.get(at) else { break };
        let is_linked = |i: usize| {
            same.contains(&(at, i)) || same.contains(&(i, at)) || !shared[i].is_disjoint(one)
        };
        let others = (0..entries.len()).filter(|i| !found.contains(i) && is_linked(*i));
        let others: Vec<usize> = others.collect();
        found.extend(others);
        next += 1;
    }
    found.sort_unstable();
    found
}

/// How names are matched, as Python says it.
pub(crate) fn options(strict: bool, remap: &[(String, String)]) -> PyResult<MatchOptions> {
    let strictness = if strict { Strictness::Strict } else { Strictness::Partial };
    let table = remap.iter().map(|(pattern, with)| (pattern.as_str(), with.as_str()));
    MatchOptions::default().strictness(strictness).with_remap(table).or_raise()
}

fn tensor_specs(specs: Vec<Spec>) -> PyResult<Vec<TensorSpec>> {
    let spec =
        |(name, dtype, shape): Spec| Ok(TensorSpec { name, dtype: dtype.parse::<DType>()?, shape });
    specs.into_iter().map(spec).collect::<scai_checkpoint::Result<_>>().or_raise()
}

/// What a remap table makes of names.
#[pyfunction]
pub(crate) fn renamed(names: Vec<String>, remap: Vec<(String, String)>) -> PyResult<Vec<String>> {
    let options = options(false, &remap)?;
    Ok(names.iter().map(|name| options.rename(name)).collect())
}

/// Takes the bytes of tensors, or what is needed to take them later.
fn take(
    py: Python<'_>,
    found: &[Found],
    views: &[View],
    owners: &Owners,
    pool: &Pool,
    live: &Later<'_>,
    capture: &Arc<Capture>,
) -> PyResult<()> {
    let (mut small, mut large, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for Found { snapshot, storage } in found {
        let later_than_now = storage
            .as_ref()
            .filter(|_| snapshot.len() >= SMALL && reads_are_safe() && live.includes(snapshot));
        match later_than_now {
            Some(storage) if !is_shared(storage.bind(py))? => {
                later.push(snapshot);
                owners.add(storage.clone_ref(py));
            }
            _ if snapshot.len() < SMALL => small.push(snapshot),
            _ => large.push((snapshot, pool.take(snapshot.len()).or_raise()?)),
        }
    }
    // Counted before the first byte is looked at. What a device copies is read later where it is
    // live, and otherwise before whatever comes next.
    let addresses: FxHashSet<usize> = later.iter().map(|snapshot| snapshot.address()).collect();
    let is_later = |view: &&View| match (view.on_cpu, live) {
        (true, _) => addresses.contains(&view.address),
        (false, Later::Of(live)) => live.get().covers(view.address, view.len),
        (false, Later::All(_)) => false,
    };
    let watched = |view: &View| Watched::new(py, &view.tensor, &view.name);
    let seen: FxHashSet<usize> = views.iter().filter(is_later).map(|view| view.address).collect();
    let are_all_seen = later.iter().all(|snapshot| seen.contains(&snapshot.address()));
    owners.watch(views.iter().filter(is_later).map(watched).collect(), are_all_seen);
    let at_once = views.iter().filter(|view| view.on_cpu && !is_later(view));
    let copied: Vec<Watched> = at_once.map(watched).collect();
    let together = pool.take(small.iter().map(|snapshot| snapshot.len()).sum()).or_raise()?;
    let read_later: usize = later.iter().map(|snapshot| snapshot.len()).sum();
    pool.trim(read_later);
    copy_small(&small, together).or_raise()?;
    // The interpreter stays held: nobody may free what is looked at. A thread costs as much as to
    // look at some MiB.
    room_for_samples(read_later).or_raise()?;
    let threads = read_later / LOOKED_AT + 1;
    shared_out(later.len(), threads, |i| later[i].go_live(capture)).or_raise()?;
    copy(&mut large).or_raise()?;
    // PyTorch lets the interpreter go while it computes: another thread may have been writing.
    if let Some(changed) = copied.iter().find(|one| one.has_changed(py)) {
        return Err(raise(&changed.error()));
    }
    for (snapshot, bytes) in large {
        snapshot.set_copy(Arc::new(bytes), 0..snapshot.len());
    }
    capture.may_copy(later.into_iter().map(Arc::downgrade).collect(), pool.clone());
    Ok(())
}

/// Whether other processes may write to the memory of an `UntypedStorage`.
fn is_shared(storage: &Bound<'_, PyAny>) -> PyResult<bool> {
    storage.call_method0(intern!(storage.py(), "is_shared"))?.is_truthy()
}

/// Copies what is small into one buffer, one after the other.
fn copy_small(small: &[&Arc<Snapshot>], mut buffer: Buffer) -> scai_checkpoint::Result<()> {
    let mut rest = buffer.bytes_mut();
    for snapshot in small {
        let (bytes, after) = rest.split_at_mut(snapshot.len());
        snapshot.copy_held(0, bytes)?;
        rest = after;
    }
    let (buffer, mut at) = (Arc::new(buffer), 0);
    for snapshot in small {
        snapshot.set_copy(Arc::clone(&buffer), at..at + snapshot.len());
        at += snapshot.len();
    }
    Ok(())
}

/// Copies by several threads, in pieces, while the interpreter is held: the kernel, which checks whether
/// memory is there, takes twice as long.
fn copy(large: &mut [(&Arc<Snapshot>, Buffer)]) -> scai_checkpoint::Result<()> {
    let pieces: Vec<_> = large
        .iter_mut()
        .flat_map(|(snapshot, bytes)| {
            let pieces = bytes.bytes_mut().chunks_mut(COPY_PIECE).enumerate();
            pieces.map(|(i, piece)| Mutex::new((&**snapshot, i * COPY_PIECE, piece)))
        })
        .collect();
    shared_out(pieces.len(), pieces.len(), |i| {
        let mut piece = held(&pieces[i]);
        let (snapshot, offset, bytes) = &mut *piece;
        snapshot.copy_held(*offset, bytes)
    })
}
