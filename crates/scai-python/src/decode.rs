//! A state tree to objects of Python.

use std::collections::{BTreeMap, HashMap};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyList, PySet, PyString, PyTuple,
};
use rustc_hash::{FxHashMap, FxHashSet};
use scai_checkpoint::tensor::{Attributes, Destination, Storage, read_into};
use scai_checkpoint::value::{Call, DictKind};
use scai_checkpoint::{Dict, Error, Tensor, Value};

use crate::errors::OrRaise;
use crate::memory::Region;
use crate::notes::{self, Note, Notes, OtherForm, Parsed};
use crate::torch::Torch;

/// Where the tensors of the result are.
pub(crate) enum TensorPlace<'py> {
    /// In new memory, or in that of the tensors of a template where these fit.
    Memory { template: Option<Bound<'py, PyAny>> },
    /// In a memory map of the file: an object with Python's buffer protocol.
    Map(Bound<'py, PyAny>),
    /// On disk: what stands in their place is made by calling this with tree, path, dtype, shape.
    Disk(Bound<'py, PyAny>),
}

/// How a tree becomes objects.
pub(crate) struct DecodeOptions<'a, 'py> {
    pub(crate) place: TensorPlace<'py>,
    /// Gives the device for a location such as `cuda:0`; `None` is the CPU.
    pub(crate) locate: Option<Bound<'py, PyAny>>,
    pub(crate) threads: usize,
    /// The numbers of the children that are wanted, where the tree is a dictionary; `None` is all.
    pub(crate) only: Option<&'a [usize]>,
    /// Adds to an error where the tree is from.
    pub(crate) named: &'a (dyn Fn(Error) -> Error + Sync),
}

/// Memory of a template that is still to be filled, once everything else has succeeded.
#[derive(Default)]
pub(crate) struct Fills(Vec<Fill>);

impl Fills {
    /// The tensors of the state tree that are filled.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|fill| fill.name.clone()).collect()
    }

    /// Checks that the tensors still have the memory that they had.
    pub(crate) fn check(&self, py: Python<'_>) -> PyResult<()> {
        for Fill { region, name, template, .. } in &self.0 {
            let Some(template) = template else { continue };
            let address: usize =
                template.bind(py).call_method0(intern!(py, "data_ptr"))?.extract()?;
            if address != region.address {
                return Err(PyValueError::new_err(format!(
                    "the memory of `{name}` was replaced while something else was loaded; load \
                     the parts one by one"
                )));
            }
        }
        Ok(())
    }

    /// Reads and checks all bytes.
    pub(crate) fn read(&self, threads: usize) -> Result<(), Error> {
        read_into(destinations(&self.0), threads)
    }
}

/// Converts `value`; `notes` say which types plain values had. What is new is filled at once, memory
/// of the template by whoever takes the second part of the result.
///
/// # Errors
/// `DamagedError` where bytes of a tensor are not what was saved.
pub(crate) fn decode<'py>(
    py: Python<'py>,
    value: &Value,
    notes: &Notes,
    options: &DecodeOptions<'_, 'py>,
) -> PyResult<(Bound<'py, PyAny>, Fills)> {
    let mut decoder = decoder(py, value, notes, options)?;
    let template = match &options.place {
        TensorPlace::Memory { template } => template.clone(),
        TensorPlace::Map(_) | TensorPlace::Disk(_) => None,
    };
    let object = match (value.as_dict(), options.only) {
        (Some(dict), Some(_)) => decoder.dict(dict, None)?,
        _ => decoder.value(value, template.as_ref())?,
    };
    decoder.fill()?;
    let fills = without_overlap(decoder.later)?;
    Ok((object, Fills(fills)))
}

/// The keys of a dictionary.
pub(crate) fn decode_keys<'py>(
    py: Python<'py>,
    value: &Value,
    notes: &Notes,
    options: &DecodeOptions<'_, 'py>,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let mut decoder = decoder(py, value, notes, options)?;
    let entries = value.as_dict().map(|dict| &dict.entries[..]).unwrap_or_default();
    (0..).zip(entries).map(|(i, (key, _))| decoder.child(-1 - i, "", key, None)).collect()
}

