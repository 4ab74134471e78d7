//! JSON into the state tree.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json};

use super::super::file::{Stored, damaged_tensor};
use super::{MAX_TREE, TREE};
use crate::codec::torch::{class, constructor};
use crate::error::{Error, Place, Result};
use crate::tensor::{Attributes, DType, Storage, Tensor, contiguous_strides, memory_order};
use crate::value::{Call, Dict, DictKind, MAX_DEPTH, Value};

/// Puts the tensors of a file back into their tree.
pub(in super::super) struct Decoder<'a> {
    tensors: HashMap<&'a str, &'a Stored>,
    /// The storages made so far, so that ties are kept.
    storages: HashMap<&'a str, Storage>,
    /// Shared values by their numbers, and how many levels are below each.
    shared: HashMap<u64, (Value, usize)>,
    depth: usize,
    /// How deep the value that is being decoded is nested.
    deepest: usize,
}

impl<'a> Decoder<'a> {
    pub(in super::super) fn new(tensors: &'a [Stored]) -> Self {
        let tensors = tensors.iter().map(|stored| (stored.name(), stored)).collect();
        Self { tensors, storages: HashMap::new(), shared: HashMap::new(), depth: 0, deepest: 0 }
    }

    pub(in super::super) fn decode(mut self, text: &str) -> Result<Value> {
        if text.len() > MAX_TREE {
            return bad("it is too long");
        }
        self.value(serde_json::from_str(text).or_else(|error| bad(error.to_string()))?)
    }

    fn value(&mut self, json: Json) -> Result<Value> {
        self.depth += 1;
        self.reach(self.depth)?;
        let value = self.any(json)?;
        self.depth -= 1;
        Ok(value)
    }

    /// A shared value may occur deeper in the tree than in the JSON.
    fn reach(&mut self, depth: usize) -> Result<()> {
        self.deepest = self.deepest.max(depth);
        if depth > MAX_DEPTH { bad("it is nested too deep") } else { Ok(()) }
    }

