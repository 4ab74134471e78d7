//! Objects of Python to a state tree.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyInt, PyList, PySet, PyString,
    PyTuple,
};
use rustc_hash::FxHashMap;
use scai_checkpoint::codec::torch::{constructor, repeated_key};
use scai_checkpoint::tensor::{Attributes, Storage};
use scai_checkpoint::value::{BigInt, Call, DictKind, MAX_DEPTH};
use scai_checkpoint::{DType, Dict, Tensor, Value};

use crate::dlpack::Strided;
use crate::errors::OrRaise;
use crate::memory::{Owners, Region, SMALL, Snapshot};
use crate::notes;
use crate::torch::Torch;

/// Keys of a path that a message shows: of a longer one the first and the last.
const SHOWN: usize = 16;

/// The tree of an object, the types that its values had, and the memory of its tensors.
pub(crate) struct Encoded {
    pub(crate) value: Value,
    /// JSON, where a value is not what `torch.load` gives back.
    pub(crate) notes: Option<String>,
    pub(crate) found: Vec<Found>,
    pub(crate) views: Vec<View>,
    pub(crate) owners: Arc<Owners>,
}

/// A tensor that is a view of memory long enough to be read later.
pub(crate) struct View {
    pub(crate) tensor: Py<PyAny>,
    pub(crate) name: String,
    pub(crate) on_cpu: bool,
    /// Those of its storage.
    pub(crate) address: usize,
    pub(crate) len: usize,
}

/// Memory of the CPU that the tree refers to.
pub(crate) struct Found {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The `UntypedStorage`, to be handed to `owners` where the memory is read later.
    pub(crate) storage: Option<Py<PyAny>>,
}

/// Where an error happened, from the inside out.
struct Refusal {
    path: Vec<String>,
    error: PyErr,
}

impl From<PyErr> for Refusal {
    fn from(error: PyErr) -> Self {
        Self { path: Vec::new(), error }
    }
}

type Walked<T> = Result<T, Refusal>;

/// Converts `object`. What has no form of its own in a tree is made plain by `scai._convert`.
/// `staging` copies the memory of other devices; without it each copy is waited for. With `copies`
/// short memory is copied before the interpreter is let go.
///
/// # Errors
/// `TypeError` with the path of the value that cannot be saved.
pub(crate) fn encode(
    object: &Bound<'_, PyAny>,
    staging: Option<&Bound<'_, PyAny>>,
    copies: bool,
) -> PyResult<Encoded> {
    let py = object.py();
    let mut encoder = Encoder {
        py,
        torch: Torch::loaded(py)?,
        collections: py.import(intern!(py, "collections"))?,
        path: Vec::new(),
        keys: Vec::new(),
        notes: PyList::empty(py),
        seen: FxHashMap::default(),
        storages: FxHashMap::default(),
        owners: Arc::new(Owners::new(staging.map(|staging| staging.clone().unbind()))),
        found: Vec::new(),
        views: Vec::new(),
        staging: staging.cloned(),
        copies,
    };
    match encoder.value(object) {
        Ok(mut value) => {
            let notes = encoder.notes_text()?;
            encoder.seen.clear();
            value.unshare_single();
            let Encoder { found, views, owners, .. } = encoder;
            Ok(Encoded { value, notes, found, views, owners })
        }
        Err(Refusal { mut path, error }) => {
            path.reverse();
            if path.len() > SHOWN {
                path.splice(SHOWN / 2..path.len() - SHOWN / 2, ["…".to_owned()]);
            }
            Err(at_path(py, &path.join("."), error))
        }
    }
}

/// The same error, saying where in the tree.
fn at_path(py: Python<'_>, path: &str, error: PyErr) -> PyErr {
    let place = if path.is_empty() { "the object" } else { path };
    let is_about_values =
        error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyValueError>(py);
    if !is_about_values {
        return error;
    }
    let located = PyTypeError::new_err(format!("cannot save `{place}`: {}", error.value(py)));
    located.set_cause(py, error.cause(py));
    located
}

struct Encoder<'py> {
    py: Python<'py>,
    torch: Option<&'static Torch>,
    collections: Bound<'py, PyModule>,
    /// Where the walk is: the number of each child on the way, keys of dictionaries below zero.
    path: Vec<i64>,
    /// The same, for people.
    keys: Vec<Key<'py>>,
    notes: Bound<'py, PyList>,
    /// Objects that something else may refer to as well, by their addresses.
    seen: FxHashMap<usize, Seen<'py>>,
    /// Storages by address and length, so that tensors that share memory stay tied.
    storages: FxHashMap<(usize, usize, String), Storage>,
    owners: Arc<Owners>,
    found: Vec<Found>,
    views: Vec<View>,
    staging: Option<Bound<'py, PyAny>>,
    copies: bool,
}

