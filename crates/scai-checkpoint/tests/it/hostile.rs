//! Hostile bytes that once did harm, and the corpus the fuzzer left.

use scai_checkpoint::codec::torch::Unprotected;
use scai_checkpoint::{Error, Value};

use crate::forge::{self, Member, honest, tensor, text};
use crate::fuzz_checks;
use crate::fuzz_manager;
use crate::fuzz_safetensors;
use crate::support::{open, read_file};

/// Reads a pickle inside the honest file, with its storages.
fn read(pickle: &[&[u8]]) -> Result<Value, Error> {
    let mut archive = honest();
    let pickle = [&b"\x80\x02"[..], &pickle.concat(), b"."].concat();
    *archive.member("data.pkl") = Member::with_descriptor("archive/data.pkl", pickle);
    open(archive.bytes(), Unprotected::Refuse)?.tree()
}

#[test]
fn two_tensors_of_one_size_are_two_keys() {
    // They were compared by how they print, which is the same, and one entry was lost.
    let key = |offset| tensor("FloatStorage", "0", 16, offset, &[4], &[1]);
    let tree = read(&[b"}", &key(0), b"K\x01s", &key(0), b"K\x02s"]).unwrap();
    assert_eq!(tree.as_dict().unwrap().len(), 2);
}

#[test]
fn keys_that_python_holds_for_equal_are_one_key() {
    let tree = read(&[b"}K\x01K\x07s", b"\x88K\x08s", b"G\x3f\xf0\0\0\0\0\0\0K\x09s"]).unwrap();
    let dict = tree.as_dict().unwrap();
    assert_eq!(dict.entries, [(Value::Int(1), Value::Int(9))]);
    let tree = read(&[b"\x8f(K\x01\x88K\x02\x90"]).unwrap();
    assert_eq!(tree, Value::Set(vec![Value::Int(1), Value::Int(2)]));
}

#[test]
fn a_device_is_written_as_it_was_read_or_refused() {
    let device = |name: &str| read(&[b"ctorch\ndevice\n", &text(name), b"\x85R"]);
    assert_eq!(device("cuda:1").unwrap(), Value::Device("cuda:1".into()));
    for name in ["cuda:01", "cuda:+1", "cuda:-1", "cuda:", ":1", "", "cuda:1:2", "cu da", "\x1b[2J"]
    {
        assert!(device(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_counter_of_an_ordered_dict_has_no_attributes() {
    // They were taken along, and then could not be written.
    let attributes = b"}K\x01K\x02sb";
    let tree =
        read(&[b"ccollections\nCounter\nccollections\nOrderedDict\n)R", attributes, b"\x85R"]);
    assert!(tree.unwrap().as_dict().unwrap().attributes.is_none());
}

#[test]
fn two_references_to_a_storage_must_agree() {
    // The first one won, and the second was read as longer than it says.
    let mut archive = honest();
    let floats = forge::storage("FloatStorage", "1", 3);
    // Four bytes are left over, as where a storage is viewed as a wider type.
    let long = forge::storage("LongStorage", "1", 1);
    let pickle = [&b"\x80\x02"[..], &floats, &long, b"\x86."].concat();
    *archive.member("data.pkl") = Member::with_descriptor("archive/data.pkl", pickle);
    *archive.member("data/1") = Member::with_descriptor("archive/data/1", [7; 12]);
    let error = open(archive.bytes(), Unprotected::Refuse).unwrap().tree().unwrap_err();
    assert!(error.to_string().contains("disagree"), "{error}");
}

#[test]
fn tensors_that_are_keys_or_attributes_are_read_with_the_others() {
    let tensor = tensor("FloatStorage", "0", 16, 0, &[4], &[1]);
    let tree = read(&[b"}", &tensor, b"Ns"]).unwrap();
    assert_eq!(tree.storages().len(), 1);
    let resident = tree.resident(1).unwrap();
    let (Value::Tensor(key), _) = &resident.as_dict().unwrap().entries[0] else {
        panic!("no tensor");
    };
    assert!(key.storage().as_slice().is_some());
    let tree = read(&[b"ccollections\nOrderedDict\n)R}K\x01", &tensor, b"sb"]).unwrap();
    assert_eq!(tree.storages().len(), 1);
}

#[test]
fn a_name_from_a_file_does_not_reach_the_terminal_as_it_is() {
    let key = "\x1b[2J".repeat(1000);
    let error = read(&[&tensor("FloatStorage", &key, 16, 0, &[4], &[1])]).unwrap_err();
    let message = error.to_string();
    assert!(!message.contains('\x1b') && message.len() < 1000, "{message}");
}

/// Calls `check` with every file of a corpus of the fuzz targets; returns how many there are.
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut count = 0;
    for entry in entries {
        check(&read_file(&entry.unwrap().path()));
        count += 1;
    }
    println!("{target}: {count} inputs");
    count
}

#[test]
fn the_corpus_of_the_fuzz_targets_is_read_without_harm() {
    assert!(replay("torch_zip", fuzz_checks::torch_zip) > 100);
    assert!(replay("pickle", fuzz_checks::pickle) > 100);
    assert!(replay("directory", fuzz_checks::directory) > 100);
    assert!(replay("safetensors", fuzz_safetensors::safetensors) > 100);
    assert!(replay("manager", fuzz_manager::manager) > 100);
}