    fn any(&mut self, json: Json) -> Result<Value> {
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(v) => Value::Bool(v),
            Json::Number(v) => match v.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Float(v.as_f64().map_or_else(|| bad("invalid number"), Ok)?),
            },
            Json::String(v) => Value::Str(v),
            Json::Array(items) => Value::List(self.items(Json::Array(items))?),
            Json::Object(map) => match map.keys().next().and_then(|key| key.strip_prefix('$')) {
                Some(tag) => {
                    let tag = tag.to_owned();
                    self.tagged(&tag, map)?
                }
                None => self.dict(DictKind::Dict, Json::Object(map))?,
            },
        })
    }

    fn tagged(&mut self, tag: &str, mut map: Map<String, Json>) -> Result<Value> {
        let mut take = |key: &str| map.shift_remove(key);
        let Some(of) = take(&format!("${tag}")) else { return bad("invalid tag") };
        Ok(match tag {
            "float" => {
                let bits = u64::from_str_radix(&text(of)?, 16);
                Value::Float(f64::from_bits(bits.or_else(|_| bad("invalid float"))?))
            }
            "int" => Value::BigInt(text(of)?.parse().or_else(|_| bad("invalid integer"))?),
            "complex" => match self.items(of)?.as_slice() {
                [Value::Float(re), Value::Float(im)] => Value::Complex(*re, *im),
                _ => return bad("invalid complex number"),
            },
            "str" => Value::Wtf8(bytes(of)?),
            "bytes" => Value::Bytes(bytes(of)?),
            "bytearray" => Value::ByteArray(bytes(of)?),
            "tuple" => Value::Tuple(self.items(of)?),
            "set" => Value::Set(self.items(of)?),
            "size" => Value::Size(serde_json::from_value(of).or_else(|_| bad("invalid size"))?),
            "dtype" => Value::DType(dtype(of)?),
            "device" => Value::Device(text(of)?),
            "layout" => Value::Layout(text(of)?),
            "qscheme" => Value::QScheme(text(of)?),
            "dict" => self.dict(DictKind::Dict, of)?,
            "counter" => self.dict(DictKind::Counter, of)?,
            "ordered" => {
                let attributes = take("attributes");
                let Value::Dict(mut dict) = self.dict(DictKind::Ordered, of)? else {
                    return bad("expected a dict");
                };
                if let Some(attributes) = attributes {
                    let Value::Dict(attributes) = self.value(attributes)?.into_resolved() else {
                        return bad("invalid attributes of a dict");
                    };
                    dict.attributes = Some(Box::new(attributes));
                }
                Value::Dict(dict)
            }
            "tensor" | "view" => self.tensor(&text(of)?, tag == "view", map)?,
            "storage" => {
                let dtype = take("dtype").map(dtype).transpose()?;
                let device = take("device").map(text).transpose()?;
                Value::Storage(self.storage(&text(of)?, device.as_deref(), &[])?.0, dtype)
            }
            "call" => {
                let name = text(of)?;
                let args = take("args").unwrap_or(Json::Null);
                let state = take("state");
                let is_class = args.as_array().is_some_and(Vec::is_empty) && state.is_none();
                let global = if is_class { class(&name) } else { constructor(&name) };
                let Some(global) = global else {
                    return bad("unknown constructor");
                };
                Value::Call(Box::new(Call {
                    global,
                    args: self.items(args)?,
                    state: state.map(|state| self.value(state)).transpose()?,
                }))
            }
            "shared" => {
                let (Some(number), Some(of)) = (of.as_u64(), take("of")) else {
                    return bad("invalid shared value");
                };
                let deepest = std::mem::replace(&mut self.deepest, self.depth);
                let value = self.value(of)?.share();
                let height = self.deepest - self.depth;
                self.deepest = self.deepest.max(deepest);
                if self.shared.insert(number, (value.clone(), height)).is_some() {
                    return bad("two shared values have the same number");
                }
                value
            }
            "same" => {
                let known = of.as_u64().and_then(|number| self.shared.get(&number).cloned());
                let Some((value, height)) = known else { return bad("a shared value is missing") };
                self.reach(self.depth + height)?;
                value
            }
            tag => return bad(format!("unknown tag `${tag}`")),
        })
    }

    fn items(&mut self, json: Json) -> Result<Vec<Value>> {
        let Json::Array(items) = json else { return bad("expected a list") };
        items.into_iter().map(|item| self.value(item)).collect()
    }

    fn dict(&mut self, kind: DictKind, entries: Json) -> Result<Value> {
        let entries = match entries {
            Json::Object(map) => map
                .into_iter()
                .map(|(key, value)| Ok((Value::Str(key), self.value(value)?)))
                .collect::<Result<_>>()?,
            Json::Array(pairs) => {
                let mut entries = Vec::with_capacity(pairs.len());
                let mut names = HashSet::new();
                for pair in pairs {
                    let Ok([key, value]) = <[Value; 2]>::try_from(self.items(pair)?) else {
                        return bad("expected a pair");
                    };
                    if key.as_str().is_some_and(|name| !names.insert(name.to_owned())) {
                        return bad("a dict has a duplicate key");
                    }
                    entries.push((key, value));
                }
                entries
            }
            _ => return bad("expected a dict"),
        };
        Ok(Value::Dict(Dict { kind, entries, attributes: None }))
    }

    fn tensor(&mut self, name: &str, is_view: bool, mut map: Map<String, Json>) -> Result<Value> {
        let mut flag = |key: &str| map.shift_remove(key) == Some(Json::Bool(true));
        let attributes = Attributes {
            parameter: flag("parameter"),
            requires_grad: flag("requires_grad"),
            ..Attributes::default()
        };
        let device = map.shift_remove("device").map(text).transpose()?;
        let mut numbers = |key: &str| -> Result<Option<Vec<usize>>> {
            let list = map.shift_remove(key).map(serde_json::from_value);
            list.transpose().or_else(|_| bad(format!("invalid {key} of `{name}`")))
        };
        let (shape, strides) = (numbers("shape")?, numbers("strides")?);
        let strides_of_stored = if is_view { &[][..] } else { strides.as_deref().unwrap_or(&[]) };
        let (storage, stored) = self.storage(name, device.as_deref(), strides_of_stored)?;
        let tensor = if is_view {
            let offset = map.shift_remove("offset").as_ref().and_then(Json::as_u64);
            let dtype = dtype(map.shift_remove("dtype").unwrap_or(Json::Null))?;
            let (Some(shape), Some(strides), Some(offset)) = (shape, strides, offset) else {
                return bad(format!("invalid view of `{name}`"));
            };
            Tensor::new(dtype, shape, strides, offset as usize, storage)
        } else {
            let shape = stored.shape()?;
            let strides = strides.unwrap_or_else(|| contiguous_strides(&shape));
            Tensor::new(stored.dtype()?, shape, strides, 0, storage)
        };
        let tensor = tensor.map_err(|error| damaged_tensor(name, &error))?;
        Ok(Value::Tensor(tensor.with_attributes(attributes)))
    }

    /// The storage of a tensor, its elements in the order that `strides` say; row-major if these
    /// are empty.
    fn storage(
        &mut self,
        name: &str,
        device: Option<&str>,
        strides: &[usize],
    ) -> Result<(Storage, &'a Stored)> {
        let Some((&name, &stored)) = self.tensors.get_key_value(name) else {
            return bad(format!("the tensor `{name}` is missing"));
        };
        if let Some(storage) = self.storages.get(name) {
            return Ok((storage.clone(), stored));
        }
        let storage = match in_memory_order(stored, strides)? {
            Some(view) => {
                let len = view.nbytes();
                Storage::produced(len, move || view.to_bytes())
            }
            None => stored.storage(),
        };
        let storage = match device {
            Some(device) => storage.with_location(device),
            None => storage,
        };
        self.storages.insert(name, storage.clone());
        Ok((storage, stored))
    }
}

