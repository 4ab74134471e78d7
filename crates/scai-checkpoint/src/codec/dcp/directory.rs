//! A directory of shards as one checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use twox_hash::XxHash3_128;

use super::item::Shard;
use super::metadata::{Chunk, Entry, Location, METADATA, Metadata, Stored, bytes_of};
use super::region::{Flaw, cover};
use super::shards::{Problem, Shards, beside};
use super::skeleton::{TREE, filled};
use super::stitched::Stitched;
use super::tree::{FORMS, Forms, Node};
use crate::codec::binding::{self, COMMIT, Commit, Digest, Kind};
use crate::codec::torch::{Manifest, TorchFile};
use crate::codec::{Foreign, Origin, Protection, Unprotected};
use crate::error::{Error, Place, Result};
use crate::memory::zeroed;
use crate::read_options::ReadOptions;
use crate::store::ReadAt;
use crate::tensor::{Attributes, DType, Storage, Tensor};
use crate::threads::{held, on_threads};
use crate::value::{Dict, Value};

/// What [`Commit::about`] calls the notes beside the tree.
pub(super) const NOTES: &str = "notes";
/// What it calls the protection of the file that the state was converted from, if that had none.
pub(super) const SOURCE: &str = "source_protection";

/// Items from this length on are read by all threads, shorter ones by one each.
const SHARED: u64 = 16 << 20;
/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// A checkpoint of `torch.distributed.checkpoint`: a directory of shards, open.
///
/// If scai committed it, `commit.json` binds each file, and `.metadata` is not read: it is a copy for PyTorch.
/// Otherwise `.metadata` is all there is, and it has no checksum.
#[derive(Debug)]
pub struct DistributedCheckpoint {
    /// `commit.json`, or `.metadata`.
    record: Arc<dyn ReadAt>,
    commit: Option<Commit>,
    metadata: Metadata,
    /// The files that are bound by a digest of all their bytes.
    whole: Vec<(String, Arc<dyn ReadAt>, String)>,
    /// What is wrong with files that are not shards.
    problems: Vec<Problem>,
    shards: Arc<Shards>,
    protection: Protection,
    /// The item with the tree, once it was read.
    tree: OnceLock<Option<TorchFile>>,
}

/// What a directory holds by now.
enum Now {
    /// No commit.
    Gone,
    /// This one.
    Another(Arc<dyn ReadAt>),
}

