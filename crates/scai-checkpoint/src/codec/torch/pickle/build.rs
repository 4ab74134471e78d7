//! The arena of nodes to a state tree.

use num_bigint::BigInt;

use super::globals::Global;
use super::machine::{Called, DictNode, Id, Node, Program};
use crate::error::{Error, Place, Result};
use crate::tensor::{Attributes, DType, Storage, Tensor};
use crate::value::{Call, Dict, DictKind, MAX_DEPTH, Value};

/// A storage as a pickle refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct StorageRef<'a> {
    pub(in super::super) key: &'a str,
    /// The element type; `None` for an untyped storage, whose elements are bytes.
    pub(in super::super) dtype: Option<DType>,
    /// The device the storage lived on.
    pub(in super::super) location: &'a str,
    /// The length in elements.
    pub(in super::super) numel: u64,
}

impl StorageRef<'_> {
    /// The length in bytes.
    pub(in super::super) fn nbytes(&self) -> Option<u64> {
        self.numel.checked_mul(self.dtype.map_or(1, |dtype| dtype.size() as u64))
    }
}

/// Finds the bytes of a storage. Called again for the same key, it returns the same storage.
pub(in super::super) type Storages<'a> = dyn FnMut(&StorageRef<'_>) -> Result<Storage> + 'a;

/// Bytes of memory the tree may take: a container that is referred to often is copied each time,
/// so that a file of 1 KiB could ask for the whole memory. Without sharing a value takes at least
/// one byte of the pickle and at most [`BYTES_PER_BYTE`] of memory.
const ALLOWANCE: usize = 16 << 20;
const BYTES_PER_BYTE: usize = 64;

/// Builds the tree a program describes.
pub(in super::super) fn build(program: &Program, storages: &mut Storages<'_>) -> Result<Value> {
    let mut builder = Builder {
        nodes: &program.nodes,
        budget: program.consumed.saturating_mul(BYTES_PER_BYTE).saturating_add(ALLOWANCE),
        storages,
    };
    builder.value(program.root, 0)
}

const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";

struct Builder<'a> {
    nodes: &'a [Node],
    budget: usize,
    storages: &'a mut Storages<'a>,
}

fn bad<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::damaged(Place::record("data.pkl"), format!("the pickle is not valid: {what}")))
}