/// A view whose row-major order is the order in memory that `strides` say; `None` if that is the
/// order in the file.
fn in_memory_order(stored: &Stored, strides: &[usize]) -> Result<Option<Tensor>> {
    let shape = stored.shape()?;
    if strides.is_empty() || shape.contains(&0) {
        return Ok(None);
    }
    let order = if strides.len() == shape.len() { memory_order(&shape, strides) } else { None };
    let Some(order) = order else {
        return bad(format!("invalid strides of `{}`", stored.name()));
    };
    if order.is_sorted() {
        return Ok(None);
    }
    let row_major = contiguous_strides(&shape);
    let pick = |of: &[usize]| order.iter().map(|&dim| of[dim]).collect::<Vec<usize>>();
    Tensor::new(stored.dtype()?, pick(&shape), pick(&row_major), 0, stored.storage())
        .map(Some)
        .map_err(|error| damaged_tensor(stored.name(), &error))
}

fn text(json: Json) -> Result<String> {
    match json {
        Json::String(text) => Ok(text),
        _ => bad("expected a string"),
    }
}

fn dtype(json: Json) -> Result<DType> {
    text(json)?.parse().or_else(|_| bad("unknown element type"))
}

fn bytes(json: Json) -> Result<Vec<u8>> {
    let text = text(json)?;
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes = pairs.iter().map(byte).collect::<Option<_>>().filter(|_| odd.is_empty());
    bytes.map_or_else(|| bad("invalid bytes"), Ok)
}

fn bad<T>(what: impl Into<String>) -> Result<T> {
    let what: String = what.into();
    Err(Error::damaged(Place::record(TREE), format!("the state tree is not valid: {what}")))
}
