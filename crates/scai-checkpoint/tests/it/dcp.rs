//! Distributed checkpoints: directories of shards, as scai and PyTorch write them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use proptest::prelude::*;
use scai_checkpoint::codec::dcp::{
    Chunk, Content, DistributedPlan, Entry, Index, Key, Location, Metadata, ShardPlan, Stored, peek,
};
use scai_checkpoint::codec::{CheckpointFile, Format, Origin, Plan, Protection, Unprotected};
use scai_checkpoint::store::{Directory, LocalDirectory, WriteAt};
use scai_checkpoint::value::DictKind;
use scai_checkpoint::verify::Condition;
use scai_checkpoint::{DType, Dict, Error, Tensor, Value, file};
use serde_json::json;
use twox_hash::XxHash3_128;

/// A file in memory.
#[derive(Debug)]
struct Buffer(Mutex<Vec<u8>>);

impl WriteAt for Buffer {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A directory that several ranks have written.
#[derive(Debug)]
struct Ranks {
    attempt: String,
    iteration: u64,
    shards: Vec<ShardPlan>,
    metadata: Metadata,
}

impl Ranks {
    fn new(attempt: char, iteration: u64, ranks: usize) -> Self {
        let attempt: String = std::iter::repeat_n(attempt, 32).collect();
        let name = |rank| format!("{attempt}_{rank}_0.distcp");
        let metadata = Metadata { files: (0..ranks).map(name).collect(), ..Metadata::default() };
        let shards = (0..ranks).map(|_| ShardPlan::default()).collect();
        Self { attempt, iteration, shards, metadata }
    }

    fn item(&mut self, rank: usize, name: &str, content: Content) -> Location {
        let range = self.shards[rank].add(name, content).unwrap();
        Location { file: rank, offset: range.start, len: range.end - range.start }
    }

    fn entry(&mut self, path: &str, content: Stored) {
        let key = |key: &str| match key.parse() {
            Ok(index) => Key::Index(index),
            Err(_) => Key::Name(key.to_owned()),
        };
        let path = path.split('.').map(key).collect();
        self.metadata.entries.push(Entry { path, content });
    }

    fn value(&mut self, rank: usize, path: &str, value: impl Into<Value>) {
        let at = self.item(rank, path, Content::Value(value.into()));
        self.entry(path, Stored::Value(at));
    }

    /// A tensor of bytes, whose regions are given with the rank that writes them.
    fn tensor(&mut self, path: &str, shape: &[u64], bytes: &[u8], regions: &[Region]) {
        let mut chunks = Vec::new();
        for (rank, offsets, sizes) in regions {
            let part = region(shape, bytes, offsets, sizes);
            let sizes_in_memory = sizes.iter().map(|&len| len as usize).collect();
            let tensor = Tensor::from_vec(sizes_in_memory, part).unwrap();
            let at = self.item(*rank, path, Content::Value(tensor.into()));
            chunks.push(Chunk { offsets: offsets.clone(), sizes: sizes.clone(), at });
        }
        let (dtype, shape) = (DType::UInt8, shape.to_vec());
        self.entry(path, Stored::Tensor { dtype, shape, requires_grad: false, chunks });
    }

