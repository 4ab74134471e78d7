//! A state tree to a pickle that `torch.load(weights_only=True)` accepts.

use std::collections::HashMap;

use num_bigint::BigInt;
use rustc_hash::FxHashMap;

use super::op;
use crate::error::{Error, Result};
use crate::tensor::{DType, Storage, Tensor};
use crate::value::{Call, Dict, DictKind, MAX_DEPTH, Shared, Value, join};

/// A pickle and the storages it refers to; storage `i` has the key `i`.
#[derive(Debug)]
pub(in super::super) struct Pickled {
    pub(in super::super) bytes: Vec<u8>,
    pub(in super::super) storages: Vec<Storage>,
}

/// Writes `value` as a pickle of protocol 2.
///
/// # Errors
/// [`Error::Conversion`] with the path of the value that has no place in a safe pickle.
pub(in super::super) fn write(value: &Value) -> Result<Pickled> {
    let mut writer = Writer {
        out: vec![op::PROTO, 2],
        texts: HashMap::new(),
        words: Vec::new(),
        globals: Vec::new(),
        remembered: 0,
        storages: Vec::new(),
        keys: FxHashMap::default(),
        shared: FxHashMap::default(),
        depth: 0,
        deepest: 0,
    };
    writer.value(value).map_err(|Refusal { path, detail }| Error::Conversion {
        at: path.into_iter().rev().reduce(|parent, key| join(&parent, &key)).unwrap_or_default(),
        detail,
    })?;
    writer.out.push(op::STOP);
    Ok(Pickled { bytes: writer.out, storages: writer.storages })
}

/// The device of most storages.
const CPU: &str = "cpu";

/// Why a value cannot be written, with its path from the inside out.
struct Refusal {
    path: Vec<String>,
    detail: String,
}

type Written = std::result::Result<(), Refusal>;

fn refuse(detail: impl Into<String>) -> Written {
    Err(Refusal { path: Vec::new(), detail: detail.into() })
}

fn under(key: impl FnOnce() -> String) -> impl FnOnce(Refusal) -> Refusal {
    |mut refusal| {
        refusal.path.push(key());
        refusal
    }
}

struct Writer<'a> {
    out: Vec<u8>,
    /// The places at which strings of the tree that were written before are remembered. A tree may
    /// come from a file whose strings were chosen, so they are hashed with a secret.
    texts: HashMap<&'a str, u32>,
    /// The same for the words that every tensor is written with.
    words: Vec<(&'static str, u32)>,
    /// The same for modules and names of classes and functions, of which there are a few.
    globals: Vec<(&'a str, &'a str, u32)>,
    /// How many places are taken.
    remembered: u32,
    storages: Vec<Storage>,
    /// The places of the storages' keys, by the storage's identity.
    keys: FxHashMap<usize, u32>,
    /// The places of shared values, and how many levels are below each.
    shared: FxHashMap<usize, (u32, usize)>,
    depth: usize,
    /// How deep the value that is being written goes.
    deepest: usize,
}