fn decoder<'a, 'py>(
    py: Python<'py>,
    value: &Value,
    notes: &'a Notes,
    options: &'a DecodeOptions<'a, 'py>,
) -> PyResult<Decoder<'a, 'py>> {
    let mut uses = FxHashMap::default();
    count_uses(value, &mut uses, &mut FxHashSet::default());
    Ok(Decoder {
        py,
        options,
        notes: notes.parsed().map_err(|OtherForm| other_form())?,
        path: notes.path().to_vec(),
        walked: Vec::new(),
        keys: Vec::new(),
        uses,
        shared: FxHashMap::default(),
        firsts: HashMap::new(),
        storages: FxHashMap::default(),
        fills: Vec::new(),
        later: Vec::new(),
        claimed: BTreeMap::new(),
        used: false,
    })
}

/// Memory in its order, each part of it once.
fn without_overlap(mut fills: Vec<Fill>) -> PyResult<Vec<Fill>> {
    // Tensors that share memory are filled once.
    fills.sort_by_key(|fill| fill.region.address);
    fills.dedup_by_key(|fill| (fill.region.address, fill.region.len));
    if fills.windows(2).any(|two| two[0].region.end() > two[1].region.address) {
        return Err(PyValueError::new_err(
            "the target tensors overlap in memory without being the same tensor; load into a model \
             whose tensors do not overlap",
        ));
    }
    Ok(fills)
}

/// Counts what refers to each storage.
pub(crate) fn count_uses(
    value: &Value,
    uses: &mut FxHashMap<usize, usize>,
    seen: &mut FxHashSet<usize>,
) {
    if value.shared_id().is_some_and(|id| !seen.insert(id)) {
        return;
    }
    let mut each = |items: &[Value]| items.iter().for_each(|item| count_uses(item, uses, seen));
    match value.resolved() {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => each(items),
        Value::Call(call) => {
            each(&call.args);
            call.state.iter().for_each(|state| count_uses(state, uses, seen));
        }
        Value::Dict(dict) => {
            let attributes = dict.attributes.iter().flat_map(|attributes| &attributes.entries);
            for (key, value) in dict.entries.iter().chain(attributes) {
                count_uses(key, uses, seen);
                count_uses(value, uses, seen);
            }
        }
        Value::Object(object) => object.content.entries.iter().for_each(|(key, value)| {
            count_uses(key, uses, seen);
            count_uses(value, uses, seen);
        }),
        Value::Tensor(tensor) => *uses.entry(tensor.storage().id()).or_default() += 1,
        Value::Storage(storage, _) => *uses.entry(storage.id()).or_default() += 1,
        _ => {}
    }
}

fn other_form() -> PyErr {
    PyValueError::new_err("the notes on types in the file are malformed")
}

/// Memory to be filled, and what from.
struct Fill {
    storage: Storage,
    region: Region,
    name: String,
    /// The tensor that the memory is of; `None` for new memory.
    template: Option<Py<PyAny>>,
}

struct Decoder<'a, 'py> {
    py: Python<'py>,
    options: &'a DecodeOptions<'a, 'py>,
    notes: Option<&'a Parsed>,
    /// Where in the tree of the file.
    path: Vec<i64>,
    /// Where in the tree that is decoded.
    walked: Vec<i64>,
    keys: Vec<String>,
    /// How many tensors are views of each storage.
    uses: FxHashMap<usize, usize>,
    /// What became of shared values: by which it is, what it was loaded into, and whether tensors
    /// must not stay on disk.
    shared: FxHashMap<(usize, usize, bool), Bound<'py, PyAny>>,
    /// The objects that notes on other places say are there as well, by path.
    firsts: HashMap<Vec<i64>, Bound<'py, PyAny>>,
    /// The `UntypedStorage` of each storage.
    storages: FxHashMap<usize, Bound<'py, PyAny>>,
    /// New memory.
    fills: Vec<Fill>,
    /// Memory of the template.
    later: Vec<Fill>,
    /// Memory of the template that is filled: from where, to where, and the storage it is filled
    /// from.
    claimed: BTreeMap<usize, (usize, usize)>,
    /// Something is made of the tensors met now, which must not stay on disk.
    used: bool,
}

