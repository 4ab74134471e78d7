//! Values that several places refer to, and whatever trees: what is written is read, as it was.

use std::fmt::Write as _;
use std::sync::Arc;

use scai_checkpoint::codec::safetensors::{SafetensorsFile, SafetensorsPlan};
use scai_checkpoint::codec::torch::Unprotected;
use scai_checkpoint::tensor::{Attributes, Storage};
use scai_checkpoint::value::{BigInt, Call, DictKind, MAX_DEPTH};
use scai_checkpoint::{Checkpoint, CheckpointManager, DType, Dict, Error, Options, Tensor, Value};

use crate::fuzz_checks::Fingerprint;
use crate::support::{Bytes, in_memory, open, write};

fn read(bytes: Vec<u8>) -> scai_checkpoint::Result<Value> {
    open(bytes, Unprotected::Refuse)?.tree()
}

fn numbers(count: i64) -> Value {
    Value::List((0..count).map(Value::Int).collect())
}

fn same_object(a: &Value, b: &Value) -> bool {
    a.shared_id().is_some() && a.shared_id() == b.shared_id()
}

#[test]
fn a_list_referred_to_three_hundred_times_is_written_and_read_once() {
    let tree = Value::List(vec![numbers(20_000).share(); 300]);
    let file = write(&tree).unwrap();
    assert!(file.len() < 100_000, "{} bytes", file.len());
    let back = read(file).unwrap();
    let Value::List(items) = &back else { panic!("a list") };
    assert!(items.iter().all(|item| same_object(item, &items[0])));
    assert_eq!(back, tree);
}

/// Each would have been refused by the reader, which counted what is shared as often as it is
/// referred to.
#[test]
fn long_strings_records_keys_and_numbers_that_repeat_are_saved_and_resumed() {
    let keys = || (0..200).map(|key| (format!("a key of some length {key}"), key));
    let record: Dict = keys().collect();
    let big = Value::BigInt(shifted(7, 2000));
    let trees = [
        Value::List(vec![Value::from("x".repeat(60_000)); 600]),
        Value::List(vec![Value::Dict(record).share(); 5_000]),
        Value::List((0..2_000).map(|_| keys().collect::<Dict>().into()).collect()),
        Value::List(vec![big.clone(); 3_000]),
        Value::List(vec![big.share(); 100_000]),
    ];
    for tree in trees {
        let directory = tempfile::tempdir().unwrap();
        let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
        let mut checkpoint = Checkpoint::new(1, Dict::new(), Dict::new());
        checkpoint.parts.insert("log", tree.clone());
        manager.save(checkpoint.clone()).unwrap();
        let resumed = manager.resume().unwrap().unwrap();
        assert!(resumed.skipped.is_empty());
        assert_eq!(resumed.checkpoint.parts.get("log"), Some(&tree));
    }
}

#[test]
fn a_manifest_stays_short_however_long_the_names_of_fields_and_the_timestamp_are() {
    let mut tree: Dict = (0..900).map(|i| (format!("{i}{}", "\u{1}".repeat(9_000)), i)).collect();
    tree.insert("timestamp", "t".repeat(2 << 20));
    let file = open(write(&Value::Dict(tree)).unwrap(), Unprotected::Refuse).unwrap();
    assert!(file.manifest().unwrap().fields.len() < 900);
    assert!(file.tree().is_ok());
}

#[test]
fn statistics_shared_at_many_levels_do_not_fill_the_manifest() {
    let laughs =
        (0..40).fold(Value::from("ha"), |value, _| Value::List(vec![value.share(); 20]).share());
    let stats: Dict = [("laughs", laughs)].into_iter().collect();
    let tree: Dict = [("training_stats", stats)].into_iter().collect();
    let tree = Value::Dict(tree);
    assert_eq!(read(write(&tree).unwrap()).unwrap(), tree);
}

