//! The state tree into JSON.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::{Map, Value as Json, json};

use super::super::{shape_to_format, to_format};
use super::{MAX_JSON_DEPTH, MAX_TREE};
use crate::error::{Error, Place, Result};
use crate::tensor::{DType, Storage, Tensor, contiguous_strides};
use crate::value::{Dict, DictKind, Shared, Value, join};

/// Strings of up to this many bytes are written out each time.
const SHORT: usize = 64;

/// A message lists no more than this.
const MAX_LISTED: usize = 20;

/// An encoded state tree.
pub(in super::super) struct Encoded {
    /// Everything that is not a tensor.
    pub(in super::super) json: String,
    /// The tensors to store, by name; all of element types that the format has.
    pub(in super::super) stored: Vec<(String, Tensor)>,
    /// Tensors that are the same view of memory as a stored one: alias and name.
    pub(in super::super) ties: Vec<(String, String)>,
    /// Tensors that lose the memory they share, or the rest of it.
    pub(in super::super) apart: Vec<String>,
    /// Those of them that overlap another tensor, and no longer will.
    pub(in super::super) unshared: Vec<String>,
    /// Tensors of a kind that the format lacks, whose parts are stored.
    pub(in super::super) made_of_parts: Vec<String>,
}

/// Turns a state tree into JSON and a list of tensors.
///
/// # Errors
/// [`Error::Unsupported`] if the format cannot hold a part of the tree, naming each.
pub(in super::super) fn encode(tree: &Value) -> Result<Encoded> {
    let mut encoder = Encoder { bases: bases(tree), ..Encoder::default() };
    let json = encoder.value("", tree, 0);
    if !encoder.refused.is_empty() {
        return Err(refusal(&encoder.refused));
    }
    let json = json.to_string();
    if json.len() > MAX_TREE {
        return Err(Error::unsupported(
            Place::default(),
            format!(
                "everything except the tensors takes {} bytes as JSON; at most {MAX_TREE} are \
                 allowed",
                json.len()
            ),
            "turn long lists of numbers into tensors, or convert only a part of the tree",
        ));
    }
    let Encoder { stored, ties, apart, unshared, made_of_parts, .. } = encoder;
    Ok(Encoded { json, stored, ties, apart, unshared, made_of_parts })
}

fn refusal(refused: &[String]) -> Error {
    let mut list: Vec<&str> = refused.iter().map(String::as_str).take(MAX_LISTED).collect();
    let more = format!("and {} more", refused.len().saturating_sub(MAX_LISTED));
    if refused.len() > MAX_LISTED {
        list.push(&more);
    }
    Error::unsupported(
        Place::default(),
        format!("a safetensors file cannot hold {}", list.join(", ")),
        "convert a part of the tree without them, or keep it as `.pt`",
    )
}

/// What makes two tensors the same view of the same memory.
type View = (usize, DType, Vec<usize>, Vec<usize>, usize);

fn view(tensor: &Tensor) -> View {
    let (shape, strides) = (tensor.shape().to_vec(), tensor.strides().to_vec());
    (tensor.storage().id(), tensor.dtype(), shape, strides, tensor.offset())
}

/// The bytes of its storage from the first that the tensor covers to the last.
fn extent(tensor: &Tensor) -> Range<usize> {
    let dims = tensor.shape().iter().zip(tensor.strides());
    let last: usize = dims.map(|(&len, &stride)| len.saturating_sub(1) * stride).sum();
    let elements = if tensor.numel() == 0 { 0 } else { last + 1 };
    let size = tensor.dtype().size();
    tensor.offset() * size..(tensor.offset() + elements) * size
}

/// Whether the elements are all of the storage, in its order.
fn covers(tensor: &Tensor) -> bool {
    tensor.offset() == 0 && tensor.is_contiguous() && tensor.nbytes() == tensor.storage().len()
}