impl<'py> Decoder<'_, 'py> {
    fn value(
        &mut self,
        value: &Value,
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(notes) = self.notes else { return self.untagged(value, template) };
        let object = match notes.get(&self.path) {
            None => self.untagged(value, template)?,
            Some(Note::Same(first)) => {
                if let Some(object) = self.firsts.get(first) {
                    return Ok(object.clone());
                }
                // The first place is in a part that is not looked at.
                let path = std::mem::replace(&mut self.path, first.clone());
                let object = self.value(value, None);
                self.path = path;
                return object;
            }
            Some(Note::Tags(tags)) => {
                let object = self.using(|decoder| decoder.plain(value.resolved(), None))?;
                self.fill()?;
                let loads = self.py.import(intern!(self.py, "json"))?.getattr("loads")?;
                let convert = self.py.import(intern!(self.py, "scai._convert"))?;
                tags.iter().rev().try_fold(object, |object, tag| {
                    let tag = loads.call1((tag,)).map_err(|_| other_form())?;
                    convert.call_method1(intern!(self.py, "from_plain"), (object, tag))
                })?
            }
        };
        if notes.firsts.contains(&self.path) {
            self.firsts.insert(self.path.clone(), object.clone());
        }
        Ok(object)
    }

    /// The object of a value on which there are no notes; the same one for the same value.
    fn untagged(
        &mut self,
        value: &Value,
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Value::Shared(shared) = value else { return self.plain(value, template) };
        let into = template.map_or(0, |template| template.as_ptr().addr());
        let used = self.used && matches!(self.options.place, TensorPlace::Disk(_));
        let key = (shared.id(), into, used);
        if let Some(object) = self.shared.get(&key) {
            return Ok(object.clone());
        }
        let object = self.plain(shared.get(), template)?;
        self.shared.insert(key, object.clone());
        Ok(object)
    }

    fn using<T>(&mut self, decode: impl FnOnce(&mut Self) -> PyResult<T>) -> PyResult<T> {
        let before = std::mem::replace(&mut self.used, true);
        let decoded = decode(self);
        self.used = before;
        decoded
    }

    fn plain(
        &mut self,
        value: &Value,
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        Ok(match value {
            Value::None => py.None().into_bound(py),
            Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
            Value::Int(int) => int.into_pyobject(py)?.into_any(),
            Value::BigInt(int) => {
                let int_class = py.import("builtins")?.getattr("int")?;
                int_class.call1((int.to_hex(), 16))?
            }
            Value::Float(float) => PyFloat::new(py, *float).into_any(),
            Value::Complex(re, im) => PyComplex::from_doubles(py, *re, *im).into_any(),
            Value::Str(text) => PyString::new(py, text).into_any(),
            Value::Wtf8(bytes) => {
                PyBytes::new(py, bytes).call_method1("decode", ("utf-8", "surrogatepass"))?
            }
            Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
            Value::ByteArray(bytes) => PyByteArray::new(py, bytes).into_any(),
            Value::List(items) => PyList::new(py, self.items(items, template)?)?.into_any(),
            Value::Tuple(items) => PyTuple::new(py, self.items(items, template)?)?.into_any(),
            Value::Set(items) => PySet::new(py, self.items(items, None)?)?.into_any(),
            Value::Dict(dict) => self.dict(dict, template)?,
            Value::Tensor(tensor) => self.tensor(tensor, template)?,
            Value::Storage(storage, dtype) => {
                let torch = Torch::get(py)?;
                let untyped = self.storage(torch, storage)?;
                match dtype {
                    None => untyped,
                    Some(dtype) => {
                        let named = PyDict::new(py);
                        named.set_item("wrap_storage", untyped)?;
                        named.set_item("dtype", torch.dtype_object(py, *dtype)?)?;
                        named.set_item("_internal", true)?;
                        torch.typed_storage.bind(py).call((), Some(&named))?
                    }
                }
            }
            Value::Size(dims) => Torch::get(py)?.size.bind(py).call1((dims.clone(),))?,
            Value::DType(dtype) => Torch::get(py)?.dtype_object(py, *dtype)?.clone(),
            Value::Device(device) => Torch::get(py)?.device.bind(py).call1((device,))?,
            Value::Layout(layout) => {
                py.import("torch.serialization")?.call_method1("_get_layout", (layout,))?
            }
            Value::QScheme(scheme) => py.import("torch")?.getattr(scheme.as_str())?,
            Value::Call(call) => self.call(call)?,
            Value::Shared(_) => self.untagged(value, template)?,
            Value::Object(object) => {
                let content = self.dict(&object.content, None)?;
                let class = py.import("scai._foreign")?.getattr("ForeignObject")?;
                class.call1((&object.class, content))?
            }
            other => {
                let message = format!("a {} has no Python equivalent", other.type_name());
                return Err(PyValueError::new_err(message));
            }
        })
    }

    fn child(
        &mut self,
        number: i64,
        name: &str,
        value: &Value,
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.path.push(number);
        self.walked.push(number);
        self.keys.push(name.to_owned());
        let object = self.value(value, template);
        self.path.pop();
        self.walked.pop();
        self.keys.pop();
        object
    }

    fn items(
        &mut self,
        items: &[Value],
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let same = template.filter(|template| {
            template.is_instance_of::<PyList>() || template.is_instance_of::<PyTuple>()
        });
        let items = items.iter().enumerate();
        items
            .map(|(i, item)| {
                let template = same.and_then(|template| template.get_item(i).ok());
                self.child(i as i64, &i.to_string(), item, template.as_ref())
            })
            .collect()
    }

    fn dict(
        &mut self,
        dict: &Dict,
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let class = match dict.kind {
            DictKind::Ordered => Some("OrderedDict"),
            DictKind::Counter => Some("Counter"),
            _ => None,
        };
        let object = match class {
            Some(class) => py.import(intern!(py, "collections"))?.getattr(class)?.call0()?,
            None => PyDict::new(py).into_any(),
        };
        let entries = object.cast::<PyDict>()?.clone();
        let template = template.and_then(|template| template.cast::<PyDict>().ok());
        let only = self.options.only.filter(|_| self.keys.is_empty());
        for (i, (key, value)) in dict.entries.iter().enumerate() {
            if only.is_some_and(|only| !only.contains(&i)) {
                continue;
            }
            let i = i as i64;
            let key = self.child(-1 - i, "", key, None)?;
            let template = template.and_then(|template| template.get_item(&key).ok().flatten());
            let name = match key.cast::<PyString>() {
                Ok(text) => text.to_string_lossy().into_owned(),
                Err(_) => key.str()?.to_string_lossy().into_owned(),
            };
            let value = self.child(i, &name, value, template.as_ref())?;
            // The type's own way: an `OrderedDict` keeps its order in a list beside.
            if class.is_some() {
                object.set_item(key, value)?;
            } else {
                entries.set_item(key, value)?;
            }
        }
        if let Some(attributes) = &dict.attributes {
            self.path.push(notes::ATTRIBUTES);
            let attributes = self.using(|decoder| decoder.dict(attributes, None));
            self.path.pop();
            let attributes = attributes?;
            object.getattr(intern!(py, "__dict__"))?.call_method1("update", (attributes,))?;
        }
        Ok(object)
    }

    fn tensor(
        &mut self,
        tensor: &Tensor,
        template: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        if let (TensorPlace::Disk(make), false) = (&self.options.place, self.used) {
            let shape = PyTuple::new(py, tensor.shape())?;
            return make.call1((PyTuple::new(py, &self.walked)?, tensor.dtype().name(), shape));
        }
        let torch = Torch::get(py)?;
        let whole = tensor.is_contiguous()
            && tensor.offset() == 0
            && tensor.nbytes() == tensor.storage().len();
        if whole
            && tensor.attributes() == Attributes::default()
            && let Some(template) = template
            && let Some(region) = fitting(torch, tensor, template)?
            && self.claim(region, tensor.storage())
        {
            self.fill_later(tensor.storage(), region, Some(template));
            return Ok(template.clone());
        }
        let alone = self.uses.get(&tensor.storage().id()) == Some(&1);
        let in_memory = !matches!(self.options.place, TensorPlace::Map(_));
        let made = if whole && alone && in_memory && self.device(tensor.storage())?.is_none() {
            let named = PyDict::new(py);
            named.set_item(intern!(py, "dtype"), torch.dtype_object(py, tensor.dtype())?)?;
            let shape = PyTuple::new(py, tensor.shape())?;
            // A dimension of length 1 may have any stride.
            let strides = PyTuple::new(py, tensor.strides())?;
            let made = torch.empty_strided.bind(py).call((shape, strides), Some(&named))?;
            let address = made.call_method0(intern!(py, "data_ptr"))?.extract()?;
            let region = Region { address, len: tensor.nbytes() as usize };
            self.fill_later(tensor.storage(), region, None);
            made
        } else {
            self.view(torch, tensor)?
        };
        self.finish(torch, tensor.attributes(), made)
    }

    /// A tensor as a view of a storage that others may share.
    fn view(&mut self, torch: &Torch, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let untyped = self.storage(torch, tensor.storage())?;
        let named = PyDict::new(py);
        named.set_item(intern!(py, "dtype"), torch.dtype_object(py, tensor.dtype())?)?;
        named.set_item(intern!(py, "device"), untyped.getattr(intern!(py, "device"))?)?;
        let empty = torch.empty.bind(py).call((0,), Some(&named))?;
        let shape = PyTuple::new(py, tensor.shape())?;
        let strides = PyTuple::new(py, tensor.strides())?;
        empty.call_method1(intern!(py, "set_"), (untyped, tensor.offset(), shape, strides))
    }

    fn finish(
        &self,
        torch: &Torch,
        attributes: Attributes,
        made: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let Attributes { requires_grad, parameter, conjugate, negative } = attributes;
        let mut made = made;
        if conjugate {
            made = py.import("torch")?.call_method1("_conj", (made,))?;
        }
        if negative {
            made = py.import("torch")?.call_method1("_neg_view", (made,))?;
        }
        if parameter {
            let hooks = py.import("collections")?.getattr("OrderedDict")?.call0()?;
            return torch.rebuild_parameter.bind(py).call1((made, requires_grad, hooks));
        }
        if requires_grad {
            made.call_method1("requires_grad_", (true,))?;
        }
        Ok(made)
    }

    /// The device that a storage is to live on; `None` is the CPU.
    fn device(&self, storage: &Storage) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(locate) = &self.options.locate else { return Ok(None) };
        let device = locate.call1((storage.location(),))?;
        Ok((!device.is_none()).then_some(device))
    }

    fn storage(&mut self, torch: &Torch, storage: &Storage) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        if let Some(made) = self.storages.get(&storage.id()) {
            return Ok(made.clone());
        }
        let len = storage.len() as usize;
        let device = self.device(storage)?;
        if let Some(device) = &device
            && device.getattr(intern!(py, "type"))?.eq("meta")?
        {
            // Where there are no bytes, none are read.
            let named = PyDict::new(py);
            named.set_item("device", device)?;
            let untyped = torch.untyped_storage.bind(py).call((len,), Some(&named))?;
            self.storages.insert(storage.id(), untyped.clone());
            return Ok(untyped);
        }
        let named = PyDict::new(py);
        named.set_item(intern!(py, "dtype"), &torch.uint8)?;
        let mapped = match (&self.options.place, storage.file_range()) {
            (TensorPlace::Map(map), Some(range)) if len > 0 => {
                named.set_item("count", len)?;
                named.set_item("offset", range.start)?;
                Some(py.import("torch")?.getattr("frombuffer")?.call((map,), Some(&named))?)
            }
            _ => None,
        };
        let bytes = match &mapped {
            Some(mapped) => mapped.clone(),
            None => torch.empty.bind(py).call((len,), Some(&named))?,
        };
        let mut untyped = bytes.call_method0(intern!(py, "untyped_storage"))?;
        if mapped.is_none() {
            let address = bytes.call_method0(intern!(py, "data_ptr"))?.extract()?;
            self.fill_later(storage, Region { address, len }, None);
        }
        if let Some(device) = device {
            self.fill()?;
            let named = PyDict::new(py);
            named.set_item("device", device)?;
            untyped = untyped.call_method("to", (), Some(&named))?;
        }
        self.storages.insert(storage.id(), untyped.clone());
        Ok(untyped)
    }

    /// Takes memory of the template for one storage. `false` where another one fills some of it:
    /// tensors that share memory there are not the same in the file.
    fn claim(&mut self, region: Region, storage: &Storage) -> bool {
        let Region { address, len } = region;
        let claim = (region.end(), storage.id());
        if len == 0 || self.claimed.get(&address) == Some(&claim) {
            return true;
        }
        // Those before it end before it begins.
        let last = self.claimed.range(..region.end()).next_back();
        let free = last.is_none_or(|(_, (end, _))| *end <= address);
        if free {
            self.claimed.insert(address, claim);
        }
        free
    }

    fn fill_later(
        &mut self,
        storage: &Storage,
        region: Region,
        template: Option<&Bound<'py, PyAny>>,
    ) {
        if region.len == 0 {
            return;
        }
        let template = template.map(|template| template.clone().unbind());
        let fill = Fill { storage: storage.clone(), region, name: self.keys.join("."), template };
        if fill.template.is_some() { self.later.push(fill) } else { self.fills.push(fill) }
    }

    /// Reads what is new and waits for its bytes, all at once.
    fn fill(&mut self) -> PyResult<()> {
        let fills = without_overlap(std::mem::take(&mut self.fills))?;
        let (threads, named) = (self.options.threads, self.options.named);
        let read = || read_into(destinations(&fills), threads).map_err(named);
        self.py.detach(read).or_raise()
    }

    fn call(&mut self, call: &Call) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        self.path.push(notes::ARGUMENTS);
        let args = self.using(|decoder| {
            let args = call.args.iter().enumerate();
            args.map(|(i, arg)| decoder.child(i as i64, "", arg, None))
                .collect::<PyResult<Vec<_>>>()
        });
        self.path.pop();
        let state = call.state.as_ref();
        let state = state
            .map(|state| self.using(|decoder| decoder.child(notes::STATE, "state", state, None)));
        let (args, state) = (args?, state.transpose()?);
        // What is made of tensors may look at their bytes.
        self.fill()?;
        let (module, name) = call.global.rsplit_once('.').unwrap_or(("torch", call.global));
        if args.is_empty() {
            return py.import(module)?.getattr(name);
        }
        let rebuild = py.import(intern!(py, "scai._rebuild"))?.getattr(intern!(py, "rebuild"))?;
        let made = rebuild.call1((module, name, PyTuple::new(py, args)?))?;
        if let Some(state) = state {
            made.call_method1("__setstate__", (state,))?;
        }
        Ok(made)
    }
}