/// Where a part of a tensor or a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// The path of the value, with dots.
    pub path: String,
    /// The region of the tensor; `None` for another value.
    pub region: Option<(&'a [u64], &'a [u64])>,
    /// The file.
    pub file: &'a str,
    /// The process that wrote the file, if its name says so.
    pub rank: Option<u64>,
    /// Where the item begins in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl DistributedCheckpoint {
    /// Whether a file is `commit.json` or `.metadata`, by its name or by how it begins.
    pub(in crate::codec) fn recognise(file: &dyn ReadAt) -> bool {
        is_commit(file) || name_of(file).as_deref() == Some(METADATA) || Metadata::recognise(file)
    }

    /// Opens a checkpoint by its `commit.json` or its `.metadata`, with all files beside it. No item is read.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a file is missing or not the one that was committed; [`Error::Unsupported`] for
    /// items that an extension has transformed; [`Error::NotACheckpoint`] if other files were committed.
    pub fn open(record: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        let opened = Self::open_damaged(record, unprotected)?;
        match opened.problem() {
            Some(problem) => Err(opened.shards.located(problem.error())),
            None => Ok(opened),
        }
    }

    /// Opens a checkpoint of which files may be missing or damaged, to report all of that.
    pub(in crate::codec) fn open_damaged(
        record: Arc<dyn ReadAt>,
        unprotected: Unprotected,
    ) -> Result<Self> {
        let path = directory_of(&*record);
        let mut record = record;
        loop {
            let opened = Self::open_in(Arc::clone(&record), path.clone(), unprotected);
            let opened = opened.map_err(|error| match &path {
                Some(path) => error.at_path(path),
                None => error,
            })?;
            if opened.problem().is_none() {
                return Ok(opened);
            }
            match opened.successor() {
                // Files go when another save has taken the place of this one.
                Some(Now::Another(commit)) => record = commit,
                // Or since all of it is being removed.
                Some(Now::Gone) => {
                    let path = path.unwrap_or_default();
                    return Err(Error::NotFound { path });
                }
                None => return Ok(opened),
            }
        }
    }

    /// What has become of the commit since it was opened; `None` if it is still the same, or there was none.
    fn successor(&self) -> Option<Now> {
        let ours = self.commit.as_ref()?;
        match self.record.beside(COMMIT) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Now::Gone),
            Err(_) => None,
            Ok(file) => {
                let commit = binding::read(&*file).ok()?;
                (commit.attempt != ours.attempt).then_some(Now::Another(file))
            }
        }
    }

    fn open_in(
        record: Arc<dyn ReadAt>,
        path: Option<PathBuf>,
        unprotected: Unprotected,
    ) -> Result<Self> {
        let (record, commit) = committed(record)?;
        let mut problems = Vec::new();
        let mut whole = Vec::new();
        let metadata = match &commit {
            None => Metadata::read(&*record).map_err(|error| error.in_part(METADATA))?,
            Some(commit) => {
                for (name, bound) in &commit.files {
                    let Digest::Xxh3_128(digest) = &bound.digest else { continue };
                    match beside(&*record, name, Some(bound))? {
                        Ok(file) => whole.push((name.clone(), file, digest.clone())),
                        Err(problem) => problems.push(problem),
                    }
                }
                bound_metadata(commit, &whole, &mut problems)?
            }
        };
        let shards = Shards::open(&*record, path, &metadata, commit.as_ref(), unprotected)?;
        // Nothing protects what says where everything is, nor binds the shards of one save to each other.
        let protection = if commit.is_some() { Protection::Digests } else { Protection::None };
        let shards = Arc::new(shards);
        let tree = OnceLock::new();
        Ok(Self { record, commit, metadata, whole, problems, shards, protection, tree })
    }

    /// The first file that is not what it has to be.
    fn problem(&self) -> Option<&Problem> {
        let shards = self.shards.shards.iter().filter_map(|shard| shard.as_ref().err());
        self.problems.iter().chain(shards).next()
    }

    /// What was committed; `None` if PyTorch wrote the directory.
    pub fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref()
    }

    /// Bytes of all files that belong to the checkpoint.
    pub fn len(&self) -> u64 {
        let whole: u64 = self.whole.iter().map(|(_, file, _)| file.len()).sum();
        self.record.len() + whole + self.shards.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What protects it: digests, or nothing if PyTorch wrote it. Then items may still have CRC-32s, which are
    /// checked; but `.metadata` has none, and shards of two saves in one directory are not told apart.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Where its bytes come from, as far as it says so.
    pub fn origin(&self) -> Origin {
        let source = self.commit.as_ref().and_then(|commit| commit.about.get(SOURCE));
        match (self.protection, source) {
            (Protection::None, _) | (_, Some(_)) => Origin::Unprotected,
            _ => Origin::Known,
        }
    }

    /// The notes that were saved beside the tree.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was saved.
    pub fn notes(&self) -> Result<Option<String>> {
        match self.tree_item().map_err(|error| self.shards.located(error))? {
            Some(tree) => tree.notes(),
            None => {
                let about = self.commit.as_ref().map(|commit| &commit.about);
                Ok(about.and_then(|about| about.get(NOTES)).cloned())
            }
        }
    }

    /// The item with the tree, if scai wrote one.
    fn tree_item(&self) -> Result<Option<&TorchFile>> {
        if let Some(known) = self.tree.get() {
            return Ok(known.as_ref());
        }
        let entry = self.metadata.entries.iter().find(|entry| match entry.path.as_slice() {
            [super::metadata::Key::Name(name)] => name == TREE && self.commit.is_some(),
            _ => false,
        });
        let opened = match entry.map(|entry| &entry.content) {
            Some(Stored::Value(at)) => {
                let shard = self.shards.shard(*at)?;
                Some(shard.open(*at, self.shards.unprotected())?)
            }
            _ => None,
        };
        Ok(self.tree.get_or_init(|| opened).as_ref())
    }

    /// The directory, as messages call it.
    pub fn path(&self) -> Option<&Path> {
        self.shards.path.as_deref()
    }

    /// The names of the files that belong to it, `commit.json` or `.metadata` first.
    pub fn files(&self) -> Vec<&str> {
        let record = if self.commit.is_some() { COMMIT } else { METADATA };
        let named = self.metadata.files.iter().map(String::as_str);
        let bound = self.commit.iter().flat_map(|commit| commit.files.keys().map(String::as_str));
        let names: BTreeSet<&str> = named.chain(bound).collect();
        [record].into_iter().chain(names).collect()
    }

    /// Which file holds which part of the state, in the order of the state.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.metadata.entries.iter().flat_map(|entry| {
            let regions: Vec<Option<(&[u64], &[u64])>> = match &entry.content {
                Stored::Tensor { chunks, .. } => {
                    chunks.iter().map(|chunk| Some((&*chunk.offsets, &*chunk.sizes))).collect()
                }
                Stored::Value(_) => vec![None],
            };
            regions.into_iter().zip(entry.locations()).map(|(region, at)| {
                let file = self.metadata.files.get(at.file).map_or("", String::as_str);
                let (offset, len) = (at.offset, at.len);
                Part { path: entry.name(), region, file, rank: rank(file), offset, len }
            })
        })
    }

    /// The metadata as PyTorch pickled them: those that the commit binds, if there is one.
    ///
    /// # Errors
    /// As [`DistributedCheckpoint::tree_with`].
    pub fn metadata(&self) -> Result<Vec<u8>> {
        if let Some(problem) = self.problem() {
            return Err(self.shards.located(problem.error()));
        }
        let whole = self.whole.iter().find(|(name, ..)| name.ends_with(METADATA));
        let (name, file) = whole.map_or((METADATA, &self.record), |(name, file, _)| (name, file));
        bytes_of(&**file).map_err(|error| self.shards.located(error.in_part(name)))
    }

    /// The item at these bytes of a file of [`DistributedCheckpoint::files`]. What is read of it is checked.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written; [`Error::Invalid`] if there is no such file.
    pub fn item(&self, file: &str, bytes: std::ops::Range<u64>) -> Result<TorchFile> {
        let number = self.metadata.files.iter().position(|name| name == file);
        let number = number
            .ok_or_else(|| Error::invalid(format!("`{file}` is not a file of the checkpoint")))?;
        let len = bytes.end.saturating_sub(bytes.start);
        let at = Location { file: number, offset: bytes.start, len };
        let open = || self.shards.shard(at)?.open(at, self.shards.unprotected());
        open().map_err(|error| self.shards.located(error))
    }

    /// The bytes of the item at these bytes of a file, after all of them were checked.
    ///
    /// # Errors
    /// As [`DistributedCheckpoint::item`].
    pub fn item_bytes(&self, file: &str, bytes: std::ops::Range<u64>) -> Result<Vec<u8>> {
        let item = self.item(file, bytes)?;
        if let Some(damage) = item.verify(1).into_iter().next() {
            return Err(self.shards.located(damage));
        }
        item.bytes().map_err(|error| self.shards.located(error))
    }

    /// The state tree. Its tensors remain on disk; they are read and checked when they are used.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the regions of a tensor overlap or leave something out, or a value is damaged;
    /// as [`TorchFile::tree_with`](crate::codec::torch::TorchFile::tree_with) for values.
    pub fn tree_with(&self, foreign: Foreign) -> Result<Value> {
        self.read_tree(foreign).map_err(|error| self.shards.located(error))
    }

    fn read_tree(&self, foreign: Foreign) -> Result<Value> {
        if let Some(problem) = self.problem() {
            return Err(problem.error());
        }
        if self.protection == Protection::None && self.shards.unprotected() == Unprotected::Refuse {
            return Err(Error::Unprotected { place: Box::default() });
        }
        let forms = match self.commit.as_ref().and_then(|commit| commit.about.get(FORMS)) {
            Some(text) => Forms::decode(text).map_err(|error| error.in_part(COMMIT))?,
            None => Forms::default(),
        };
        // Tensors that have an item in common may be one.
        let mut once = HashSet::new();
        let all = self.metadata.entries.iter().flat_map(Entry::locations);
        let repeated: HashSet<Location> = all.filter(|at| !once.insert(*at)).collect();
        drop(once);
        let mut tied = HashMap::new();
        if let Some(item) = self.tree_item()? {
            let entries: HashMap<String, &Entry> =
                self.metadata.entries.iter().map(|entry| (entry.name(), entry)).collect();
            return filled(item.tree_with(foreign)?, &mut |name| match entries.get(name) {
                Some(entry) => self.value(entry, foreign, &forms, &repeated, &mut tied),
                None => {
                    Err(Error::damaged(Place::default(), "the metadata do not have it")
                        .at_tensor(name))
                }
            });
        }
        let mut tree = Node::map();
        let most = self.metadata.entries.len();
        for entry in &self.metadata.entries {
            let value = self.value(entry, foreign, &forms, &repeated, &mut tied)?;
            tree.insert(&entry.path, value, most)?;
        }
        tree.finish(&forms)
    }

    /// The value of an entry. Tensors that are `repeated` share what is known of them.
    fn value(
        &self,
        entry: &Entry,
        foreign: Foreign,
        forms: &Forms,
        repeated: &HashSet<Location>,
        tied: &mut HashMap<String, Storage>,
    ) -> Result<Value> {
        let name = entry.name();
        let (dtype, shape, requires_grad, chunks) = match &entry.content {
            Stored::Value(at) => {
                let read = self.shards.shard(*at).and_then(|shard| {
                    let item = shard.open(*at, self.shards.unprotected())?;
                    item.tree_with(foreign).map_err(|error| shard.in_item(*at, error))
                });
                return read.map_err(|error| error.below(&name).at_tensor(name));
            }
            Stored::Tensor { dtype, shape, requires_grad, chunks } => {
                (*dtype, shape, *requires_grad, chunks)
            }
        };
        let parameter = forms.is_parameter(&entry.path);
        let attributes = Attributes { requires_grad, parameter, ..Attributes::default() };
        let is_repeated = chunks.iter().any(|chunk| repeated.contains(&chunk.at));
        let key = is_repeated.then(|| format!("{:?}", (dtype, shape, chunks)));
        let known = key.as_ref().and_then(|key| tied.get(key).cloned());
        let tensor = match known {
            Some(storage) => view(dtype, shape, storage),
            None => self.tensor(&name, dtype, shape, chunks),
        };
        let tensor = tensor.map_err(|error| error.at_tensor(&name))?;
        if let Some(key) = key {
            tied.insert(key, tensor.storage().clone());
        }
        Ok(Value::Tensor(tensor.with_attributes(attributes)))
    }

    fn tensor(&self, name: &str, dtype: DType, shape: &[u64], chunks: &[Chunk]) -> Result<Tensor> {
        let covering = covering(shape, chunks)?;
        let len = shape.iter().try_fold(dtype.size() as u64, |len, &dim| len.checked_mul(dim));
        let len = len.filter(|&len| len <= isize::MAX as u64).ok_or_else(|| {
            Error::damaged(Place::default(), "it has more elements than can be counted")
        })?;
        let shards = &self.shards;
        let stitched = Stitched::new(shards, name.to_owned(), dtype, shape, &covering, len);
        view(dtype, shape, Storage::new(Arc::new(stitched)))
    }

    /// Reads and checks every byte of every file, and returns all damage.
    pub fn verify<'o>(&self, options: impl Into<ReadOptions<'o>>) -> Vec<Error> {
        let options = options.into();
        let mut damage: Vec<Error> = self.problems.iter().map(Problem::error).collect();
        self.record.forget_cached();
        let record = match &self.commit {
            Some(_) => binding::read(&*self.record).err().map(|error| error.in_part(COMMIT)),
            None => Metadata::read(&*self.record).err().map(|error| error.in_part(METADATA)),
        };
        damage.extend(record);
        for (name, file, digest) in &self.whole {
            damage.extend(check_whole(&**file, digest, &options).err().map(|e| e.in_part(name)));
        }
        // What the metadata say of each item.
        let mut expected: BTreeMap<Location, Vec<(&Entry, Option<&Chunk>)>> = BTreeMap::new();
        for entry in &self.metadata.entries {
            match &entry.content {
                Stored::Value(at) => expected.entry(*at).or_default().push((entry, None)),
                Stored::Tensor { shape, chunks, .. } => {
                    let flaw = covering(shape, chunks).err();
                    damage.extend(flaw.map(|error| error.at_tensor(entry.name())));
                    for chunk in chunks {
                        expected.entry(chunk.at).or_default().push((entry, Some(chunk)));
                    }
                }
            }
        }
        let mut items: BTreeSet<Location> = expected.keys().copied().collect();
        for (file, shard) in self.shards.shards.iter().enumerate() {
            match shard {
                Ok(shard) => {
                    damage.extend(check_shard(shard, &options));
                    let bound = shard.index.iter().flat_map(|index| &index.items);
                    items.extend(bound.map(|i| Location { file, offset: i.offset, len: i.len }));
                }
                Err(problem) => damage.push(problem.error()),
            }
        }
        damage.extend(self.check_items(&items, &expected, &options));
        let cancelled = options.check().err();
        let damage = damage.into_iter().map(|error| self.shards.located(error));
        cancelled.into_iter().chain(damage).collect()
    }

    fn check_items(
        &self,
        items: &BTreeSet<Location>,
        expected: &BTreeMap<Location, Vec<(&Entry, Option<&Chunk>)>>,
        options: &ReadOptions<'_>,
    ) -> Vec<Error> {
        let (long, short): (Vec<Location>, Vec<Location>) =
            items.iter().partition(|at| at.len >= SHARED);
        let found = Mutex::new(Vec::new());
        let check = |at: Location, threads: usize| {
            let Some(Ok(shard)) = self.shards.shards.get(at.file) else { return };
            let uses = expected.get(&at).map_or(&[][..], Vec::as_slice);
            let form = uses.iter().find_map(|(entry, chunk)| match &entry.content {
                Stored::Tensor { dtype, .. } => Some((*dtype, chunk.as_ref()?.sizes.as_slice())),
                Stored::Value(_) => None,
            });
            let name = uses.first().map(|(entry, _)| entry.name());
            let damage = shard.verify(at, form, options.threads(threads));
            let named = damage.into_iter().map(|error| match &name {
                Some(name) => error.below(name).at_tensor(name),
                None => error,
            });
            held(&found).extend(named.map(|error| (at, error)));
        };
        let threads = options.thread_count();
        for at in long {
            if options.check().is_ok() {
                check(at, threads);
            }
        }
        let next = AtomicUsize::new(0);
        on_threads(threads.clamp(1, short.len().max(1)), || {
            while options.check().is_ok()
                && let Some(at) = short.get(next.fetch_add(1, Ordering::Relaxed))
            {
                check(*at, 1);
            }
        });
        let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, error)| error).collect()
    }

    /// What a listing shows of it; of a directory that PyTorch wrote, what its short values say.
    fn summary(&self) -> Result<Manifest> {
        if let Some(commit) = &self.commit {
            return Ok(Manifest::of_commit(commit, self.origin()));
        }
        let mut top = Dict::new();
        for entry in &self.metadata.entries {
            let is_shown = entry.path.first().is_some_and(|key| {
                matches!(key, super::metadata::Key::Name(name) if SHOWN.contains(&name.as_str()))
            });
            match entry.content {
                Stored::Value(at) if is_shown && at.len <= SHORT => {}
                _ => continue,
            }
            top.insert(entry.name(), Value::None);
        }
        let shown = Self {
            metadata: Metadata {
                files: self.metadata.files.clone(),
                entries: self
                    .metadata
                    .entries
                    .iter()
                    .filter(|entry| top.get(&entry.name()).is_some())
                    .cloned()
                    .collect(),
            },
            record: Arc::clone(&self.record),
            commit: None,
            whole: Vec::new(),
            problems: Vec::new(),
            shards: Arc::clone(&self.shards),
            protection: self.protection,
            tree: OnceLock::new(),
        };
        Ok(Manifest::new(&shown.tree_with(Foreign::StandIn)?, self.origin()))
    }
}