impl<'a> Builder<'a> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return bad(format_args!(
                "containers nest deeper than {MAX_DEPTH}, or contain themselves"
            ));
        }
        let node = &self.nodes[id as usize];
        let extra = match node {
            Node::Str(text) => text.len(),
            Node::Wtf8(bytes) | Node::Bytes(bytes) | Node::ByteArray(bytes) => bytes.len(),
            _ => 0,
        };
        match self.budget.checked_sub(size_of::<Value>() + extra) {
            Some(left) => self.budget = left,
            None => return bad("shared containers would fill the memory"),
        }
        Ok(match node {
            Node::None => Value::None,
            Node::Bool(v) => Value::Bool(*v),
            Node::Int(v) => Value::Int(*v),
            Node::BigInt(v) => Value::BigInt(BigInt::clone(v)),
            Node::Float(v) => Value::Float(*v),
            Node::Str(v) => Value::Str(v.to_string()),
            Node::Wtf8(v) => Value::Wtf8(v.to_vec()),
            Node::Bytes(v) => Value::Bytes(v.to_vec()),
            Node::ByteArray(v) => Value::ByteArray(v.to_vec()),
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Set(items) => Value::Set(self.values(items, depth)?),
            Node::Dict(dict) => Value::Dict(self.dict(dict, depth)?),
            Node::Global(global) => global_value(*global)?,
            Node::Persistent(tuple) => {
                let storage = self.storage_ref(*tuple)?;
                Value::Storage((self.storages)(&storage)?, storage.dtype)
            }
            Node::Called(called) => self.called(called, depth)?,
        })
    }

    fn values(&mut self, items: &[Id], depth: usize) -> Result<Vec<Value>> {
        items.iter().map(|&item| self.value(item, depth + 1)).collect()
    }

    fn dict(&mut self, dict: &DictNode, depth: usize) -> Result<Dict> {
        let mut entries: Vec<(Value, Value)> = Vec::new();
        for &(key, value) in &dict.entries {
            let key = match &self.nodes[key as usize] {
                Node::List(_) | Node::Dict(_) | Node::Set(_) | Node::ByteArray(_) => {
                    return bad("a key of a dict is a mutable container");
                }
                _ => self.value(key, depth + 1)?,
            };
            entries.push((key, self.value(value, depth + 1)?));
        }
        keep_last_of_equal_keys(&mut entries);
        let attributes = match dict.attributes {
            Some(id) => match self.value(id, depth + 1)? {
                Value::Dict(attributes) => Some(Box::new(attributes)),
                _ => return bad("the attributes of a dict are not a dict"),
            },
            None => None,
        };
        Ok(Dict { kind: dict.kind, entries, attributes })
    }

    /// Applies a known constructor.
    fn called(&mut self, called: &Called, depth: usize) -> Result<Value> {
        let args = self.tuple(called.args)?;
        let first = args.first().map(|&id| &self.nodes[id as usize]);
        Ok(match (called.global, args) {
            (Global::TensorV2, [storage, offset, size, stride, grad, hooks, rest @ ..])
                if rest.len() <= 1 =>
            {
                let storage = self.storage_ref(self.persistent(*storage)?)?;
                let Some(dtype) = storage.dtype else {
                    return bad("a tensor without an element type");
                };
                let view = self.view(dtype, &storage, *offset, *size, *stride)?;
                self.tensor(view, *grad, *hooks, rest.first().copied())?
            }
            (Global::TensorV3, [storage, offset, size, stride, grad, hooks, dtype, rest @ ..])
                if rest.len() <= 1 =>
            {
                let &Node::Global(Global::DType(dtype)) = self.node(*dtype) else {
                    return bad("the element type of a tensor is no `torch.dtype`");
                };
                let storage = self.storage_ref(self.persistent(*storage)?)?;
                let view = self.view(dtype, &storage, *offset, *size, *stride)?;
                self.tensor(view, *grad, *hooks, rest.first().copied())?
            }
            (Global::Parameter, [data, grad, hooks]) => {
                self.no_hooks(*hooks)?;
                let requires_grad = self.bool(*grad)?;
                let tensor = match self.value(*data, depth + 1)? {
                    Value::Tensor(tensor) => tensor,
                    // A parameter without data, or of a kind that is kept as it was written.
                    Value::Call(_) => {
                        let args = self.values(args, depth)?;
                        return Ok(Value::Call(Box::new(Call {
                            global: REBUILD_PARAMETER,
                            args,
                            state: None,
                        })));
                    }
                    _ => return bad("a parameter is not a tensor"),
                };
                let attributes =
                    Attributes { requires_grad, parameter: true, ..tensor.attributes() };
                Value::Tensor(tensor.with_attributes(attributes))
            }
            (Global::OrderedDict | Global::Counter, [entries]) => {
                let kind = match called.global {
                    Global::Counter => DictKind::Counter,
                    _ => DictKind::Ordered,
                };
                match self.value(*entries, depth + 1)? {
                    Value::Dict(dict) => Value::Dict(Dict { kind, ..dict }),
                    Value::List(items) => Value::Dict(dict_of_pairs(kind, items)?),
                    _ => return bad("a dict is made of something else than entries"),
                }
            }
            (Global::Set, [items]) => match self.value(*items, depth + 1)? {
                Value::List(items) | Value::Tuple(items) => Value::Set(items),
                _ => return bad("a set is made of something else than a list"),
            },
            (Global::Set, []) => Value::Set(Vec::new()),
            (Global::Complex, [re, im]) => match (self.node(*re), self.node(*im)) {
                (Node::Float(re), Node::Float(im)) => Value::Complex(*re, *im),
                _ => return bad("the parts of a complex number are not floats"),
            },
            (Global::Bytes, []) => Value::Bytes(Vec::new()),
            (Global::ByteArray, []) => Value::ByteArray(Vec::new()),
            (Global::ByteArray, [bytes]) => match self.value(*bytes, depth + 1)? {
                Value::Bytes(bytes) => Value::ByteArray(bytes),
                _ => return bad("a bytearray is not made of bytes"),
            },
            (Global::ByteArray, [_, encoding]) if self.is_latin1(*encoding) => {
                Value::ByteArray(latin1(first)?)
            }
            (Global::Encode, [_, encoding]) if self.is_latin1(*encoding) => {
                Value::Bytes(latin1(first)?)
            }
            (Global::Size, [dims]) => {
                let dims = self.tuple(*dims)?.iter();
                Value::Size(dims.map(|&dim| self.int(dim)).collect::<Result<_>>()?)
            }
            (Global::Device, [name]) => Value::Device(self.text(*name)?.to_owned()),
            (Global::Device, [name, index]) => {
                Value::Device(format!("{}:{}", self.text(*name)?, self.int(*index)?))
            }
            (Global::Layout, [name]) => Value::Layout(self.text(*name)?.to_owned()),
            (Global::Kept(global), args) if !args.is_empty() => {
                let state = called.state.map(|state| self.value(state, depth + 1)).transpose()?;
                let args = self.values(args, depth)?;
                Value::Call(Box::new(Call { global, args, state }))
            }
            (global, args) => {
                return bad(format_args!("{global:?} is called with {} arguments", args.len()));
            }
        })
    }

    fn view(
        &mut self,
        dtype: DType,
        storage: &StorageRef<'_>,
        offset: Id,
        size: Id,
        stride: Id,
    ) -> Result<Tensor> {
        let offset = self.index(offset)?;
        let shape = self.indices(size)?;
        let strides = self.indices(stride)?;
        let bytes = (self.storages)(storage)?;
        Tensor::new(dtype, shape, strides, offset, bytes).map_err(|error| {
            let place = Place::record(format!("data/{}", storage.key));
            Error::damaged(place, error.to_string())
        })
    }

    fn tensor(&self, view: Tensor, grad: Id, hooks: Id, bits: Option<Id>) -> Result<Value> {
        self.no_hooks(hooks)?;
        let mut attributes =
            Attributes { requires_grad: self.bool(grad)?, ..Attributes::default() };
        match bits.map(|bits| self.node(bits)) {
            None | Some(Node::None) => {}
            Some(Node::Dict(bits)) => {
                for &(key, value) in &bits.entries {
                    match self.text(key)? {
                        "conj" => attributes.conjugate = self.bool(value)?,
                        "neg" => attributes.negative = self.bool(value)?,
                        other => return bad(format_args!("tensor metadata `{other}`")),
                    }
                }
            }
            Some(other) => return bad(format_args!("tensor metadata is a {}", other.type_name())),
        }
        Ok(Value::Tensor(view.with_attributes(attributes)))
    }

    /// Backward hooks are functions; torch writes an empty dict for them.
    fn no_hooks(&self, id: Id) -> Result<()> {
        match self.node(id) {
            Node::Dict(dict) if dict.entries.is_empty() => Ok(()),
            Node::None => Ok(()),
            _ => bad("a tensor has backward hooks"),
        }
    }

    /// `('storage', class, key, location, numel)`; the legacy format adds a sixth, always None.
    fn storage_ref(&self, tuple: Id) -> Result<StorageRef<'a>> {
        let (&[kind, class, key, location, numel] | &[kind, class, key, location, numel, _]) =
            self.tuple(tuple)?
        else {
            return bad("a persistent id is no storage");
        };
        if let Some(view) = self.tuple(tuple)?.get(5)
            && !matches!(self.node(*view), Node::None)
        {
            return Err(Error::unsupported(
                Place::record("data.pkl"),
                "a storage that is a view of another one",
                "torch stopped writing these in 2017; load and save it with torch",
            ));
        }
        let kind = self.text(kind)?;
        if kind != "storage" {
            return Err(Error::unsupported(
                Place::record("data.pkl"),
                format!("a persistent id of the kind `{}`", kind.escape_debug()),
                "save `model.state_dict()` instead of the model",
            ));
        }
        let dtype = match self.node(class) {
            Node::Global(Global::TypedStorage(dtype)) => Some(*dtype),
            Node::Global(Global::UntypedStorage) => None,
            other => return bad(format_args!("a {} as class of a storage", other.type_name())),
        };
        let Ok(numel) = u64::try_from(self.int(numel)?) else {
            return bad("a storage has a negative length");
        };
        let (key, location) = (self.text(key)?, self.text(location)?);
        Ok(StorageRef { key, dtype, location, numel })
    }

    fn persistent(&self, id: Id) -> Result<Id> {
        match self.node(id) {
            Node::Persistent(tuple) => Ok(*tuple),
            other => bad(format_args!("a tensor over a {}", other.type_name())),
        }
    }

    fn node(&self, id: Id) -> &'a Node {
        &self.nodes[id as usize]
    }

    fn tuple(&self, id: Id) -> Result<&'a [Id]> {
        match self.node(id) {
            Node::Tuple(items) => Ok(items),
            other => bad(format_args!("a {} where a tuple belongs", other.type_name())),
        }
    }

    fn text(&self, id: Id) -> Result<&'a str> {
        match self.node(id) {
            Node::Str(text) => Ok(text),
            other => bad(format_args!("a {} where a string belongs", other.type_name())),
        }
    }

    fn int(&self, id: Id) -> Result<i64> {
        match self.node(id) {
            Node::Int(int) => Ok(*int),
            other => bad(format_args!("a {} where an integer belongs", other.type_name())),
        }
    }

    fn bool(&self, id: Id) -> Result<bool> {
        match self.node(id) {
            Node::Bool(v) => Ok(*v),
            other => bad(format_args!("a {} where a bool belongs", other.type_name())),
        }
    }

    fn index(&self, id: Id) -> Result<usize> {
        usize::try_from(self.int(id)?).or_else(|_| bad("a negative offset, size or stride"))
    }

    /// A tuple of sizes or strides; `torch.Size` may stand for it.
    fn indices(&self, id: Id) -> Result<Vec<usize>> {
        let id = match self.node(id) {
            Node::Called(called) if called.global == Global::Size => {
                match self.tuple(called.args)? {
                    [dims] => *dims,
                    _ => return bad("torch.Size is called without a tuple"),
                }
            }
            _ => id,
        };
        self.tuple(id)?.iter().map(|&item| self.index(item)).collect()
    }

    fn is_latin1(&self, id: Id) -> bool {
        matches!(self.node(id), Node::Str(name) if &**name == "latin1" || &**name == "latin-1")
    }
}

