//! Our own records inside the archive, which PyTorch ignores: a description of the file, and its digests.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use twox_hash::XxHash3_128;

use super::Fields;
use super::zip::Record;
use crate::CHUNK_SIZE;
use crate::codec::Origin;
use crate::codec::binding::Commit;
use crate::codec::digest::chunks;
use crate::error::{Error, Place, Result};
use crate::value::{Dict, DictKind, Value};

/// What the file is, as JSON; the first record, so that one read of a few KiB finds it.
pub(super) const MANIFEST: &str = ".scai/manifest.json";
/// What a binding keeps beside the tree, opaque UTF-8; the record before the digests, if there is one.
pub(super) const NOTES: &str = ".scai/notes";
/// The digests of all chunks of all other records; the last record.
pub(super) const DIGESTS: &str = ".scai/digests";
/// The comment at the end of the archive is this and the root as 32 hexadecimal digits.
pub(super) const ROOT_PREFIX: &[u8] = b"scai-root:";
pub(super) const ROOT_LEN: usize = 32;

/// The version of the format that is written, and the newest that is read.
const VERSION: u32 = 1;
/// What the digest table begins with.
const TABLE_MAGIC: [u8; 8] = *b"SCAIDIG1";
const TABLE_HEADER: usize = TABLE_MAGIC.len() + 8;
const DIGEST_LEN: usize = size_of::<u128>();

/// A statistic or a piece of metadata longer than this, as JSON, is left out of the manifest.
const MAX_SUMMARY: usize = 1 << 10;
/// All of them together; beyond this the rest is left out.
const MAX_SUMMARIES: usize = 32 << 10;
/// The names of fields together, as JSON; those beyond are left out. With the other limits it keeps
/// a manifest far below [`MAX_MANIFEST`].
const MAX_FIELDS: usize = 64 << 10;
/// No manifest is longer; a longer one is not read.
pub(super) const MAX_MANIFEST: u64 = 1 << 20;
/// Notes are not longer; longer ones are neither written nor read. They describe plain values, of
/// which a state has thousands, not millions.
pub(super) const MAX_NOTES: u64 = 64 << 20;

/// The protection of a file that has none.
const NONE: &str = "none";

/// What a checkpoint says about itself, readable without unpickling anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `scai`.
    pub format: String,
    /// The version of the format.
    pub version: u32,
    /// The program that wrote the file.
    pub writer: String,
    /// The length of the whole file in bytes, as a string since JSON numbers are floats.
    pub(super) file_size: String,
    /// Bytes that one digest covers.
    pub chunk_size: u64,
    /// The hash the digests are made with.
    pub digest: String,
    /// The iteration, if the state has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iteration: Option<i64>,
    /// When it was saved, ISO 8601 with offset, if the state says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// The keys at the top of the state tree, in order.
    pub fields: Vec<String>,
    /// The training statistics that are short and can be JSON.
    pub training_stats: Fields,
    /// The metadata that are short and can be JSON.
    pub metadata: Fields,
    /// `none` if the state was converted from a file without checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_protection: Option<String>,
}

impl Manifest {
    /// The manifest of a state tree.
    pub(crate) fn new(tree: &Value, origin: Origin) -> Self {
        let empty = Dict::new();
        let top = tree.as_dict().unwrap_or(&empty);
        let mut room = MAX_SUMMARIES;
        Self {
            format: "scai".to_owned(),
            version: VERSION,
            writer: concat!("scai ", env!("CARGO_PKG_VERSION")).to_owned(),
            file_size: u64::MAX.to_string(),
            chunk_size: CHUNK_SIZE as u64,
            digest: "xxh3-128".to_owned(),
            iteration: top.get("iteration").and_then(Value::as_int),
            timestamp: top
                .get("timestamp")
                .and_then(Value::as_str)
                .filter(|text| json_len(text) <= MAX_SUMMARY)
                .map(str::to_owned),
            fields: fields(top),
            training_stats: Fields(summary(top.get("training_stats"), &mut room)),
            metadata: Fields(summary(top.get("metadata"), &mut room)),
            source_protection: (origin == Origin::Unprotected).then(|| NONE.to_owned()),
        }
    }

    /// What a commit of several files says, whose fields are not known without reading them.
    pub(in crate::codec) fn of_commit(commit: &Commit, origin: Origin) -> Self {
        let size = commit.files.values().map(|file| file.size).fold(0, u64::saturating_add);
        Self {
            file_size: size.to_string(),
            iteration: commit.iteration.and_then(|iteration| iteration.try_into().ok()),
            timestamp: Some(commit.timestamp.clone()),
            training_stats: commit.training_stats.clone(),
            metadata: commit.metadata.clone(),
            ..Self::new(&Value::None, origin)
        }
    }

    /// Where the bytes of the file come from.
    pub fn origin(&self) -> Origin {
        match self.source_protection.as_deref() {
            Some(NONE) => Origin::Unprotected,
            _ => Origin::Known,
        }
    }

    /// The bytes of the record for a file of `file_size` bytes. The length does not depend on it.
    pub(super) fn encode(&self, file_size: u64) -> Vec<u8> {
        let encode = |file_size: u64| {
            let manifest = Self { file_size: file_size.to_string(), ..self.clone() };
            serde_json::to_vec(&manifest).unwrap_or_default()
        };
        let len = encode(u64::MAX).len();
        let mut bytes = encode(file_size);
        bytes.resize(len, b' ');
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        // The bytes are those that were written, as their checksum says; so what is not understood
        // is of a newer version.
        let newer = |what: String| {
            Error::unsupported(
                Place::record(MANIFEST),
                what,
                format!("this program reads versions up to {VERSION}; upgrade `scai`"),
            )
        };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| {
            let json = serde_json::from_slice(bytes).unwrap_or(Json::Null);
            match json.get("version").and_then(Json::as_u64) {
                Some(version) if version > VERSION.into() => {
                    newer(format!("the file has format version {version}"))
                }
                _ => newer(format!("the file has an unknown format version ({error})")),
            }
        })?;
        if manifest.version > VERSION
            || manifest.chunk_size != CHUNK_SIZE as u64
            || manifest.digest != "xxh3-128"
        {
            return Err(newer(format!("the file has format version {}", manifest.version)));
        }
        Ok(manifest)
    }

    /// The length of the file in bytes.
    pub fn file_size(&self) -> Option<u64> {
        self.file_size.parse().ok()
    }
}

