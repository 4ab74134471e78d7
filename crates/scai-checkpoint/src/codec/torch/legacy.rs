//! The format before PyTorch 1.6: pickles and raw storages one after the other, no checksums.
//!
//! ```text
//! pickle: magic number | pickle: version 1001 | pickle: sys_info | pickle: the object
//! pickle: list of storage keys | for each key: i64 element count, elements
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use super::pickle::build::{StorageRef, build, build_with, each_storage};
use super::pickle::machine::{Program, Stop, run};
use crate::codec::Foreign;
use crate::codec::record::{Check, RecordSource};
use crate::error::{Error, Place, Result};
use crate::memory::zeroed;
use crate::store::ReadAt;
use crate::tensor::Storage;
use crate::value::Value;

/// The integer that every file of the format begins with, pickled.
const MAGIC: u128 = 0x1950_a86a_20f9_469c_fc6c;
/// No protocol needs more bytes for it.
const MAGIC_LEN: u64 = 32;
const VERSION: i64 = 1001;

/// Bytes tried at first for a pickle, whose length is not recorded.
const FIRST_TRY: u64 = 64 << 10;

/// Whether a file is of this format.
pub(super) fn is_legacy(file: &dyn ReadAt) -> Result<bool> {
    begins_with_magic(file, 0)
}

fn begins_with_magic(file: &dyn ReadAt, at: u64) -> Result<bool> {
    let mut start = vec![0; file.len().saturating_sub(at).min(MAGIC_LEN) as usize];
    read(file, at, &mut start)?;
    let Ok(program) = run(&start) else { return Ok(false) };
    let magic = build(program, &mut no_storages);
    Ok(magic.is_ok_and(|magic| magic == Value::BigInt(MAGIC.into())))
}

/// Whether a file is one pickle and nothing else.
pub(in crate::codec) fn is_plain_pickle(file: &dyn ReadAt) -> Result<bool> {
    const PROTO: u8 = 0x80;
    const NEWEST: u8 = 5;
    const STOP: u8 = b'.';
    if file.len() < 4 {
        return Ok(false);
    }
    let (mut start, mut end) = ([0; 2], [0]);
    read(file, 0, &mut start)?;
    read(file, file.len() - 1, &mut end)?;
    Ok(start[0] == PROTO && (2..=NEWEST).contains(&start[1]) && end[0] == STOP)
}

/// Reads the state tree, and the notes on it; its tensors remain on disk.
pub(super) fn tree(file: &Arc<dyn ReadAt>, foreign: Foreign) -> Result<(Value, Option<String>)> {
    let mut at = 0;
    let mut next = || -> Result<Program> {
        let program = pickle(&**file, at)?;
        at += program.consumed as u64;
        Ok(program)
    };
    next()?;
    let version = build(next()?, &mut no_storages)?;
    if version.as_int() != Some(VERSION) {
        return bad("the version of the legacy format is not 1001");
    }
    let system = build(next()?, &mut no_storages)?;
    if system.as_dict().and_then(|system| system.get("little_endian")) != Some(&Value::Bool(true)) {
        return Err(Error::unsupported(
            Place::default(),
            "the file was written on a big-endian machine",
            "load and save it with torch on a little-endian one",
        ));
    }
    let object = next()?;
    let keys = build(next()?, &mut no_storages)?;
    let Value::List(keys) = keys.into_resolved() else {
        return bad("the list of storages is not valid");
    };

    // The element sizes, needed to find where each storage ends, are known from the references.
    let mut lengths = HashMap::new();
    each_storage(&object, &mut |reference| {
        let len = reference.nbytes().filter(|&len| len <= file.len());
        let Some(len) = len else { return bad("a storage is longer than the file") };
        // The first reference says in which elements the storage is counted.
        if lengths.entry(reference.key.to_owned()).or_insert((reference.numel, len)).1 != len {
            return bad("two references to a storage disagree about its length");
        }
        Ok(())
    })?;

    let mut storages = HashMap::new();
    for key in &keys {
        let Some((key, &(numel, len))) = key.as_str().and_then(|key| lengths.get_key_value(key))
        else {
            return bad("nothing refers to a storage in the list");
        };
        let mut count = [0; 8];
        read(&**file, at, &mut count)?;
        if u64::from_le_bytes(count) != numel {
            return bad_storage(key, "its length is not the one that the pickle refers to");
        }
        let data = at + 8;
        at = match data.checked_add(len).filter(|&end| end <= file.len()) {
            Some(end) => end,
            None => return bad_storage(key, "the file is truncated"),
        };
        let source = RecordSource {
            file: Arc::clone(file),
            name: key.as_str().into(),
            data,
            size: len,
            crc: None,
            check: Check::Nothing,
        };
        if storages.insert(key.clone(), Storage::new(Arc::new(source))).is_some() {
            return bad_storage(key, "it occurs twice");
        }
    }
    // Several objects may have been saved to one file; torch reads the first of them too.
    if at != file.len() && !begins_with_magic(&**file, at)? {
        return bad("bytes follow the last storage");
    }
    let mut placed = HashMap::new();
    build_with(object, foreign, &mut |reference: &StorageRef<'_>| {
        let storage = match storages.get(reference.key) {
            Some(storage) => storage,
            None => return bad_storage(reference.key, "it is missing"),
        };
        let located = placed
            .entry(reference.key.to_owned())
            .or_insert_with(|| storage.with_location(reference.location));
        Ok(located.clone())
    })
}

/// Runs the pickle at `at`, reading more of the file until it ends.
fn pickle(file: &dyn ReadAt, at: u64) -> Result<Program> {
    let rest = file.len().saturating_sub(at);
    let mut len = FIRST_TRY;
    loop {
        let mut bytes = zeroed(len.min(rest), "read a pickle")?;
        read(file, at, &mut bytes)?;
        match run(&bytes) {
            Ok(program) => return Ok(program),
            Err(Stop::Bad(error)) => return Err(error),
            Err(Stop::Short) if len >= rest => return bad("the file is truncated inside a pickle"),
            Err(Stop::Short) => len = len.saturating_mul(4),
        }
    }
}

fn read(file: &dyn ReadAt, at: u64, buf: &mut [u8]) -> Result<()> {
    file.read_at(at, buf).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::damaged(Place::default(), "the file is truncated")
        }
        _ => Error::io("read", error),
    })
}

fn no_storages(_: &StorageRef<'_>) -> Result<Storage> {
    bad("unexpected storage")
}

fn bad_storage<T>(key: &str, what: &str) -> Result<T> {
    Err(Error::damaged(Place::record(key), what))
}

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::damaged(Place::default(), what))
}