    /// Writes the files, `commit.json` last.
    fn write(self, directory: &Path) {
        let metadata = self.metadata.encode();
        let digest = format!("{:032x}", XxHash3_128::oneshot(&metadata));
        let mut files = BTreeMap::new();
        for (shard, name) in self.shards.into_iter().zip(&self.metadata.files) {
            let (bytes, index) = written(shard);
            fs::write(directory.join(name), &bytes).unwrap();
            let root = format!("{:032x}", index.root());
            files.insert(name.clone(), json!({ "size": bytes.len(), "root": root }));
        }
        let name = format!("{}.metadata", self.attempt);
        fs::write(directory.join(&name), &metadata).unwrap();
        files.insert(name, json!({ "size": metadata.len(), "xxh3_128": digest }));
        fs::write(directory.join(".metadata"), &metadata).unwrap();
        let commit = json!({
            "format": "scai", "version": 1, "kind": "shards", "iteration": self.iteration,
            "attempt": self.attempt, "timestamp": "2026-11-23T01:00:00+00:00", "world_size": 2,
            "training_stats": { "loss": 0.5 }, "files": files,
        });
        fs::write(directory.join("commit.json"), sealed(&commit)).unwrap();
    }
}

type Region = (usize, Vec<u64>, Vec<u64>);

fn written(shard: ShardPlan) -> (Vec<u8>, Index) {
    let buffer = Buffer(Mutex::new(vec![0; shard.len() as usize]));
    let index = shard.write(1, &buffer).unwrap();
    (buffer.0.into_inner().unwrap(), index)
}

/// The bytes of a commit with its own digest.
fn sealed(commit: &serde_json::Value) -> String {
    let text = serde_json::to_string_pretty(commit).unwrap();
    let head = format!("{},\n  ", text.strip_suffix("\n}").unwrap());
    let digest = XxHash3_128::oneshot(head.as_bytes());
    format!("{head}\"digest\": \"{digest:032x}\"\n}}\n")
}

/// The elements of a region of a tensor of bytes, found one by one.
fn region(shape: &[u64], bytes: &[u8], offsets: &[u64], sizes: &[u64]) -> Vec<u8> {
    let count: u64 = sizes.iter().product();
    let element = |mut number: u64| {
        let (mut at, mut stride) = (0, 1);
        for dim in (0..shape.len()).rev() {
            at += (offsets[dim] + number % sizes[dim]) * stride;
            number /= sizes[dim];
            stride *= shape[dim];
        }
        bytes[at as usize]
    };
    (0..count).map(element).collect()
}

fn bytes(len: u64, seed: u64) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(131).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect()
}

fn open(directory: &Path) -> CheckpointFile {
    file::open(directory, Unprotected::Refuse).unwrap()
}

fn tensor<'a>(tree: &'a Value, path: &str) -> &'a Tensor {
    tree.lookup(path).unwrap().as_tensor().unwrap()
}

/// A small directory of two ranks.
fn small(attempt: char, iteration: u64) -> Ranks {
    let mut ranks = Ranks::new(attempt, iteration, 2);
    let seed = iteration;
    let halves = [(0, vec![0, 0], vec![3, 4]), (1, vec![3, 0], vec![2, 4])];
    ranks.tensor("model_state_dict.rows", &[5, 4], &bytes(20, seed), &halves);
    let columns = [(0, vec![0, 0], vec![2, 2]), (1, vec![0, 2], vec![2, 1])];
    ranks.tensor("model_state_dict.columns", &[2, 3], &bytes(6, seed + 1), &columns);
    ranks.value(0, "iteration", iteration as i64);
    ranks.value(1, "optimizer_state_dict.param_groups.0.lr", 0.5);
    ranks.value(0, "training_stats", Dict::from_iter([("loss", 0.25)]));
    let inner = Plan::new(&Value::from("bytes as they are"), Format::Torch).unwrap();
    let mut memory = vec![0; inner.len() as usize];
    file::write_into(&mut memory, inner, 1).unwrap();
    let at = ranks.item(1, "note", Content::Bytes(memory));
    ranks.entry("note", Stored::Value(at));
    ranks
}

#[test]
fn a_directory_is_one_tree_of_whole_tensors() {
    let directory = tempfile::tempdir().unwrap();
    small('a', 7).write(directory.path());
    let opened = open(directory.path());
    assert_eq!((opened.format(), opened.protection()), (Format::Distributed, Protection::Digests));
    let tree = opened.tree().unwrap();
    assert_eq!(tensor(&tree, "model_state_dict.rows").to_bytes().unwrap(), bytes(20, 7));
    assert_eq!(tensor(&tree, "model_state_dict.columns").to_bytes().unwrap(), bytes(6, 8));
    assert_eq!(tree.lookup("optimizer_state_dict.param_groups.0.lr"), Some(&Value::Float(0.5)));
    assert_eq!(tree.lookup("note").unwrap().as_str(), Some("bytes as they are"));
    let report = file::verify(directory.path(), 2).unwrap();
    assert!(report.is_sound(), "{:?}", report.damage);
    assert_eq!(report.iteration, Some(7));
    // By its files as well.
    for name in ["commit.json", ".metadata", &format!("{}.metadata", "a".repeat(32))] {
        let opened = file::open(directory.path().join(name), Unprotected::Refuse).unwrap();
        assert_eq!(opened.tree().unwrap(), tree, "{name}");
        assert!(opened.distributed().unwrap().commit().is_some(), "{name}");
    }
    let parts: Vec<_> = opened.distributed().unwrap().parts().collect();
    assert_eq!(parts.len(), 8);
    assert_eq!((parts[1].rank, parts[1].region), (Some(1), Some((&[3, 0][..], &[2, 4][..]))));
}

