//! Attempts that tell which one they are in every byte, and what readers make of a directory of them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::codec::dcp::{Check, Content, Index, METADATA, ShardPlan};
use scai_checkpoint::folder::{Bound, Commit, Digest};
use scai_checkpoint::shards::{self, Attempt, Description};
use scai_checkpoint::store::{Directory, ReadAt};
use scai_checkpoint::{Dict, Error, Result, Tensor, Value, file};
use xxhash_rust::xxh3::xxh3_128;

pub(crate) const RANKS: u64 = 2;

/// What the files of an attempt begin with.
pub(crate) fn id(attempt: u64) -> String {
    format!("{attempt:032x}")
}

pub(crate) fn shard_name(attempt: u64, rank: u64) -> String {
    format!("{}_{rank}_0.distcp", id(attempt))
}

/// A tensor and bytes that tell the attempt and the rank.
pub(crate) fn plan(attempt: u64, rank: u64) -> ShardPlan {
    let mut plan = ShardPlan::default();
    let numbers = vec![attempt as i64, rank as i64, 7];
    let tensor = Tensor::from_vec(vec![numbers.len()], numbers).unwrap();
    plan.add("weight", Content::Value(Value::from(tensor))).unwrap();
    plan.add("bytes", Content::Bytes(told(attempt, rank))).unwrap();
    plan
}

fn told(attempt: u64, rank: u64) -> Vec<u8> {
    format!("attempt {attempt}, rank {rank}. ").repeat(20).into_bytes()
}

/// Writes the shard of a rank, as its process does.
pub(crate) fn write(directory: &dyn Directory, attempt: u64, rank: u64) -> Result<(String, Bound)> {
    let name = shard_name(attempt, rank);
    let bound = shards::write_in(directory, &name, plan(attempt, rank), 1, || Ok(()))?;
    Ok((name, bound))
}

/// Stands for the pickled `Metadata`: which attempt it is of, and the shards with their sizes.
pub(crate) fn metadata(attempt: u64, shards: &BTreeMap<String, Bound>) -> Vec<u8> {
    let mut text = format!("{attempt}\n");
    shards.iter().for_each(|(name, bound)| text.push_str(&format!("{name} {}\n", bound.size)));
    text.into_bytes()
}

pub(crate) fn description() -> Description {
    let state: Dict =
        [("timestamp", Value::from("2026-01-01T00:00:00+00:00"))].into_iter().collect();
    Description::of(&Value::Dict(state)).world_size(RANKS)
}

/// What the coordinator does once it knows all shards.
pub(crate) fn commit(
    begun: Attempt,
    attempt: u64,
    shards: BTreeMap<String, Bound>,
) -> Result<Commit> {
    let metadata = metadata(attempt, &shards);
    begun.commit(shards, &metadata, description())
}

/// A whole attempt, by one process that stands for all ranks.
pub(crate) fn save_in(directory: &Arc<dyn Directory>, attempt: u64) -> Result<Commit> {
    let begun = shards::begin_with_id(Arc::clone(directory), id(attempt))?;
    let shards = (0..RANKS).map(|rank| write(&**directory, attempt, rank));
    let shards = shards.collect::<Result<_>>()?;
    commit(begun, attempt, shards)
}

/// The directory of a checkpoint, as the manager makes it.
pub(crate) fn make(parent: &dyn Directory, name: &str) -> Result<Arc<dyn Directory>> {
    let failed = |error| Error::Io { place: Box::default(), action: "make it", source: error };
    match parent.make_child(name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(failed)?,
    }
    let child = parent.child(name).map_err(failed)?;
    parent.sync().map_err(failed)?;
    Ok(child)
}

/// What a reader makes of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum View {
    /// There is no checkpoint.
    Nothing,
    /// Every byte is of this attempt.
    Whole(u64),
    /// The reader says what is wrong: a file is missing, or is not the one that is bound.
    Refused(String),
    /// It loads what no attempt has written.
    Mixed(String),
}

/// What a reader trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Nothing that sizes and digests do not bind: the reader of scai.
    Digests,
    /// Names: a reader that is wrong.
    Names,
}

/// What scai's reader makes of it: it opens the commit, then every file that is bound, then reads.
pub(crate) fn scai(directory: &dyn Directory, trust: Trust) -> View {
    let commit = match shards::committed(directory) {
        Ok(None) => return View::Nothing,
        Ok(Some(commit)) => commit,
        Err(error) => return View::Refused(error.to_string()),
    };
    let mut open = Vec::new();
    for (name, bound) in &commit.files {
        match directory.open(name) {
            Ok(file) => open.push((name, bound, file)),
            Err(error) => return View::Refused(format!("{name}: {error}")),
        }
    }
    let mut found = Vec::new();
    for (name, bound, file) in open {
        if trust == Trust::Digests && !is_bound(bound, &*file) {
            return View::Refused(format!("{name} is not what was committed"));
        }
        if name.ends_with(".distcp") {
            match of(&*file) {
                Ok(of) => found.push(of),
                Err(why) if trust == Trust::Digests => return View::Refused(why),
                Err(why) => return View::Mixed(why),
            }
        }
    }
    whole(u64::from_str_radix(&commit.attempt, 16).unwrap(), found)
}