#[test]
fn what_the_reader_would_refuse_is_refused_before_a_checkpoint_is_replaced() {
    let deep = |levels| (0..levels).fold(Value::None, |value, _| Value::List(vec![value]));
    let counters = |levels| {
        (0..levels).fold(Value::None, |value, _| {
            let entries = vec![(Value::Int(0), value)];
            Value::Dict(Dict { kind: DictKind::Counter, entries, attributes: None })
        })
    };
    // Below each other, though neither is too deep by itself.
    let low = deep(MAX_DEPTH - 20).share();
    let attributes = Dict { kind: DictKind::Ordered, ..Dict::new() };
    let odd = Storage::from_vec(vec![1_u8; 7]);
    let bytes = Tensor::contiguous(DType::UInt8, vec![7], odd.clone()).unwrap();
    let call = |global, args, state| Value::Call(Box::new(Call { global, args, state }));
    let key = |key| Value::Dict(Dict { entries: vec![(key, Value::None)], ..Dict::new() });
    let refused = [
        deep(MAX_DEPTH + 1),
        counters(MAX_DEPTH + 1),
        Value::List(vec![low.clone(), (0..30).fold(low, |value, _| Value::List(vec![value]))]),
        key(Value::List(vec![])),
        key(Value::Tuple(vec![Value::Dict(Dict::new()).share()])),
        Value::Set(vec![Value::ByteArray(vec![1])]),
        Value::Wtf8(vec![0xff]),
        Value::Wtf8(b"plain".to_vec()),
        Value::Device("cuda:007".into()),
        Value::QScheme("load".into()),
        call("os.system", vec!["true".into()], None),
        call("torch.Tensor", vec![Value::Int(1)], None),
        call("torch._utils._rebuild_sparse_tensor", vec![], Some(Value::None)),
        call("torch._utils._rebuild_tensor_v2", vec![Value::None], None),
        Value::List(vec![bytes.into(), Value::Storage(odd, Some(DType::Float32))]),
        Value::Dict(Dict {
            kind: DictKind::Ordered,
            entries: vec![],
            attributes: Some(Box::new(attributes)),
        }),
        Value::BigInt(shifted(1, 2040)),
        Value::Bytes(vec![]),
    ];
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let mut checkpoint = Checkpoint::new(1, Dict::new(), Dict::new());
    manager.save(checkpoint.clone()).unwrap();
    let before = std::fs::read(directory.path().join("checkpoint_iter_1.pt")).unwrap();
    for value in refused {
        checkpoint.parts = [("part", value)].into_iter().collect();
        let error = manager.save(checkpoint.clone()).expect_err("it has no form in a file");
        assert!(matches!(error, Error::Conversion { .. }), "{error}");
        let path = directory.path().join("checkpoint_iter_1.pt");
        assert!(std::fs::read(path).unwrap() == before);
    }
    // As deep as it may be.
    for value in [deep(MAX_DEPTH - 1), counters(MAX_DEPTH - 1)] {
        assert_eq!(read(write(&value).unwrap()).unwrap(), value);
    }
}

#[test]
fn a_safetensors_file_keeps_which_values_are_one_object() {
    let weight = Value::from(Tensor::from_vec(vec![2], vec![1.0_f32, 2.0]).unwrap()).share();
    let group: Dict = [("weight", weight.clone())].into_iter().collect();
    let group = Value::Dict(group).share();
    let laughs = (0..60).fold(Value::from("ha").share(), |value, _| {
        Value::List(vec![value.clone(), value]).share()
    });
    let tree: Dict = [("a", group.clone()), ("b", group), ("w", weight), ("laughs", laughs)]
        .into_iter()
        .collect();
    let tree = Value::Dict(tree);
    // JSON nests less deep than a pickle.
    let refused = SafetensorsPlan::new(&tree).map(|plan| plan.len());
    let tree = match refused {
        Ok(_) => tree,
        Err(_) => {
            let Value::Dict(mut dict) = tree else { panic!("a dict") };
            dict.remove("laughs");
            let laughs = (0..40).fold(Value::List(vec![]).share(), |value, _| {
                Value::List(vec![value.clone(), value]).share()
            });
            dict.insert("laughs", laughs);
            Value::Dict(dict)
        }
    };
    let plan = SafetensorsPlan::new(&tree).unwrap();
    assert_eq!(plan.ties(), [("b".to_owned(), "a".to_owned()), ("w".into(), "a.weight".into())]);
    let bytes = in_memory(plan.len(), |file| plan.write(1, file)).unwrap();
    let file = SafetensorsFile::open(Arc::new(Bytes(bytes)), Unprotected::Refuse).unwrap();
    let back = file.tree().unwrap();
    assert_eq!(back, tree);
    let dict = back.as_dict().unwrap();
    assert!(same_object(dict.get("a").unwrap(), dict.get("b").unwrap()));
    assert!(same_object(dict.get("w").unwrap(), back.lookup("a.weight").unwrap()));
}

/// Random trees, full of values that several places refer to.
struct Trees {
    state: u64,
    known: Vec<Value>,
    storages: Vec<Storage>,
}