#[test]
fn the_commit_alone_says_what_a_listing_shows() {
    let directory = tempfile::tempdir().unwrap();
    small('a', 7).write(directory.path());
    fs::remove_file(directory.path().join(format!("{}_0_0.distcp", "a".repeat(32)))).unwrap();
    let record = LocalDirectory::open(directory.path()).unwrap().open("commit.json").unwrap();
    let manifest = peek(record).unwrap();
    assert_eq!(manifest.iteration, Some(7));
    assert_eq!(manifest.timestamp.as_deref(), Some("2026-11-23T01:00:00+00:00"));
    assert_eq!(manifest.training_stats.number("loss"), Some(0.5));
}

#[test]
fn files_that_are_removed_later_are_still_read() {
    let directory = tempfile::tempdir().unwrap();
    small('a', 7).write(directory.path());
    let opened = open(directory.path());
    for entry in fs::read_dir(directory.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let tree = opened.tree().unwrap();
    assert_eq!(tensor(&tree, "model_state_dict.rows").to_bytes().unwrap(), bytes(20, 7));
    assert!(opened.verify(1).is_empty());
}

/// Cuts a shape into regions along each dimension.
fn regions(shape: &[u64], cuts: &[Vec<u64>]) -> Vec<(Vec<u64>, Vec<u64>)> {
    let mut found = vec![(Vec::new(), Vec::new())];
    for (&len, cuts) in shape.iter().zip(cuts) {
        let mut ends: Vec<u64> = cuts.iter().map(|cut| cut % (len + 1)).collect();
        ends.push(len);
        ends.sort_unstable();
        let mut next = Vec::new();
        for (offsets, sizes) in &found {
            let mut begin = 0;
            for &end in &ends {
                let (mut offsets, mut sizes): (Vec<u64>, Vec<u64>) =
                    (offsets.clone(), sizes.clone());
                offsets.push(begin);
                sizes.push(end - begin);
                next.push((offsets, sizes));
                begin = end;
            }
        }
        found = next;
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_range_of_any_chunking_has_the_bytes_of_the_whole(
        shape in prop::collection::vec(1_u64..40, 1..=3),
        cuts in prop::collection::vec(prop::collection::vec(0_u64..1000, 0..3), 3),
        twice in any::<bool>(),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
        seed in any::<u64>(),
    ) {
        let len: u64 = shape.iter().product();
        let whole = bytes(len, seed);
        let mut ranks = Ranks::new('c', 1, 3);
        let mut parts = Vec::new();
        for (i, (offsets, sizes)) in regions(&shape, &cuts).into_iter().enumerate() {
            // PyTorch tells regions apart by where they begin; an empty one begins at the end.
            if sizes.contains(&0) && offsets.iter().zip(&shape).all(|(offset, len)| offset < len) {
                continue;
            }
            if twice && i % 2 == 0 {
                parts.push((2, offsets.clone(), sizes.clone()));
            }
            parts.push((i % 2, offsets, sizes));
        }
        // In no particular order.
        let middle = parts.len() / 2;
        parts.rotate_left(middle);
        ranks.tensor("t", &shape, &whole, &parts);
        let directory = tempfile::tempdir().unwrap();
        ranks.write(directory.path());
        let tree = open(directory.path()).tree().unwrap();
        let tensor = tensor(&tree, "t");
        for (from, to) in ranges {
            let (a, b) = (from.index(whole.len() + 1), to.index(whole.len() + 1));
            let (from, to) = (a.min(b), a.max(b));
            let read = tensor.storage().read(from as u64..to as u64).unwrap();
            prop_assert_eq!(&read, &whole[from..to]);
        }
        prop_assert_eq!(tensor.to_bytes().unwrap(), whole);
    }

    #[test]
    fn a_region_that_is_missing_moved_or_longer_is_an_error_that_names_the_tensor(
        shape in prop::collection::vec(2_u64..9, 1..=3),
        cuts in prop::collection::vec(prop::collection::vec(0_u64..1000, 0..3), 3),
        which in any::<prop::sample::Index>(),
        dim in any::<prop::sample::Index>(),
        change in 0..3,
    ) {
        let whole = bytes(shape.iter().product(), 0);
        let mut ranks = Ranks::new('c', 1, 1);
        let parts: Vec<Region> = regions(&shape, &cuts)
            .into_iter()
            .filter(|(_, sizes)| !sizes.contains(&0))
            .map(|(offsets, sizes)| (0, offsets, sizes))
            .collect();
        ranks.tensor("layer.t", &shape, &whole, &parts);
        let Stored::Tensor { chunks, .. } = &mut ranks.metadata.entries[0].content else {
            unreachable!()
        };
        let (which, dim) = (which.index(chunks.len()), dim.index(shape.len()));
        match change {
            0 => drop(chunks.remove(which)),
            1 => chunks[which].offsets[dim] += 1,
            _ => chunks[which].sizes[dim] += 1,
        }
        let directory = tempfile::tempdir().unwrap();
        ranks.write(directory.path());
        let error = open(directory.path()).tree().unwrap_err();
        prop_assert!(error.is_damage(), "{}", error);
        prop_assert_eq!(error.place().unwrap().tensor.as_deref(), Some("layer.t"));
        let report = file::verify(directory.path(), 1).unwrap();
        prop_assert_eq!(report.condition(), Condition::Damaged);
    }

    #[test]
    fn random_bytes_as_metadata_are_an_error(start in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut all = if start { Ranks::new('c', 1, 1).metadata.encode() } else { Vec::new() };
        all.extend(bytes);
        let _ = Metadata::decode(&all);
    }
}

/// Whether damage was noticed: `Ok` if every value came out as it was written, `Err` with the message.
fn read_all(directory: &Path, expected: &Value) -> Result<bool, String> {
    let opened = file::open(directory, Unprotected::Refuse).map_err(|error| error.to_string())?;
    let tree = opened.tree().map_err(|error| error.to_string())?;
    let tree = tree.resident(1).map_err(|error| error.to_string())?;
    Ok(tree == *expected)
}

fn verify_all(directory: &Path) -> Result<(), Vec<String>> {
    match file::verify(directory, 1) {
        Ok(report) if report.is_sound() => Ok(()),
        Ok(report) => {
            Err(report.damage.iter().chain(&report.obstacle).map(Error::to_string).collect())
        }
        Err(error) => Err(vec![error.to_string()]),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn no_bit_of_a_bound_file_changes_silently() {
    let directory = tempfile::tempdir().unwrap();
    small('a', 7).write(directory.path());
    let expected = open(directory.path()).tree().unwrap().resident(1).unwrap();
    let (mut flips, mut unread) = (0, 0);
    for name in names(directory.path()) {
        let path = directory.path().join(&name);
        let sound = fs::read(&path).unwrap();
        // Each bit in turn, of some bytes or of all.
        let step = if std::env::var_os("SCAI_PROOFS").is_some() { 1 } else { 5 };
        for at in (0..sound.len()).step_by(step) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            flips += 1;
            let read = read_all(directory.path(), &expected);
            let verified = verify_all(directory.path());
            if name == ".metadata" {
                assert_eq!((read, verified), (Ok(true), Ok(())), "byte {at} of {name}");
                continue;
            }
            assert_ne!(read, Ok(false), "byte {at} of {name}: read another value");
            unread += usize::from(read == Ok(true));
            let found = verified.expect_err(&format!("byte {at} of {name}"));
            assert!(
                found.iter().any(|found| found.contains(&name)),
                "{name}, byte {at}: {found:?}"
            );
            if let Err(message) = read {
                assert!(message.contains(&name), "{name}, byte {at}: {message}");
            }
        }
        fs::write(&path, sound).unwrap();
    }
    println!("{flips} flips, {unread} in bytes that reading does not need");
}

#[test]
fn files_that_are_cut_missing_or_swapped_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let write = || small('a', 7).write(directory.path());
    write();
    let expected = open(directory.path()).tree().unwrap().resident(1).unwrap();
    let bound: Vec<String> =
        names(directory.path()).into_iter().filter(|name| name != ".metadata").collect();
    // Another attempt of the same iteration, and another iteration, with files of the same lengths.
    let others: Vec<(tempfile::TempDir, char)> = [('b', 7), ('b', 8)]
        .into_iter()
        .map(|(attempt, iteration)| {
            let other = tempfile::tempdir().unwrap();
            small(attempt, iteration).write(other.path());
            (other, attempt)
        })
        .collect();
    let check = |what: &str, name: &str| {
        let read = read_all(directory.path(), &expected);
        assert_ne!(read, Ok(false), "{what} {name}");
        let verified = verify_all(directory.path()).expect_err(what);
        assert!(verified.iter().any(|found| found.contains(name)), "{what} {name}: {verified:?}");
        if let Err(message) = read {
            assert!(message.contains(name), "{what} {name}: {message}");
        }
    };
    for name in &bound {
        let path = directory.path().join(name);
        let sound = fs::read(&path).unwrap();
        for len in [0, 1, sound.len() / 2, sound.len() - 1] {
            fs::write(&path, &sound[..len]).unwrap();
            check("cut", name);
        }
        fs::write(&path, [&sound[..], b"\0"].concat()).unwrap();
        check("longer", name);
        fs::remove_file(&path).unwrap();
        check("missing", if name == "commit.json" { "commit.json" } else { name });
        for (other, attempt) in &others {
            if name != "commit.json" {
                let theirs = name.replace(&"a".repeat(32), &attempt.to_string().repeat(32));
                fs::copy(other.path().join(theirs), &path).unwrap();
                let same = fs::read(&path).unwrap() == sound;
                // Two attempts of one iteration may have equal shards.
                if !same {
                    check("swapped", name);
                }
            }
        }
        write();
    }
    assert_eq!(verify_all(directory.path()), Ok(()));

    // What nothing binds makes no difference.
    fs::write(directory.path().join("extra.distcp"), b"extra").unwrap();
    fs::copy(others[1].0.path().join(".metadata"), directory.path().join(".metadata")).unwrap();
    let theirs = format!("{}_0_0.distcp", "b".repeat(32));
    fs::copy(others[1].0.path().join(&theirs), directory.path().join(&theirs)).unwrap();
    assert_eq!(read_all(directory.path(), &expected), Ok(true));
    assert_eq!(verify_all(directory.path()), Ok(()));
}

#[test]
fn items_of_two_iterations_cannot_be_mixed_even_if_the_shard_is_sealed_anew() {
    // An item of the other iteration in place of one of the same length: it is sound by itself.
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small('a', 7).write(one.path());
    small('a', 8).write(other.path());
    let name = format!("{}_0_0.distcp", "a".repeat(32));
    let (mut ours, theirs) =
        (fs::read(one.path().join(&name)).unwrap(), fs::read(other.path().join(&name)).unwrap());
    let opened = LocalDirectory::open(one.path()).unwrap().open(&name).unwrap();
    let item = Index::read(&*opened).unwrap().unwrap().items[0];
    let range = item.offset as usize..(item.offset + item.len) as usize;
    assert_ne!(ours[range.clone()], theirs[range.clone()]);
    ours[range.clone()].copy_from_slice(&theirs[range]);
    fs::write(one.path().join(&name), ours).unwrap();
    let tree = open(one.path()).tree().unwrap();
    let error = tensor(&tree, "model_state_dict.rows").to_bytes().unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("model_state_dict.rows"), "{error}");
    let found = verify_all(one.path()).unwrap_err();
    assert!(found.iter().any(|e| e.contains(&name) && e.contains("rows")), "{found:?}");
}

#[test]
fn a_file_becomes_a_directory_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let weight = Tensor::from_vec(vec![4, 3], (0..12).map(|i| i as f32).collect()).unwrap();
    let transposed =
        Tensor::new(DType::Float32, vec![3, 4], vec![1, 3], 0, weight.storage().clone()).unwrap();
    let part = Tensor::new(DType::Float32, vec![2, 3], vec![3, 1], 6, weight.storage().clone());
    let state: Dict = [
        ("weight", Value::from(weight.clone())),
        ("tied", weight.into()),
        ("transposed", transposed.into()),
        ("part", part.unwrap().into()),
    ]
    .into_iter()
    .collect();
    let version: Dict = [("version", 1_i64)].into_iter().collect();
    let versions = [("", Value::from(version)), ("fc", Value::from(Dict::new()))];
    let versions = Dict { kind: DictKind::Ordered, ..versions.into_iter().collect() };
    let attributes: Dict = [("_metadata", versions)].into_iter().collect();
    let attributes = Some(Box::new(attributes));
    let state = Dict { kind: DictKind::Ordered, attributes, ..state };
    let moments: Dict = [("step", Value::from(3.0)), ("none", Value::None)].into_iter().collect();
    let by_number = Dict { entries: vec![(0.into(), moments.into())], ..Dict::new() };
    let group: Dict =
        [("lr", Value::from(0.1)), ("params", Value::List(vec![0.into()]))].into_iter().collect();
    let mut tree = Dict::new();
    tree.insert("iteration", 300_i64);
    tree.insert("model_state_dict", state);
    tree.insert("state", by_number);
    tree.insert("param_groups", vec![Value::from(group), Value::from(Dict::new())]);
    tree.insert("tuple", Value::Tuple(vec![1.into(), "a".into()]));
    tree.insert("empty", Dict::new());
    let tree = Value::Dict(tree);
    let path = directory.path().join("checkpoint");
    let plan = DistributedPlan::new(&tree, Some("notes"), Origin::Known).unwrap();
    file::write_distributed(&path, plan, 1).unwrap();
    assert_eq!(names(directory.path()), ["checkpoint"]);
    let opened = open(&path);
    let read = opened.tree().unwrap();
    let same = |path: &str| {
        let (a, b) = (tensor(&tree, path), tensor(&read, path));
        assert_eq!(
            (a.shape(), a.to_bytes().unwrap()),
            (b.shape(), b.to_bytes().unwrap()),
            "{path}"
        );
    };
    for name in ["weight", "tied", "transposed", "part"] {
        same(&format!("model_state_dict.{name}"));
    }
    for path in ["state", "param_groups", "tuple", "empty", "iteration"] {
        assert_eq!(tree.lookup(path), read.lookup(path), "{path}");
    }
    let [one, other] =
        ["weight", "tied"].map(|name| tensor(&read, &format!("model_state_dict.{name}")));
    assert!(one.storage().same_as(other.storage()));
    assert_eq!(opened.notes().unwrap().as_deref(), Some("notes"));
    assert_eq!(verify_all(&path), Ok(()));

    // Nothing that is there is replaced.
    let plan = || DistributedPlan::new(&tree, None, Origin::Known).unwrap();
    assert!(file::write_distributed(&path, plan(), 1).is_err());
    assert_eq!(open(&path).notes().unwrap().as_deref(), Some("notes"));
    fs::write(directory.path().join("file"), b"").unwrap();
    assert!(file::write_distributed(directory.path().join("file"), plan(), 1).is_err());
    fs::create_dir(directory.path().join("free")).unwrap();
    file::write_distributed(directory.path().join("free"), plan(), 1).unwrap();
    assert_eq!(names(directory.path()), ["checkpoint", "file", "free"]);
}

