//! safetensors, both ways.

use std::sync::Arc;

use scai_checkpoint::codec::safetensors::{SafetensorsFile, SafetensorsPlan};
use scai_checkpoint::codec::{Protection, Unprotected};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Dict, Error, Result, Tensor, Value};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::describe::describe;
use crate::support::{self, Bytes, golden, in_memory, open, pt_files, read_file};

fn write(tree: &Value) -> Result<Vec<u8>> {
    let plan = SafetensorsPlan::new(tree)?;
    in_memory(plan.len(), |file| plan.write(2, file))
}

fn read(bytes: Vec<u8>, unprotected: Unprotected) -> Result<SafetensorsFile> {
    SafetensorsFile::open(Arc::new(Bytes(bytes)), unprotected)
}

/// What safetensors holds and `torch.load(weights_only=True)` does not accept: an integer of 256
/// bytes, and empty bytes.
const UNWRITABLE: [&str; 2] = ["py_int_long4", "bytes_empty"];

#[test]
fn every_golden_tree_that_the_format_can_hold_survives() {
    let (mut exact, mut apart, mut refused) = (0, 0, 0);
    for path in pt_files(&golden().join("files")) {
        let Ok(tree) = open(read_file(&path), Unprotected::Accept).and_then(|file| file.tree())
        else {
            continue;
        };
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let plan = match SafetensorsPlan::new(&tree) {
            Ok(plan) => plan,
            Err(error) => {
                let message = error.to_string();
                assert!(NO_PLACE.iter().any(|what| message.contains(what)), "{name}: {message}");
                refused += 1;
                continue;
            }
        };
        let has_parts = !plan.apart().is_empty();
        let bytes = in_memory(plan.len(), |file| plan.write(2, file)).unwrap();
        let file = read(bytes, Unprotected::Refuse).unwrap();
        assert_eq!(file.protection(), Protection::Digests);
        assert!(file.verify(2).is_empty(), "{name}");
        let back = file.tree().unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = if UNWRITABLE.contains(&name.as_str()) {
            back
        } else {
            let again = open(support::write(&back).unwrap(), Unprotected::Refuse).unwrap();
            again.tree().unwrap()
        };
        if has_parts {
            let tensors = |tree: &Value| {
                let tensors = tree.tensors().into_iter();
                tensors.map(|(name, t)| (name, t.to_bytes().unwrap())).collect::<Vec<_>>()
            };
            assert_eq!(tensors(&again), tensors(&tree), "{}", path.display());
            apart += 1;
        } else {
            assert_eq!(describe(&again), describe(&tree), "{}", path.display());
            exact += 1;
        }
    }
    println!("{exact} exact, {apart} with views apart, {refused} refused");
    assert!(exact > 700 && apart < 20);
}

/// What the format has no place for.
const NO_PLACE: [&str; 9] = [
    "(complex128)",
    "(complex32)",
    "(bcomplex32)",
    "(bits",
    "(float4_e2m1fn_x2)",
    "(qint",
    "(quint",
    "(a conjugate or negative view)",
    "(a view that repeats a few elements too often)",
];

/// A tree of about everything: tied, transposed and empty tensors, odd keys, special floats.
fn tree() -> Value {
    let weight =
        Tensor::from_vec(vec![2, 3], vec![0.5_f32, -1.0, 2.0, f32::NAN, 0.0, 3.0]).unwrap();
    let turned = Storage::from_vec(vec![0_i64, 1, 2, 3, 4, 5]);
    let turned = Tensor::new(DType::Int64, vec![2, 3], vec![1, 2], 0, turned).unwrap();
    let model: Dict = [
        ("embed.weight", weight.clone()),
        ("head.weight", weight),
        ("turned", turned),
        ("none", Tensor::from_vec(vec![0, 4], Vec::<f32>::new()).unwrap()),
    ]
    .into_iter()
    .collect();
    let odd = Dict {
        entries: vec![
            (Value::Int(0), Value::Float(f64::NEG_INFINITY)),
            (Value::Str("$tensor".into()), Value::Tuple(vec![Value::None, Value::Float(-0.0)])),
        ],
        ..Dict::new()
    };
    let mut tree = Dict::new();
    tree.insert("iteration", 3_i64);
    tree.insert("model_state_dict", model);
    tree.insert("odd", odd);
    tree.insert("note", "π\u{1b} \"quoted\"");
    Value::Dict(tree)
}