fn whole(attempt: u64, mut found: Vec<(u64, u64)>) -> View {
    found.sort_unstable();
    match found == [(attempt, 0), (attempt, 1)] {
        true => View::Whole(attempt),
        false => View::Mixed(format!("attempt {attempt} has the shards {found:?}")),
    }
}

fn is_bound(bound: &Bound, file: &dyn ReadAt) -> bool {
    let Ok(bytes) = read(file) else { return false };
    bound.size == bytes.len() as u64
        && match &bound.digest {
            Digest::Xxh3_128(digest) => format!("{:032x}", xxh3_128(&bytes)) == *digest,
            Digest::Root(root) => {
                let index = Index::read(file).ok().flatten();
                index.is_some_and(|index| format!("{:032x}", index.root()) == *root)
            }
            _ => false,
        }
}

fn read(file: &dyn ReadAt) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The attempt and the rank that a shard is of: every item is checked.
fn of(shard: &dyn ReadAt) -> Result<(u64, u64), String> {
    let bytes = read(shard).map_err(|error| error.to_string())?;
    let index = Index::read(shard).map_err(|error| error.to_string())?;
    let items = index.ok_or("the shard has no index")?.items;
    let part = |nth: usize| {
        let item = items.get(nth).ok_or("an item is missing")?;
        Ok::<_, String>((item, bytes[item.offset as usize..][..item.len as usize].to_vec()))
    };
    let (tensor, file) = part(0)?;
    let file = file::from_bytes(file, Unprotected::Refuse).map_err(|error| error.to_string())?;
    let wrong = file.verify(1);
    if tensor.check != Check::Root || !wrong.is_empty() {
        return Err(format!("a tensor: {wrong:?}"));
    }
    let tree = file.tree().map_err(|error| error.to_string())?;
    let numbers = tree.as_tensor().ok_or("no tensor")?.to_vec::<i64>();
    let numbers = numbers.map_err(|error| error.to_string())?;
    let (attempt, rank) = (numbers[0] as u64, numbers[1] as u64);
    let (item, bytes) = part(1)?;
    match item.digest == xxh3_128(&bytes) && bytes == told(attempt, rank) {
        true => Ok((attempt, rank)),
        false => Err(format!("a shard of attempt {attempt} holds {:?}", String::from_utf8(bytes))),
    }
}

/// What the reader of PyTorch makes of it, which knows `.metadata` only and checks nothing: it opens that,
/// and then the shards that it names.
pub(crate) fn stock(directory: &dyn Directory) -> View {
    let metadata = match directory.open(METADATA) {
        Err(error) if error.kind() == ErrorKind::NotFound => return View::Nothing,
        file => file.and_then(|file| read(&*file)),
    };
    let text = metadata.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let mut lines = text.lines();
    let Some(attempt) = lines.next().and_then(|line| line.parse().ok()) else {
        return View::Refused(format!("`{METADATA}` is {text:?}"));
    };
    let mut found = Vec::new();
    for (name, size) in lines.filter_map(|line| line.split_once(' ')) {
        match directory.open(name) {
            Err(error) => return View::Refused(format!("{name}: {error}")),
            Ok(file) if size.parse() != Ok(file.len()) => {
                return View::Mixed(format!("{name} has {} bytes, not {size}", file.len()));
            }
            Ok(file) => match of(&*file) {
                Ok(of) => found.push(of),
                Err(why) => return View::Mixed(format!("{name}: {why}")),
            },
        }
    }
    whole(attempt, found)
}

/// The files of a directory in which nothing is but a checkpoint.
pub(crate) fn assert_tidy(directory: &dyn Directory) -> Result<(), String> {
    let commit = shards::committed(directory).map_err(|error| error.to_string())?;
    let mut expected: Vec<String> =
        commit.into_iter().flat_map(|commit| commit.files.into_keys()).collect();
    expected.extend([METADATA.to_owned(), scai_checkpoint::folder::COMMIT.to_owned()]);
    expected.sort();
    let entries = directory.list().map_err(|error| error.to_string())?;
    let mut found: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    found.sort();
    match found == expected {
        true => Ok(()),
        false => Err(format!("the files are {found:?}, not {expected:?}")),
    }
}