#[test]
fn a_directory_that_is_no_checkpoint_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let error = file::open(directory.path(), Unprotected::Accept).unwrap_err();
    assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
    let staging = scai_checkpoint::folder::Staging::begin(directory.path()).unwrap();
    fs::write(staging.path().join("model.safetensors"), b"weights").unwrap();
    let path = staging.commit("checkpoint-1", &scai_checkpoint::folder::About::default()).unwrap();
    for path in [path.clone(), path.join("commit.json")] {
        let error = file::open(path, Unprotected::Accept).unwrap_err();
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

/// The directories that PyTorch wrote.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/dcp").join(name)
}

#[test]
fn what_pytorch_wrote_is_read_with_the_values_that_pytorch_reads() {
    for name in ["one_rank", "two_ranks"] {
        let opened = file::open(golden(name), Unprotected::Accept).unwrap();
        assert_eq!(opened.protection(), Protection::None, "{name}");
        let expected = file::open(golden(&format!("{name}.pt")), Unprotected::Accept).unwrap();
        let (tree, expected) = (opened.tree().unwrap(), expected.tree().unwrap());
        assert_eq!(sorted(&tree), sorted(&expected), "{name}");
        let report = file::verify(golden(name), 2).unwrap();
        assert_eq!(report.condition(), Condition::Unprotected, "{name}: {:?}", report.damage);
        assert!(matches!(report.damage[..], [Error::Unprotected { .. }]), "{:?}", report.damage);
    }
}

