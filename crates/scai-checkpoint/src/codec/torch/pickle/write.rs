//! From a state tree to a pickle that `torch.load(weights_only=True)` accepts.
//!
//! `machine` and `build` read what is written here, so their limits are checked here, and a tree
//! beyond one is refused before a file is touched:
//!
//! | the reader refuses | the writer |
//! |---|---|
//! | more than [`MAX_DEPTH`] levels | counts them, below shared values as well |
//! | integers of more than 4 KiB | writes at most 255 bytes, as torch reads |
//! | 2^32 values and more | counts them |
//! | keys and elements of sets that can be changed | looks at each |
//! | classes, functions and constructors that are not in the table | looks each up in it |
//! | devices whose name torch does not write | checks it by the same function |
//! | strings that are not UTF-8, or WTF-8 | checks WTF-8; a `String` is UTF-8 |
//! | references to a storage with different lengths | remembers the length |
//! | attributes of a dict that are not a plain dict | refuses them |
//! | more memory than [`super::build`] allows a pickle to ask for | writes each object once |
//!
//! Strings and bytes of 4 GiB cannot be written in protocol 2, and are refused as well.

use std::collections::HashMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::build::is_device;
use super::globals::Global;
use super::machine::is_wtf8;
use super::op;
use crate::codec::secret::Secret;
use crate::codec::written::{Step, Tensors};
use crate::error::{Error, Result, shown};
use crate::tensor::{DType, Storage, Tensor};
use crate::value::{BigInt, Call, Dict, DictKind, MAX_DEPTH, Shared, Value};

/// A pickle, the storages it refers to (storage `i` has the key `i`), and its tensors.
#[derive(Debug)]
pub(in super::super) struct Pickled {
    pub(in super::super) bytes: Vec<u8>,
    pub(in super::super) storages: Vec<Storage>,
    pub(in super::super) tensors: Tensors,
}

/// Writes `value` as a pickle of protocol 2.
///
/// # Errors
/// [`Error::Conversion`] with the path of a value that a safe pickle cannot hold.
pub(in super::super) fn write(value: &Value) -> Result<Pickled> {
    let mut writer = Writer {
        out: vec![op::PROTO, 2],
        texts: HashMap::default(),
        words: Vec::new(),
        globals: Vec::new(),
        remembered: 0,
        storages: Vec::new(),
        tensors: Tensors::default(),
        path: Vec::new(),
        keys: FxHashMap::default(),
        shared: FxHashMap::default(),
        hashable: FxHashSet::default(),
        values: 0,
        depth: 0,
        deepest: 0,
    };
    writer.value(value).map_err(|why| match why {
        Why::NoPlace(detail) => Error::Conversion { at: writer.path_text(), detail },
        Why::NoMemory(bytes) => Error::out_of_memory("write the pickle", bytes as u64),
    })?;
    if writer.values >= u64::from(u32::MAX) {
        return Err(Error::Conversion {
            at: String::new(),
            detail: "it has more than four billion values".to_owned(),
        });
    }
    writer.out.push(op::STOP);
    Ok(Pickled { bytes: writer.out, storages: writer.storages, tensors: writer.tensors })
}

/// What PyTorch takes the elements of an untyped storage to be.
const BYTES: DType = DType::UInt8;

/// More bytes than a value takes besides its texts and what it holds.
const FEW: usize = 4 << 10;

/// The device of most storages.
const CPU: &str = "cpu";

/// Why the value at the writer's path cannot be written.
enum Why {
    /// A safe pickle cannot hold it, since…
    NoPlace(String),
    /// There is no memory for this many bytes.
    NoMemory(usize),
}

type Written = std::result::Result<(), Why>;

fn refuse(detail: impl Into<String>) -> Written {
    Err(Why::NoPlace(detail.into()))
}

/// One step of the path to the value that is being written.
#[derive(Clone, Copy)]
enum Key<'a> {
    Of(&'a Value),
    Index(usize),
    State,
}

impl Key<'_> {
    fn write(self, text: &mut String) {
        match self {
            Self::Of(key) => key.write_key(text),
            Self::Index(index) => text.push_str(&index.to_string()),
            Self::State => text.push_str("state"),
        }
    }
}

/// A storage that is in the pickle.
struct Known {
    /// The memo index of its key.
    place: u32,
    /// How many bytes are referred to.
    len: u64,
    /// The element type that it was first written with.
    dtype: DType,
    /// Its number.
    number: usize,
}

/// Protocol 2 writes the length of a string in 32 bits.
fn check_text_len(len: usize) -> Written {
    match u32::try_from(len) {
        Ok(_) => Ok(()),
        Err(_) => refuse(format!(
            "a string or bytes object of {len} bytes; at most {} are allowed, save it as a tensor",
            u32::MAX
        )),
    }
}

