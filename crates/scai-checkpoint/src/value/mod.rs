//! The state tree: everything a training state is made of, in order.

mod big;
mod de;
mod number;
mod object;
mod ser;
mod shared;
mod walk;

pub use big::BigInt;
pub use de::from_value;
pub use object::Object;
pub use ser::to_value;
pub use shared::Shared;
pub use walk::join;

use crate::tensor::{DType, Storage, Tensor};

/// Containers may nest this deep, in memory and in files. Real training states stay below 20;
/// without a limit a file of 100 KB could exhaust the stack.
pub const MAX_DEPTH: usize = 256;

/// A value of the state tree.
///
/// The tree holds what `torch.load(weights_only=True)` accepts, and nothing else. Sharing is kept,
/// between tensors (see [`Storage`]) and of whole values ([`Value::Shared`]): code that matches on
/// variants matches on [`Value::resolved`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer of more than 64 bits.
    BigInt(BigInt),
    /// A floating-point number.
    Float(f64),
    /// A complex number: real and imaginary part.
    Complex(f64, f64),
    /// A string.
    Str(String),
    /// A Python string with lone surrogates, as its WTF-8 bytes (`'surrogatepass'`).
    Wtf8(Vec<u8>),
    /// Python's `bytes`.
    Bytes(Vec<u8>),
    /// Python's `bytearray`.
    ByteArray(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set, in the order it was written.
    Set(Vec<Value>),
    /// A mapping that keeps its order.
    Dict(Dict),
    /// A tensor.
    Tensor(Tensor),
    /// A storage without a tensor: its bytes, and the element type of a typed one.
    Storage(Storage, Option<DType>),
    /// `torch.Size`.
    Size(Vec<i64>),
    /// `torch.dtype`.
    DType(DType),
    /// `torch.device`, such as `cuda:0`.
    Device(String),
    /// `torch.layout`, such as `torch.strided`.
    Layout(String),
    /// A quantisation scheme, such as `per_tensor_affine`.
    QScheme(String),
    /// A tensor of a kind without a variant of its own (sparse, quantised, `nn.Buffer`, with Python
    /// attributes, without data): the constructor call, kept as it was written.
    Call(Box<Call>),
    /// A value that other parts of the tree refer to as well. Never directly within another.
    Shared(Shared),
    /// An object that only code could make; only a read with [`crate::codec::Foreign::StandIn`]
    /// returns one, and it cannot be written.
    Object(Box<Object>),
}

/// A call of a constructor that PyTorch accepts when it loads weights only.
#[derive(Debug, Clone)]
pub struct Call {
    /// The constructor, such as `torch._utils._rebuild_sparse_tensor`.
    pub global: &'static str,
    /// Its arguments; empty if it is not called but is itself an argument of another.
    pub args: Vec<Value>,
    /// State set on the result, if there is any.
    pub state: Option<Value>,
}

/// The Python class of a mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DictKind {
    /// `dict`.
    #[default]
    Dict,
    /// `collections.OrderedDict`.
    Ordered,
    /// `collections.Counter`.
    Counter,
}

/// A mapping that keeps its order.
#[derive(Debug, Clone, Default)]
pub struct Dict {
    /// The Python class it stands for.
    pub kind: DictKind,
    /// Keys and values, in order. Keys are distinct.
    pub entries: Vec<(Value, Value)>,
    /// Attributes of an `OrderedDict`: the `_metadata` of a module's state dict.
    pub attributes: Option<Box<Dict>>,
}

impl Dict {
    /// An empty dictionary.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value under the string `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// The value under the string `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.entries.iter_mut().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Sets the value under `key`; an existing key keeps its position. Returns the old value.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.get_mut(&key) {
            Some(old) => Some(std::mem::replace(old, value)),
            None => {
                self.entries.push((Value::Str(key), value));
                None
            }
        }
    }

    /// Takes out the value under `key`.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(k, _)| k.as_str() == Some(key))?;
        Some(self.entries.remove(index).1)
    }

    /// The keys that are strings, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|(key, _)| key.as_str())
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries =
            entries.into_iter().map(|(key, value)| (Value::Str(key.into()), value.into()));
        Self { entries: entries.collect(), ..Self::default() }
    }
}

impl Value {
    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self.resolved() {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one of at most 64 bits.
    pub fn as_int(&self) -> Option<i64> {
        match self.resolved() {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The number, if it is an integer or a float.
    pub fn as_float(&self) -> Option<f64> {
        match self.resolved() {
            Value::Int(int) => Some(*int as f64),
            Value::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self.resolved() {
            Value::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self.resolved() {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// What it is, for messages: `dict`, `float`, `tensor`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Shared(shared) => shared.get().type_name(),
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::BigInt(_) => "int",
            Value::Float(_) => "float",
            Value::Complex(..) => "complex",
            Value::Str(_) | Value::Wtf8(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::ByteArray(_) => "bytearray",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Set(_) => "set",
            Value::Dict(dict) => match dict.kind {
                DictKind::Dict => "dict",
                DictKind::Ordered => "OrderedDict",
                DictKind::Counter => "Counter",
            },
            Value::Tensor(_) => "tensor",
            Value::Storage(..) => "storage",
            Value::Size(_) => "torch.Size",
            Value::DType(_) => "torch.dtype",
            Value::Device(_) => "torch.device",
            Value::Layout(_) => "torch.layout",
            Value::QScheme(_) => "torch.qscheme",
            Value::Call(call) => call.global,
            Value::Object(_) => "object",
        }
    }
}

macro_rules! from {
    ($($rust:ty => $variant:ident),* $(,)?) => {
        $(impl From<$rust> for Value {
            fn from(value: $rust) -> Self { Value::$variant(value.into()) }
        })*
    };
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or_else(|_| Self::BigInt(u128::from(value).into()), Self::Int)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

from! {
    bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, f32 => Float, &str => Str,
    String => Str, Vec<Value> => List, Dict => Dict, Tensor => Tensor, DType => DType,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype() == other.dtype()
            && self.shape() == other.shape()
            && self.strides() == other.strides()
            && self.attributes() == other.attributes()
            && matches!((self.to_bytes(), other.to_bytes()), (Ok(a), Ok(b)) if a == b)
    }
}

fn same_bytes(a: &Storage, b: &Storage) -> bool {
    a.same_as(b)
        || a.len() == b.len()
            && matches!((a.read(0..a.len()), b.read(0..b.len())), (Ok(a), Ok(b)) if a == b)
}