/// The same tree with the keys of each mapping in order, and tensors as their bytes.
fn sorted(value: &Value) -> Value {
    match value.resolved() {
        Value::Dict(dict) => {
            let mut entries: Vec<(String, Value)> =
                dict.entries.iter().map(|(key, value)| (key.key_text(), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Dict(entries.into_iter().collect())
        }
        Value::List(items) => Value::List(items.iter().map(sorted).collect()),
        Value::Tensor(tensor) => Value::Tuple(vec![
            Value::from(tensor.dtype().name()),
            Value::Size(tensor.shape().iter().map(|&len| len as i64).collect()),
            Value::Bytes(tensor.to_bytes().unwrap()),
        ]),
        other => other.clone(),
    }
}

#[test]
fn damage_in_what_pytorch_wrote_is_found_by_its_checksums() {
    let directory = tempfile::tempdir().unwrap();
    for name in names(&golden("two_ranks")) {
        fs::copy(golden("two_ranks").join(&name), directory.path().join(&name)).unwrap();
    }
    let shard = directory.path().join("__1_0.distcp");
    let sound = fs::read(&shard).unwrap();
    let expected =
        sorted(&file::open(directory.path(), Unprotected::Accept).unwrap().tree().unwrap());
    let (mut found, mut harmless) = (0, 0);
    for at in (0..sound.len()).step_by(61) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        fs::write(&shard, bytes).unwrap();
        let report = file::verify(directory.path(), 1).unwrap();
        if report.condition() == Condition::Unprotected {
            // Padding, and fields of the zip that nobody reads.
            let opened = file::open(directory.path(), Unprotected::Accept).unwrap();
            assert_eq!(sorted(&opened.tree().unwrap()), expected, "byte {at}");
            harmless += 1;
        } else {
            let messages: Vec<String> = report.damage.iter().map(Error::to_string).collect();
            let is_named = |message: &String| message.contains("__1_0.distcp");
            assert!(
                messages.is_empty() || messages.iter().any(is_named),
                "byte {at}: {messages:?}"
            );
            found += 1;
        }
    }
    println!("{found} found, {harmless} in bytes without meaning");
    assert!(found > harmless);
    fs::remove_file(&shard).unwrap();
    let error = file::open(directory.path(), Unprotected::Accept).unwrap_err().to_string();
    assert!(error.contains("__1_0.distcp") && error.contains("missing"), "{error}");
}

/// Loads a directory into zeros, and turns it into a file, with nothing but PyTorch; compares both with a file.
const LOAD: &str = r#"
import sys, torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

directory, path = sys.argv[1:]
want = torch.load(path, weights_only=True)

def zeros(value):
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, dict):
        return {key: zeros(item) for key, item in value.items()}
    if isinstance(value, list):
        return [zeros(item) for item in value]
    return type(value)(0) if isinstance(value, (int, float)) else value

