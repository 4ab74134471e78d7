//! What must hold for any bytes that are read as a safetensors file.

use std::sync::Arc;

use ::safetensors::SafeTensors;
use scai_checkpoint::codec::safetensors::{SafetensorsFile, SafetensorsPlan};
use scai_checkpoint::codec::{Protection, Unprotected};
use scai_checkpoint::{Result, Value};
use serde_json::{Value as Json, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::fuzz_checks::{Fingerprint, Input};
use crate::support::{Bytes, in_memory};

/// A whole file. The first byte says whether digests and root are put right first, or whether what
/// follows describes a file to build.
pub(crate) fn safetensors(input: &[u8]) {
    match input.split_first() {
        Some((b'!', file)) => any_file(seal(file.to_vec())),
        Some((b'+', description)) => any_file(plausible(&mut Input(description))),
        _ => any_file(input.to_vec()),
    }
}

/// Opens, compares with what the authors of the format read, writes and reads again.
fn any_file(bytes: Vec<u8>) {
    let Ok(file) = read(bytes.clone(), Unprotected::Accept).map_err(|error| error.to_string())
    else {
        return;
    };
    let theirs = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("it opens, and the safetensors crate says: {error}"));
    let damage = file.verify(1);
    damage.iter().for_each(|error| drop(error.to_string()));
    let Ok(tree) = file.tree().map_err(|error| error.to_string()) else { return };
    let resident = tree.resident(1).map_err(|error| error.to_string());
    if damage.is_empty() {
        assert!(resident.is_ok(), "verifies, but does not load: {resident:?}");
    }
    let Ok(tree) = resident else { return };
    if file.protection() == Protection::None {
        assert_same_tensors(&tree, &theirs);
    }
    assert_survives(&tree);
}

/// A file of another program is a dict of what the authors of the format find in it.
fn assert_same_tensors(tree: &Value, theirs: &SafeTensors<'_>) {
    let dict = tree.as_dict().expect("a dict of tensors");
    for (name, their) in theirs.iter() {
        let ours = dict.get(name).and_then(Value::as_tensor).expect("every tensor is read");
        let mut shape = ours.shape().to_vec();
        if let Some(last) = shape.last_mut().filter(|_| their.dtype() == safetensors::Dtype::F4) {
            *last *= 2;
        }
        assert_eq!(shape, their.shape(), "{name}");
        assert_eq!(ours.to_bytes().expect("it is in memory"), their.data(), "{name}");
    }
}

/// What was read is the same once it is written and read again, as far as it can be written.
fn assert_survives(tree: &Value) {
    let Ok(plan) = SafetensorsPlan::new(tree).map_err(|error| error.to_string()) else { return };
    let apart = !plan.apart().is_empty();
    let Ok(written) = write(plan) else { return };
    let again = read(written.clone(), Unprotected::Refuse).expect("what is written opens");
    assert_eq!(again.protection(), Protection::Digests);
    assert!(again.verify(1).is_empty());
    let read = again.tree().expect("what is written is read").resident(1).expect("and is sound");
    // Views that became tensors of their own are not the same in their strides.
    if !apart && Fingerprint::of(&read) != Fingerprint::of(tree) {
        panic!("written and read differently:\n{read:?}\n{tree:?}");
    }
    assert_eq!(tensors(&read), tensors(tree), "tensors are written and read differently");
    let plan = SafetensorsPlan::new(&read).expect("what was read can be written");
    assert!(write(plan).unwrap() == written, "written differently the second time");
}

fn tensors(tree: &Value) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let tensors = tree.tensors().into_iter();
    let small = tensors.filter(|(_, tensor)| tensor.nbytes() <= 1 << 20);
    let bytes = small.map(|(name, tensor)| {
        let bytes = tensor.to_bytes().expect("a tensor in memory has its bytes");
        (name, tensor.shape().to_vec(), bytes)
    });
    bytes.collect()
}

fn read(bytes: Vec<u8>, unprotected: Unprotected) -> Result<SafetensorsFile> {
    SafetensorsFile::open(Arc::new(Bytes(bytes)), unprotected)
}

fn write(plan: SafetensorsPlan) -> Result<Vec<u8>> {
    in_memory(plan.len(), |file| plan.write(1, file))
}

const START: &[u8] = br#"{"__metadata__":{"scai.root":""#;
const DIGITS: usize = 32;

/// Puts right what an attacker would put right who changed bytes of a file of this crate: the
/// digests of the tensors and the root. What cannot be found is left alone.
pub(crate) fn seal(mut file: Vec<u8>) -> Vec<u8> {
    let _ = try_seal(&mut file);
    file
}

fn try_seal(file: &mut [u8]) -> Option<()> {
    let (file_len, len) = (file.len() as u64, u64::from_le_bytes(*file.first_chunk()?));
    let (header, data) = file.get_mut(8..)?.split_at_mut_checked(usize::try_from(len).ok()?)?;
    if let Ok(json) = serde_json::from_slice::<Json>(header) {
        seal_tensors(header, data, &json);
    }
    if header.starts_with(START) {
        let digits = START.len()..START.len() + DIGITS;
        header.get_mut(digits.clone())?.fill(b'0');
        let root = xxh3_128(&[&file_len.to_le_bytes(), &*header].concat());
        header[digits].copy_from_slice(format!("{root:032x}").as_bytes());
    }
    Some(())
}