impl<'a> Writer<'a> {
    fn value(&mut self, value: &'a Value) -> Written {
        self.depth += 1;
        self.reach(self.depth)?;
        match value {
            Value::Shared(shared) => self.shared(shared)?,
            value => self.any(value)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn reach(&mut self, depth: usize) -> Written {
        self.deepest = self.deepest.max(depth);
        if depth > MAX_DEPTH {
            return refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        Ok(())
    }

    /// A shared value: written the first time, referred to from then on.
    fn shared(&mut self, shared: &'a Shared) -> Written {
        let value = shared.get();
        let remembered = match value {
            Value::BigInt(_) | Value::Wtf8(_) | Value::Bytes(_) | Value::ByteArray(_) => true,
            Value::List(_) | Value::Set(_) | Value::Dict(_) => true,
            Value::Tensor(_) | Value::Size(_) => true,
            Value::Tuple(items) => !items.is_empty(),
            Value::Call(call) => !call.args.is_empty(),
            _ => false,
        };
        if !remembered || shared.references() == 1 {
            return self.any(value);
        }
        if let Some(&(place, height)) = self.shared.get(&shared.id()) {
            self.reach(self.depth + height)?;
            self.recall(place);
            return Ok(());
        }
        let deepest = std::mem::replace(&mut self.deepest, self.depth);
        self.any(value)?;
        let height = self.deepest - self.depth;
        self.deepest = self.deepest.max(deepest);
        let place = self.remember();
        self.shared.insert(shared.id(), (place, height));
        Ok(())
    }

    fn any(&mut self, value: &'a Value) -> Written {
        match value {
            Value::None => self.out.push(op::NONE),
            Value::Bool(true) => self.out.push(op::NEWTRUE),
            Value::Bool(false) => self.out.push(op::NEWFALSE),
            Value::Int(int) => self.int(*int),
            Value::BigInt(int) => return self.big_int(int),
            Value::Float(float) => self.float(*float),
            Value::Complex(re, im) => {
                self.global("__builtin__", "complex");
                self.float(*re);
                self.float(*im);
                self.out.extend([op::TUPLE2, op::REDUCE]);
            }
            Value::Str(text) => self.text(text),
            Value::Wtf8(bytes) => self.raw_text(bytes),
            Value::Bytes(bytes) if bytes.is_empty() => {
                return refuse(
                    "empty bytes cannot be loaded by `torch.load(weights_only=True)`; save None \
                     or an empty string",
                );
            }
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::ByteArray(bytes) => {
                self.global("__builtin__", "bytearray");
                if bytes.is_empty() {
                    self.out.push(op::EMPTY_TUPLE);
                } else {
                    self.bytes(bytes);
                    self.out.push(op::TUPLE1);
                }
                self.out.push(op::REDUCE);
            }
            Value::List(items) => self.list(items)?,
            Value::Tuple(items) => self.tuple(items)?,
            Value::Set(items) => {
                self.global("__builtin__", "set");
                self.list(items)?;
                self.out.extend([op::TUPLE1, op::REDUCE]);
            }
            Value::Dict(dict) => self.dict(dict)?,
            Value::Tensor(tensor) => self.tensor(tensor),
            Value::Storage(storage, dtype) => self.storage(storage, *dtype),
            Value::Size(dims) => {
                self.global("torch", "Size");
                self.out.push(op::MARK);
                dims.iter().for_each(|&dim| self.int(dim));
                self.out.extend([op::TUPLE, op::TUPLE1, op::REDUCE]);
            }
            Value::DType(dtype) => self.global("torch", dtype.name()),
            Value::Device(device) => {
                self.global("torch", "device");
                match device.rsplit_once(':').and_then(|(k, i)| Some((k, i.parse().ok()?))) {
                    Some((kind, index)) => {
                        self.text(kind);
                        self.int(index);
                        self.out.push(op::TUPLE2);
                    }
                    None => {
                        self.text(device);
                        self.out.push(op::TUPLE1);
                    }
                }
                self.out.push(op::REDUCE);
            }
            Value::Layout(layout) => {
                self.global("torch.serialization", "_get_layout");
                self.text(layout);
                self.out.extend([op::TUPLE1, op::REDUCE]);
            }
            Value::QScheme(scheme) => self.global("torch", scheme),
            Value::Call(call) => self.call(call)?,
            Value::Shared(shared) => return self.shared(shared),
        }
        Ok(())
    }

    fn list(&mut self, items: &'a [Value]) -> Written {
        self.out.push(op::EMPTY_LIST);
        if !items.is_empty() {
            self.out.push(op::MARK);
            self.items(items)?;
            self.out.push(op::APPENDS);
        }
        Ok(())
    }

    fn tuple(&mut self, items: &'a [Value]) -> Written {
        let end = match items.len() {
            0 => op::EMPTY_TUPLE,
            1 => op::TUPLE1,
            2 => op::TUPLE2,
            3 => op::TUPLE3,
            _ => {
                self.out.push(op::MARK);
                op::TUPLE
            }
        };
        self.items(items)?;
        self.out.push(end);
        Ok(())
    }

    fn items(&mut self, items: &'a [Value]) -> Written {
        for (i, item) in items.iter().enumerate() {
            self.value(item).map_err(under(|| i.to_string()))?;
        }
        Ok(())
    }

    fn dict(&mut self, dict: &'a Dict) -> Written {
        match dict.kind {
            DictKind::Dict => self.entries(dict)?,
            DictKind::Ordered => {
                self.ordered_dict();
                if !dict.is_empty() {
                    self.set_items(dict)?;
                }
            }
            DictKind::Counter => {
                self.global("collections", "Counter");
                self.entries(dict)?;
                self.out.extend([op::TUPLE1, op::REDUCE]);
            }
        }
        if let Some(attributes) = &dict.attributes {
            if dict.kind != DictKind::Ordered {
                return refuse("only an OrderedDict can have attributes");
            }
            self.entries(attributes)?;
            self.out.push(op::BUILD);
        }
        Ok(())
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.out.extend([op::EMPTY_TUPLE, op::REDUCE]);
    }

    fn entries(&mut self, dict: &'a Dict) -> Written {
        self.out.push(op::EMPTY_DICT);
        if dict.is_empty() { Ok(()) } else { self.set_items(dict) }
    }

    fn set_items(&mut self, dict: &'a Dict) -> Written {
        self.out.push(op::MARK);
        for (key, value) in &dict.entries {
            self.value(key)?;
            self.value(value).map_err(under(|| key.key_text()))?;
        }
        self.out.push(op::SETITEMS);
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, OrderedDict()[, bits])`,
    /// or `_v3` with the element type as a further argument where no storage class exists for it.
    fn tensor(&mut self, tensor: &'a Tensor) {
        let dtype = tensor.dtype();
        let attributes = tensor.attributes();
        if attributes.parameter {
            self.global("torch._utils", "_rebuild_parameter");
        }
        // A storage with bytes left over (it was viewed as a wider type) is counted in bytes.
        let whole = tensor.storage().len().is_multiple_of(dtype.size() as u64);
        let class = dtype.storage_class().filter(|_| whole);
        self.global(
            "torch._utils",
            match class {
                Some(_) => "_rebuild_tensor_v2",
                None => "_rebuild_tensor_v3",
            },
        );
        self.out.push(op::MARK);
        self.storage(tensor.storage(), class.map(|_| dtype));
        self.int(tensor.offset() as i64);
        self.dims(tensor.shape());
        self.dims(tensor.strides());
        // torch writes the data of a parameter without its gradient flag, which follows.
        self.bool(attributes.requires_grad && !attributes.parameter);
        self.ordered_dict();
        if class.is_none() {
            self.global("torch", dtype.name());
        }
        let bits = [("conj", attributes.conjugate), ("neg", attributes.negative)];
        if bits.iter().any(|&(_, set)| set) {
            self.out.extend([op::EMPTY_DICT, op::MARK]);
            for (name, _) in bits.into_iter().filter(|&(_, set)| set) {
                self.text(name);
                self.bool(true);
            }
            self.out.push(op::SETITEMS);
        }
        self.out.extend([op::TUPLE, op::REDUCE]);
        if attributes.parameter {
            self.bool(attributes.requires_grad);
            self.ordered_dict();
            self.out.extend([op::TUPLE3, op::REDUCE]);
        }
    }

    /// The persistent id `('storage', class, key, location, numel)`.
    fn storage(&mut self, storage: &'a Storage, dtype: Option<DType>) {
        self.out.push(op::MARK);
        self.word("storage");
        match dtype.and_then(DType::storage_class) {
            Some(class) => self.global("torch", class),
            None => self.global("torch.storage", "UntypedStorage"),
        }
        self.key(storage);
        match storage.location() {
            CPU => self.word(CPU),
            device => self.text(device),
        }
        let size = dtype.map_or(1, DType::size) as u64;
        self.int((storage.len() / size) as i64);
        self.out.extend([op::TUPLE, op::BINPERSID]);
    }

    /// The number of a storage, as text.
    fn key(&mut self, storage: &Storage) {
        if let Some(&place) = self.keys.get(&storage.id()) {
            return self.recall(place);
        }
        let key = self.storages.len().to_string();
        self.storages.push(storage.clone());
        self.raw_text(key.as_bytes());
        let place = self.remember();
        self.keys.insert(storage.id(), place);
    }

    fn call(&mut self, call: &'a Call) -> Written {
        let (module, name) = call.global.rsplit_once('.').unwrap_or(("", call.global));
        self.global(module, name);
        if call.args.is_empty() {
            return Ok(());
        }
        self.tuple(&call.args)?;
        self.out.push(op::REDUCE);
        if let Some(state) = &call.state {
            self.value(state).map_err(under(|| "state".to_owned()))?;
            self.out.push(op::BUILD);
        }
        Ok(())
    }

    fn dims(&mut self, dims: &[usize]) {
        let end = match dims.len() {
            0 => op::EMPTY_TUPLE,
            1 => op::TUPLE1,
            2 => op::TUPLE2,
            3 => op::TUPLE3,
            _ => {
                self.out.push(op::MARK);
                op::TUPLE
            }
        };
        dims.iter().for_each(|&dim| self.int(dim as i64));
        self.out.push(end);
    }

    fn bool(&mut self, value: bool) {
        self.out.push(if value { op::NEWTRUE } else { op::NEWFALSE });
    }

    fn int(&mut self, int: i64) {
        if let Ok(byte) = u8::try_from(int) {
            self.out.extend([op::BININT1, byte]);
        } else if let Ok(short) = u16::try_from(int) {
            self.out.push(op::BININT2);
            self.out.extend(short.to_le_bytes());
        } else if let Ok(int) = i32::try_from(int) {
            self.out.push(op::BININT);
            self.out.extend(int.to_le_bytes());
        } else {
            self.out.extend([op::LONG1, 8]);
            self.out.extend(int.to_le_bytes());
        }
    }

    fn big_int(&mut self, int: &BigInt) -> Written {
        let bytes = int.to_signed_bytes_le();
        let Ok(len) = u8::try_from(bytes.len()) else {
            return refuse(format!(
                "an integer of {} bytes; `torch.load(weights_only=True)` accepts {}",
                bytes.len(),
                u8::MAX
            ));
        };
        self.out.extend([op::LONG1, len]);
        self.out.extend(bytes);
        Ok(())
    }

    fn float(&mut self, float: f64) {
        self.out.push(op::BINFLOAT);
        self.out.extend(float.to_be_bytes());
    }

    /// A string; one that was written before is referred to.
    fn text(&mut self, text: &'a str) {
        match self.texts.get(text) {
            Some(&place) => self.recall(place),
            None => {
                self.raw_text(text.as_bytes());
                let place = self.remember();
                self.texts.insert(text, place);
            }
        }
    }

    /// One of the few strings that are not of the tree, found faster among themselves.
    fn word(&mut self, word: &'static str) {
        match self.words.iter().find(|known| known.0 == word) {
            Some(&(_, place)) => self.recall(place),
            None => {
                self.raw_text(word.as_bytes());
                let place = self.remember();
                self.words.push((word, place));
            }
        }
    }

    fn raw_text(&mut self, bytes: &[u8]) {
        self.out.push(op::BINUNICODE);
        self.out.extend((bytes.len() as u32).to_le_bytes());
        self.out.extend(bytes);
    }

    /// Protocol 2 has no bytes; Python writes them as text to be encoded.
    fn bytes(&mut self, bytes: &[u8]) {
        self.global("_codecs", "encode");
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        self.raw_text(text.as_bytes());
        self.text("latin1");
        self.out.extend([op::TUPLE2, op::REDUCE]);
    }

    /// A class or function.
    fn global(&mut self, module: &'a str, name: &'a str) {
        // By the name first: most modules are `torch`.
        let known = self.globals.iter().find(|known| known.1 == name && known.0 == module);
        match known {
            Some(&(_, _, place)) => self.recall(place),
            None => {
                self.out.push(op::GLOBAL);
                for line in [module, name] {
                    self.out.extend(line.as_bytes());
                    self.out.push(b'\n');
                }
                let place = self.remember();
                self.globals.push((module, name, place));
            }
        }
    }

    fn recall(&mut self, place: u32) {
        match u8::try_from(place) {
            Ok(place) => self.out.extend([op::BINGET, place]),
            Err(_) => {
                self.out.push(op::LONG_BINGET);
                self.out.extend(place.to_le_bytes());
            }
        }
    }

    /// Gives the top of the stack the next free place.
    fn remember(&mut self) -> u32 {
        let place = self.remembered;
        self.remembered += 1;
        match u8::try_from(place) {
            Ok(place) => self.out.extend([op::BINPUT, place]),
            Err(_) => {
                self.out.push(op::LONG_BINPUT);
                self.out.extend(place.to_le_bytes());
            }
        }
        place
    }
}