/// An object that was met.
struct Seen<'py> {
    /// Kept, so that no other object gets its address.
    _object: Bound<'py, PyAny>,
    /// What became of it; `None` while that is not known yet.
    value: Option<Value>,
    /// Where it was met, if there are notes on it or on what it holds.
    noted: Option<Vec<i64>>,
}

/// What a child is called.
#[derive(Clone)]
enum Key<'py> {
    /// Nothing of its own.
    None,
    Number(usize),
    Object(Bound<'py, PyAny>),
}

impl Key<'_> {
    fn text(&self) -> Option<String> {
        match self {
            Key::None => None,
            Key::Number(number) => Some(number.to_string()),
            Key::Object(key) => key.str().map(|text| text.to_string_lossy().into_owned()).ok(),
        }
    }
}

impl<'py> Encoder<'py> {
    fn notes_text(&self) -> PyResult<Option<String>> {
        if self.notes.is_empty() {
            return Ok(None);
        }
        let json = self.py.import("json")?;
        Ok(Some(json.call_method1("dumps", (&self.notes,))?.extract()?))
    }

    /// The value of an object; the same one for the same object.
    fn value(&mut self, object: &Bound<'py, PyAny>) -> Walked<Value> {
        if let Some(value) = self.number(object)? {
            return Ok(value);
        }
        if !is_referred_to_often(object) {
            return self.fresh(object);
        }
        let address = object.as_ptr().addr();
        match self.seen.get(&address) {
            Some(Seen { value: Some(value), noted, .. }) => {
                if let Some(first) = noted {
                    let same = (notes::SAME, PyList::new(self.py, first)?);
                    self.notes.append((PyList::new(self.py, &self.path)?, same))?;
                }
                return Ok(value.clone());
            }
            Some(Seen { value: None, .. }) => {
                let message = "it contains itself; a checkpoint cannot hold cycles";
                return Err(PyValueError::new_err(message).into());
            }
            None => {}
        }
        let seen = Seen { _object: object.clone(), value: None, noted: None };
        self.seen.insert(address, seen);
        let notes = self.notes.len();
        let value = self.fresh(object)?;
        if !is_one_object(&value) {
            self.seen.remove(&address);
            return Ok(value);
        }
        let value = value.share();
        if let Some(seen) = self.seen.get_mut(&address) {
            seen.value = Some(value.clone());
            seen.noted = (self.notes.len() > notes).then(|| self.path.clone());
        }
        Ok(value)
    }

    /// The value of `None`, a truth value or a number.
    fn number(&mut self, object: &Bound<'py, PyAny>) -> Walked<Option<Value>> {
        // Exact types only: what is derived from them would come back as less than it was.
        Ok(Some(if object.is_none() {
            Value::None
        } else if let Ok(value) = object.cast_exact::<PyBool>() {
            Value::Bool(value.is_true())
        } else if let Ok(float) = object.cast_exact::<PyFloat>() {
            Value::Float(float.value())
        } else if let Ok(int) = object.cast_exact::<PyInt>() {
            match integer(int)? {
                Some(int) => int,
                None => self.plain(object)?,
            }
        } else {
            return Ok(None);
        }))
    }

