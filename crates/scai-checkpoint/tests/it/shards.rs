//! Checkpoints of shards: committed as one, whoever wrote the shards.

use std::collections::BTreeMap;
use std::path::Path;

use scai_checkpoint::codec::dcp::{Content, Index, ShardPlan};
use scai_checkpoint::file::WriteOptions;
use scai_checkpoint::folder::{self, Bound, COMMIT, Digest};
use scai_checkpoint::shards::{self, Attempt, Description};
use scai_checkpoint::store::{Directory, LocalDirectory};
use scai_checkpoint::{Error, Tensor, Value};

fn tensor(id: f32, len: usize) -> Value {
    Value::from(Tensor::from_vec(vec![len], vec![id; len]).unwrap())
}

/// A shard of small, long and very long items.
fn plan(id: f32) -> ShardPlan {
    let mut plan = ShardPlan::default();
    for (i, len) in [3, 0, 200_000, 5, 700_000, 9_000_000, 1].into_iter().enumerate() {
        plan.add(format!("tensor {i}"), Content::Value(tensor(id, len))).unwrap();
    }
    plan.add("bytes", Content::Bytes(b"of torch.save".to_vec())).unwrap();
    plan
}

fn small(id: f32) -> ShardPlan {
    let mut plan = ShardPlan::default();
    plan.add("weight", Content::Value(tensor(id, 9))).unwrap();
    plan
}

fn write(attempt: &Attempt, rank: usize, plan: ShardPlan) -> (String, Bound) {
    let name = format!("{}_{rank}_0.distcp", attempt.id());
    let bound = shards::write(attempt.path().as_path(), &name, plan, 2, || Ok(())).unwrap();
    (name, bound)
}

fn save(directory: &Path, id: f32) -> folder::Commit {
    let attempt = Attempt::begin(directory).unwrap();
    let shards: BTreeMap<_, _> = (0..2).map(|rank| write(&attempt, rank, small(id))).collect();
    attempt.commit(shards, b"metadata", Description::default().world_size(2)).unwrap()
}

fn read_index(directory: &Path, name: &str) -> Index {
    let shard = LocalDirectory::open(directory).unwrap().open(name).unwrap();
    Index::read(&*shard).unwrap().unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_item_is_a_file_by_itself_and_the_index_binds_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    for threads in [1, 3] {
        let plan = plan(threads as f32);
        let len = plan.len();
        let attempt = Attempt::begin(directory.path()).unwrap();
        let name = format!("{}_0_0.distcp", attempt.id());
        let options = WriteOptions::from(threads);
        let bound = shards::write(directory.path(), &name, plan, options, || Ok(())).unwrap();
        let bytes = std::fs::read(directory.path().join(&name)).unwrap();
        assert_eq!((bytes.len() as u64, bound.size), (len, len));
        let index = read_index(directory.path(), &name);
        assert_eq!(bound.digest, Digest::Root(format!("{:032x}", index.root())));
        assert_eq!(index.items.len(), 8);
        for item in &index.items[..7] {
            let bytes = bytes[item.offset as usize..][..item.len as usize].to_vec();
            let file = scai_checkpoint::file::from_bytes(bytes, Default::default()).unwrap();
            assert!(file.verify(1).is_empty());
            let tensor = file.tree().unwrap().as_tensor().unwrap().to_vec::<f32>().unwrap();
            assert!(tensor.iter().all(|x| *x == threads as f32));
        }
        let last = index.items[7];
        assert_eq!(&bytes[last.offset as usize..][..last.len as usize], b"of torch.save");
    }
}

#[test]
fn a_second_attempt_takes_the_place_of_the_first_and_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let first = save(directory.path(), 1.0);
    let second = save(directory.path(), 2.0);
    assert_ne!(first.attempt, second.attempt);
    assert_eq!(folder::commit_of(directory.path()).unwrap().unwrap(), second);
    let mut expected: Vec<String> = second.files.keys().cloned().collect();
    expected.extend([".metadata".to_owned(), COMMIT.to_owned()]);
    expected.sort();
    assert_eq!(names(directory.path()), expected);
    assert_eq!((second.world_size, second.files.len()), (Some(2), 3));
}

#[test]
fn what_was_never_committed_is_swept_by_the_next_attempt_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let committed = save(directory.path(), 1.0);
    std::fs::write(directory.path().join("__0_0.distcp"), b"stock").unwrap();
    std::fs::write(directory.path().join("notes.txt"), b"mine").unwrap();
    let given_up = Attempt::begin(directory.path()).unwrap();
    let (orphan, _) = write(&given_up, 0, small(2.0));
    let again = Attempt::begin(directory.path()).unwrap_err();
    assert!(matches!(again, Error::Locked { .. }), "{again}");
    drop(given_up);
    assert!(names(directory.path()).contains(&orphan));
    drop(Attempt::begin(directory.path()).unwrap());
    let mut expected: Vec<String> = committed.files.keys().cloned().collect();
    expected.extend([".metadata", COMMIT, "__0_0.distcp", "notes.txt"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(directory.path()), expected);
}

#[test]
fn a_shard_that_is_not_the_one_that_was_written_is_not_committed() {
    let directory = tempfile::tempdir().unwrap();
    let before = save(directory.path(), 1.0);
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 4] = [
        ("is not here", |shard, _| std::fs::remove_file(shard).unwrap()),
        ("bytes, not", |shard, _| {
            std::fs::OpenOptions::new().write(true).open(shard).unwrap().set_len(100).unwrap();
        }),
        ("not the one", |shard, other| assert!(std::fs::copy(other, shard).unwrap() > 0)),
        ("index", |shard, _| {
            let mut bytes = std::fs::read(shard).unwrap();
            let at = bytes.len() - 60;
            bytes[at] ^= 1;
            std::fs::write(shard, bytes).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let attempt = Attempt::begin(directory.path()).unwrap();
        let shards: BTreeMap<_, _> = (0..2).map(|rank| write(&attempt, rank, small(2.0))).collect();
        let old = before.files.keys().find(|name| name.ends_with(".distcp")).unwrap();
        let (name, _) = shards.iter().next().unwrap();
        let (name, path) = (name.clone(), directory.path().to_owned());
        harm(&path.join(&name), &path.join(old));
        let error = attempt.commit(shards, b"metadata", Description::default()).unwrap_err();
        assert!(error.is_damage(), "{what}: {error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(&name), "{what}: {text}");
        assert_eq!(folder::commit_of(directory.path()).unwrap().unwrap(), before);
    }
}
