//! TorchScript archives: named for what they are, and their tensors reached without their code.

use std::sync::Arc;

use scai_checkpoint::codec::{CheckpointFile, Foreign, Format, Unprotected};
use scai_checkpoint::{DType, Error, Value};
use serde_json::Value as Json;

use crate::support::{Bytes, golden, read_file};

fn open(name: &str) -> CheckpointFile {
    let path = golden().join("files/torchscript").join(name).with_extension("jit");
    CheckpointFile::open(Arc::new(Bytes(read_file(&path))), Unprotected::Refuse).unwrap()
}

/// Names, dtypes, shapes and bytes, sorted by name.
fn found(tree: &Value) -> Vec<(String, DType, Vec<usize>, String)> {
    let mut found: Vec<_> = tree
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let bytes = tensor.to_bytes().unwrap();
            let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (name, tensor.dtype(), tensor.shape().to_vec(), hex)
        })
        .collect();
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    found
}

fn expected(name: &str) -> Vec<(String, DType, Vec<usize>, String)> {
    let path = golden().join("files/torchscript").join(name).with_extension("json");
    let json: Json = serde_json::from_slice(&read_file(&path)).unwrap();
    let tensor = |(name, tensor): (&String, &Json)| {
        let shape = tensor[1].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize);
        let (dtype, hex) = (tensor[0].as_str().unwrap(), tensor[2].as_str().unwrap());
        (name.clone(), dtype.parse().unwrap(), shape.collect(), hex.to_owned())
    };
    json.as_object().unwrap().iter().map(tensor).collect()
}

#[test]
fn every_tensor_of_an_archive_is_reached_by_the_name_that_torch_gives_it() {
    for name in ["scripted", "traced", "frozen"] {
        let tree = open(name).tree_with(Foreign::StandIn).unwrap();
        assert_eq!(found(&tree), expected(name), "{name}");
    }
}

#[test]
fn what_says_only_of_which_type_a_value_is_leaves_the_value() {
    let tree = open("scripted").tree_with(Foreign::StandIn).unwrap();
    let names = Value::List(vec![Value::from("a"), Value::from("b")]);
    assert_eq!(tree.lookup("backbone.names"), Some(&names));
    let padding = tree.lookup("backbone.conv1._reversed_padding_repeated_twice").unwrap();
    assert_eq!(padding, &Value::List([1; 4].map(Value::Int).into()));
}

#[test]
fn a_strict_read_names_an_archive_and_verify_finds_no_damage() {
    for name in ["scripted", "traced", "frozen"] {
        let file = open(name);
        assert_eq!(file.format(), Format::TorchScript);
        let error = file.tree().unwrap_err();
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{error:?}");
        assert!(error.to_string().contains("torch.jit.load"), "{error}");
        assert!(file.verify(1).is_empty());
    }
}

#[test]
fn damage_in_a_constant_is_found_and_named() {
    let path = golden().join("files/torchscript/frozen.jit");
    let mut bytes = read_file(&path);
    let first = &expected("frozen")[0].3[..16];
    let first: Vec<u8> =
        (0..8).map(|i| u8::from_str_radix(&first[2 * i..][..2], 16).unwrap()).collect();
    let at = bytes.windows(8).position(|window| window == first).unwrap();
    bytes[at] ^= 1;
    let file = CheckpointFile::open(Arc::new(Bytes(bytes)), Unprotected::Refuse).unwrap();
    let damage = file.verify(1);
    assert!(matches!(&damage[..], [Error::Damaged { .. }]), "{damage:?}");
    assert!(damage[0].to_string().contains("CONSTANTS.c0"), "{}", damage[0]);
}
