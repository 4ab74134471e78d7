//! The arena of nodes to a state tree.

use num_bigint::BigInt;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::globals::Global;
use super::keys::{Identities, Identity};
use super::machine::{Called, DictNode, Id, Node, Program};
use crate::error::{Error, Place, Result, shown};
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

/// Bytes of memory the tree may take. A value that is referred to often is built once; but a
/// constructor makes a new value each time it is applied, so that a file of 1 KiB that applies one
/// to the same arguments over and over could ask for the whole memory. What a pickle of honest
/// origin holds takes at least one byte of it for at most [`BYTES_PER_BYTE`] of memory.
const ALLOWANCE: usize = 16 << 20;
const BYTES_PER_BYTE: usize = 64;

/// Builds the tree a program describes.
pub(in super::super) fn build(program: &Program, storages: &mut Storages<'_>) -> Result<Value> {
    let mut builder = Builder {
        nodes: &program.nodes,
        references: references(program),
        shared: FxHashMap::default(),
        deepest: 0,
        identities: Identities::new(),
        budget: program.consumed.saturating_mul(BYTES_PER_BYTE).saturating_add(ALLOWANCE),
        storages,
    };
    builder.value(program.root, 0)
}

/// For each node whether nothing, one or more than one of the others refers to it as a value.
fn references(program: &Program) -> Vec<u8> {
    let mut references = vec![0_u8; program.nodes.len()];
    let mut count = |id: Id| {
        let count = &mut references[id as usize];
        *count = count.saturating_add(1);
    };
    count(program.root);
    for node in &program.nodes {
        match node {
            Node::List(items) | Node::Set(items) => items.iter().copied().for_each(&mut count),
            Node::Tuple(items) => items.iter().copied().for_each(&mut count),
            Node::Dict(dict) => {
                dict.entries.iter().flat_map(|&(key, value)| [key, value]).for_each(&mut count);
                dict.attributes.into_iter().for_each(&mut count);
            }
            Node::Called(called) => {
                count(called.args);
                called.state.into_iter().for_each(&mut count);
            }
            _ => {}
        }
    }
    references
}

const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";

struct Builder<'a> {
    nodes: &'a [Node],
    references: Vec<u8>,
    /// Values that several places refer to; `None` while one is being built.
    shared: FxHashMap<Id, Option<Built>>,
    /// How deep the value that is being built goes.
    deepest: usize,
    identities: Identities,
    budget: usize,
    storages: &'a mut Storages<'a>,
}

/// A shared value and how many levels there are below it.
struct Built {
    value: Value,
    height: usize,
}

fn bad<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::damaged(Place::record("data.pkl"), format!("the pickle is not valid: {what}")))
}

fn check_depth(depth: usize) -> Result<()> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Error::unsupported(
        Place::record("data.pkl"),
        format!("containers that are nested deeper than {MAX_DEPTH} levels"),
        "save them flatter",
    ))
}

