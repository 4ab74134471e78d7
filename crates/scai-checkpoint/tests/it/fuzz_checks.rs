//! What must hold for any bytes at all. The fuzz targets call these functions with what the fuzzer
//! makes up, the tests with the corpus it left.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, OnceLock};

use scai_checkpoint::codec::torch::{Foreign, Protection, TorchPlan, Unprotected, peek};
use scai_checkpoint::store::WriteAt;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{Dict, Value};

use crate::forge::{self, Archive, Header, Member};
use crate::support::{Bytes, open};

/// A whole file. The first byte says whether checksums and root are put right first.
pub(crate) fn torch_zip(input: &[u8]) {
    match input.split_first() {
        Some((b'!', file)) => any_file(forge::seal(file.to_vec())),
        _ => any_file(input.to_vec()),
    };
}

/// A pickle inside a sound file. The first byte chooses what is around it.
pub(crate) fn pickle(input: &[u8]) {
    let Some((&layout, pickle)) = input.split_first() else { return };
    if layout & 1 == 1 {
        any_file([forge::legacy_start(), pickle.to_vec()].concat());
        return;
    }
    let storages: [&[u8]; 4] = [&[1; 64], &[2; 16], &[3; 5], &[]];
    let storages = storages.into_iter().enumerate();
    let storages = storages.map(|(i, data)| Member::new(format!("archive/data/{i}"), data));
    let members = [Member::new("archive/data.pkl", pickle)].into_iter().chain(storages);
    any_file(Archive::new(members).bytes());
}

/// An honest file whose headers are changed field by field, as the input says.
///
/// The records' contents are left alone, so what loads must be what the honest file holds.
pub(crate) fn directory(input: &[u8]) {
    static HONEST: OnceLock<Vec<u8>> = OnceLock::new();
    let honest = HONEST.get_or_init(|| {
        Fingerprint::of(&any_file(forge::honest().bytes()).expect("the honest file loads"))
    });
    let mut archive = forge::honest();
    let mut input = Input(input);
    while let Some(place) = input.byte() {
        edit(&mut archive, place, &mut input);
    }
    if let Some(tree) = any_file(archive.bytes()) {
        assert!(Fingerprint::of(&tree) == *honest, "loaded something else: {tree:?}");
    }
}

/// Larger trees are not written: a few hundred bytes may ask for copies up to the reader's limit, which
/// takes seconds and shows nothing that a small one does not.
const LARGE: usize = 1 << 20;

/// Opens, reads, verifies, writes and reads again. Returns the tree where all its bytes are sound.
pub(crate) fn any_file(bytes: Vec<u8>) -> Option<Value> {
    let _ = peek(&Bytes(bytes.clone())).map_err(|error| error.to_string());
    let file = open(bytes, Unprotected::Accept).map_err(|error| error.to_string()).ok()?;
    let damage = file.verify(1);
    damage.iter().for_each(|error| drop(error.to_string()));
    // What needs code is never made; looking inside must be as safe.
    let _ = file.tree_with(Foreign::StandIn).map(|tree| tree.objects().len());
    let tree = file.tree().map_err(|error| error.to_string()).ok()?;
    let resident = tree.resident(1).map_err(|error| error.to_string());
    if damage.is_empty() && file.protection() != Protection::None {
        assert!(resident.is_ok(), "verifies, but does not load: {resident:?}");
    }
    let tree = resident.ok()?;
    for (_, tensor) in tree.tensors() {
        if tensor.nbytes() <= 1 << 20 {
            tensor.to_bytes().expect("a tensor in memory has its bytes");
        }
    }
    let print = Fingerprint::of(&tree);
    if print.len() > LARGE {
        return Some(tree);
    }
    if let Ok(written) = write(&tree) {
        let again = open(written.clone(), Unprotected::Refuse).expect("what is written opens");
        assert_eq!(again.protection(), Protection::Digests);
        assert!(again.verify(1).is_empty());
        let read = again.tree().expect("what is written is read").resident(1).unwrap();
        if Fingerprint::of(&read) != print {
            panic!("written and read differently:\n{read:?}\n{tree:?}");
        }
        assert!(write(&read).unwrap() == written, "written differently the second time");
    }
    Some(tree)
}

/// A file being written in memory.
#[derive(Debug)]
struct Written(Mutex<Vec<u8>>);