/// The fields at the top that a listing shows.
const SHOWN: [&str; 4] = ["iteration", "timestamp", "training_stats", "metadata"];
/// Longer values are not read for a listing.
const SHORT: u64 = 64 << 10;

/// What a checkpoint says of itself, by its `commit.json` or its `.metadata`: iteration, time, statistics and
/// metadata. Of a committed one no other file is opened.
///
/// # Errors
/// As [`DistributedCheckpoint::open`].
pub fn peek(record: Arc<dyn ReadAt>) -> Result<Manifest> {
    let path = directory_of(&*record);
    let located = |error: Error| match &path {
        Some(path) => error.at_path(path),
        None => error,
    };
    let (record, commit) = committed(record).map_err(located)?;
    if let Some(commit) = commit {
        let origin = match commit.about.contains_key(SOURCE) {
            true => Origin::Unprotected,
            false => Origin::Known,
        };
        return Ok(Manifest::of_commit(&commit, origin));
    }
    DistributedCheckpoint::open(record, Unprotected::Accept)?.summary()
}

/// The commit of a checkpoint, and the file that it or else the metadata are in.
fn committed(record: Arc<dyn ReadAt>) -> Result<(Arc<dyn ReadAt>, Option<Commit>)> {
    let in_commit = |error: Error| error.in_part(COMMIT);
    if is_commit(&*record) {
        let commit = binding::read(&*record).map_err(in_commit)?;
        if commit.kind == Kind::Shards {
            return Ok((record, Some(commit)));
        }
        const FEW: usize = 4;
        let few: Vec<&str> = commit.files.keys().take(FEW).map(String::as_str).collect();
        let more = if commit.files.len() > FEW { ", …" } else { "" };
        return Err(Error::not_a_checkpoint(
            Place::default(),
            "a directory that was committed as files of another program",
            format!("open one of its files: {}{more}", few.join(", ")),
        ));
    }
    match record.beside(COMMIT) {
        Ok(file) => {
            let commit = binding::read(&*file).map_err(in_commit)?;
            if commit.kind == Kind::Shards { Ok((file, Some(commit))) } else { Ok((record, None)) }
        }
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::Unsupported => Ok((record, None)),
            _ => Err(in_commit(Error::io("open", error))),
        },
    }
}