#[test]
fn ties_strides_and_plain_values_come_back() {
    let tree = tree();
    let plan = SafetensorsPlan::new(&tree).unwrap();
    let (embed, head) = ("model_state_dict.embed.weight", "model_state_dict.head.weight");
    assert_eq!(plan.ties(), [(head.to_owned(), embed.to_owned())]);
    assert!(plan.apart().is_empty());
    let back = read(write(&tree).unwrap(), Unprotected::Refuse).unwrap().tree().unwrap();
    assert_eq!(describe(&back), describe(&tree));
    let storage = |name: &str| back.lookup(name).unwrap().as_tensor().unwrap().storage().clone();
    assert!(storage(embed).same_as(&storage(head)));
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    assert_eq!(write(&tree()).unwrap(), write(&tree()).unwrap());
}

#[test]
fn what_the_format_cannot_hold_is_named() {
    let tensor = |dtype| Tensor::contiguous(dtype, vec![1], Storage::from_vec(vec![0_u8; 16]));
    let inner: Dict = [("x", tensor(DType::Complex128).unwrap())].into_iter().collect();
    let mut tree = Dict::new();
    tree.insert("a", inner);
    tree.insert("b", Value::List(vec![tensor(DType::QInt8).unwrap().into()]));
    let message = SafetensorsPlan::new(&Value::Dict(tree)).unwrap_err().to_string();
    assert!(message.contains("`a.x` (complex128), `b.0` (qint8)"), "{message}");
    // A key with a dot and a dict inside a dict can have one path.
    let one = || Tensor::from_vec(vec![1], vec![1_u8]).unwrap();
    let inner: Dict = [("b", one())].into_iter().collect();
    let mut tree = Dict::new();
    tree.insert("a", inner);
    tree.insert("a.b", one());
    let message = SafetensorsPlan::new(&Value::Dict(tree)).unwrap_err().to_string();
    assert!(message.contains("`a.b` (two tensors of that name)"), "{message}");
}

#[test]
fn files_of_the_python_package_are_read() {
    for name in ["flat", "tied"] {
        let path = golden().join(format!("files/safetensors/{name}.safetensors"));
        let expected: Json =
            serde_json::from_slice(&read_file(&path.with_extension("json"))).unwrap();
        let file = read(read_file(&path), Unprotected::Accept).unwrap();
        assert_eq!(file.protection(), Protection::None);
        let tree = file.tree().unwrap();
        let mut found = serde_json::Map::new();
        for (name, tensor) in tree.tensors() {
            let digest: String = Sha256::digest(tensor.to_bytes().unwrap())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let (dtype, shape) = (tensor.dtype().name(), tensor.shape());
            found.insert(name, json!({ "dtype": dtype, "shape": shape, "sha256": digest }));
        }
        if name == "tied" {
            let head = found.remove("head.weight").unwrap();
            assert_eq!(head, found["embed.weight"]);
            let storage = |name| tree.lookup(name).unwrap().as_tensor().unwrap().storage();
            assert!(storage("embed.weight").same_as(storage("head.weight")));
        }
        assert_eq!(Json::Object(found), expected["tensors"], "{name}");
        let refused = read(read_file(&path), Unprotected::Refuse).unwrap().tree().unwrap_err();
        assert!(matches!(refused, Error::Unprotected { .. }));
    }
}

/// Whether a file is refused, or its tensors are: an error anywhere.
fn outcome(bytes: Vec<u8>) -> Result<Value> {
    read(bytes, Unprotected::Refuse)?.tree()?.resident(1)
}

#[test]
fn every_flipped_bit_is_noticed() {
    let tree = tree();
    let sound = write(&tree).unwrap();
    let expected = describe(&tree);
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(tree) = outcome(bytes) {
            assert_eq!(describe(&tree), expected, "bit {bit} of byte {} is loaded", bit / 8);
            panic!("bit {bit} does not matter");
        }
    }
}

#[test]
fn a_file_cut_off_anywhere_or_with_bytes_appended_is_noticed() {
    let sound = write(&tree()).unwrap();
    for len in 0..sound.len() {
        assert!(outcome(sound[..len].to_vec()).is_err(), "{len}");
    }
    assert!(outcome([sound.as_slice(), b"x"].concat()).is_err());
}