    /// The value of any other object, each time a new one.
    fn fresh(&mut self, object: &Bound<'py, PyAny>) -> Walked<Value> {
        let py = self.py;
        if let Ok(text) = object.cast_exact::<PyString>() {
            string(text)
        } else if let Ok(dict) = object.cast_exact::<PyDict>() {
            self.dict(dict, DictKind::Dict)
        } else if let Ok(list) = object.cast_exact::<PyList>() {
            Ok(Value::List(self.items(list.iter())?))
        } else if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            Ok(Value::Tuple(self.items(tuple.iter())?))
        } else if let Some(value) = self.torch_value(object)? {
            Ok(value)
        } else if object.get_type().is(&self.collections.getattr(intern!(py, "OrderedDict"))?) {
            let mut value = self.dict(object.cast().map_err(PyErr::from)?, DictKind::Ordered)?;
            self.attributes(object, &mut value)?;
            Ok(value)
        } else if object.get_type().is(&self.collections.getattr(intern!(py, "Counter"))?) {
            self.dict(object.cast().map_err(PyErr::from)?, DictKind::Counter)
        } else if let Ok(set) = object.cast_exact::<PySet>() {
            Ok(Value::Set(self.items(set.iter())?))
        } else if let Ok(bytes) = object.cast_exact::<PyBytes>()
            && !bytes.as_bytes().is_empty()
        {
            Ok(Value::Bytes(bytes.as_bytes().to_vec()))
        } else if let Ok(bytes) = object.cast_exact::<PyByteArray>() {
            Ok(Value::ByteArray(bytes.to_vec()))
        } else if let Ok(complex) = object.cast_exact::<PyComplex>() {
            Ok(Value::Complex(complex.real(), complex.imag()))
        } else {
            self.plain(object)
        }
    }

    /// A value that `scai._convert` makes plain; notes what it was.
    fn plain(&mut self, object: &Bound<'py, PyAny>) -> Walked<Value> {
        let convert = self.py.import(intern!(self.py, "scai._convert"))?;
        let made = convert.call_method1(intern!(self.py, "to_plain"), (object,))?;
        let (plain, tag): (Bound<'py, PyAny>, Bound<'py, PyAny>) = made.extract()?;
        self.notes.append((PyList::new(self.py, &self.path)?, tag))?;
        // What was made may be of a type that is made plain in turn. It is not taken for one object
        // with what it may be elsewhere, where it stands for itself.
        self.deeper(|encoder| match encoder.number(&plain)? {
            Some(value) => Ok(value),
            None => encoder.fresh(&plain),
        })
    }

    fn deeper<T>(&mut self, walk: impl FnOnce(&mut Self) -> Walked<T>) -> Walked<T> {
        self.below(Key::None, walk)
    }

    fn below<T>(&mut self, key: Key<'py>, walk: impl FnOnce(&mut Self) -> Walked<T>) -> Walked<T> {
        self.keys.push(key);
        let walked = if self.keys.len() > MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels, or cyclic");
            Err(PyValueError::new_err(message).into())
        } else {
            walk(self)
        };
        let key = self.keys.pop();
        walked.map_err(|mut refusal| {
            refusal.path.extend(key.and_then(|key| key.text()));
            refusal
        })
    }

    /// A child by its number and what it is called.
    fn child(&mut self, number: i64, key: Key<'py>, object: &Bound<'py, PyAny>) -> Walked<Value> {
        self.path.push(number);
        let walked = self.below(key, |encoder| encoder.value(object));
        self.path.pop();
        walked
    }

    fn items(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> Walked<Vec<Value>> {
        items.enumerate().map(|(i, item)| self.child(i as i64, Key::Number(i), &item)).collect()
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>, kind: DictKind) -> Walked<Value> {
        // Lists, since a conversion may run code that changes the dictionary.
        let (keys, values) = match kind {
            // Its order is its own.
            DictKind::Ordered => (
                list(dict.call_method0(intern!(self.py, "keys"))?)?,
                list(dict.call_method0(intern!(self.py, "values"))?)?,
            ),
            _ => (dict.keys(), dict.values()),
        };
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(keys.len());
        let mut made_plain = false;
        for (i, (key, value)) in keys.iter().zip(&values).enumerate() {
            let i = i as i64;
            let name = Key::Object(key.clone());
            let notes = self.notes.len();
            let plain = self.child(-1 - i, name.clone(), &key)?;
            made_plain |= self.notes.len() > notes;
            entries.push((plain, self.child(i, name, &value)?));
        }
        if made_plain {
            all_differ(&entries)?;
        }
        Ok(Value::Dict(Dict { kind, entries, attributes: None }))
    }

    /// The `_metadata` that a module's state dict carries.
    fn attributes(&mut self, object: &Bound<'py, PyAny>, value: &mut Value) -> Walked<()> {
        let attributes = object.getattr(intern!(self.py, "__dict__"))?;
        let attributes = attributes.cast::<PyDict>().map_err(PyErr::from)?;
        if let (false, Value::Dict(dict)) = (attributes.is_empty(), value) {
            self.path.push(notes::ATTRIBUTES);
            let attributes = self.dict(attributes, DictKind::Dict);
            self.path.pop();
            if let Value::Dict(attributes) = attributes? {
                dict.attributes = Some(Box::new(attributes));
            }
        }
        Ok(())
    }

    /// A value of one of PyTorch's own types.
    fn torch_value(&mut self, object: &Bound<'py, PyAny>) -> Walked<Option<Value>> {
        let Some(torch) = self.torch else { return Ok(None) };
        let class = object.get_type();
        let py = self.py;
        Ok(Some(if class.is(&torch.tensor) {
            self.tensor(torch, object, false)?
        } else if class.is(&torch.parameter) {
            self.tensor(torch, object, true)?
        } else if class.is(&torch.size) {
            Value::Size(object.extract()?)
        } else if class.is(&torch.dtype) {
            match torch.dtype_of(object) {
                Some(dtype) => Value::DType(dtype),
                None => {
                    let message = format!("{} is not a dtype that can be saved", object.str()?);
                    return Err(PyTypeError::new_err(message).into());
                }
            }
        } else if class.is(&torch.device) {
            Value::Device(object.str()?.extract()?)
        } else if class.is(&torch.layout) {
            Value::Layout(object.str()?.extract()?)
        } else if class.is(&torch.qscheme) {
            let name: String = object.str()?.extract()?;
            Value::QScheme(name.trim_start_matches("torch.").to_owned())
        } else if class.is(&torch.untyped_storage) {
            Value::Storage(self.any_storage(object.clone())?, None)
        } else if class.is(&torch.typed_storage) {
            let dtype = torch.dtype_of(&object.getattr(intern!(py, "dtype"))?);
            let untyped = object.getattr(intern!(py, "_untyped_storage"))?;
            Value::Storage(self.any_storage(untyped)?, dtype)
        } else if object.is_instance(torch.tensor.bind(py))? {
            let name = class.name()?;
            if name.to_string_lossy().starts_with("Uninitialized") {
                let message = "it is a tensor of a lazy module and has no shape yet; run the \
                               module once before it is saved";
                return Err(PyTypeError::new_err(message).into());
            }
            let message = format!(
                "`{}` is a tensor class that only the program that defines it knows; save an \
                 ordinary tensor with its data",
                class.qualname()?
            );
            return Err(PyTypeError::new_err(message).into());
        } else {
            return Ok(None);
        }))
    }

    fn tensor(
        &mut self,
        torch: &Torch,
        tensor: &Bound<'py, PyAny>,
        parameter: bool,
    ) -> Walked<Value> {
        let py = self.py;
        self.warn_of_attributes(tensor)?;
        let Some(Description { dtype, place }) = describe(torch, tensor)? else {
            return self.constructed(tensor);
        };
        let offset: usize = tensor.call_method0(intern!(py, "storage_offset"))?.extract()?;
        let storage = tensor.call_method0(intern!(py, "untyped_storage"))?;
        // A tensor without elements may have no address where its storage has one.
        let begin = match place.address {
            0 => None,
            address => address.checked_sub(offset * dtype.size()),
        };
        let storage = self.storage(storage, begin, place.on_cpu)?;
        if let Some(address) = begin
            && let Ok(len) = usize::try_from(storage.len())
            && self.copies
            && len >= SMALL
        {
            let (tensor, name) = (tensor.clone().unbind(), self.name());
            self.views.push(View { tensor, name, on_cpu: place.on_cpu, address, len });
        }
        let complex = matches!(dtype, DType::Complex32 | DType::Complex64 | DType::Complex128);
        let call = |name| -> PyResult<bool> { tensor.call_method0(name)?.is_truthy() };
        let attributes = Attributes {
            requires_grad: tensor.getattr(intern!(py, "requires_grad"))?.is_truthy()?,
            parameter,
            conjugate: complex && call(intern!(py, "is_conj"))?,
            negative: call(intern!(py, "is_neg"))?,
        };
        let tensor = Tensor::new(dtype, place.shape, place.strides, offset, storage).or_raise()?;
        Ok(Value::Tensor(tensor.with_attributes(attributes)))
    }

    /// Warns of what a program has put on a tensor, which is not saved with it.
    fn warn_of_attributes(&self, tensor: &Bound<'py, PyAny>) -> PyResult<()> {
        let attributes = tensor.getattr(intern!(self.py, "__dict__"))?;
        let attributes = attributes.cast::<PyDict>()?;
        // What PyTorch's compiler puts there is its own business.
        let own = |key: &Bound<'_, PyAny>| key.to_string().starts_with("_dynamo_");
        if attributes.iter().all(|(key, _)| own(&key)) {
            return Ok(());
        }
        let path: Vec<String> = self.keys.iter().filter_map(Key::text).collect();
        let message = format!(
            "the attributes {} of the tensor `{}` are not saved; save them separately",
            attributes.keys(),
            path.join(".")
        );
        let warnings = self.py.import(intern!(self.py, "warnings"))?;
        warnings.call_method1(intern!(self.py, "warn"), (message,))?;
        Ok(())
    }

    /// A tensor of another kind (sparse, quantised, without data), as PyTorch takes it apart.
    fn constructed(&mut self, tensor: &Bound<'py, PyAny>) -> Walked<Value> {
        let reduced = tensor.call_method1(intern!(self.py, "__reduce_ex__"), (2,))?;
        let reduced = reduced.cast::<PyTuple>().map_err(PyErr::from)?;
        let function = reduced.get_item(0)?;
        let name = format!(
            "{}.{}",
            function.getattr(intern!(self.py, "__module__"))?,
            function.getattr(intern!(self.py, "__qualname__"))?
        );
        let Some(global) = constructor(&name) else {
            let message = format!(
                "a tensor that is made by {name} cannot be loaded by \
                 torch.load(weights_only=True); save an ordinary tensor with its data"
            );
            return Err(PyTypeError::new_err(message).into());
        };
        let args = reduced.get_item(1)?;
        let args = args.cast::<PyTuple>().map_err(PyErr::from)?;
        self.path.push(notes::ARGUMENTS);
        let args = args.iter().enumerate();
        let args = args.map(|(i, arg)| self.child(i as i64, Key::None, &arg));
        let args = args.collect::<Walked<_>>();
        self.path.pop();
        let args = args?;
        Ok(Value::Call(Box::new(Call { global, args, state: None })))
    }

    /// The memory behind an `UntypedStorage` of whatever device.
    fn any_storage(&mut self, untyped: Bound<'py, PyAny>) -> Walked<Storage> {
        let device = untyped.getattr(intern!(self.py, "device"))?;
        let on_cpu = device.getattr(intern!(self.py, "type"))?.eq(intern!(self.py, "cpu"))?;
        self.storage(untyped, None, on_cpu)
    }

    /// The memory behind an `UntypedStorage`, which begins at `begin` where that is known. What
    /// lives on another device is copied to the CPU.
    fn storage(
        &mut self,
        untyped: Bound<'py, PyAny>,
        begin: Option<usize>,
        on_cpu: bool,
    ) -> Walked<Storage> {
        let py = self.py;
        let address = match begin {
            Some(begin) => begin,
            None => untyped.call_method0(intern!(py, "data_ptr"))?.extract()?,
        };
        let len: usize = untyped.call_method0(intern!(py, "nbytes"))?.extract()?;
        let location = match on_cpu {
            true => String::new(),
            false => untyped.getattr(intern!(py, "device"))?.str()?.extract()?,
        };
        // Memory without an address is told apart by the object that stands for it.
        let identity = match address {
            0 => untyped.getattr(intern!(py, "_cdata"))?.extract()?,
            address => address,
        };
        let key = (identity, len, location);
        if let Some(storage) = self.storages.get(&key) {
            return Ok(storage.clone());
        }
        let storage = if on_cpu {
            let snapshot = self.snapshot(Region { address, len });
            // What is copied at once needs nobody who keeps it.
            let storage = (!self.copies || len >= SMALL).then(|| untyped.unbind());
            self.found.push(Found { snapshot: Arc::clone(&snapshot), storage });
            Storage::new(snapshot)
        } else {
            let copy = match &self.staging {
                Some(staging) => staging.call_method1(intern!(py, "copy"), (&untyped,))?,
                None => untyped.call_method0(intern!(py, "cpu"))?,
            };
            let address = copy.call_method0(intern!(py, "data_ptr"))?.extract()?;
            self.owners.add(copy.unbind());
            let snapshot = self.snapshot(Region { address, len });
            if self.staging.is_some() {
                snapshot.set_staged();
            }
            Storage::new(snapshot).with_location(&key.2)
        };
        self.storages.insert(key, storage.clone());
        Ok(storage)
    }

    fn snapshot(&self, region: Region) -> Arc<Snapshot> {
        // What is small is copied at once, and nothing will have to be told of it.
        let name = if region.len < SMALL { String::new() } else { self.name() };
        Arc::new(Snapshot::new(region, Arc::clone(&self.owners), name))
    }

    /// Where the walk is, for people.
    fn name(&self) -> String {
        self.keys.iter().filter_map(Key::text).collect::<Vec<_>>().join(".")
    }
}