/// The metadata that a commit binds.
fn bound_metadata(
    commit: &Commit,
    whole: &[(String, Arc<dyn ReadAt>, String)],
    problems: &mut Vec<Problem>,
) -> Result<Metadata> {
    let name = format!("{}{METADATA}", commit.attempt);
    if !commit.files.contains_key(&name) {
        problems.push(Problem::new(&name, "the commit does not bind it"));
        return Ok(Metadata::default());
    }
    let Some((_, file, digest)) = whole.iter().find(|(bound, ..)| *bound == name) else {
        // It was found to be missing.
        return Ok(Metadata::default());
    };
    let bytes = bytes_of(&**file).map_err(|error| error.in_part(&name))?;
    if format!("{:032x}", XxHash3_128::oneshot(&bytes)) != *digest {
        problems.push(Problem::new(&name, "checksum mismatch"));
        return Ok(Metadata::default());
    }
    Metadata::decode(&bytes).map_err(|error| match error {
        // These are the bytes that were written.
        Error::Damaged { place, detail } => {
            let hint = "its checksum matches, so it was written like this: the program that wrote \
                        it has a bug, or is newer than this one";
            Error::unsupported(*place, detail, hint).in_part(&name)
        }
        error => error.in_part(&name),
    })
}

fn view(dtype: DType, shape: &[u64], storage: Storage) -> Result<Tensor> {
    Tensor::contiguous(dtype, shape.iter().map(|&len| len as usize).collect(), storage)
        .map_err(|error| Error::damaged(Place::default(), error.to_string()))
}