/// Replaces the digests in the header by those of the tensors that are there.
fn seal_tensors(header: &mut [u8], data: &[u8], json: &Json) -> Option<()> {
    let digests: Json =
        serde_json::from_str(json["__metadata__"]["scai.digests"].as_str()?).ok()?;
    for (name, digest) in digests.as_object()? {
        let offsets = &json[name]["data_offsets"];
        let [start, end] = [0, 1].map(|i| offsets[i].as_u64().map(|offset| offset as usize));
        let (Some(old), Some(bytes)) = (digest.as_str(), data.get(start?..end?)) else { continue };
        let found = header.windows(DIGITS).position(|window| window == old.as_bytes());
        if let Some(at) = found {
            header[at..at + DIGITS].copy_from_slice(digest_of(bytes).as_bytes());
        }
    }
    Some(())
}

fn digest_of(bytes: &[u8]) -> String {
    let chunks = bytes.chunks(64 << 10).flat_map(|chunk| xxh3_128(chunk).to_le_bytes());
    format!("{:032x}", xxh3_128(&chunks.collect::<Vec<u8>>()))
}

/// Element types of the format with their bits, and some that it lacks.
const DTYPES: [(&str, usize); 16] = [
    ("F32", 32),
    ("F64", 64),
    ("F16", 16),
    ("BF16", 16),
    ("I64", 64),
    ("I32", 32),
    ("I16", 16),
    ("I8", 8),
    ("U8", 8),
    ("BOOL", 8),
    ("F8_E4M3", 8),
    ("C64", 64),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("f32", 32),
    ("", 8),
];

const NAMES: [&str; 10] =
    ["a", "b", "a.b", "a.0", "", "format", "$a", "__metadata__", "tensor", "π"];

/// A file as the input describes it: tensors one after the other, with a few lies; where it says
/// so, a state tree, with the digests and the root that belong to it.
fn plausible(input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.byte().unwrap_or(0);
    let (mut infos, mut digests, mut data) = (Vec::new(), serde_json::Map::new(), Vec::new());
    for _ in 0..input.byte().unwrap_or(0) % 6 {
        let (name, info, len) = tensor(input, data.len() as u64);
        let start = data.len();
        data.extend((start..start + len).map(|at| (at * 37) as u8));
        digests.insert(name.clone(), digest_of(&data[start..]).into());
        infos.push((name, info));
    }
    let mut metadata: Vec<(String, String)> = Vec::new();
    if kind & 1 == 1 {
        metadata.push(("scai.root".to_owned(), "0".repeat(DIGITS)));
        metadata.push(("scai.digests".to_owned(), Json::Object(digests).to_string()));
    }
    for _ in 0..kind >> 4 & 3 {
        metadata.push((name(input), name(input)));
    }
    let end = if kind & 2 == 2 { input.bytes() } else { Vec::new() };
    if kind & 1 == 1 {
        let tree = String::from_utf8_lossy(std::mem::take(&mut input.0)).into_owned();
        metadata.push(("scai.tree".to_owned(), tree));
    }
    let pairs = metadata.iter().map(|(key, value)| format!("{}:{}", text(key), text(value)));
    let metadata = format!(r#""__metadata__":{{{}}}"#, pairs.collect::<Vec<_>>().join(","));
    let infos = infos.iter().map(|(name, info)| format!("{}:{info}", text(name)));
    let entries: Vec<String> = std::iter::once(metadata).chain(infos).collect();
    let header = format!("{{{}}}", entries.join(","));
    let len = (header.len() as u64).to_le_bytes();
    seal([&len, header.as_bytes(), &data, &end].concat())
}

/// The name of a tensor, what the header says of it, and the bytes it takes.
fn tensor(input: &mut Input<'_>, start: u64) -> (String, Json, usize) {
    let name = name(input);
    let what = input.byte().unwrap_or(0);
    let (dtype, bits) = DTYPES[usize::from(what & 0xf)];
    let mut shape: Vec<u64> =
        (0..what >> 4 & 3).map(|_| u64::from(input.byte().unwrap_or(0) % 5)).collect();
    let len = shape.iter().product::<u64>() * bits as u64 / 8;
    let mut offsets = [start, start + len];
    if what >> 6 == 1 {
        let (place, number) = (input.byte().unwrap_or(0), input.number());
        match place % 4 {
            0 => offsets[0] = number,
            1 => offsets[1] = number,
            2 => shape.push(number),
            _ => offsets = offsets.map(|offset| offset.wrapping_add(number)),
        }
    }
    (name, json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }), len as usize)
}

fn name(input: &mut Input<'_>) -> String {
    let which = usize::from(input.byte().unwrap_or(0));
    match NAMES.get(which) {
        Some(name) => (*name).to_owned(),
        None if which < 128 => NAMES[which % 4].to_owned(),
        None => String::from_utf8_lossy(&input.bytes()).into_owned(),
    }
}

fn text(text: &str) -> String {
    Json::from(text).to_string()
}