/// A storage as the tensor it is stored as.
fn as_tensor(storage: &Storage, dtype: Option<DType>) -> Option<Tensor> {
    let dtype = dtype.filter(|dtype| storage.len().is_multiple_of(dtype.size() as u64));
    let dtype = dtype.unwrap_or(DType::UInt8);
    let len = usize::try_from(storage.len()).ok()? / dtype.size();
    Tensor::contiguous(dtype, vec![len], storage.clone()).ok()
}

/// For each storage, the name of the first tensor that is all of it.
fn bases(tree: &Value) -> HashMap<usize, (String, View)> {
    let mut bases = HashMap::new();
    tree.visit(&mut |path, value| {
        let tensor = match value {
            Value::Tensor(tensor) => Some(tensor.clone()),
            Value::Storage(storage, dtype) => as_tensor(storage, *dtype),
            _ => None,
        };
        if let Some(tensor) = tensor.filter(covers) {
            let id = tensor.storage().id();
            bases.entry(id).or_insert_with(|| (name_of(path), view(&tensor)));
        }
    });
    bases
}

/// The name of the tensor at `path` in the file.
fn name_of(path: &str) -> String {
    if path.is_empty() { "tensor".to_owned() } else { path.to_owned() }
}

#[derive(Default)]
struct Encoder {
    bases: HashMap<usize, (String, View)>,
    stored: Vec<(String, Tensor)>,
    names: HashSet<String>,
    /// The storages that no tensor covers in order; the first view stands for them.
    without_base: HashSet<usize>,
    /// The names of the views that are stored.
    views: HashMap<View, String>,
    ties: Vec<(String, String)>,
    apart: Vec<String>,
    /// The bytes of each storage that partial views of it cover.
    seen: HashMap<usize, Vec<Range<usize>>>,
    unshared: Vec<String>,
    made_of_parts: Vec<String>,
    refused: Vec<String>,
    shared: HashMap<usize, Known>,
    /// How deep the value that is being encoded is nested.
    deepest: usize,
}

/// A shared value that was encoded.
struct Known {
    number: usize,
    /// How many levels are below it.
    height: usize,
    /// Its path, if it holds tensors.
    tensors: Option<String>,
}

impl Encoder {
    fn value(&mut self, path: &str, value: &Value, depth: usize) -> Json {
        if depth > MAX_JSON_DEPTH {
            return self.refuse(path, "nested too deep");
        }
        self.deepest = self.deepest.max(depth);
        match value {
            Value::Shared(shared) => self.shared(path, shared, depth),
            Value::None => Json::Null,
            Value::Bool(v) => Json::from(*v),
            Value::Int(v) => Json::from(*v),
            Value::BigInt(v) => json!({ "$int": v.to_string() }),
            Value::Float(v) => float(*v),
            Value::Complex(re, im) => json!({ "$complex": [float(*re), float(*im)] }),
            Value::Str(v) => Json::from(v.as_str()),
            Value::Wtf8(v) => json!({ "$str": hex(v) }),
            Value::Bytes(v) => json!({ "$bytes": hex(v) }),
            Value::ByteArray(v) => json!({ "$bytearray": hex(v) }),
            Value::List(items) => self.items(path, items, depth),
            Value::Tuple(items) => json!({ "$tuple": self.items(path, items, depth + 1) }),
            Value::Set(items) => json!({ "$set": self.items(path, items, depth + 1) }),
            Value::Dict(dict) => self.dict(path, dict, depth),
            Value::Tensor(tensor) => self.tensor(path, tensor),
            Value::Storage(storage, dtype) => self.storage(path, storage, *dtype),
            Value::Size(dims) => json!({ "$size": dims }),
            Value::DType(v) => json!({ "$dtype": v.name() }),
            Value::Device(v) => json!({ "$device": v }),
            Value::Layout(v) => json!({ "$layout": v }),
            Value::QScheme(v) => json!({ "$qscheme": v }),
            Value::Object(_) => self.refuse(path, "an object that only code could create"),
            Value::Call(call) => {
                // For example, a parameter with attributes is one inside another.
                let inside = |outer: &String| path.strip_prefix(outer.as_str()).is_some();
                if !call.args.is_empty() && !self.made_of_parts.last().is_some_and(inside) {
                    self.made_of_parts.push(name_of(path));
                }
                let mut json = json!({
                    "$call": call.global,
                    "args": self.items(path, &call.args, depth + 1),
                });
                if let Some(state) = &call.state {
                    json["state"] = self.value(&join(path, "state"), state, depth + 1);
                }
                json
            }
        }
    }