/// The regions that make up a tensor.
fn covering<'a>(shape: &[u64], chunks: &'a [Chunk]) -> Result<Vec<&'a Chunk>> {
    let region = |i: usize| {
        let chunk = &chunks[i];
        format!("{:?} at {:?}", chunk.sizes, chunk.offsets)
    };
    cover(shape, chunks).map_err(|flaw| {
        let what = match flaw {
            Flaw::Hole => "no file holds some of its elements".to_owned(),
            Flaw::TooLarge => "it has more elements than can be counted".to_owned(),
            Flaw::Outside(i) => format!("a region is outside its shape {shape:?}: {}", region(i)),
            Flaw::Overlap(i, j) => format!("two regions overlap: {}, {}", region(i), region(j)),
        };
        Error::damaged(Place::default(), what)
    })
}

/// Compares a file with the digest of all its bytes.
fn check_whole(file: &dyn ReadAt, digest: &str, options: &ReadOptions<'_>) -> Result<()> {
    file.forget_cached();
    let mut hasher = XxHash3_128::new();
    each_piece(file, 0..file.len(), options, &mut |bytes| {
        hasher.write(bytes);
        Ok(())
    })?;
    if format!("{:032x}", hasher.finish_128()) == digest {
        return Ok(());
    }
    Err(Error::damaged(Place::default(), "checksum mismatch"))
}

