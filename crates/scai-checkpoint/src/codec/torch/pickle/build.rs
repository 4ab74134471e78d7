//! From the arena of nodes to a state tree.

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use serde_json::Value as Json;

use super::globals::{Global, PARAMETER_CLASS};
use super::keys::{Identities, Identity};
use super::machine::{Called, DictNode, Id, Node, Program, needs_code};
use crate::codec::Foreign;
use crate::error::{Error, Place, Result, shown};
use crate::tensor::{Attributes, DType, Storage, Tensor};
use crate::value::{BigInt, Call, Dict, DictKind, MAX_DEPTH, Value};

/// A storage as a pickle refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct StorageRef<'a> {
    pub(in super::super) key: &'a str,
    /// The element type; `None` for an untyped storage, whose elements are bytes.
    pub(in super::super) dtype: Option<DType>,
    /// The device the storage was on.
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
/// constructor makes a new value each time it is applied, so a malicious file of 1 KiB that applies
/// one to the same arguments over and over could use all memory. A genuine pickle has at least one
/// byte for every [`BYTES_PER_BYTE`] bytes of memory.
const ALLOWANCE: usize = 16 << 20;
const BYTES_PER_BYTE: usize = 64;

/// Builds the tree a program describes, which must not hold anything that needs code.
pub(in super::super) fn build(program: Program, storages: &mut Storages<'_>) -> Result<Value> {
    build_with(program, Foreign::Refuse, storages).map(|(tree, _)| tree)
}

/// Builds the tree a program describes, and frees what the program holds while it does so; also
/// returns the notes on what plain values stand for, as JSON, if there are any.
pub(in super::super) fn build_with(
    program: Program,
    foreign: Foreign,
    storages: &mut Storages<'_>,
) -> Result<(Value, Option<String>)> {
    if foreign == Foreign::Refuse && !program.foreign.is_empty() {
        return Err(needs_code(&program.foreign));
    }
    let mut builder = Builder {
        references: references(&program),
        nodes: program.nodes,
        foreign: program.foreign,
        stands_in: foreign == Foreign::StandIn,
        open: Vec::new(),
        path: Vec::new(),
        unnoted: 0,
        notes: Vec::new(),
        noted: FxHashMap::default(),
        shared: FxHashMap::default(),
        deepest: 0,
        identities: Identities::new(),
        budget: program.consumed.saturating_mul(BYTES_PER_BYTE).saturating_add(ALLOWANCE),
        storages,
    };
    let tree = builder.value(program.root, 0)?;
    let notes = (!builder.notes.is_empty())
        .then(|| serde_json::to_string(&builder.notes).unwrap_or_default());
    Ok((tree, notes))
}

/// Calls `visit` with every storage that a program refers to.
pub(in super::super) fn each_storage(
    program: &Program,
    visit: &mut dyn FnMut(&StorageRef<'_>) -> Result<()>,
) -> Result<()> {
    for node in &program.nodes {
        if let Node::Persistent(tuple) = node {
            visit(&storage_ref(&program.nodes, *tuple)?)?;
        }
    }
    Ok(())
}

/// For each node whether none, one or several of the others refer to it as a value.
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
            Node::Object(object) => {
                count(object.callee);
                count(object.args);
                object.state.into_iter().for_each(&mut count);
                if let Some(filled) = &object.filled {
                    filled.items.iter().copied().for_each(&mut count);
                    let entries = filled.entries.iter().flat_map(|&(key, value)| [key, value]);
                    entries.for_each(&mut count);
                }
            }
            _ => {}
        }
    }
    let mut parts = Parts { nodes: &program.nodes, references, done: FxHashSet::default() };
    program.nodes.iter().for_each(|node| parts.of(node));
    parts.references
}

/// Counts what is inside values that are taken apart at each reference instead of being built once:
/// arguments, what a dict or a set is made of, attributes.
struct Parts<'a> {
    nodes: &'a [Node],
    references: Vec<u8>,
    /// What several refer to, and down to which level it was counted.
    done: FxHashSet<(Id, usize)>,
}