/// The names of the fields, as many as fit.
fn fields(top: &Dict) -> Vec<String> {
    let mut room = MAX_FIELDS;
    let fits = |name: &&str| match room.checked_sub(json_len(name) + 1) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    top.keys().take(1000).take_while(fits).map(str::to_owned).collect()
}

/// The length of a string in JSON, where control characters take six bytes.
fn json_len(text: &str) -> usize {
    2 + text
        .bytes()
        .map(|byte| if byte < 0x20 { 6 } else { 1 + usize::from(matches!(byte, b'"' | b'\\')) })
        .sum::<usize>()
}

/// The entries of a dict that can be JSON and are short.
fn summary(value: Option<&Value>, room: &mut usize) -> Map<String, Json> {
    let mut map = Map::new();
    for (key, value) in value.and_then(Value::as_dict).iter().flat_map(|dict| &dict.entries) {
        let mut parts = MAX_SUMMARY;
        if let Some(json) = to_json(value, 0, &mut parts) {
            let key = key.key_text();
            let len = json_len(&key) + json.to_string().len();
            if len <= MAX_SUMMARY && len <= *room {
                *room -= len;
                map.insert(key, json);
            }
        }
    }
    map
}

/// A value as JSON; `None` if it has tensors or bytes, or would be longer than about `room` bytes.
/// Each part counts as a byte at least, which limits the visits to shared values.
fn to_json(value: &Value, depth: usize, room: &mut usize) -> Option<Json> {
    let value = value.resolved();
    let len = match value {
        Value::Str(text) => text.len(),
        Value::List(items) | Value::Tuple(items) => items.len(),
        Value::Dict(dict) => dict.len(),
        _ => 0,
    };
    *room = room.checked_sub(1 + len)?;
    if depth > 8 {
        return None;
    }
    Some(match value {
        Value::None => Json::Null,
        Value::Bool(v) => Json::from(*v),
        Value::Int(v) => Json::from(*v),
        Value::BigInt(v) => Json::from(v.to_string()),
        // JSON has no NaN and no infinity; their names are strings.
        Value::Float(v) if !v.is_finite() => Json::from(v.to_string()),
        Value::Float(v) => Json::from(*v),
        Value::Str(v) => Json::from(v.as_str()),
        Value::List(items) | Value::Tuple(items) => {
            let items = items.iter().map(|item| to_json(item, depth + 1, room));
            Json::from(items.collect::<Option<Vec<_>>>()?)
        }
        Value::Dict(dict) if dict.kind != DictKind::Counter => {
            let mut map = Map::new();
            for (key, value) in &dict.entries {
                let key = key.key_text();
                *room = room.checked_sub(key.len())?;
                map.insert(key, to_json(value, depth + 1, room)?);
            }
            Json::Object(map)
        }
        _ => return None,
    })
}

/// The length of the digest table for records of these sizes.
pub(super) fn table_len(sizes: impl Iterator<Item = u64>) -> u64 {
    TABLE_HEADER as u64 + sizes.map(chunks).sum::<u64>() * DIGEST_LEN as u64
}

/// The digest table: a header, then the digests of each record's chunks, in the file's order.
pub(super) fn encode_table(digests: &[u128]) -> Vec<u8> {
    let mut out = Vec::with_capacity(TABLE_HEADER + digests.len() * DIGEST_LEN);
    out.extend(TABLE_MAGIC);
    out.extend((digests.len() as u64).to_le_bytes());
    for digest in digests {
        out.extend(digest.to_le_bytes());
    }
    out
}

pub(super) fn decode_table(bytes: &[u8], records: &[Record]) -> Result<Vec<u128>> {
    let expected = table_len(records.iter().map(|record| record.size));
    let (digests, odd) = bytes.get(TABLE_HEADER..).unwrap_or_default().as_chunks::<DIGEST_LEN>();
    let count = digests.len() as u64;
    if !bytes.starts_with(&TABLE_MAGIC)
        || bytes.get(8..TABLE_HEADER) != Some(&count.to_le_bytes())
        || !odd.is_empty()
        || bytes.len() as u64 != expected
    {
        return Err(Error::damaged(Place::record(DIGESTS), "the digest table is not valid"));
    }
    Ok(digests.iter().map(|digest| u128::from_le_bytes(*digest)).collect())
}

/// The root: one digest over everything the chunk digests do not cover, and over them.
///
/// The length of the file, all local headers, the digest table, and the rest of the file from the
/// central directory on, up to the root itself.
pub(super) fn root(file_len: u64, headers: u128, table: &[u8], tail: &[u8]) -> u128 {
    let mut hasher = XxHash3_128::new();
    hasher.write(b"scai root 1");
    hasher.write(&file_len.to_le_bytes());
    hasher.write(&headers.to_le_bytes());
    hasher.write(table);
    hasher.write(tail);
    hasher.finish_128()
}

/// The comment that carries a root.
pub(super) fn comment(root: u128) -> Vec<u8> {
    [ROOT_PREFIX, format!("{root:032x}").as_bytes()].concat()
}