fn cut(storage: &Storage) -> Why {
    Why::NoPlace(format!(
        "a storage of {} bytes, which is not a whole number of elements; save the untyped storage",
        storage.len()
    ))
}

struct Writer<'a> {
    out: Vec<u8>,
    /// The memo indices of strings of the tree that were written before. A tree may come from a
    /// malicious file with chosen strings, so they are hashed with a secret.
    texts: HashMap<&'a str, u32, Secret>,
    /// The same for the words that every tensor is written with.
    words: Vec<(&'static str, u32)>,
    /// The same for modules and names of classes and functions, of which there are few.
    globals: Vec<(&'a str, &'a str, u32)>,
    /// How many memo indices are taken.
    remembered: u32,
    storages: Vec<Storage>,
    /// The same by the identity of each.
    keys: FxHashMap<usize, Known>,
    tensors: Tensors,
    /// The path of the value that is being written, with each step's number in `tensors` if it has one.
    path: Vec<(Key<'a>, Option<Step>)>,
    /// The memo indices of shared values, and how many levels are below each.
    shared: FxHashMap<usize, (u32, usize)>,
    /// Shared values that can be keys.
    hashable: FxHashSet<usize>,
    /// The most values that the reader makes of it so far.
    values: u64,
    depth: usize,
    /// How deep the value that is being written is nested.
    deepest: usize,
}

impl<'a> Writer<'a> {
    /// The path to the value that is being written, as text.
    fn path_text(&self) -> String {
        let mut text = String::new();
        for (key, _) in &self.path {
            if !text.is_empty() {
                text.push('.');
            }
            key.write(&mut text);
        }
        text
    }

    /// The child `key` of the value that is being written. On failure the path remains that of the value.
    fn child(&mut self, key: Key<'a>, value: &'a Value) -> Written {
        self.path.push((key, None));
        self.value(value)?;
        self.path.pop();
        Ok(())
    }

    fn value(&mut self, value: &'a Value) -> Written {
        self.depth += 1;
        self.values += 1;
        self.reach(self.depth)?;
        self.room_for(FEW)?;
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

    /// Makes room for this many bytes. Without memory, the standard library would abort the process.
    fn room_for(&mut self, bytes: usize) -> Written {
        if self.out.capacity() - self.out.len() >= bytes {
            return Ok(());
        }
        let more = bytes.max(self.out.capacity());
        let reserved = self.out.try_reserve_exact(more);
        reserved.map_err(|_| Why::NoMemory(more))
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
            Value::Str(text) => {
                self.room_for(text.len() + FEW)?;
                self.text(text)?;
            }
            Value::Wtf8(bytes) if std::str::from_utf8(bytes).is_ok() || !is_wtf8(bytes) => {
                return refuse(
                    "a string marked as having lone surrogates, whose bytes are not WTF-8",
                );
            }
            Value::Wtf8(bytes) => {
                self.room_for(bytes.len() + FEW)?;
                self.raw_text(bytes)?;
            }
            Value::Bytes(bytes) if bytes.is_empty() => {
                return refuse(
                    "empty bytes cannot be loaded by `torch.load(weights_only=True)`; save None \
                     or an empty string",
                );
            }
            Value::Bytes(bytes) => self.bytes(bytes)?,
            Value::ByteArray(bytes) => {
                self.global("__builtin__", "bytearray");
                if bytes.is_empty() {
                    self.out.push(op::EMPTY_TUPLE);
                } else {
                    self.bytes(bytes)?;
                    self.out.push(op::TUPLE1);
                }
                self.out.push(op::REDUCE);
            }
            Value::List(items) => self.list(items)?,
            Value::Tuple(items) => self.tuple(items)?,
            Value::Set(items) => {
                items.iter().try_for_each(|item| self.key(item))?;
                self.global("__builtin__", "set");
                self.list(items)?;
                self.out.extend([op::TUPLE1, op::REDUCE]);
            }
            Value::Dict(dict) => self.dict(dict)?,
            Value::Tensor(tensor) => self.tensor(tensor)?,
            Value::Storage(storage, dtype) if self.reads_as(storage, dtype.unwrap_or(BYTES)) => {
                self.storage(storage, *dtype)?;
            }
            Value::Storage(..) => {
                return refuse(
                    "this storage is shared with a tensor of another element type, so `torch.load` \
                     would return it with that type (and `torch.save` refuses it); save only the \
                     tensor, or a clone of the storage",
                );
            }
            Value::Size(dims) => {
                self.global("torch", "Size");
                self.out.push(op::MARK);
                dims.iter().for_each(|&dim| self.int(dim));
                self.out.extend([op::TUPLE, op::TUPLE1, op::REDUCE]);
            }
            Value::DType(dtype) => self.global("torch", dtype.name()),
            Value::Device(device) => {
                if !is_device(device) {
                    return refuse(format!("`{}` is not a device", shown(device)));
                }
                self.global("torch", "device");
                match device.rsplit_once(':').and_then(|(k, i)| Some((k, i.parse().ok()?))) {
                    Some((kind, index)) => {
                        self.text(kind)?;
                        self.int(index);
                        self.out.push(op::TUPLE2);
                    }
                    None => {
                        self.text(device)?;
                        self.out.push(op::TUPLE1);
                    }
                }
                self.out.push(op::REDUCE);
            }
            Value::Layout(layout) => {
                self.global("torch.serialization", "_get_layout");
                self.text(layout)?;
                self.out.extend([op::TUPLE1, op::REDUCE]);
            }
            Value::QScheme(scheme) => match Global::find("torch", scheme) {
                Some(Global::QScheme(_)) => self.global("torch", scheme),
                _ => return refuse(format!("`{}` is not a quantisation scheme", shown(scheme))),
            },
            Value::Call(call) => self.call(call)?,
            Value::Shared(shared) => return self.shared(shared),
            Value::Object(object) => {
                return refuse(format!(
                    "an object of the class `{}`, which only its own code can write",
                    shown(&object.class)
                ));
            }
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
            self.child(Key::Index(i), item)?;
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
            if attributes.kind != DictKind::Dict || attributes.attributes.is_some() {
                return refuse("the attributes of a dict are not a plain dict");
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
            self.key(key)?;
            self.value(key)?;
            self.child(Key::Of(key), value)?;
        }
        self.out.push(op::SETITEMS);
        Ok(())
    }

    /// Refuses what Python does not accept as a key, since it could be changed.
    fn key(&mut self, key: &'a Value) -> Written {
        match key {
            Value::Tuple(items) => items.iter().try_for_each(|item| self.key(item)),
            Value::List(_) | Value::Dict(_) | Value::Set(_) | Value::ByteArray(_) => {
                refuse(format!(
                    "a dict key or set element would be saved as a {}, which is mutable and not \
                     hashable; use a string, a number or a tuple",
                    key.type_name()
                ))
            }
            Value::Shared(shared) if !self.hashable.contains(&shared.id()) => {
                self.key(shared.get())?;
                self.hashable.insert(shared.id());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, OrderedDict()[, bits])`,
    /// or `_v3` with the element type as a further argument if no storage class exists for it, or
    /// the storage has another one already: PyTorch before 2.8 reads all views of one storage with
    /// the element type that it met first, except for these.
    fn tensor(&mut self, tensor: &'a Tensor) -> Written {
        let dtype = tensor.dtype();
        let attributes = tensor.attributes();
        if attributes.parameter {
            self.global("torch._utils", "_rebuild_parameter");
        }
        // A storage with bytes left over (it was viewed as a wider type) is counted in bytes.
        let whole = tensor.storage().len().is_multiple_of(dtype.size() as u64);
        let typed = whole && self.reads_as(tensor.storage(), dtype);
        let class = dtype.storage_class().filter(|_| typed);
        self.global(
            "torch._utils",
            match class {
                Some(_) => "_rebuild_tensor_v2",
                None => "_rebuild_tensor_v3",
            },
        );
        self.out.push(op::MARK);
        self.values += 16 + 2 * tensor.shape().len() as u64;
        let storage = self.storage(tensor.storage(), class.map(|_| dtype))?;
        self.note_tensor(dtype, storage);
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
                self.text(name)?;
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
        Ok(())
    }

    /// Notes that the value being written is a tensor of a storage.
    fn note_tensor(&mut self, dtype: DType, storage: usize) {
        let mut parent = None;
        for (key, step) in &mut self.path {
            parent = Some(
                *step.get_or_insert_with(|| self.tensors.step(parent, |text| key.write(text))),
            );
        }
        self.tensors.add(parent, dtype, storage);
    }

    /// The persistent id `('storage', class, key, location, numel)`; returns the storage's number.
    fn storage(
        &mut self,
        storage: &'a Storage,
        dtype: Option<DType>,
    ) -> std::result::Result<usize, Why> {
        let size = dtype.map_or(1, DType::size) as u64;
        let numel = storage.len() / size;
        self.values += 8;
        self.out.push(op::MARK);
        self.word("storage");
        match dtype.and_then(DType::storage_class) {
            Some(class) => self.global("torch", class),
            None => self.global("torch.storage", "UntypedStorage"),
        }
        let number = self.storage_key(storage, numel * size, dtype.unwrap_or(BYTES))?;
        match storage.location() {
            CPU => self.word(CPU),
            device => self.text(device)?,
        }
        self.int(numel as i64);
        self.out.extend([op::TUPLE, op::BINPERSID]);
        Ok(number)
    }

    /// Whether PyTorch takes elements of a storage that is written now to be of this type.
    fn reads_as(&self, storage: &Storage, dtype: DType) -> bool {
        self.keys.get(&storage.id()).is_none_or(|known| known.dtype == dtype)
    }

    /// Writes the number of a storage, of which `len` bytes are referred to, as text; returns it.
    fn storage_key(
        &mut self,
        storage: &Storage,
        len: u64,
        dtype: DType,
    ) -> std::result::Result<usize, Why> {
        if let Some(&Known { place, len: known, number, .. }) = self.keys.get(&storage.id()) {
            self.recall(place);
            return if known == len { Ok(number) } else { Err(cut(storage)) };
        }
        if len != storage.len() {
            return Err(cut(storage));
        }
        let number = self.storages.len();
        self.storages.push(storage.clone());
        self.raw_text(number.to_string().as_bytes())?;
        let place = self.remember();
        self.keys.insert(storage.id(), Known { place, len, dtype, number });
        Ok(number)
    }

    fn call(&mut self, call: &'a Call) -> Written {
        let (module, name) = call.global.rsplit_once('.').unwrap_or(("", call.global));
        let known = Global::find(module, name);
        let is_readable = match (known, call.args.as_slice()) {
            // A class or function as a value.
            (Some(global), []) => call.state.is_none() && global.name().is_some(),
            (Some(global @ Global::Kept(_)), _) => !global.is_tensor_class(),
            // With an ordinary tensor it would be read as a tensor.
            (Some(Global::Parameter), [data, Value::Bool(_), hooks]) => {
                matches!(data.resolved(), Value::Call(call) if !call.args.is_empty())
                    && hooks.as_dict().is_some_and(Dict::is_empty)
                    && call.state.is_none()
            }
            _ => false,
        };
        if !is_readable {
            return refuse(format!("PyTorch does not save `{}` with these arguments", call.global));
        }
        self.global(module, name);
        if call.args.is_empty() {
            return Ok(());
        }
        self.tuple(&call.args)?;
        self.out.push(op::REDUCE);
        if let Some(state) = &call.state {
            self.child(Key::State, state)?;
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
                "an integer of {} bytes; `torch.load(weights_only=True)` accepts at most {}",
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

    /// A string, or a reference to it if it was written before.
    fn text(&mut self, text: &'a str) -> Written {
        match self.texts.get(text) {
            Some(&place) => self.recall(place),
            None => {
                self.raw_text(text.as_bytes())?;
                let place = self.remember();
                self.texts.insert(text, place);
            }
        }
        Ok(())
    }

    /// One of the few strings that are not from the tree, which are found faster separately.
    fn word(&mut self, word: &'static str) {
        match self.words.iter().find(|known| same(known.0, word)) {
            Some(&(_, place)) => self.recall(place),
            None => {
                self.short_text(word.as_bytes());
                let place = self.remember();
                self.words.push((word, place));
            }
        }
    }

    fn raw_text(&mut self, bytes: &[u8]) -> Written {
        check_text_len(bytes.len())?;
        self.short_text(bytes);
        Ok(())
    }

    fn short_text(&mut self, bytes: &[u8]) {
        self.out.push(op::BINUNICODE);
        self.out.extend((bytes.len() as u32).to_le_bytes());
        self.out.extend(bytes);
    }

    /// Protocol 2 has no bytes; Python writes them as text to be encoded.
    fn bytes(&mut self, bytes: &[u8]) -> Written {
        self.global("_codecs", "encode");
        check_text_len(bytes.len())?;
        let len: usize = bytes.iter().map(|&byte| char::from(byte).len_utf8()).sum();
        check_text_len(len)?;
        self.room_for(len + FEW)?;
        self.out.push(op::BINUNICODE);
        self.out.extend((len as u32).to_le_bytes());
        let mut utf8 = [0; 2];
        for &byte in bytes {
            self.out.extend(char::from(byte).encode_utf8(&mut utf8).as_bytes());
        }
        self.text("latin1")?;
        self.out.extend([op::TUPLE2, op::REDUCE]);
        Ok(())
    }

    /// A class or function.
    fn global(&mut self, module: &'a str, name: &'a str) {
        self.values += 4;
        // By the name first: most modules are `torch`.
        let known = self.globals.iter().find(|known| same(known.1, name) && same(known.0, module));
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

    /// Gives the top of the stack the next free memo index.
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

/// Whether two strings are equal; most equal ones have one address.
fn same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_of_four_gibibytes_is_refused_and_not_written_with_another_length() {
        assert!(check_text_len(u32::MAX as usize).is_ok());
        assert!(check_text_len(u32::MAX as usize + 1).is_err());
    }
}