/// Whether something may refer to an object besides its container and this reference.
#[expect(
    unsafe_code,
    reason = "the count is part of Python's stable interface, and has no safe form"
)]
fn is_referred_to_often(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the object is alive, and the interpreter is held.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) > 2 }
}

/// Whether it makes a difference that several places refer to the same value and not to equal
/// ones: it can be changed, or is large.
fn is_one_object(value: &Value) -> bool {
    match value {
        Value::Tuple(items) => !items.is_empty(),
        Value::Str(_) | Value::Wtf8(_) | Value::Bytes(_) | Value::ByteArray(_) => true,
        Value::List(_) | Value::Set(_) | Value::Dict(_) | Value::Tensor(_) => true,
        Value::Size(_) | Value::Call(_) => true,
        _ => false,
    }
}

/// What an ordinary tensor is.
pub(crate) struct Description {
    pub(crate) dtype: DType,
    pub(crate) place: Strided,
}

/// What a tensor is; `None` for one of another kind than an ordinary one.
pub(crate) fn describe(torch: &Torch, tensor: &Bound<'_, PyAny>) -> PyResult<Option<Description>> {
    let py = tensor.py();
    let truth = |name| -> PyResult<bool> { tensor.getattr(name)?.is_truthy() };
    let place = torch.exchange.and_then(|exchange| exchange.place(tensor));
    if place.is_none() {
        let ordinary = tensor.getattr(intern!(py, "layout"))?.is(&torch.strided)
            && !truth(intern!(py, "is_nested"))?
            && !truth(intern!(py, "is_meta"))?;
        if !ordinary {
            return Ok(None);
        }
    }
    let dtype = tensor.getattr(intern!(py, "dtype"))?;
    let Some(dtype) = torch.dtype_of(&dtype) else {
        let message = format!("a tensor of {dtype} cannot be saved");
        return Err(PyTypeError::new_err(message));
    };
    let place = match place {
        Some(place) => place,
        None if dtype.name().starts_with('q') && truth(intern!(py, "is_quantized"))? => {
            return Ok(None);
        }
        None => Strided {
            address: tensor.call_method0(intern!(py, "data_ptr"))?.extract()?,
            shape: numbers(&tensor.getattr(intern!(py, "shape"))?)?,
            strides: numbers(&tensor.call_method0(intern!(py, "stride"))?)?,
            on_cpu: truth(intern!(py, "is_cpu"))?,
        },
    };
    Ok(Some(Description { dtype, place }))
}