impl WriteAt for Written {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// The bytes of the `.pt` file for a tree, written on this thread.
fn write(tree: &Value) -> scai_checkpoint::Result<Vec<u8>> {
    let plan = TorchPlan::new(tree)?;
    let file = Written(Mutex::new(vec![0; plan.len() as usize]));
    plan.write(1, &file)?;
    Ok(file.0.into_inner().unwrap())
}

/// Everything a tree holds, as bytes: two trees are the same if theirs are. Cheaper than
/// [`crate::describe`], and it sees which tensors share a storage and which values are one object.
#[derive(Default)]
pub(crate) struct Fingerprint {
    bytes: Vec<u8>,
    storages: HashMap<usize, usize>,
    /// Which of the values was the first that is this object.
    shared: HashMap<usize, usize>,
    values: usize,
}

/// Whether it matters that a value is one object. Equal strings become one when they are written, and
/// Python has one object of each element type, layout and the like.
fn has_identity(value: &Value) -> bool {
    match value {
        Value::BigInt(_) | Value::Bytes(_) | Value::ByteArray(_) => true,
        Value::List(_) | Value::Set(_) | Value::Dict(_) => true,
        Value::Tensor(_) | Value::Size(_) => true,
        Value::Tuple(items) => !items.is_empty(),
        Value::Call(call) => !call.args.is_empty(),
        _ => false,
    }
}

impl Fingerprint {
    pub(crate) fn of(tree: &Value) -> Vec<u8> {
        let mut print = Self::default();
        print.value(tree);
        print.bytes
    }

    fn number(&mut self, number: u64) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn text(&mut self, kind: u8, text: &[u8]) {
        self.bytes.push(kind);
        self.number(text.len() as u64);
        self.bytes.extend(text);
    }

    fn values(&mut self, kind: u8, items: &[Value]) {
        self.bytes.push(kind);
        self.number(items.len() as u64);
        items.iter().for_each(|item| self.value(item));
    }

    fn value(&mut self, value: &Value) {
        self.values += 1;
        if let (Some(id), true) = (value.shared_id(), has_identity(value.resolved())) {
            let first = *self.shared.entry(id).or_insert(self.values);
            if first != self.values {
                return self.text(26, &first.to_le_bytes());
            }
        }
        match value.resolved() {
            Value::None => self.bytes.push(0),
            Value::Bool(v) => self.bytes.push(1 + u8::from(*v)),
            Value::Int(v) => self.text(3, &v.to_le_bytes()),
            Value::BigInt(v) => self.text(4, &v.to_signed_bytes_le()),
            Value::Float(v) => self.text(5, &v.to_bits().to_le_bytes()),
            Value::Complex(re, im) => {
                self.text(6, &re.to_bits().to_le_bytes());
                self.number(im.to_bits());
            }
            Value::Str(v) => self.text(7, v.as_bytes()),
            Value::Wtf8(v) => self.text(8, v),
            Value::Bytes(v) => self.text(9, v),
            Value::ByteArray(v) => self.text(10, v),
            Value::List(items) => self.values(11, items),
            Value::Tuple(items) => self.values(12, items),
            Value::Set(items) => self.values(13, items),
            Value::Dict(dict) => self.dict(dict),
            Value::Tensor(tensor) => {
                self.text(14, tensor.dtype().name().as_bytes());
                let dims = [tensor.shape(), tensor.strides(), &[tensor.offset()]].concat();
                dims.into_iter().for_each(|dim| self.number(dim as u64));
                let a = tensor.attributes();
                let flags = [a.requires_grad, a.parameter, a.conjugate, a.negative];
                self.bytes.extend(flags.map(u8::from));
                self.storage(tensor.storage());
            }
            Value::Storage(storage, dtype) => {
                self.text(15, dtype.map_or("", |dtype| dtype.name()).as_bytes());
                self.storage(storage);
            }
            Value::Size(dims) => {
                self.text(16, &[]);
                dims.iter().for_each(|&dim| self.number(dim as u64));
            }
            Value::DType(v) => self.text(17, v.name().as_bytes()),
            Value::Device(v) => self.text(18, v.as_bytes()),
            Value::Layout(v) => self.text(19, v.as_bytes()),
            Value::QScheme(v) => self.text(20, v.as_bytes()),
            Value::Call(call) => {
                self.text(21, call.global.as_bytes());
                self.values(22, &call.args);
                call.state.iter().for_each(|state| self.value(state));
            }
            other => panic!("no fingerprint of {other:?}"),
        }
    }

    fn dict(&mut self, dict: &Dict) {
        self.text(23, format!("{:?}", dict.kind).as_bytes());
        self.number(dict.len() as u64);
        for (key, value) in &dict.entries {
            self.value(key);
            self.value(value);
        }
        self.bytes.push(dict.attributes.is_some().into());
        dict.attributes.iter().for_each(|attributes| self.dict(attributes));
    }