impl Trees {
    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }

    fn value(&mut self, depth: u64) -> Value {
        if !self.known.is_empty() && self.below(4) == 0 {
            let index = self.below(self.known.len() as u64) as usize;
            return self.known[index].clone();
        }
        let value =
            if depth > 0 && self.below(5) < 3 { self.container(depth) } else { self.leaf() };
        let value = if self.below(2) == 0 { value.share() } else { value };
        self.known.push(value.clone());
        value
    }

    fn container(&mut self, depth: u64) -> Value {
        let count = self.below(6);
        let items: Vec<Value> = (0..count).map(|_| self.value(depth - 1)).collect();
        match self.below(7) {
            0 => Value::List(items),
            1 => Value::Tuple(items),
            // Often one that cannot be: with a list in it.
            2 => Value::Set(items.into_iter().take(1).collect()),
            3 => Value::Call(Box::new(Call {
                global: "torch._utils._rebuild_sparse_tensor",
                args: items,
                state: (count == 2).then(|| self.value(depth - 1)),
            })),
            kind => {
                let entries = items.into_iter().enumerate();
                let entries = entries.map(|(i, item)| (Value::from(format!("key {i}")), item));
                let kind = match kind {
                    4 => DictKind::Dict,
                    5 => DictKind::Ordered,
                    _ => DictKind::Counter,
                };
                let mut dict = Dict { kind, entries: entries.collect(), attributes: None };
                if kind == DictKind::Ordered && self.below(3) == 0 {
                    dict.attributes =
                        Some(Box::new([("_metadata", self.value(0))].into_iter().collect()));
                }
                if self.below(3) == 0 {
                    dict.entries.push((self.value(1), Value::None));
                }
                Value::Dict(dict)
            }
        }
    }

    fn leaf(&mut self) -> Value {
        let odd = self.below(u64::MAX);
        match self.below(18) {
            0 => Value::None,
            1 => Value::Bool(odd.is_multiple_of(2)),
            2 => Value::Int((odd as i64) >> (odd % 64)),
            3 => Value::BigInt(shifted(i128::from(odd) + (1 << 64), (odd % 2100) as usize)),
            4 => Value::Float(f64::from_bits(odd)),
            5 => Value::Complex(f64::from_bits(odd), 1.0),
            6 => Value::from(["", "a", "cpu", "storage", "latin1", "π"][odd as usize % 6]),
            7 => Value::from("x".repeat(odd as usize % 70_000)),
            8 => Value::Wtf8([&b"\xed\xa0\x80"[..], &[odd as u8]].concat()),
            9 => Value::Bytes(vec![odd as u8; odd as usize % 300]),
            10 => Value::ByteArray(vec![odd as u8; odd as usize % 300]),
            11 => Value::Size(vec![odd as i64; odd as usize % 5]),
            12 => Value::DType(DType::ALL[odd as usize % DType::ALL.len()]),
            13 => Value::Device(["cpu", "cuda:1", "cuda:01", "", "meta"][odd as usize % 5].into()),
            14 => Value::QScheme(["per_tensor_affine", "other"][odd as usize % 2].into()),
            15 => {
                let storage = self.storage();
                Value::Storage(storage, (odd.is_multiple_of(3)).then_some(DType::Int16))
            }
            _ => {
                let storage = self.storage();
                let dtype = DType::ALL[odd as usize % DType::ALL.len()];
                let len = storage.len() as usize / dtype.size();
                let start = if len > 0 { odd as usize % len } else { 0 };
                let tensor =
                    Tensor::new(dtype, vec![len - start], vec![1], start, storage).unwrap();
                Value::Tensor(tensor.with_attributes(Attributes {
                    requires_grad: odd.is_multiple_of(5),
                    parameter: odd.is_multiple_of(7),
                    conjugate: odd.is_multiple_of(11),
                    negative: odd.is_multiple_of(13),
                }))
            }
        }
    }

    fn storage(&mut self) -> Storage {
        if self.storages.is_empty() || self.below(2) == 0 {
            let bytes = vec![self.state as u8; self.below(70) as usize];
            self.storages.push(Storage::from_vec(bytes));
        }
        let index = self.below(self.storages.len() as u64) as usize;
        self.storages[index].clone()
    }
}

#[test]
fn whatever_the_writer_accepts_the_reader_reads_as_the_same_tree() {
    let (mut written, mut refused, mut reasons) = (0, 0, String::new());
    for seed in 1..4_000_u64 {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut trees = Trees { state, known: Vec::new(), storages: Vec::new() };
        let tree = trees.value(4);
        drop(trees);
        match write(&tree) {
            Ok(bytes) => {
                let back = read(bytes).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                let print = |tree: &Value| Fingerprint::of(&tree.clone().resident(1).unwrap());
                assert!(print(&back) == print(&tree), "seed {seed}: {tree:?}\n{back:?}");
                written += 1;
            }
            Err(Error::Conversion { detail, .. }) => {
                refused += 1;
                let _ = writeln!(reasons, "{detail}");
            }
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(written > 1_000 && refused > 100, "{written} written, {refused} refused");
    for reason in
        ["not hashable", "is not a device", "WTF-8", "quantisation", "whole number of elements"]
    {
        assert!(reasons.contains(reason), "nothing was refused as `{reason}`");
    }
}

/// `int`, followed by so many zero bits.
fn shifted(int: i128, bits: usize) -> BigInt {
    let zeros = "0".repeat(bits / 4);
    BigInt::from_hex(&format!("{:x}{zeros}", int << (bits % 4))).unwrap()
}