#[test]
fn damage_is_found_by_name_and_place() {
    let values: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
    let tensor = Tensor::from_vec(vec![300_000], values).unwrap();
    let tree: Dict = [("layer.weight", tensor)].into_iter().collect();
    let mut bytes = write(&Value::Dict(tree)).unwrap();
    let start = bytes.len() - 300_000;
    bytes[start + 200_000] ^= 8;
    let file = read(bytes, Unprotected::Refuse).unwrap();
    let found = file.verify(2);
    let message = found[0].to_string();
    let end = start + 300_000;
    assert_eq!(message, format!("tensor `layer.weight`: bytes {start}..{end}: checksum mismatch"));
    // A part that is sound is not handed out either: one digest speaks for the whole.
    let tree = file.tree().unwrap();
    let storage = tree.tensors()[0].1.storage().clone();
    assert!(storage.read(0..10).is_err());
}

#[test]
fn a_program_that_keeps_the_digests_of_other_tensors_is_noticed() {
    let bytes = write(&tree()).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = (&bytes[8..8 + len], &bytes[8 + len..]);
    let header: Json = serde_json::from_slice(header).unwrap();
    // The same, with another order of the keys.
    let Json::Object(map) = header else { panic!("no object") };
    let header = Json::Object(map.into_iter().rev().collect()).to_string();
    let message = outcome(file(&header, data)).unwrap_err().to_string();
    assert!(message.contains("rewritten by another program"), "{message}");
}