    fn storage(&mut self, storage: &Storage) {
        let next = self.storages.len();
        let known = *self.storages.entry(storage.id()).or_insert(next);
        self.number(known as u64);
        if known == next {
            self.text(24, storage.location().as_bytes());
            let bytes = storage.read(0..storage.len()).expect("the bytes are in memory");
            self.text(25, &bytes);
        }
    }
}

/// What the fuzzer made up, as numbers and bytes; zeros once it is used up.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A number of few bytes: small, near a limit, or anything.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte().unwrap_or(0) {
            small @ 0..=99 => small.into(),
            below @ 100..=119 => u64::MAX - u64::from(below - 100),
            near @ 120..=139 => (1 << 63) - 10 + u64::from(near - 120),
            below @ 140..=159 => u64::from(u32::MAX) - u64::from(below - 140),
            below @ 160..=179 => u64::from(u16::MAX) - u64::from(below - 160),
            _ => (0..4).fold(0, |sum, _| sum << 8 | u64::from(self.byte().unwrap_or(0))),
        }
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }
}

/// Names that a record may be given; none of them that of another storage.
const NAMES: [&[u8]; 18] = [
    b"archive/data.pkl",
    b"archive/version",
    b"archive/byteorder",
    b"archive/constants.pkl",
    b"archive/.scai/manifest.json",
    b"archive/.scai/digests",
    b"archive/DATA.PKL",
    b"archive/../data.pkl",
    b"/archive/data.pkl",
    b"archive\\data.pkl",
    b"archive/data.pkl\0",
    b"archive//data.pkl",
    b"other/data.pkl",
    b"archive/",
    b"data.pkl",
    b"",
    b"archive/data/\xff",
    b"archive/data/00",
];

fn edit(archive: &mut Archive, place: u8, input: &mut Input<'_>) {
    let index = usize::from(place >> 4) % (archive.members.len() + 1);
    let field = place & 0xf;
    if let Some(member) = archive.members.get_mut(index) {
        let which = input.byte().unwrap_or(0);
        match which % 3 {
            0 => edit_header(&mut member.local, field, input),
            1 => edit_header(&mut member.central, field, input),
            _ => match field {
                0 => member.flags = input.number() as u16,
                1 => member.before = input.bytes(),
                2 => member.after = input.bytes(),
                3 => member.after.clear(),
                4 => member.unlisted = true,
                5 => {
                    let size = member.data.len() as u32;
                    member.after = forge::descriptor(crc32fast::hash(&member.data), size, size);
                }
                6 => {
                    // The same change in both headers.
                    edit_header(&mut member.local, which, input);
                    let Header { crc, size, stored, flags, .. } = member.local.clone();
                    member.central = Header { crc, size, stored, flags, ..member.central.clone() };
                }
                7 => {
                    let name = NAMES[usize::from(which) % NAMES.len()];
                    member.name = name.to_vec();
                }
                _ => {}
            },
        }
        return;
    }
    let end = &mut archive.end;
    match field {
        0 => end.disk = input.number() as u16,
        1 => end.directory_disk = input.number() as u16,
        2 => end.count = Some(input.number() as u16),
        3 => end.total = Some(input.number() as u16),
        4 => end.size = Some(input.number() as u32),
        5 => end.start = Some(input.number() as u32),
        6 => end.comment_len = Some(input.number() as u16),
        7 => end.comment = input.bytes(),
        8 => archive.before_directory = input.bytes(),
        9 => archive.after_directory = input.bytes(),
        10 => archive.end64 = None,
        _ => {
            let Some(end64) = &mut archive.end64 else { return };
            let which = input.byte().unwrap_or(0);
            let number = input.number();
            match which % 10 {
                0 => end64.len = Some(number),
                1 => end64.disks[0] = number as u32,
                2 => end64.count = Some(number),
                3 => end64.total = Some(number),
                4 => end64.size = Some(number),
                5 => end64.start = Some(number),
                6 => end64.locator_disk = number as u32,
                7 => end64.locator = Some(number),
                8 => end64.locator_disks = Some(number as u32),
                _ => end64.between = input.bytes(),
            }
        }
    }
}

fn edit_header(header: &mut Header, field: u8, input: &mut Input<'_>) {
    match field {
        0 => {
            header.name = Some(NAMES[usize::from(input.byte().unwrap_or(0)) % NAMES.len()].to_vec())
        }
        1 => header.flags = Some(input.number() as u16),
        2 => header.method = Some(input.number() as u16),
        3 => header.crc = Some(input.number() as u32),
        4 => header.size = Some(input.number() as u32),
        5 => header.stored = Some(input.number() as u32),
        6 => header.name_len = Some(input.number() as u16),
        7 => header.extra_len = Some(input.number() as u16),
        8 => header.extra = input.bytes(),
        9 => header.offset = Some(input.number() as u32),
        10 => header.disk = input.number() as u16,
        11 => header.comment = input.bytes(),
        12 => header.comment_len = Some(input.number() as u16),
        13 => header.signature = Some(input.number() as u32),
        14 => header.extra = forge::extra64(&[input.number()]),
        _ => header.extra = forge::extra64(&[input.number(), input.number()]),
    }
}
