//! The JSON at the start of a file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;
use twox_hash::XxHash3_128;

use crate::error::{Error, Place, Result, shown};
use crate::memory::zeroed;
use crate::store::ReadAt;

/// Bytes of the number that says how long the header is.
pub(super) const LENGTH: usize = 8;
/// No reader of the format accepts a longer header.
pub(super) const MAX_HEADER: usize = 100_000_000;

const METADATA: &str = "__metadata__";
pub(super) const ROOT: &str = "scai.root";
/// What the header of a file of this crate begins with; the digits of the root follow.
const START: &[u8] = br#"{"__metadata__":{"scai.root":""#;
/// The digits of a root that is not known yet.
pub(super) const NO_ROOT: &str = "00000000000000000000000000000000";

/// The header of a file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    /// The tensors in the order of their bytes.
    pub(super) tensors: Vec<(String, TensorInfo)>,
    /// Where their bytes begin.
    pub(super) data: u64,
    /// The JSON as it was read.
    json: Vec<u8>,
}

/// Whether a file begins like a safetensors file.
pub(super) fn recognise(file: &dyn ReadAt) -> bool {
    let mut start = [0; LENGTH + 1];
    if file.read_at(0, &mut start).is_err() {
        return false;
    }
    let [length @ .., first] = start;
    u64::from_le_bytes(length) <= MAX_HEADER as u64 && first == b'{'
}

impl Header {
    /// Reads the header and checks that its tensors fill the file without gaps.
    pub(super) fn read(file: &dyn ReadAt) -> Result<Self> {
        let mut length = [0; LENGTH];
        read(file, 0, &mut length)?;
        let length = u64::from_le_bytes(length);
        let data = length.saturating_add(LENGTH as u64);
        if length > MAX_HEADER as u64 || data > file.len() {
            return bad(format!("the header cannot be {length} bytes long"));
        }
        let mut json = zeroed(length, "read the header")?.into_vec();
        read(file, LENGTH as u64, &mut json)?;
        // The parser skips what it does not know without checking that it is UTF-8.
        let text = std::str::from_utf8(&json)
            .or_else(|error| bad(format!("the header is not valid: {error}")))?;
        let Entries { metadata, mut tensors } =
            serde_json::from_str(text).map_err(|error| invalid(&json, &error))?;
        // Stable, so that empty tensors stay in the order of the header.
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let checked = Metadata::new(None, tensors.clone())
            .or_else(|error| bad(format!("the header is not valid: {error}")))?;
        if data.checked_add(checked.data_len() as u64) != Some(file.len()) {
            return bad(format!(
                "the tensors take {} bytes, but the file has {}",
                checked.data_len(),
                file.len().saturating_sub(data)
            ));
        }
        Ok(Self { metadata, tensors, data, json })
    }

    /// Checks the root of a file of this crate.
    pub(super) fn check_root(&self, file_len: u64) -> Result<()> {
        let place = START.len()..START.len() + NO_ROOT.len();
        let found = self.metadata.get(ROOT);
        let mut blank = self.json.clone();
        if !blank.starts_with(START) || blank.get(place.clone()) != found.map(String::as_bytes) {
            return bad(
                "the header was rewritten by another program that kept scai's digests, which may \
                 not belong to these tensors",
            );
        }
        blank[place].copy_from_slice(NO_ROOT.as_bytes());
        if found != Some(&digits(root(&blank, file_len))) {
            return bad("checksum mismatch in the header");
        }
        Ok(())
    }
}

/// The root and the bytes before the tensors; `metadata` begins with a blank root, which is filled in.
pub(super) fn encode(
    metadata: &[(&str, String)],
    tensors: &[(String, TensorInfo)],
    data_len: u64,
) -> Result<(u128, Vec<u8>)> {
    let json = serde_json::to_string(&Written { metadata, tensors });
    let mut json = json.map_err(|error| Error::invalid(error.to_string()))?.into_bytes();
    json.resize(json.len().next_multiple_of(LENGTH), b' ');
    if json.len() > MAX_HEADER {
        return Err(Error::unsupported(
            Place::default(),
            format!("the header would take {} bytes, which no reader accepts", json.len()),
            "convert only a part of the tree",
        ));
    }
    let root = root(&json, (LENGTH + json.len()) as u64 + data_len);
    json[START.len()..START.len() + NO_ROOT.len()].copy_from_slice(digits(root).as_bytes());
    Ok((root, [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat()))
}

/// The digest of a header whose root is blank.
fn root(json: &[u8], file_len: u64) -> u128 {
    let mut hasher = XxHash3_128::new();
    hasher.write(&file_len.to_le_bytes());
    hasher.write(json);
    hasher.finish_128()
}

fn digits(root: u128) -> String {
    format!("{root:032x}")
}

fn read(file: &dyn ReadAt, at: u64, buf: &mut [u8]) -> Result<()> {
    file.read_at(at, buf).or_else(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => bad("the file is truncated"),
        _ => Err(Error::io("read", error)),
    })
}

/// The error for JSON that is not a header, or one of a newer version of the format, with an element
/// type that was added since.
fn invalid(json: &[u8], error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let newer = text.strip_prefix("unknown variant `").and_then(|rest| rest.split('`').next());
    match newer {
        Some(dtype) if !json.starts_with(START) => Error::unsupported(
            Place::default(),
            format!("unknown element type `{}`", shown(dtype)),
            "it may come from a newer version of safetensors: convert the tensor with the program \
             that wrote it",
        ),
        _ if is_something_else(json) => Error::not_a_checkpoint(
            Place::default(),
            "it starts like a safetensors file, but its header describes no tensor",
            "look at its first bytes to see what it is (`file`, `head -c 100`)",
        ),
        _ => Error::damaged(Place::default(), format!("the header is not valid: {text}")),
    }
}

/// Whether JSON has nothing in it that looks like the description of a tensor.
fn is_something_else(json: &[u8]) -> bool {
    let Ok(Json::Object(entries)) = serde_json::from_slice(json) else { return false };
    let describes = |value: &Json| {
        ["dtype", "shape", "data_offsets"].iter().any(|key| value.get(key).is_some())
    };
    !entries.is_empty() && !entries.values().any(describes)
}

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::damaged(Place::default(), what))
}

/// What the JSON holds. Not the type of the safetensors crate, which takes the last of two tensors
/// with one name.
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
        let mut entries = Entries { metadata: BTreeMap::new(), tensors: Vec::new() };
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format!("`{name}` occurs twice")));
            }
            if name == METADATA {
                entries.metadata = map.next_value()?;
            } else {
                entries.tensors.push((name, map.next_value()?));
            }
        }
        Ok(entries)
    }
}

/// The JSON to write, in order.
struct Written<'a> {
    metadata: &'a [(&'a str, String)],
    tensors: &'a [(String, TensorInfo)],
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA, &InOrder(self.metadata))?;
        for (name, info) in self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

struct InOrder<'a>(&'a [(&'a str, String)]);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