impl Parts<'_> {
    fn of(&mut self, node: &Node) {
        match node {
            Node::Dict(dict) => dict.attributes.into_iter().for_each(|id| self.apart(id, 0)),
            Node::Called(called) => {
                // The arguments, the entries in a container, the pairs.
                let levels = match called.global {
                    Global::OrderedDict | Global::Counter | Global::Set => 2,
                    _ => 0,
                };
                self.apart(called.args, levels);
                if called.global.is_tensor_class() {
                    called.state.into_iter().for_each(|id| self.apart(id, 0));
                }
            }
            Node::Object(object) => {
                self.apart(object.args, 0);
                let named = object.filled.as_ref().and_then(|filled| filled.named);
                named.into_iter().chain(object.state).for_each(|id| self.apart(id, 0));
                match object.state.map(|state| &self.nodes[state as usize]) {
                    // The attributes, and those in slots.
                    Some(Node::Tuple(dicts)) => dicts.iter().for_each(|&id| self.apart(id, 0)),
                    Some(Node::Dict(state)) => {
                        let nodes = Nodes(self.nodes);
                        for &(key, part) in &state.entries {
                            if nodes.text(key).is_ok_and(|key| OF_A_MODULE.contains(&key)) {
                                self.apart(part, 0);
                            }
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// If several take a value apart, each part of it has several references.
    fn apart(&mut self, id: Id, levels: usize) {
        let by_several = self.references[id as usize] > 1;
        if !by_several && levels == 0 || by_several && !self.done.insert((id, levels)) {
            return;
        }
        let nodes = self.nodes;
        let mut part = |id: Id| {
            if by_several {
                let count = &mut self.references[id as usize];
                *count = count.saturating_add(1);
            }
            if levels > 0 {
                self.apart(id, levels - 1);
            }
        };
        match &nodes[id as usize] {
            Node::List(items) | Node::Set(items) => items.iter().copied().for_each(&mut part),
            Node::Tuple(items) => items.iter().copied().for_each(&mut part),
            Node::Dict(dict) => {
                dict.entries.iter().flat_map(|&(key, value)| [key, value]).for_each(&mut part);
            }
            _ => {}
        }
    }
}

/// The attributes of a `torch.nn.Module` that make up its state dict.
const OF_A_MODULE: [&str; 3] = ["_parameters", "_buffers", "_modules"];

const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";

pub(super) struct Builder<'a> {
    nodes: Vec<Node>,
    /// Names of classes and functions that only code could use.
    pub(super) foreign: Vec<Box<str>>,
    stands_in: bool,
    /// The objects that are being built, innermost last.
    pub(super) open: Vec<Id>,
    /// Numbers of the children on the way to the value that is being built.
    path: Vec<i64>,
    /// How many of the values around it do not take notes on what is inside.
    unnoted: usize,
    /// What plain values stand for, by path.
    notes: Vec<(Vec<i64>, Json)>,
    /// Where the notes on a shared value are.
    noted: FxHashMap<Id, Vec<i64>>,
    references: Vec<u8>,
    /// Values with several references; `None` while one is being built.
    shared: FxHashMap<Id, Option<Built>>,
    /// How deep the value that is being built is nested.
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

pub(super) fn check_depth(depth: usize) -> Result<()> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Error::unsupported(
        Place::record("data.pkl"),
        format!("containers that are nested deeper than {MAX_DEPTH} levels"),
        "save a flatter structure",
    ))
}

impl<'a> Builder<'a> {
    pub(super) fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        if self.references[id as usize] < 2 || !self.node(id).can_be_shared() {
            return self.fresh(id, depth);
        }
        self.charge(size_of::<Value>())?;
        match self.shared.get(&id) {
            Some(Some(Built { value, height })) => {
                check_depth(depth + height)?;
                self.deepest = self.deepest.max(depth + height);
                let value = value.clone();
                if let Some(first) = self.noted.get(&id).cloned() {
                    // The notes on it are those on its first occurrence.
                    self.note(None, serde_json::json!(["=", first]))?;
                }
                return Ok(value);
            }
            Some(None) => {
                if let Node::Object(object) = self.node(id).clone() {
                    return self.object(id, &object, depth);
                }
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
        self.charge(size_of::<Value>() + self.node(id).content_len())?;
        Ok(match self.take(id) {
            Node::None => Value::None,
            Node::Bool(v) => Value::Bool(v),
            Node::Int(v) => Value::Int(v),
            Node::BigInt(v) => Value::BigInt(BigInt(*v)),
            Node::Float(v) => Value::Float(v),
            Node::Str(v) => Value::Str(v.into()),
            Node::Wtf8(v) => Value::Wtf8(v.into()),
            Node::Bytes(v) => Value::Bytes(v.into()),
            Node::ByteArray(v) => Value::ByteArray(v.into()),
            Node::List(items) => Value::List(self.values(&items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(&items, depth)?),
            Node::Set(items) => Value::Set(self.set(&items, depth)?),
            Node::EmptyDict(kind) => Value::Dict(Dict { kind, ..Dict::new() }),
            Node::Dict(dict) => Value::Dict(self.dict(*dict, depth)?),
            Node::Global(global) => self.global_value(global)?,
            Node::Persistent(tuple) => {
                let (storage, dtype) = self.find_storage(tuple)?;
                Value::Storage(storage, dtype)
            }
            Node::Called(called) => match called.global {
                Global::NumPy(numpy) => self.numpy(id, numpy, &called, depth)?,
                _ => self.called(&called, depth)?,
            },
            Node::Object(object) => self.object(id, &object, depth)?,
        })
    }

    /// A child, by the number that it has in paths of notes.
    fn child(&mut self, number: i64, id: Id, depth: usize) -> Result<Value> {
        self.path.push(number);
        let value = self.value(id, depth + 1);
        self.path.pop();
        value
    }

    /// Builds what has no path of its own in the tree that notes could refer to.
    pub(super) fn without_notes<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        self.unnoted += 1;
        let built = build(self);
        self.unnoted -= 1;
        built
    }

    /// Notes what the value being built from the node `id` stands for.
    pub(super) fn note(&mut self, id: Option<Id>, tag: Json) -> Result<()> {
        if self.unnoted == 0 {
            let path = size_of_val(self.path.as_slice());
            self.charge(2 * path + size_of::<(Vec<i64>, Json)>())?;
            if let Some(id) = id.filter(|&id| self.references[id as usize] > 1) {
                self.noted.insert(id, self.path.clone());
            }
            self.notes.push((self.path.clone(), tag));
        }
        Ok(())
    }

    /// Whether the value of a node has several references.
    pub(super) fn is_shared(&self, id: Id) -> bool {
        self.references[id as usize] > 1
    }

    /// Whether objects that need code are replaced by stand-ins.
    pub(super) fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// A node that is needed now; moved out of the arena if it has only one reference.
    fn take(&mut self, id: Id) -> Node {
        let node = &mut self.nodes[id as usize];
        if self.references[id as usize] < 2 {
            std::mem::replace(node, Node::None)
        } else {
            node.clone()
        }
    }

    /// Takes `bytes` of memory, or work in proportion, off the budget.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
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
        items.iter().zip(0..).map(|(&item, number)| self.child(number, item, depth)).collect()
    }

    fn dict(&mut self, dict: DictNode, depth: usize) -> Result<Dict> {
        let count = dict.entries.len();
        let mut entries = Vec::with_capacity(count);
        let noted = self.notes.len();
        for ((key, value), number) in dict.entries.into_iter().zip(0..) {
            entries.push((self.child(-1 - number, key, depth)?, self.child(number, value, depth)?));
        }
        let entries = self.keep_last_of_equal_keys(entries)?;
        if entries.len() < count {
            // The numbers of the entries have changed.
            self.notes.truncate(noted);
        }
        let attributes = match dict.attributes.map(|id| self.take(id)) {
            Some(Node::EmptyDict(_)) => Some(Box::default()),
            Some(Node::Dict(attributes)) if attributes.attributes.is_none() => {
                let attributes = self.without_notes(|builder| builder.dict(*attributes, depth))?;
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
                _ => &[],
            };
            let &[key, value] = pair else { return bad("an entry of a dict is not a pair") };
            entries.push((self.value(key, depth + 1)?, self.value(value, depth + 1)?));
        }
        self.keep_last_of_equal_keys(entries)
    }

    /// Applies a known constructor.
    fn called(&mut self, called: &Called, depth: usize) -> Result<Value> {
        let Node::Tuple(args) = self.take(called.args) else {
            return bad("the arguments are not a tuple");
        };
        Ok(match (called.global, &*args) {
            (Global::TensorV1, &[storage, offset, size, stride]) => {
                self.plain_tensor(storage, offset, size, stride)?
            }
            (Global::Kept(name), args) if called.global.is_tensor_class() => {
                self.of_class(name, args, called.state, depth)?
            }
            (Global::TensorV2, [storage, offset, size, stride, grad, hooks, rest @ ..])
                if rest.len() <= 1 =>
            {
                let (storage, dtype) = self.find_storage(self.persistent(*storage)?)?;
                let Some(dtype) = dtype else {
                    return bad("a tensor without an element type");
                };
                let view = self.view(dtype, storage, *offset, *size, *stride)?;
                self.tensor(view, *grad, *hooks, rest.first().copied())?
            }
            (Global::TensorV3, [storage, offset, size, stride, grad, hooks, dtype, rest @ ..])
                if rest.len() <= 1 =>
            {
                let &Node::Global(Global::DType(dtype)) = self.node(*dtype) else {
                    return bad("the element type of a tensor is not a `torch.dtype`");
                };
                let (storage, _) = self.find_storage(self.persistent(*storage)?)?;
                let view = self.view(dtype, storage, *offset, *size, *stride)?;
                self.tensor(view, *grad, *hooks, rest.first().copied())?
            }
            (Global::Parameter, [data, grad, hooks]) => {
                self.no_hooks(*hooks)?;
                let requires_grad = self.bool(*grad)?;
                let data = self.value(*data, depth + 1)?;
                // A parameter without data, or of a kind that is kept as it was written.
                if let Value::Call(call) = data.resolved()
                    && !call.args.is_empty()
                {
                    let args = vec![data, requires_grad.into(), self.value(*hooks, depth + 1)?];
                    let global = REBUILD_PARAMETER;
                    return Ok(Value::Call(Box::new(Call { global, args, state: None })));
                }
                let Value::Tensor(tensor) = data.into_resolved() else {
                    return bad("a parameter is not a tensor");
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
                // Read in place, so that a `Counter` is one level of the tree, as for the writer.
                let entries = match self.node(*entries) {
                    Node::EmptyDict(_) => Vec::new(),
                    Node::List(items) if items.is_empty() => Vec::new(),
                    Node::Dict(_) => match self.take(*entries) {
                        Node::Dict(dict) => self.dict(*dict, depth)?.entries,
                        _ => Vec::new(),
                    },
                    // A `Counter` would count them.
                    Node::List(_) | Node::Tuple(_) if kind == DictKind::Ordered => {
                        match self.take(*entries) {
                            Node::List(items) => self.without_notes(|b| b.pairs(&items, depth))?,
                            Node::Tuple(items) => self.without_notes(|b| b.pairs(&items, depth))?,
                            _ => Vec::new(),
                        }
                    }
                    _ => match self.value(*entries, depth + 1)?.into_resolved() {
                        Value::Dict(dict) => dict.entries,
                        _ => return bad("a dict is built from something other than entries"),
                    },
                };
                Value::Dict(Dict { kind, entries, attributes: None })
            }
            (Global::Set, [items]) => match self.take(*items) {
                Node::List(items) => Value::Set(self.set(&items, depth)?),
                Node::Tuple(items) => Value::Set(self.set(&items, depth)?),
                _ => return bad("a set is built from something other than a list"),
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
                self.charge(size_of_val(self.tuple(*dims)?) * 2)?;
                let dims = self.tuple(*dims)?.iter();
                Value::Size(dims.map(|&dim| self.int(dim)).collect::<Result<_>>()?)
            }
            (Global::Device, [name]) => Value::Device(device(self.owned(*name)?)?),
            (Global::Device, [name, index]) => {
                Value::Device(device(format!("{}:{}", self.owned(*name)?, self.int(*index)?))?)
            }
            (Global::Layout, [name]) => Value::Layout(self.owned(*name)?),
            (Global::Kept(global), args) if !args.is_empty() => {
                self.without_notes(|builder| -> Result<Value> {
                    let state = called.state.map(|state| builder.value(state, depth + 1));
                    let (state, args) = (state.transpose()?, builder.values(args, depth)?);
                    Ok(Value::Call(Box::new(Call { global, args, state })))
                })?
            }
            (global, args) => {
                return bad(format_args!("{global:?} is called with {} arguments", args.len()));
            }
        })
    }

    /// A tensor of the element type of its storage, without anything else.
    fn plain_tensor(&mut self, storage: Id, offset: Id, size: Id, stride: Id) -> Result<Value> {
        let (storage, dtype) = self.find_storage(self.persistent(storage)?)?;
        let Some(dtype) = dtype else { return bad("a tensor without an element type") };
        self.view(dtype, storage, offset, size, stride).map(Value::Tensor)
    }

    /// What a class of tensors makes: PyTorch before 0.4 wrote an object of the class and its
    /// state; since then, functions make tensors.
    fn of_class(
        &mut self,
        class: &'static str,
        args: &[Id],
        state: Option<Id>,
        depth: usize,
    ) -> Result<Value> {
        let state = state.map(|state| self.tuple(state).map(<[Id]>::to_vec)).transpose()?;
        let (value, grad) = match (args, state.as_deref()) {
            ([], Some(&[storage, offset, size, stride])) => {
                (self.plain_tensor(storage, offset, size, stride)?, None)
            }
            ([], Some(&[data, _, _, grad, _])) => (self.value(data, depth + 1)?, Some(grad)),
            (&[data], Some(&[grad, _, _])) => (self.value(data, depth + 1)?, Some(grad)),
            (&[data, grad], None) => (self.value(data, depth + 1)?, Some(grad)),
            (&[data], None) if class == PARAMETER_CLASS => (self.value(data, depth + 1)?, None),
            _ => return bad("a tensor class is called with unexpected arguments"),
        };
        let Value::Tensor(tensor) = value.into_resolved() else {
            return bad("a tensor is built from something other than a tensor");
        };
        let parameter = class == PARAMETER_CLASS;
        // A parameter requires gradients unless it says otherwise.
        let requires_grad = grad.map_or(Ok(parameter), |grad| self.bool(grad))?;
        let attributes = Attributes { requires_grad, parameter, ..tensor.attributes() };
        Ok(Value::Tensor(tensor.with_attributes(attributes)))
    }

    fn view(
        &mut self,
        dtype: DType,
        storage: Storage,
        offset: Id,
        size: Id,
        stride: Id,
    ) -> Result<Tensor> {
        let offset = self.index(offset)?;
        let shape = self.indices(size)?;
        let strides = self.indices(stride)?;
        let record = storage.clone();
        Tensor::new(dtype, shape, strides, offset, storage).map_err(|error| {
            let place = record.record().map_or_else(Place::default, Place::record);
            Error::damaged(place, error.to_string())
        })
    }

    /// The storage of a persistent id, and its element type.
    fn find_storage(&mut self, tuple: Id) -> Result<(Storage, Option<DType>)> {
        self.charge(storage_ref(&self.nodes, tuple)?.key.len())?;
        let storage = storage_ref(&self.nodes, tuple)?;
        Ok(((self.storages)(&storage)?, storage.dtype))
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
                        other => {
                            return bad(format_args!("unknown tensor metadata `{}`", shown(other)));
                        }
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
            _ if self.stands_in => Ok(()),
            _ => bad("a tensor has backward hooks"),
        }
    }

    fn persistent(&self, id: Id) -> Result<Id> {
        match self.node(id) {
            Node::Persistent(tuple) => Ok(*tuple),
            other => {
                bad(format_args!("a tensor is built on a {}, not a storage", other.type_name()))
            }
        }
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn tuple(&self, id: Id) -> Result<&[Id]> {
        Nodes(&self.nodes).tuple(id)
    }

    pub(super) fn text(&self, id: Id) -> Result<&str> {
        Nodes(&self.nodes).text(id)
    }

    pub(super) fn int(&self, id: Id) -> Result<i64> {
        Nodes(&self.nodes).int(id)
    }

    fn bool(&self, id: Id) -> Result<bool> {
        match self.node(id) {
            Node::Bool(v) => Ok(*v),
            other => bad(format_args!("expected a bool, got a {}", other.type_name())),
        }
    }

    pub(super) fn index(&self, id: Id) -> Result<usize> {
        usize::try_from(self.int(id)?).or_else(|_| bad("a negative offset, size or stride"))
    }

    /// A tuple of sizes or strides; `torch.Size` may stand for it.
    pub(super) fn indices(&mut self, id: Id) -> Result<Vec<usize>> {
        let id = match self.node(id) {
            Node::Called(called) if called.global == Global::Size => {
                match self.tuple(called.args)? {
                    [dims] => *dims,
                    _ => return bad("torch.Size is called without a tuple"),
                }
            }
            _ => id,
        };
        self.charge(size_of_val(self.tuple(id)?) * 2)?;
        self.tuple(id)?.iter().map(|&item| self.index(item)).collect()
    }

    /// A copy of a string, charged to the budget.
    fn owned(&mut self, id: Id) -> Result<String> {
        self.charge(self.text(id)?.len())?;
        Ok(self.text(id)?.to_owned())
    }

    /// The bytes that the code points of a string stand for.
    pub(super) fn latin1(&mut self, id: Id) -> Result<Vec<u8>> {
        self.charge(self.node(id).content_len())?;
        let Node::Str(text) = self.node(id) else { return bad("bytes are not made of a string") };
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
        bytes.collect::<Result<_, _>>().or_else(|_| bad("bytes with a code point above 255"))
    }

    /// As in Python, a key that is set again keeps its position and takes the new value.
    pub(super) fn keep_last_of_equal_keys(
        &mut self,
        mut entries: Vec<(Value, Value)>,
    ) -> Result<Vec<(Value, Value)>> {
        let mut places = FxHashMap::with_capacity_and_hasher(entries.len(), FxBuildHasher);
        let mut repeated = Vec::new();
        for (i, (key, _)) in entries.iter().enumerate() {
            match self.identities.of(key) {
                Identity::Equal(identity) => match *places.entry(identity).or_insert(i) {
                    first if first < i => repeated.push((i, first)),
                    _ => {}
                },
                Identity::Mutable => return bad("a key of a dict is a mutable container"),
                Identity::Unique => {}
            }
        }
        let mut stays = vec![true; if repeated.is_empty() { 0 } else { entries.len() }];
        for (i, first) in repeated {
            entries[first].1 = std::mem::replace(&mut entries[i].1, Value::None);
            stays[i] = false;
        }
        let mut stays = stays.into_iter();
        entries.retain(|_| stays.next().unwrap_or(true));
        Ok(entries)
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

    pub(super) fn is_latin1(&self, id: Id) -> bool {
        matches!(self.node(id), Node::Str(name) if &**name == "latin1" || &**name == "latin-1")
    }

    fn global_value(&mut self, global: Global) -> Result<Value> {
        Ok(match (global, global.name()) {
            (Global::DType(dtype), _) => Value::DType(dtype),
            (Global::QScheme(name), _) => Value::QScheme(name.to_owned()),
            (Global::NumPy(numpy), _) => self.numpy_class(numpy)?,
            (Global::Foreign(number), _) => self.foreign_class(number)?,
            (_, Some(name)) => named(name),
            (other, None) => return bad(format_args!("unexpected value {other:?}")),
        })
    }
}

/// Read access to nodes.
#[derive(Clone, Copy)]
struct Nodes<'a>(&'a [Node]);

impl<'a> Nodes<'a> {
    fn node(self, id: Id) -> &'a Node {
        &self.0[id as usize]
    }

    fn tuple(self, id: Id) -> Result<&'a [Id]> {
        match self.node(id) {
            Node::Tuple(items) => Ok(items),
            other => bad(format_args!("expected a tuple, got a {}", other.type_name())),
        }
    }

    fn text(self, id: Id) -> Result<&'a str> {
        match self.node(id) {
            Node::Str(text) => Ok(text),
            other => bad(format_args!("expected a string, got a {}", other.type_name())),
        }
    }

    fn int(self, id: Id) -> Result<i64> {
        match self.node(id) {
            Node::Int(int) => Ok(*int),
            other => bad(format_args!("expected an integer, got a {}", other.type_name())),
        }
    }
}

/// `('storage', class, key, location, numel)`; the legacy format adds a sixth, always None.
fn storage_ref(nodes: &[Node], tuple: Id) -> Result<StorageRef<'_>> {
    let nodes = Nodes(nodes);
    let (&[kind, class, key, location, numel] | &[kind, class, key, location, numel, _]) =
        nodes.tuple(tuple)?
    else {
        return bad("a persistent id is not a storage");
    };
    if let Some(view) = nodes.tuple(tuple)?.get(5)
        && !matches!(nodes.node(*view), Node::None)
    {
        return Err(Error::unsupported(
            Place::record("data.pkl"),
            "a storage that is a view of another one",
            "torch stopped writing these in 2017; load and save it with torch",
        ));
    }
    let kind = nodes.text(kind)?;
    if kind != "storage" {
        return Err(Error::unsupported(
            Place::record("data.pkl"),
            format!("a persistent id of kind `{}`", shown(kind)),
            "save `model.state_dict()` instead of the model",
        ));
    }
    let dtype = match nodes.node(class) {
        Node::Global(Global::TypedStorage(dtype)) => Some(*dtype),
        Node::Global(Global::UntypedStorage) => None,
        Node::Global(Global::Foreign(_)) => {
            return Err(Error::unsupported(
                Place::record("data.pkl"),
                "storages of an unknown class",
                "load it with torch, and save tensors on the CPU",
            ));
        }
        other => return bad(format_args!("the class of a storage is a {}", other.type_name())),
    };
    let Ok(numel) = u64::try_from(nodes.int(numel)?) else {
        return bad("a storage has a negative length");
    };
    let (key, location) = (nodes.text(key)?, nodes.text(location)?);
    Ok(StorageRef { key, dtype, location, numel })
}

/// A class or function that is an argument of another constructor.
fn named(global: &'static str) -> Value {
    Value::Call(Box::new(Call { global, args: Vec::new(), state: None }))
}

/// A device as torch writes it: a kind, and its number if it has one.
fn device(name: String) -> Result<String> {
    if is_device(&name) { Ok(name) } else { bad("invalid device name") }
}

/// Whether a device can have this name; read and written again, it must come out the same.
pub(super) fn is_device(name: &str) -> bool {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index)),
        None => (name, None),
    };
    let canonical = |index: &str| index.parse::<u32>().is_ok_and(|n| n.to_string() == index);
    !kind.is_empty()
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && index.is_none_or(canonical)
}