impl<'a> Builder<'a> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        if self.references[id as usize] < 2 || !self.node(id).can_be_shared() {
            return self.fresh(id, depth);
        }
        self.charge(size_of::<Value>())?;
        match self.shared.get(&id) {
            Some(Some(Built { value, height })) => {
                check_depth(depth + height)?;
                self.deepest = self.deepest.max(depth + height);
                return Ok(value.clone());
            }
            Some(None) => {
                return Err(Error::unsupported(
                    Place::record("data.pkl"),
                    format!("a {} that contains itself", self.node(id).type_name()),
                    "only trees without cycles can be read; break the cycle and save it again",
                ));
            }
            None => {}
        }
        self.shared.insert(id, None);
        let deepest = std::mem::replace(&mut self.deepest, depth);
        let value = self.fresh(id, depth)?.share();
        let height = self.deepest - depth;
        self.deepest = self.deepest.max(deepest);
        self.shared.insert(id, Some(Built { value: value.clone(), height }));
        Ok(value)
    }

    /// Makes a value of a node, each time a new one.
    fn fresh(&mut self, id: Id, depth: usize) -> Result<Value> {
        check_depth(depth)?;
        self.deepest = self.deepest.max(depth);
        let node = &self.nodes[id as usize];
        self.charge(size_of::<Value>() + node.content_len())?;
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
            Node::Set(items) => Value::Set(self.set(items, depth)?),
            &Node::EmptyDict(kind) => Value::Dict(Dict { kind, ..Dict::new() }),
            Node::Dict(dict) => Value::Dict(self.dict(dict, depth)?),
            Node::Global(global) => global_value(*global)?,
            Node::Persistent(tuple) => {
                let storage = self.storage_ref(*tuple)?;
                Value::Storage(self.find_storage(&storage)?, storage.dtype)
            }
            Node::Called(called) => self.called(called, depth)?,
        })
    }

    /// Takes `bytes` of memory, or work in proportion to them, off the budget.
    fn charge(&mut self, bytes: usize) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(Error::unsupported(
                Place::record("data.pkl"),
                "constructors applied to the same values so often that they would fill the memory",
                "nothing that `torch.save` writes does this",
            )),
        }
    }

    fn values(&mut self, items: &[Id], depth: usize) -> Result<Vec<Value>> {
        items.iter().map(|&item| self.value(item, depth + 1)).collect()
    }

    fn dict(&mut self, dict: &DictNode, depth: usize) -> Result<Dict> {
        let mut entries: Vec<(Value, Value)> = Vec::new();
        for &(key, value) in &dict.entries {
            entries.push((self.value(key, depth + 1)?, self.value(value, depth + 1)?));
        }
        let entries = self.keep_last_of_equal_keys(entries)?;
        let attributes = match dict.attributes.map(|id| self.node(id)) {
            Some(Node::EmptyDict(_)) => Some(Box::default()),
            Some(Node::Dict(attributes)) if attributes.attributes.is_none() => {
                let attributes = self.dict(attributes, depth)?;
                Some(Box::new(Dict { kind: DictKind::Dict, ..attributes }))
            }
            Some(_) => return bad("the attributes of a dict are not a dict"),
            None => None,
        };
        Ok(Dict { kind: dict.kind, entries, attributes })
    }

    fn set(&mut self, items: &[Id], depth: usize) -> Result<Vec<Value>> {
        let items = self.values(items, depth)?;
        self.keep_distinct(items)
    }

    /// The entries of a dict that is made of a list of pairs.
    fn pairs(&mut self, items: &[Id], depth: usize) -> Result<Vec<(Value, Value)>> {
        let mut entries = Vec::with_capacity(items.len());
        for &item in items {
            let pair: &[Id] = match self.node(item) {
                Node::List(pair) => pair,
                Node::Tuple(pair) => pair,
                _ => return bad("an entry of a dict is not a pair"),
            };
            let &[key, value] = pair else { return bad("an entry of a dict is not a pair") };
            entries.push((self.value(key, depth + 1)?, self.value(value, depth + 1)?));
        }
        self.keep_last_of_equal_keys(entries)
    }

    /// Applies a known constructor.
    fn called(&mut self, called: &Called, depth: usize) -> Result<Value> {
        let args = self.tuple(called.args)?;
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
                let tensor = match self.value(*data, depth + 1)?.into_resolved() {
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
                // Looked at where they lie, so that a `Counter` is one level of the tree, as it is
                // for whoever writes it.
                let entries = match self.node(*entries) {
                    Node::EmptyDict(_) => Vec::new(),
                    Node::Dict(dict) => self.dict(dict, depth)?.entries,
                    Node::List(items) => self.pairs(items, depth)?,
                    _ => match self.value(*entries, depth + 1)?.into_resolved() {
                        Value::Dict(dict) => dict.entries,
                        _ => return bad("a dict is made of something else than entries"),
                    },
                };
                Value::Dict(Dict { kind, entries, attributes: None })
            }
            (Global::Set, [items]) => match self.node(*items) {
                Node::List(items) => Value::Set(self.set(items, depth)?),
                Node::Tuple(items) => Value::Set(self.set(items, depth)?),
                _ => return bad("a set is made of something else than a list"),
            },
            (Global::Set, []) => Value::Set(Vec::new()),
            (Global::Complex, [re, im]) => match (self.node(*re), self.node(*im)) {
                (Node::Float(re), Node::Float(im)) => Value::Complex(*re, *im),
                _ => return bad("the parts of a complex number are not floats"),
            },
            (Global::Bytes, []) => Value::Bytes(Vec::new()),
            (Global::ByteArray, []) => Value::ByteArray(Vec::new()),
            (Global::ByteArray, [bytes]) => match self.value(*bytes, depth + 1)?.into_resolved() {
                Value::Bytes(bytes) => Value::ByteArray(bytes),
                _ => return bad("a bytearray is not made of bytes"),
            },
            (Global::ByteArray, [text, encoding]) if self.is_latin1(*encoding) => {
                Value::ByteArray(self.latin1(*text)?)
            }
            (Global::Encode, [text, encoding]) if self.is_latin1(*encoding) => {
                Value::Bytes(self.latin1(*text)?)
            }
            (Global::Size, [dims]) => {
                let dims = self.tuple(*dims)?;
                self.charge(size_of_val(dims) * 2)?;
                Value::Size(dims.iter().map(|&dim| self.int(dim)).collect::<Result<_>>()?)
            }
            (Global::Device, [name]) => Value::Device(device(self.owned(*name)?)?),
            (Global::Device, [name, index]) => {
                Value::Device(device(format!("{}:{}", self.owned(*name)?, self.int(*index)?))?)
            }
            (Global::Layout, [name]) => Value::Layout(self.owned(*name)?),
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
        let bytes = self.find_storage(storage)?;
        Tensor::new(dtype, shape, strides, offset, bytes).map_err(|error| {
            let place = Place::record(format!("data/{}", storage.key));
            Error::damaged(place, error.to_string())
        })
    }

    fn find_storage(&mut self, storage: &StorageRef<'_>) -> Result<Storage> {
        self.charge(storage.key.len())?;
        (self.storages)(storage)
    }

    fn tensor(&self, view: Tensor, grad: Id, hooks: Id, bits: Option<Id>) -> Result<Value> {
        self.no_hooks(hooks)?;
        let mut attributes =
            Attributes { requires_grad: self.bool(grad)?, ..Attributes::default() };
        match bits.map(|bits| self.node(bits)) {
            None | Some(Node::None | Node::EmptyDict(_)) => {}
            Some(Node::Dict(bits)) => {
                for &(key, value) in &bits.entries {
                    match self.text(key)? {
                        "conj" => attributes.conjugate = self.bool(value)?,
                        "neg" => attributes.negative = self.bool(value)?,
                        other => return bad(format_args!("tensor metadata `{}`", shown(other))),
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
            Node::None | Node::EmptyDict(_) => Ok(()),
            Node::Dict(dict) if dict.entries.is_empty() => Ok(()),
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
                format!("a persistent id of the kind `{}`", shown(kind)),
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
    fn indices(&mut self, id: Id) -> Result<Vec<usize>> {
        let id = match self.node(id) {
            Node::Called(called) if called.global == Global::Size => {
                match self.tuple(called.args)? {
                    [dims] => *dims,
                    _ => return bad("torch.Size is called without a tuple"),
                }
            }
            _ => id,
        };
        let items = self.tuple(id)?;
        self.charge(items.len() * size_of::<usize>())?;
        items.iter().map(|&item| self.index(item)).collect()
    }

    /// A string of its own, paid for.
    fn owned(&mut self, id: Id) -> Result<String> {
        let text = self.text(id)?;
        self.charge(text.len())?;
        Ok(text.to_owned())
    }

    /// The bytes that the code points of a string stand for.
    fn latin1(&mut self, id: Id) -> Result<Vec<u8>> {
        let Node::Str(text) = self.node(id) else { return bad("bytes are not made of a string") };
        self.charge(text.len())?;
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
        bytes.collect::<Result<_, _>>().or_else(|_| bad("bytes with a code point above 255"))
    }

    /// As in Python, a key that is set again keeps its place and takes the new value.
    fn keep_last_of_equal_keys(
        &mut self,
        entries: Vec<(Value, Value)>,
    ) -> Result<Vec<(Value, Value)>> {
        let mut places = FxHashMap::with_capacity_and_hasher(entries.len(), FxBuildHasher);
        let mut distinct: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let place = match self.identities.of(&key) {
                Identity::Equal(identity) => *places.entry(identity).or_insert(distinct.len()),
                Identity::Mutable => return bad("a key of a dict is a mutable container"),
                _ => distinct.len(),
            };
            match distinct.get_mut(place) {
                Some(entry) => entry.1 = value,
                None => distinct.push((key, value)),
            }
        }
        Ok(distinct)
    }

    /// As in Python, a set holds the first of equal elements.
    fn keep_distinct(&mut self, items: Vec<Value>) -> Result<Vec<Value>> {
        let mut seen = FxHashSet::with_capacity_and_hasher(items.len(), FxBuildHasher);
        let mut distinct = Vec::with_capacity(items.len());
        for item in items {
            let new = match self.identities.of(&item) {
                Identity::Equal(identity) => seen.insert(identity),
                Identity::Mutable => return bad("an element of a set is a mutable container"),
                _ => true,
            };
            if new {
                distinct.push(item);
            }
        }
        Ok(distinct)
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

/// A device as torch writes it: a kind, and its number where it has one.
fn device(name: String) -> Result<String> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (name.as_str(), None),
    };
    // Read and written again, the number must come out as it went in.
    let canonical = |index: &str| index.parse::<u32>().is_ok_and(|n| n.to_string() == index);
    if kind.is_empty()
        || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        || !index.is_none_or(canonical)
    {
        return bad("no device has such a name");
    }
    Ok(name)
}