/// Checks what is between the items of a shard: nothing but zeros, and the index.
fn check_shard(shard: &Shard, options: &ReadOptions<'_>) -> Vec<Error> {
    shard.file.forget_cached();
    let Some(index) = &shard.index else { return Vec::new() };
    let mut damage = Vec::new();
    match super::Index::read(&*shard.file) {
        Ok(Some(again)) if again == *index => {}
        Ok(_) => damage.push(Error::damaged(Place::default(), "the index has changed")),
        Err(error) => damage.push(error),
    }
    let mut end = 0;
    for item in &index.items {
        let gap = end..item.offset;
        let zeros = each_piece(&*shard.file, gap.clone(), options, &mut |bytes| {
            if bytes.iter().all(|&byte| byte == 0) {
                return Ok(());
            }
            let place = Place::default().bytes(gap.clone());
            Err(Error::damaged(place, "the bytes between two items are not zero"))
        });
        damage.extend(zeros.err());
        end = item.offset + item.len;
    }
    damage.into_iter().map(|error| error.in_part(&shard.name)).collect()
}

fn each_piece(
    file: &dyn ReadAt,
    range: std::ops::Range<u64>,
    options: &ReadOptions<'_>,
    check: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut piece = zeroed((range.end - range.start).min(PIECE), "read a file")?;
    let mut at = range.start;
    while at < range.end {
        options.check()?;
        let len = (range.end - at).min(PIECE) as usize;
        file.read_at(at, &mut piece[..len]).map_err(|error| Error::io("read", error))?;
        check(&piece[..len])?;
        options.report(len as u64);
        at += len as u64;
    }
    Ok(())
}