#[expect(unsafe_code, reason = "tensors are memory of Python")]
fn destinations(fills: &[Fill]) -> Vec<Destination<'_>> {
    fills
        .iter()
        .map(|Fill { storage, region, name, template }| Destination {
            name,
            storage,
            // SAFETY: the tensor was made for this fill and nobody else has it, or it is one of a
            // template, whose caller waits; regions do not overlap, as was checked.
            bytes: unsafe { region.as_mut() },
            is_new: template.is_none(),
        })
        .collect()
}

/// The memory of a tensor of the template, where the saved one fits into it as it is.
fn fitting(
    torch: &Torch,
    tensor: &Tensor,
    template: &Bound<'_, PyAny>,
) -> PyResult<Option<Region>> {
    let py = template.py();
    let class = template.get_type();
    if !(class.is(&torch.tensor) || class.is(&torch.parameter))
        || !template.getattr(intern!(py, "layout"))?.is(&torch.strided)
        || !template.getattr(intern!(py, "is_cpu"))?.is_truthy()?
    {
        return Ok(None);
    }
    let dtype = torch.dtype_of(&template.getattr(intern!(py, "dtype"))?);
    let shape: Vec<usize> = template.getattr(intern!(py, "shape"))?.extract()?;
    if dtype != Some(tensor.dtype())
        || shape != tensor.shape()
        || !template.call_method0(intern!(py, "is_contiguous"))?.is_truthy()?
        || template.call_method0(intern!(py, "is_neg"))?.is_truthy()?
        || template.call_method0(intern!(py, "is_conj"))?.is_truthy()?
    {
        return Ok(None);
    }
    let address = template.call_method0(intern!(py, "data_ptr"))?.extract()?;
    Ok(Some(Region { address, len: tensor.nbytes() as usize }))
}