def count(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return 1
    if isinstance(a, dict):
        by_text = {str(key): item for key, item in b.items()}
        return sum(count(item, by_text[str(key)]) for key, item in a.items())
    if isinstance(a, list):
        return sum(count(x, y) for x, y in zip(a, b, strict=True))
    assert a == b, (a, b)
    return 0

into = zeros(want)
dcp.load(into, checkpoint_id=directory, no_dist=True)
dcp_to_torch_save(directory, directory + ".pt")
print(count(want, into), count(want, torch.load(directory + ".pt", weights_only=True)))
"#;

#[test]
fn py_pytorch_loads_the_directories_that_scai_writes() {
    let Some(python) = std::env::var_os("SCAI_PYTHON") else {
        println!("SKIPPED: `SCAI_PYTHON` names no interpreter with PyTorch");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = golden("../files/torch-2.15.0/checkpoint.pt");
    let tree = file::open(&file, Unprotected::Refuse).unwrap().tree().unwrap();
    let path = directory.path().join("directory");
    let plan = DistributedPlan::new(&tree, None, Origin::Known).unwrap();
    file::write_distributed(&path, plan, 1).unwrap();
    let run = std::process::Command::new(python).args(["-c", LOAD]).arg(&path).arg(&file).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(String::from_utf8_lossy(&run.stdout).trim(), "28 28");
}