/// A class or function that is an argument of another constructor.
fn named(global: &'static str) -> Value {
    Value::Call(Box::new(Call { global, args: Vec::new(), state: None }))
}

fn global_value(global: Global) -> Result<Value> {
    Ok(match global {
        Global::DType(dtype) => Value::DType(dtype),
        Global::QScheme(name) => Value::QScheme(name.to_owned()),
        Global::Kept(global) => named(global),
        Global::TensorV2 => named("torch._utils._rebuild_tensor_v2"),
        Global::TensorV3 => named("torch._utils._rebuild_tensor_v3"),
        Global::Parameter => named(REBUILD_PARAMETER),
        other => return bad(format_args!("the function or class {other:?} as a value")),
    })
}

/// The bytes that the code points of a string stand for.
fn latin1(text: Option<&Node>) -> Result<Vec<u8>> {
    let Some(Node::Str(text)) = text else { return bad("bytes are not made of a string") };
    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
    bytes.collect::<Result<_, _>>().or_else(|_| bad("bytes with a code point above 255"))
}

fn dict_of_pairs(kind: DictKind, items: Vec<Value>) -> Result<Dict> {
    let mut entries = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::List(pair) | Value::Tuple(pair) => match <[Value; 2]>::try_from(pair) {
                Ok([key, value]) => entries.push((key, value)),
                Err(_) => return bad("an entry of a dict is no pair"),
            },
            _ => return bad("an entry of a dict is no pair"),
        }
    }
    keep_last_of_equal_keys(&mut entries);
    Ok(Dict { kind, entries, attributes: None })
}

/// As in Python, a key that is set again keeps its place and takes the new value.
fn keep_last_of_equal_keys(entries: &mut Vec<(Value, Value)>) {
    let mut places = std::collections::HashMap::new();
    let mut distinct: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
    for (key, value) in entries.drain(..) {
        let identity = match &key {
            Value::Str(text) => format!("s{text}"),
            // Python holds 1, 1.0 and True for one key.
            Value::Int(int) => format!("n{int}"),
            Value::Bool(v) => format!("n{}", u8::from(*v)),
            Value::Float(v) if v.fract() == 0.0 && v.abs() < 9e15 => format!("n{}", *v as i64),
            other => format!("o{other:?}"),
        };
        match places.entry(identity) {
            std::collections::hash_map::Entry::Occupied(place) => {
                let place: &usize = place.get();
                if let Some(entry) = distinct.get_mut(*place) {
                    entry.1 = value;
                }
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(distinct.len());
                distinct.push((key, value));
            }
        }
    }
    *entries = distinct;
}