/// The numbers of a tuple, such as a `torch.Size`.
fn numbers(tuple: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    tuple.cast::<PyTuple>()?.iter().map(|number| number.extract()).collect()
}

/// The items of anything as a list.
fn list<'py>(items: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    Ok(items.py().get_type::<PyList>().call1((items,))?.cast_into()?)
}

/// Refuses keys that became equal when they were made plain, such as `Path("a")` and `"a"`: of
/// their values, one would be lost.
fn all_differ(entries: &[(Value, Value)]) -> Walked<()> {
    let Some(key) = repeated_key(entries) else { return Ok(()) };
    let message =
        format!("two keys would both be saved as `{}`; use different keys", key.key_text());
    Err(PyValueError::new_err(message).into())
}

fn string(text: &Bound<'_, PyString>) -> Walked<Value> {
    match text.to_str() {
        Ok(text) => Ok(Value::Str(text.to_owned())),
        // Lone surrogates, which UTF-8 does not have.
        Err(_) => {
            let bytes = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
            Ok(Value::Wtf8(bytes.extract()?))
        }
    }
}

/// PyTorch reads integers of at most so many bits.
const MAX_BITS: u64 = 255 * 8 - 1;

/// An integer; `None` where it is too long for PyTorch to read.
fn integer(int: &Bound<'_, PyInt>) -> Walked<Option<Value>> {
    if let Ok(int) = int.extract::<i64>() {
        return Ok(Some(Value::Int(int)));
    }
    let hex: String = int.call_method1("__format__", ("x",))?.extract()?;
    let big = BigInt::from_hex(&hex);
    let big = big.ok_or_else(|| PyValueError::new_err("not a valid integer"))?;
    Ok((big.bits() <= MAX_BITS).then_some(Value::BigInt(big)))
}