/// A file with this header.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn lies_in_the_header_are_refused() {
    let tensor = |shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let four = tensor("[1]", 0, 4);
    let lies = [
        format!(r#"{{"a":{four},"a":{four}}}"#),
        format!(r#"{{"a":{four},"b":{four}}}"#),
        format!(r#"{{"a":{}}}"#, tensor("[1]", 4, 8)),
        format!(r#"{{"a":{}}}"#, tensor("[2]", 0, 4)),
        format!(r#"{{"a":{}}}"#, tensor("[1]", 4, 0)),
        format!(r#"{{"a":{}}}"#, tensor("[18446744073709551615,2]", 0, 4)),
        format!(r#"{{"a":{}}}"#, tensor("[4611686018427387905]", 0, 4)),
        format!(r#"{{"a":{}}}"#, tensor("[-1]", 0, 4)),
        format!(r#"{{"a":{four},"__metadata__":{{}},"__metadata__":{{}}}}"#),
        format!(r#"{{"a":{four},"__metadata__":{{"scai.root":"0"}}}}"#),
        format!(r#"{{"a":{four}"#),
        "{}".to_owned(),
        "[".repeat(100_000),
    ];
    for lie in lies {
        let opened = read(file(&lie, &[0; 4]), Unprotected::Accept);
        let read = opened.and_then(|file| file.tree()?.resident(1));
        assert!(matches!(read, Err(Error::Damaged { .. })), "{lie:.100}: {read:?}");
    }
    for length in [u64::MAX, 1 << 62, 100_000_001, 3] {
        let bytes = [&length.to_le_bytes()[..], b"{}    "].concat();
        assert!(read(bytes, Unprotected::Accept).is_err(), "{length}");
    }
    let dims = format!("[{}1]", "1,".repeat(100));
    let wide = file(&format!(r#"{{"a":{}}}"#, tensor(&dims, 0, 4)), &[0; 4]);
    let message = read(wide, Unprotected::Accept).unwrap().tree().unwrap_err().to_string();
    assert!(message.contains("tensor `a`: a tensor of 101 dimensions"), "{message}");
}

#[test]
fn a_header_that_is_not_utf_8_is_refused_though_the_bytes_are_skipped() {
    // A field that nobody knows was skipped unread, and the safetensors crate refused the file.
    let [start, end] =
        [&br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":""#[..], br#""}}"#];
    for (middle, valid) in [(&b"\xc3\xa9"[..], true), (b"\xff", false)] {
        let header = [start, middle, end].concat();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &[0; 4]].concat();
        assert_eq!(read(bytes, Unprotected::Accept).is_ok(), valid);
    }
}

#[test]
fn a_tensor_whose_name_json_must_escape_is_written_and_read() {
    // Its digest was not found again, and a file that had just been written did not open.
    let tensor = || Tensor::from_vec(vec![2], vec![1_u8, 2]).unwrap();
    let names = ["a \"quoted\" name", "back\\slash", "tab\t", "\u{1}", "π\n"];
    let tree = Value::Dict(names.into_iter().map(|name| (name, tensor())).collect());
    let file = read(write(&tree).unwrap(), Unprotected::Refuse).unwrap();
    assert_eq!(describe(&file.tree().unwrap()), describe(&tree));
}

#[test]
fn two_views_of_one_memory_in_other_orders_are_told_to_be_apart() {
    // The second one got memory of its own, and nobody was told.
    let storage = Storage::from_vec((0..6).map(|i| i as f32).collect::<Vec<_>>());
    let view =
        |shape, strides| Tensor::new(DType::Float32, shape, strides, 0, storage.clone()).unwrap();
    let turned = view(vec![2, 3], vec![1, 2]);
    let tree: Dict =
        [("a", turned), ("b", view(vec![1, 2, 3], vec![6, 1, 2]))].into_iter().collect();
    assert_eq!(SafetensorsPlan::new(&Value::Dict(tree)).unwrap().apart(), ["b"]);
}

#[test]
fn elements_of_4_bits_are_read_and_written_two_in_a_byte() {
    // They were refused, "PyTorch has none like it"; it has `float4_e2m1fn_x2`.
    let dtype = |dtype: &str, shape: &str, end: usize| {
        let header =
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        read(file(&header, &vec![0x21; end]), Unprotected::Accept).and_then(|file| file.tree())
    };
    let tree = dtype("F4", "[2,8]", 8).unwrap();
    let tensor = tree.lookup("a").unwrap().as_tensor().unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (DType::Float4E2M1FnX2, &[2, 4][..]));
    let again = read(write(&tree).unwrap(), Unprotected::Refuse).unwrap().tree().unwrap();
    assert_eq!(describe(&again), describe(&tree));

    for (name, shape, end, words) in [
        ("F6_E2M3", "[4]", 3, "PyTorch has no element type F6_E2M3"),
        ("F4", "[2,1]", 1, "an odd number of F4 elements"),
        ("F2_NEW", "[4]", 1, "unknown element type `F2_NEW`"),
    ] {
        let error = dtype(name, shape, end).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

#[test]
fn metadata_that_names_a_tensor_makes_no_other_tensor() {
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let metadata = r#"{"best layer":"enc.weight","note":"enc.weight","dec.weight":"enc.weight"}"#;
    let header = format!(r#"{{"__metadata__":{metadata},"enc.weight":{tensor}}}"#);
    let file = read(file(&header, &[0; 4]), Unprotected::Accept).unwrap();
    let names: Vec<String> = file.tree().unwrap().tensors().into_iter().map(|t| t.0).collect();
    // `save_model` of the safetensors package puts tied parameters there.
    assert_eq!(names, ["enc.weight", "dec.weight"]);
    assert_eq!(file.metadata().into_keys().collect::<Vec<_>>(), ["best layer", "note"]);
}

#[test]
fn metadata_and_notes_stand_in_the_header_beside_the_tree() {
    let plan = SafetensorsPlan::new(&tree()).unwrap();
    let theirs = [("author", "somebody"), ("format", "tf"), ("scai.root", "a lie")];
    let plan = plan.with_metadata(Some("a note"), theirs).unwrap();
    let file =
        read(in_memory(plan.len(), |file| plan.write(2, file)).unwrap(), Unprotected::Refuse);
    let file = file.unwrap();
    assert_eq!(file.metadata().into_iter().collect::<Vec<_>>(), [("author", "somebody")]);
    assert_eq!(file.notes(), Some("a note"));
    assert_eq!(describe(&file.tree().unwrap()), describe(&tree()));
}

#[test]
fn what_the_format_has_no_form_for_is_named() {
    let sparse =
        open(read_file(&golden().join("files/torch-2.15.0/sparse_coo.pt")), Unprotected::Refuse);
    let plan = SafetensorsPlan::new(&sparse.unwrap().tree().unwrap()).unwrap();
    assert!(!plan.made_of_parts().is_empty() && plan.unshared().is_empty());

    let storage = Storage::from_vec((0..6).map(|i| i as f32).collect::<Vec<_>>());
    let view = |len, offset| {
        Tensor::new(DType::Float32, vec![len], vec![1], offset, storage.clone()).unwrap()
    };
    let tree: Dict =
        [("a", view(4, 0)), ("b", view(3, 3)), ("c", view(1, 5))].into_iter().collect();
    assert_eq!(SafetensorsPlan::new(&Value::Dict(tree)).unwrap().unshared(), ["b", "c"]);
    let tree: Dict = [("a", view(3, 0)), ("b", view(3, 3))].into_iter().collect();
    let plan = SafetensorsPlan::new(&Value::Dict(tree)).unwrap();
    assert!(plan.unshared().is_empty() && plan.apart() == ["a", "b"]);
}
