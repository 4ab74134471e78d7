//! Files that real versions of torch wrote: read bit for bit, written again, read again.

use std::path::Path;

use scai_checkpoint::Error;
use scai_checkpoint::codec::torch::{Foreign, TorchPlan, Unprotected};
use serde_json::Value as Json;

use crate::describe::describe;
use crate::support::{golden, in_memory, open, pt_files, read_file};

/// What this crate does not read, and the words its message must hold.
const REFUSED: [(&str, &str); 1] = [("byteorder_big", "big-endian")];

fn expected(path: &Path) -> Json {
    serde_json::from_slice(&read_file(&path.with_extension("json"))).unwrap()
}

fn is_refused_folder(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|name| name == "refused")
}

#[test]
fn every_golden_file_is_read_and_written_again_bit_for_bit() {
    let mut failures = Vec::new();
    let mut count = 0;
    for path in pt_files(&golden().join("files")) {
        if is_refused_folder(&path) {
            continue;
        }
        count += 1;
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let check = || -> Result<(), String> {
            let opened = open(read_file(&path), Unprotected::Accept).map_err(|e| e.to_string())?;
            let tree = opened.tree();
            if let Some((_, words)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
                let message = tree.err().map(|error| error.to_string()).unwrap_or_default();
                return if message.contains(words) {
                    Ok(())
                } else {
                    Err(format!("not refused: {message}"))
                };
            }
            let tree = tree.map_err(|e| e.to_string())?;
            let expected = expected(&path);
            let found = describe(&tree);
            if found["root"] != expected["root"] || found["storages"] != expected["storages"] {
                return Err(format!("read differently:\n{found}\n{expected}"));
            }
            if !opened.verify(1).is_empty() {
                return Err("does not verify".to_owned());
            }
            if name == "py_int_long4" {
                return Ok(());
            }
            // With notes, which torch must not mind.
            let written = TorchPlan::with_notes(&tree, Some(&name))
                .and_then(|plan| in_memory(plan.len(), |file| plan.write(2, file)))
                .map_err(|error| error.to_string())?;
            keep_for_torch(&path, &written);
            let again = open(written, Unprotected::Refuse).map_err(|e| e.to_string())?;
            if let Some(error) = again.verify(2).first() {
                return Err(error.to_string());
            }
            let again = again.tree().map_err(|e| e.to_string())?;
            if describe(&again) != found {
                return Err(format!("written differently:\n{}\n{found}", describe(&again)));
            }
            Ok(())
        };
        if let Err(why) = check() {
            failures.push(format!("{}: {why}", path.display()));
        }
    }
    println!("{count} golden files");
    assert!(count > 800);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Where `SCAI_REWRITTEN` names a folder, leaves the file there for `check_roundtrip.py`, which
/// lets real torch load it.
fn keep_for_torch(original: &Path, written: &[u8]) {
    let Some(folder) = std::env::var_os("SCAI_REWRITTEN") else { return };
    let path = Path::new(&folder).join(original.strip_prefix(golden().join("files")).unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, written).unwrap();
}

/// How many storages a zip file holds, by its directory; none for other files.
fn count_storages(file: &[u8]) -> usize {
    let entries = file.windows(4).enumerate().filter(|(_, four)| *four == b"PK\x01\x02");
    let names = entries.map(|(at, _)| {
        let len = usize::from(u16::from_le_bytes([file[at + 28], file[at + 29]]));
        String::from_utf8_lossy(&file[at + 46..at + 46 + len]).into_owned()
    });
    let is_storage = |name: &String| {
        let (folder, last) = name.rsplit_once('/').unwrap_or_default();
        folder.ends_with("/data") && last.bytes().all(|byte| byte.is_ascii_digit())
    };
    names.filter(is_storage).count()
}

/// What torch refuses although it is harmless, and this crate reads.
const HARMLESS: [&str; 1] = ["bytes_empty"];

#[test]
fn whatever_could_run_code_is_refused_by_name() {
    let mut count = 0;
    for path in pt_files(&golden().join("files")).into_iter().filter(|path| is_refused_folder(path))
    {
        count += 1;
        let opened = open(read_file(&path), Unprotected::Accept);
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap();
        let opened = opened.unwrap();
        let error = match opened.tree() {
            // NumPy's values are data.
            Ok(_) if HARMLESS.contains(&name) || name.starts_with("numpy_") => continue,
            Ok(_) => panic!("{} was read", path.display()),
            Err(error) => error,
        };
        assert!(matches!(error, Error::NeedsCode { .. }), "{}: {error:?}", path.display());
        let message = error.to_string();
        // Whatever tensors there are can be reached all the same.
        let tree = opened.tree_with(Foreign::StandIn);
        let tree = tree.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let reached = tree.storages().len();
        let there = count_storages(&read_file(&path));
        assert!(reached >= there, "{}: {reached} of {there}", path.display());
        let globals = &expected(&path)["globals"];
        let named = globals.as_array().unwrap().iter().any(|global| {
            message.contains(&global.as_str().unwrap().replace("__builtin__", "builtins"))
        });
        assert!(named || globals == &serde_json::json!([]), "{}: {message}", path.display());
    }
    println!("{count} refused files");
    assert!(count > 100);
}