/// The process that wrote a shard: `__1_0.distcp`, or `<attempt>_1_0.distcp`.
fn rank(file: &str) -> Option<u64> {
    let stem = file.strip_suffix(".distcp")?;
    let (stem, _) = stem.rsplit_once('_')?;
    let (_, rank) = stem.rsplit_once('_')?;
    rank.parse().ok()
}

fn name_of(file: &dyn ReadAt) -> Option<String> {
    Some(file.path()?.file_name()?.to_str()?.to_owned())
}

/// Whether a file is `commit.json`, by its name or by how it begins.
fn is_commit(file: &dyn ReadAt) -> bool {
    const START: &[u8] = b"{\n  \"format\": \"scai\",\n  \"version\": ";
    const TAIL: &[u8] = b"\"\n}\n";
    if let Some(name) = name_of(file) {
        return name == COMMIT;
    }
    let mut start = [0; START.len()];
    let mut tail = [0; TAIL.len()];
    let end = file.len().checked_sub(TAIL.len() as u64);
    file.read_at(0, &mut start).is_ok()
        && start == START
        && end.is_some_and(|end| file.read_at(end, &mut tail).is_ok())
        && tail == TAIL
}

/// The directory that a file is in, as messages call it.
fn directory_of(file: &dyn ReadAt) -> Option<PathBuf> {
    let path = file.path()?;
    let parent = path.parent()?;
    Some(if parent == Path::new("") { PathBuf::from(".") } else { parent.to_owned() })
}
