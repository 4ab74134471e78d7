//! Files that are not checkpoints, recognised by how they begin.

use serde_json::Value as Json;

use super::torch::{Member, is_plain_pickle};
use crate::error::{Error, Place, Result};
use crate::store::ReadAt;

/// Bytes read first.
const START: u64 = 512;
/// JSON longer than this is not parsed.
const MAX_JSON: u64 = 64 << 20;

const DECOMPRESS: &str = "decompress it first";
const LOAD_THERE: &str = "load it with the library that wrote it, and save its tensors with scai";

/// What a file begins with, what it then is, and what to do.
const STARTS: [(&[u8], &str, &str); 24] = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer to a file that was not fetched",
        "fetch the file itself with `git lfs pull`",
    ),
    (b"\x1f\x8b\x08", "compressed with gzip", "decompress it first: `gzip -dc FILE > OUT`"),
    (b"\xfd7zXZ\0", "compressed with xz", "decompress it first: `xz -dc FILE > OUT`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first: `zstd -dc FILE > OUT`"),
    (b"BZh", "compressed with bzip2", "decompress it first: `bzip2 -dc FILE > OUT`"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "decompress it first: `lz4 -dc FILE > OUT`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", DECOMPRESS),
    (b"Rar!\x1a\x07", "a RAR archive", DECOMPRESS),
    (
        b"\x93NUMPY",
        "a NumPy array (.npy)",
        "load it with `numpy.load`, and save it with `scai.save`",
    ),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5), as Keras writes", LOAD_THERE),
    (b"GGUF", "a GGUF file of llama.cpp", LOAD_THERE),
    (b"lmgg", "a GGML file of llama.cpp", LOAD_THERE),
    (b"tjgg", "a GGML file of llama.cpp", LOAD_THERE),
    (b"SQLite format 3\0", "an SQLite database", LOAD_THERE),
    (b"PAR1", "a Parquet file", LOAD_THERE),
    (b"ARROW1", "an Arrow file", LOAD_THERE),
    (b"RIFF", "a RIFF file (WAV, AVI or WebP)", LOAD_THERE),
    (b"\x89PNG", "an image (PNG)", LOAD_THERE),
    (b"\xff\xd8\xff", "an image (JPEG)", LOAD_THERE),
    (b"GIF8", "an image (GIF)", LOAD_THERE),
    (b"%PDF-", "a PDF document", LOAD_THERE),
    (b"\x7fELF", "a program or library", LOAD_THERE),
    (b"%YAML", "a YAML document", LOAD_THERE),
    (b"#!", "a script", LOAD_THERE),
];

/// The error for a file that is not a checkpoint; `None` if it is not recognised.
pub(crate) fn foreign(file: &dyn ReadAt) -> Result<Option<Error>> {
    let mut start = vec![0; file.len().min(START) as usize];
    file.read_at(0, &mut start).map_err(|error| Error::io("read", error))?;
    if start.is_empty() {
        return Ok(Some(Error::damaged(
            Place::default(),
            "the file is empty: it was never written, or was truncated",
        )));
    }
    let begins = STARTS.iter().find(|(bytes, ..)| start.starts_with(bytes));
    let found = match begins {
        Some((_, what, hint)) => Some(named(*what, *hint)),
        None if start.get(4..8) == Some(b"TFL3") => {
            Some(named("a TensorFlow Lite model", LOAD_THERE))
        }
        None if start.get(257..262) == Some(b"ustar") => Some(tar(file)),
        None => match markup(&start) {
            Some(found) => Some(found),
            None if is_protobuf(&start) => Some(named(
                "a protocol buffer, most likely an ONNX or TensorFlow model",
                "PyTorch does not read it either: load it with the library that wrote it",
            )),
            None => json(file, &start)?,
        },
    };
    match found {
        None if is_plain_pickle(file)? => Ok(Some(named(
            "a pickle not written by `torch.save`",
            "if you trust it, load it with `pickle.load`, and save it with `scai.save`",
        ))),
        found => Ok(found),
    }
}

fn named(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::not_a_checkpoint(Place::default(), what, hint)
}

/// A tar archive, which PyTorch wrote before 0.2.
fn tar(file: &dyn ReadAt) -> Error {
    const BLOCK: u64 = 512;
    const MOST: usize = 1000;
    let (mut names, mut at, mut header) = (Vec::new(), 0, [0; BLOCK as usize]);
    while names.len() < MOST && file.read_at(at, &mut header).is_ok() && header[0] != 0 {
        let text = |bytes: &[u8]| {
            let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).trim().to_owned()
        };
        let Ok(size) = u64::from_str_radix(&text(&header[124..136]), 8) else { break };
        names.push(text(&header[..100]));
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    let has = |what: &str| names.iter().any(|name| name.trim_start_matches("./") == what);
    if has("storages") && has("pickle") {
        return Error::unsupported(
            Place::default(),
            "a checkpoint of PyTorch before 0.2 (a tar archive)",
            "if you trust it, load it with `torch.load(FILE, weights_only=False)`, and save it \
             with scai",
        );
    }
    const FEW: usize = 4;
    let few = names.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if names.len() > FEW { ", …" } else { "" };
    named(
        format!("a tar archive of other files ({few}{more})"),
        "unpack it with `tar -xf FILE`, and open the file with the tensors",
    )
}

