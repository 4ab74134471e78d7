//! What a plan says of a file once it is written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use scai_checkpoint::codec::torch::Unprotected;
use scai_checkpoint::codec::{CheckpointFile, Format, Plan, Written};
use scai_checkpoint::store::WriteAt;
use scai_checkpoint::tensor::{Source, Storage};
use scai_checkpoint::{Checkpoint, CheckpointManager, DType, Dict, Error, Options, Tensor, Value};

use crate::support::{Bytes, in_memory};

const FORMATS: [Format; 2] = [Format::Torch, Format::Safetensors];

/// A model with tensors of two pieces, of many chunks, and of a few bytes; two of one memory.
fn tree(long: f32) -> Value {
    let weight = Tensor::from_vec(vec![1 << 20], vec![long; 1 << 20]).unwrap();
    let bias = Tensor::from_vec(vec![50_000], (0..50_000_i64).collect()).unwrap();
    let model: Dict =
        [("weight", weight.clone()), ("bias", bias), ("tied", weight)].into_iter().collect();
    let step = Tensor::from_vec(vec![], vec![7.0_f64]).unwrap();
    let entries = [(Value::Int(0), Value::Dict([("step", step)].into_iter().collect()))];
    let state = Dict { entries: entries.into(), ..Dict::default() };
    Value::Dict(
        [("model", Value::Dict(model)), ("state", Value::Dict(state))].into_iter().collect(),
    )
}

fn written(tree: &Value, format: Format) -> (Written, Vec<u8>) {
    let plan = Plan::new(tree, format).unwrap();
    let mut written = None;
    let bytes = in_memory(plan.len(), |file| {
        written = Some(plan.write(3, file)?);
        Ok(())
    });
    (written.unwrap(), bytes.unwrap())
}

fn digests(written: &Written) -> BTreeMap<String, (DType, u128)> {
    written.tensors().map(|tensor| (tensor.path, (tensor.dtype, tensor.digest))).collect()
}

#[test]
fn each_tensor_has_its_path_and_element_type_and_equal_bytes_have_equal_digests() {
    for format in FORMATS {
        let (first, _) = written(&tree(1.0), format);
        let (again, _) = written(&tree(1.0), format);
        let (other, _) = written(&tree(2.0), format);
        let (first, again, other) = (digests(&first), digests(&again), digests(&other));
        let tree = tree(1.0);
        // A safetensors file stores tied tensors once.
        let is_stored = |path: &str| format == Format::Torch || path != "model.tied";
        let expected: BTreeMap<String, DType> = tree
            .tensors()
            .into_iter()
            .filter(|(path, _)| is_stored(path))
            .map(|(path, tensor)| (path, tensor.dtype()))
            .collect();
        let found: BTreeMap<String, DType> =
            first.iter().map(|(path, (dtype, _))| (path.clone(), *dtype)).collect();
        assert_eq!(found, expected, "{format}");
        assert_eq!(first, again, "{format}");
        let changed: Vec<&str> = first
            .iter()
            .filter(|&(path, digest)| other[path] != *digest)
            .map(|(path, _)| path.as_str())
            .collect();
        let expected = ["model.tied", "model.weight"].into_iter().filter(|path| is_stored(path));
        assert_eq!(changed, expected.collect::<Vec<_>>(), "{format}");
    }
}

#[test]
fn the_root_is_the_one_in_the_file() {
    for format in FORMATS {
        let (written, bytes) = written(&tree(1.0), format);
        let root = format!("{:032x}", written.root());
        let place = bytes.windows(root.len()).position(|part| part == root.as_bytes());
        assert!(place.is_some(), "{format}");
        let file = CheckpointFile::open(Arc::new(Bytes(bytes)), Unprotected::Refuse).unwrap();
        assert!(file.verify(1).is_empty(), "{format}");
    }
}

#[test]
fn a_save_says_the_root_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let saved = manager.save(Checkpoint::new(3, Dict::new(), Dict::new())).unwrap();
    let bytes = std::fs::read(&saved.path).unwrap();
    assert!(bytes.ends_with(format!("scai-root:{:032x}", saved.root).as_bytes()));
}

/// A storage that cannot be read.
#[derive(Debug)]
struct Unreadable(u64);

impl Source for Unreadable {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> scai_checkpoint::Result<()> {
        Err(Error::io("read", io::Error::other("the device was reset")))
    }
}

/// Takes whatever is written.
#[derive(Debug)]
struct Nowhere;

impl WriteAt for Nowhere {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_storage_that_cannot_be_read_is_named_by_the_path_of_its_tensor() {
    for format in FORMATS {
        // Written with others, and in pieces of its own.
        for len in [100, 40 << 20] {
            let storage = Storage::new(Arc::new(Unreadable(len)));
            let tensor = Tensor::contiguous(DType::UInt8, vec![len as usize], storage).unwrap();
            let Value::Dict(mut top) = tree(1.0) else { unreachable!() };
            top.insert("moments", Value::List(vec![Value::None, Value::Tensor(tensor)]));
            let plan = Plan::new(&Value::Dict(top), format).unwrap();
            let error = plan.write(2, &Nowhere).unwrap_err().to_string();
            assert!(error.contains("tensor `moments.1`"), "{format}, {len} bytes: {error}");
            assert!(error.contains("the device was reset"), "{error}");
        }
    }
}

#[test]
fn a_zip_reader_finds_the_crc_32_of_every_record_right() {
    const LONG: usize = 1 << 20;
    // Several threads write records that are longer than a piece; what is between them may be nothing.
    for lens in [&[LONG, LONG, LONG][..], &[1, LONG, LONG, 1, 1, LONG], &[LONG], &[1], &[]] {
        let tensors = lens.iter().enumerate().map(|(i, &len)| {
            let tensor = Tensor::from_vec(vec![len], vec![i as f32 + 0.5; len]).unwrap();
            (format!("{i}"), Value::from(tensor))
        });
        let (_, bytes) = written(&Value::Dict(tensors.collect()), Format::Torch);
        let number = |at: usize, len: usize| {
            bytes[at..at + len].iter().rev().fold(0, |all, &byte| all << 8 | usize::from(byte))
        };
        let centrals: Vec<usize> =
            (0..bytes.len() - 46).filter(|&at| bytes[at..].starts_with(b"PK\x01\x02")).collect();
        assert!(centrals.len() > lens.len());
        for at in centrals {
            let (crc, len, local) = (number(at + 16, 4), number(at + 24, 4), number(at + 42, 4));
            let data = local + 30 + number(local + 26, 2) + number(local + 28, 2);
            let found = crc32fast::hash(&bytes[data..data + len]) as usize;
            assert_eq!((crc, number(local + 14, 4)), (found, found), "{lens:?}, record at {local}");
        }
    }
}