    /// A value with several references: whole at the first of them. Its tensors get their names there.
    fn shared(&mut self, path: &str, shared: &Shared, depth: usize) -> Json {
        let value = shared.get();
        let is_one_object = match value {
            Value::List(_) | Value::Set(_) | Value::Dict(_) | Value::ByteArray(_) => true,
            Value::Tensor(_) | Value::Call(_) => true,
            Value::Tuple(items) => !items.is_empty(),
            Value::Str(text) => text.len() > SHORT,
            Value::Wtf8(bytes) | Value::Bytes(bytes) => bytes.len() > SHORT,
            _ => false,
        };
        if !is_one_object || shared.references() == 1 {
            return self.value(path, value, depth);
        }
        if let Some(known) = self.shared.get(&shared.id()) {
            let number = known.number;
            if depth + known.height > MAX_JSON_DEPTH {
                return self.refuse(path, "nested too deep");
            }
            self.ties.extend(known.tensors.clone().map(|first| (name_of(path), first)));
            return json!({ "$same": number });
        }
        let number = self.shared.len();
        let tensors = self.stored.len() + self.ties.len();
        let deepest = std::mem::replace(&mut self.deepest, depth);
        // Its number is taken before those of what it holds.
        self.shared.insert(shared.id(), Known { number, height: 0, tensors: None });
        let json = self.value(path, value, depth + 1);
        let height = self.deepest - depth;
        self.deepest = self.deepest.max(deepest);
        let tensors = (self.stored.len() + self.ties.len() > tensors).then(|| name_of(path));
        self.shared.insert(shared.id(), Known { number, height, tensors });
        json!({ "$shared": number, "of": json })
    }

    fn items(&mut self, path: &str, items: &[Value], depth: usize) -> Json {
        let items = items.iter().enumerate();
        items.map(|(i, item)| self.value(&join(path, &i.to_string()), item, depth + 1)).collect()
    }

    fn dict(&mut self, path: &str, dict: &Dict, depth: usize) -> Json {
        let first = dict.entries.first().and_then(|(key, _)| key.as_str());
        let plain = dict.entries.iter().all(|(key, _)| key.as_str().is_some())
            && !first.is_some_and(|first| first.starts_with('$'));
        let inner = depth + if plain && dict.kind == DictKind::Dict { 1 } else { 2 };
        let entries = if plain {
            let entries = dict.children().into_iter();
            Json::Object(
                entries
                    .map(|(key, value)| {
                        let json = self.value(&join(path, &key), value, inner);
                        (key, json)
                    })
                    .collect(),
            )
        } else {
            let entries = dict.entries.iter().zip(dict.children());
            entries
                .map(|((key, value), (text, _))| {
                    let key = self.value(&join(path, &text), key, inner + 1);
                    json!([key, self.value(&join(path, &text), value, inner + 1)])
                })
                .collect()
        };
        match dict.kind {
            DictKind::Dict if plain => entries,
            DictKind::Dict => json!({ "$dict": entries }),
            DictKind::Counter => json!({ "$counter": entries }),
            DictKind::Ordered => {
                let mut json = json!({ "$ordered": entries });
                if let Some(attributes) = &dict.attributes {
                    let path = join(path, "attributes");
                    json["attributes"] = self.dict(&path, attributes, depth + 1);
                }
                json
            }
        }
    }