/// HTML and XML.
fn markup(start: &[u8]) -> Option<Error> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let is = |tag: &str| {
        start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    };
    if ["<!doctype html", "<html", "<head", "<body", "<!--"].into_iter().any(is) {
        return Some(named(
            "an HTML page, which a server sends instead of the file if it needs a login or no \
             longer exists",
            "open the page in a browser to see why, and download the file again",
        ));
    }
    let is_xml = ["<?xml", "<error"].into_iter().any(is);
    is_xml.then(|| {
        named("an XML document, probably an error message from a server", "download the file again")
    })
}

/// Whether the first fields are those of an ONNX model (a version, then strings or a graph) or of a
/// TensorFlow model.
fn is_protobuf(start: &[u8]) -> bool {
    matches!(start, [0x08, 1..=32, 0x12 | 0x1a | 0x22 | 0x3a | 0x42, _, ..])
}

/// The index of a sharded checkpoint: the file of each tensor.
pub(super) fn index(file: &dyn ReadAt) -> Option<Vec<(String, String)>> {
    let mut first = [0];
    if file.len() > MAX_JSON || file.read_at(0, &mut first).is_err() || first[0] != b'{' {
        return None;
    }
    let mut text = vec![0; file.len() as usize];
    file.read_at(0, &mut text).ok()?;
    let json: Json = serde_json::from_slice(&text).ok()?;
    let map = json.get("weight_map")?.as_object()?;
    map.iter().map(|(name, file)| Some((name.clone(), file.as_str()?.to_owned()))).collect()
}

fn json(file: &dyn ReadAt, start: &[u8]) -> Result<Option<Error>> {
    if !matches!(start.trim_ascii_start(), [b'{' | b'[', ..]) || file.len() > MAX_JSON {
        return Ok(None);
    }
    let mut text = vec![0; file.len() as usize];
    file.read_at(0, &mut text).map_err(|error| Error::io("read", error))?;
    let json: Json = match serde_json::from_slice(&text) {
        Ok(json) => json,
        Err(error) if error.is_eof() => {
            return Ok(Some(Error::damaged(Place::default(), "a truncated JSON document")));
        }
        Err(_) => return Ok(None),
    };
    let has = |key: &str| json.get(key).is_some();
    Ok(Some(if has("model_type") || has("architectures") {
        named("the configuration of a model (JSON)", "open the file with its weights")
    } else {
        named("a JSON document", "open the file with the tensors")
    }))
}

/// The error for a zip file that PyTorch did not write; `None` if it may be a damaged one that
/// PyTorch wrote.
pub(super) fn foreign_zip(members: &[Member]) -> Option<Error> {
    let names = || members.iter().map(|member| member.name.as_str());
    let any = |what: &str| names().any(|name| name == what || name.ends_with(&format!("/{what}")));
    let under = |folder: &str| {
        names().any(|name| name.starts_with(folder) || name.contains(&format!("/{folder}")))
    };
    let files = || names().filter(|name| !name.ends_with('/'));
    Some(if files().all(|name| name.ends_with(".npy")) && files().next().is_some() {
        named(
            "an archive of NumPy arrays (.npz)",
            "load it with `numpy.load`, and save its arrays with `scai.save`",
        )
    } else if any("model.weights.h5") {
        named("a Keras model (.keras)", "load it with Keras, and save its weights with scai")
    } else if under(".data/extern_modules") || under(".data/python_version") {
        named(
            "a package of code and data (torch.package)",
            "if you trust it, load it with `torch.package.PackageImporter`, and save the state \
             dict",
        )
    } else if any("archive_format")
        || any("archive_version")
        || any("serialized_exported_program.json")
    {
        named(
            "a program written by torch.export (.pt2)",
            "load it with `torch.export.load`, and save the `state_dict` of the program",
        )
    } else if any("MAR-INF/MANIFEST.json") {
        named("a TorchServe archive (.mar) without weights", "open the file with the weights")
    } else if any("META-INF/MANIFEST.MF") {
        named("a Java archive", "open the file with the weights")
    } else if names().any(|name| name.ends_with(".dist-info/WHEEL")) {
        named("a Python wheel", "install or unpack it, and open the file with the weights")
    } else if any("[Content_Types].xml") {
        named("an Office document", "open the file with the weights")
    } else if names().any(|name| name.starts_with("model.json") || name.ends_with("/model.json"))
        && under("tensors/")
    {
        named(
            "a TorchScript model of PyTorch before 1.3",
            "load it with `torch.jit.load` of a PyTorch before 2.0, and save its `state_dict()`",
        )
    } else if any("version") || any("byteorder") || under("data/") || under(".scai/") {
        return None;
    } else {
        const FEW: usize = 4;
        let few: Vec<&str> = files().take(FEW).collect();
        let more = if files().nth(FEW).is_some() { ", …" } else { "" };
        named(
            format!("a zip archive of other files ({}{more})", few.join(", ")),
            "unpack it with `unzip FILE`, and open the file with the tensors",
        )
    })
}