    fn tensor(&mut self, path: &str, tensor: &Tensor) -> Json {
        let attributes = tensor.attributes();
        if attributes.conjugate || attributes.negative {
            return self.refuse(path, "a conjugate or negative view");
        }
        let (shape, strides) = (tensor.shape(), tensor.strides());
        let this = view(tensor);
        let mut node = Map::new();
        match (self.views.get(&this), self.bases.get(&tensor.storage().id())) {
            (Some(name), _) => {
                node.insert("$tensor".into(), name.as_str().into());
                self.ties.push((name_of(path), name.clone()));
            }
            (None, Some((base, of_base))) if *of_base != this => {
                node.insert("$view".into(), base.as_str().into());
                node.insert("dtype".into(), tensor.dtype().name().into());
                node.insert("shape".into(), shape.into());
                node.insert("strides".into(), strides.into());
                node.insert("offset".into(), tensor.offset().into());
                self.store(path, tensor);
            }
            (None, base) => {
                let whole = tensor.offset() == 0 && tensor.nbytes() == tensor.storage().len();
                let first = self.without_base.insert(tensor.storage().id());
                if base.is_none() && !(whole && tensor.is_dense() && first) {
                    self.apart.push(name_of(path));
                }
                let bytes = extent(tensor);
                let seen = self.seen.entry(tensor.storage().id()).or_default();
                if seen.iter().any(|other| other.start < bytes.end && bytes.start < other.end) {
                    self.unshared.push(name_of(path));
                }
                seen.push(bytes);
                node.insert("$tensor".into(), name_of(path).into());
                self.views.insert(this, name_of(path));
                self.store(path, tensor);
            }
        }
        let row_major = strides == contiguous_strides(shape);
        if node.contains_key("$tensor") && tensor.is_dense() && !row_major {
            node.insert("strides".into(), strides.into());
        }
        if attributes.parameter {
            node.insert("parameter".into(), true.into());
        }
        if attributes.requires_grad {
            node.insert("requires_grad".into(), true.into());
        }
        if tensor.storage().location() != "cpu" {
            node.insert("device".into(), tensor.storage().location().into());
        }
        Json::Object(node)
    }

    fn storage(&mut self, path: &str, storage: &Storage, dtype: Option<DType>) -> Json {
        let Some(tensor) = as_tensor(storage, dtype) else {
            return self.refuse(path, "a storage of this size");
        };
        // A storage is its own base, unless a tensor before it is.
        let name = self.bases.get(&storage.id()).map_or_else(|| name_of(path), |b| b.0.clone());
        if name == name_of(path) {
            self.views.insert(view(&tensor), name.clone());
            self.store(path, &tensor);
        }
        let mut node = json!({ "$storage": name });
        if let Some(dtype) = dtype {
            node["dtype"] = dtype.name().into();
        }
        if storage.location() != "cpu" {
            node["device"] = storage.location().into();
        }
        node
    }

    fn store(&mut self, path: &str, tensor: &Tensor) {
        let name = name_of(path);
        let dtype = to_format(tensor.dtype());
        if dtype.and_then(|dtype| shape_to_format(dtype, tensor.shape())).is_none() {
            self.refuse(path, tensor.dtype().name());
        } else if tensor.repeats_too_much() {
            self.refuse(path, "a view that repeats a few elements too often");
        } else if name == "__metadata__" {
            self.refuse(path, "a tensor of that name");
        } else if !self.names.insert(name.clone()) {
            self.refuse(path, "two tensors of that name");
        } else {
            self.stored.push((name, tensor.clone()));
        }
    }

    fn refuse(&mut self, path: &str, what: &str) -> Json {
        self.refused.push(format!("`{path}` ({what})"));
        Json::Null
    }
}

fn float(float: f64) -> Json {
    if float.is_finite() {
        Json::from(float)
    } else {
        json!({ "$float": format!("{:016x}", float.to_bits()) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
